"""The config: what is refused and in which words, what is resolved, what names it."""

import json
import math
import re
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlens.data.transforms import NORMALIZATIONS
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.methods.backprop import Backprop
from gradlens.models.spec import ACTIVATIONS
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError, letters, unknown
from gradlens.training.config import Config, make_config
from gradlens.training.config_builder import configs_of
from gradlens.training.config_fields import settings_of
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext

CHOICES = {name: setting.choices for name, setting in settings_of(Config).items() if setting.choices and setting.type is str}


def refused(**settings):
    """The one sentence with which settings are refused."""
    with pytest.raises(InputError) as caught:
        make_config(**settings)
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text.lower()
    assert "Value error" not in text
    return text


NAN, INF = math.nan, math.inf
BAD = {
    "ranks": [0, -1, "two"],
    "sync_batchnorm": ["perhaps", 3],
    "record_ranks": ["perhaps"],
    "split": ["3,1", 7],
    "stale": ["perhaps"],
    "microbatches": [0, -2],
    "limit": [0, -1, 1.5, "many"],
    "limit_test": [0, -1, 1.5, "many"],
    "label_noise": [-0.1, 1.1, NAN, "x"],
    "validation": [-0.1, 1.0, NAN],
    "augment": ["perhaps", 3],
    "width": [0, -4, "wide"],
    "depth": [0],
    "stem": [1, 4, 9, "5x5"],
    "pre_norm": ["perhaps"],
    "epochs": [-1, 2.5, "x", None],
    "steps": [-1],
    "batch_size": [0, -256],
    "lr": [-1e-3, NAN, INF, "fast"],
    "momentum": [-0.1, 1.0, NAN],
    "nesterov": ["perhaps"],
    "beta1": [-0.1, 1.0, NAN],
    "beta2": [-0.1, 1.0, NAN],
    "clip": [0, -1.0, NAN, "x"],
    "weight_decay": [-1e-4, NAN, INF],
    "warmup": [-1],
    "seed": [-1, 0.5],
    "compile": ["perhaps"],
    "record_every": [-1],
    "diagnose_every": [-1, "x"],
    "keep_checkpoints": [-1],
    "evaluate_train": ["perhaps"],
    "online_probe": ["perhaps"],
    "init_from": [3],
    "keep_head": [-1, 0.5],
    "labels": [0, -0.1, 1.1, NAN, "few"],
    "teacher": [3],
    "data": [3],
    "heads": [0, 1.5],
    "dropout": [-0.1, 1.0, NAN],
    "attention_dropout": [0.5],
    "decay_blocks": [0, "first"],
    "embedding": [0, 1.5],
    "interactions": [0, "x"],
    "early_stopping": [0, "x"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_a_bad_value_names_its_flag_and_the_value(name, value):
    text = refused(**{name: value})
    assert text.startswith(f"--{name.replace('_', '-')}: ")
    assert repr(value) in text


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["nonsense", 3, None])
def test_an_unknown_choice_names_the_setting_and_what_is_near(name, value):
    text = refused(**{name: value})
    assert name.replace("_", " ") in text.replace("-", " ")
    if isinstance(value, str):
        assert repr(value) in text
        assert sum(f" {known}" in text.replace(",", "") for known in CHOICES[name]) >= min(2, len(CHOICES[name]))
        assert len(CHOICES[name]) <= 3 or f"(of {len(CHOICES[name])}; `gradlens " in text


def test_every_setting_is_validated_here():
    """Each field of the config occurs in one of the two tests above, but for the rule's options."""
    assert set(BAD) | set(CHOICES) | {"options", "own", "task_options"} == set(settings_of(Config))


@pytest.mark.parametrize(
    ("settings", "nearest"),
    [
        ({"method": "dlg"}, "dgl"),
        ({"method": "DGL"}, "dgl"),
        ({"method": "cdin"}, "cdni"),
        ({"model": "vgg15"}, "vgg1"),
        ({"model": "basiccnn"}, "basic-cnn"),
        ({"activation": "leakyrelu"}, "leaky-relu"),
        ({"optimizer": "adamax"}, "adam"),
        ({"lr_schedule": "cos"}, "cosine"),
        ({"precision": "bf15"}, "bf16"),
        ({"btach_size": 3}, "batch_size"),
        ({"method": "dgl", "options": {"heads": "cnn"}}, "head"),
        ({"method": "dni", "options": {"warmup": 3}}, "synth_warmup"),
    ],
)
def test_known_names_are_listed_nearest_first(settings, nearest):
    text = refused(**settings)
    listed = text.split("nearest: ")[1].split(" (of ")[0].split(", ")
    assert listed[0].startswith(nearest)
    assert 1 <= len(listed) <= 3


@given(name=st.text(max_size=12), known=st.lists(st.text("abc", min_size=1), min_size=1, unique=True))
@settings(deadline=None)
def test_unknown_lists_three_and_says_of_how_many(name, known):
    said, _, rest = str(unknown("thing", name, known)).split("nearest: ")[-1].partition(" (of ")
    listed = said.split(", ")
    assert len(listed) == (1 if letters(name) in known else min(3, len(known)))  # another spelling of one leads to it alone
    assert set(listed) <= set(known)
    assert rest == ("" if len(known) <= 3 else f"{len(known)})")
    assert name not in known or listed[0] == name
    assert len(known) <= 3 or str(unknown("thing", name, known, "do this")).endswith(f" (of {len(known)}; `do this` lists all)")


def test_options_of_a_rule_that_has_none_and_options_of_another_rule():
    assert "head" in refused(method="bp", options={"head": "mlp"})
    assert "lr" in refused(method="bp", options={"head": "mlp"}).split("nearest: ")[1]
    assert "zero_bias" in refused(method="dgl", options={"zero_bias": True})


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("dgl", {"layers": 4}, ["option of dgl", "layers", "3", "got 4"]),
        ("dgl", {"layers": 0}, ["option of dgl", "layers", "got 0"]),
        ("dgl", {"head": "conv"}, ["option of dgl", "head", "cnn", "'conv'", "(of 7; `gradlens list methods dgl` lists all)"]),
        ("dni", {"bp_lambda": 1.5}, ["option of dni", "bp_lambda", "got 1.5"]),
        ("dni", {"target": "max"}, ["option of dni", "target", "sum", "mean"]),
        ("cdni", {"synth_warmup": -1}, ["option of cdni", "synth_warmup", "got -1"]),
        ("dgl", {"width": 0}, ["option of dgl", "width", "got 0"]),
    ],
)
def test_a_bad_option_names_rule_and_option(method, options, words):
    text = refused(method=method, options=options)
    for word in words:
        assert word in text
    assert "--width" not in text  # that is the model's


@pytest.mark.parametrize("options", [3, "head=cnn", ["head"], ["lr"], None])
def test_options_that_are_no_table(options):
    assert refused(method="dgl", options=options).startswith("--options: ")


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "--momentum"),
        ({"optimizer": "adam", "nesterov": True}, "--nesterov"),
        ({"optimizer": "sgd", "nesterov": True}, "--momentum"),
        ({"optimizer": "sgd", "beta1": 0.5}, "--beta1"),
        ({"optimizer": "rmsprop", "momentum": 0.9, "nesterov": True}, "--nesterov"),
        ({"optimizer": "lars", "momentum": 0.9, "nesterov": True}, "--nesterov"),
    ],
)
def test_settings_that_contradict_each_other(settings, flag):
    assert flag in refused(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0}, {"steps": 0}, {"record_every": 0}, {"lr": 0}, {"lr": 0.0}, {"label_noise": 0}, {"label_noise": 1},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True}, {"optimizer": "rmsprop", "momentum": 0.9}, {"limit": 1},
        {"optimizer": "lars", "momentum": 0.9},
    ],
)  # fmt: skip
def test_the_edges_that_are_allowed(settings):
    config = make_config(**settings)
    assert all(config.as_dict()[name] == value for name, value in settings.items())


def test_choices_are_the_registries_themselves():
    assert CHOICES["method"] is METHODS
    assert CHOICES["model"] is MODELS
    assert CHOICES["activation"] is ACTIVATIONS
    assert CHOICES["loss"] is LOSSES
    assert CHOICES["normalize"] is NORMALIZATIONS


def test_defaults_of_the_issue():
    config = make_config()
    assert (config.batch_size, config.precision, config.optimizer.name, config.data.name, config.data.normalize) == (
        256,
        "fp32",
        "adam",
        "digits",
        "pm1",
    )
    assert (config.model.name, config.loss, config.optimizer.lr_schedule, config.data.augment) == ("basic-cnn", "ce", "constant", False)


# ------------------------------------------------------------------------------------------------ resolved, named, stored


def test_options_are_stored_resolved():
    assert make_config(method="bp").options == {}
    options = make_config(method="dni", options={"bp_lambda": 0.5}).options
    assert options == {"target": "sum", "zero_bias": True, "synth_warmup": 0, "bp_lambda": 0.5, "width": None, "at": None, "linear": False}
    assert make_config(method="dgl") == make_config(method="dgl", options={"head": "mlp", "layers": 1})


def test_a_rules_own_lr_is_the_runs_lr():
    config = make_config(method="dni", lr=1e-2, options={"lr": 1e-4, "target": "mean"})
    assert config.optimizer.lr == 1e-4
    assert "lr" not in config.options
    assert config == make_config(method="dni", lr=1e-4, options={"target": "mean"})
    assert make_config(method="bp", options={"lr": 0.5}).optimizer.lr == 0.5
    assert refused(method="bp", options={"lr": -1}).startswith("--lr: ")


def test_making_a_config_leaves_the_given_options_alone():
    options = {"lr": 1e-4, "target": "mean"}
    make_config(method="dni", options=options)
    assert options == {"lr": 1e-4, "target": "mean"}


def test_a_config_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        make_config().lr = 1.0


OTHER = {
    "method": "dgl", "data": "mnist", "limit": 5, "label_noise": 0.5, "validation": 0.1, "augment": True, "normalize": "none",
    "model": "mlp", "width": 3, "depth": 2, "stem": 3, "activation": "elu", "attention": "se", "cut": "before-pool", "loss": "mse",
    "epochs": 1, "labels": 0.5, "pre_norm": True,
    "steps": 3, "batch_size": 2, "optimizer": "sgd", "lr": 1e-2, "weight_decay": 1e-4, "lr_schedule": "step", "warmup": 4,
    "seed": 1, "precision": "bf16", "compile": True, "record_every": 3, "diagnose_every": 2, "keep_checkpoints": 2, "init_from": "runs/a",
    "evaluate_train": True, "online_probe": True, "limit_test": 7, "heads": 2, "dropout": 0.1,
    "attention_dropout": [0.1], "decay_blocks": 1, "embedding": 8, "interactions": 2, "early_stopping": 2,
}  # fmt: skip


def test_the_digest_depends_on_every_field():
    sgd = make_config(optimizer="sgd", momentum=0.5)
    configs = [make_config(), *(make_config(**{name: value}) for name, value in OTHER.items())]
    configs += [sgd, make_config(optimizer="sgd", momentum=0.5, nesterov=True), make_config(optimizer="sgd", momentum=0.6)]
    configs += [make_config(method="dgl", options={"head": "cnn"}), make_config(method="dgl", options={"layers": 2})]
    configs += [
        make_config(beta1=0.5),
        make_config(beta2=0.5),
        make_config(clip=0.5),
        make_config(init_from="runs/a", keep_head=1),
        make_config(method="distil", teacher="runs/a"),
    ]
    configs.append(make_config(method="distil", teacher="runs/b"))
    data, layers = {"ranks": 2, "parallel": "data"}, {"ranks": 2, "parallel": "layers", "diagnose_every": 0}
    configs += [
        make_config(**data),
        make_config(**{**data, "ranks": 3}),
        make_config(**data, sync_batchnorm=True),
        make_config(**data, record_ranks=True),
    ]
    configs += [
        make_config(method="dni", **layers),
        make_config(method="dni", **layers, stale=True),
        make_config(method="dni", **layers, split=[1, 3]),
    ]
    bp = {**layers, "record_every": 0}
    configs += [make_config(**bp), make_config(**bp, schedule="gpipe"), make_config(**bp, microbatches=2)]
    shared = {"ranks", "parallel", "sync_batchnorm", "record_ranks", "stale", "split", "schedule", "microbatches"}
    more = {"own", "task", "task_options", "momentum", "nesterov", "beta1", "beta2", "clip", "options", "keep_head", "teacher"}
    assert set(OTHER) | shared | more == set(settings_of(Config))
    assert len({c.digest() for c in configs}) == len(configs)
    assert all(len(c.digest()) == 6 and int(c.digest(), 16) >= 0 for c in configs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"parallel": "data"}, "--parallel data with 1 process: torchrun --nproc-per-node N -m gradlens train METHOD starts several"),
        ({"ranks": 2}, "--parallel none with 2 processes"),
        ({"sync_batchnorm": True}, "--sync-batchnorm belongs to --parallel data"),
        ({"ranks": 2, "parallel": "data", "stale": True}, "--stale belongs to --parallel layers"),
        ({"ranks": 2, "parallel": "data", "online_probe": True}, "--online-probe needs whole batches in one process"),
        ({"ranks": 2, "parallel": "layers"}, "--record-every: torch's pipeline does not expose intermediate activations"),
        ({"method": "dgl", "ranks": 2, "parallel": "layers"}, "--diagnose-every needs extra passes through all blocks"),
        ({"method": "dgl", "ranks": 2, "parallel": "layers", "diagnose_every": 0, "clip": 0.5}, "--clip scales the gradient of all blocks"),
        ({"microbatches": 2}, "--schedule and --microbatches apply to pipelined backprop"),
        ({"ranks": 2, "parallel": "data", "sync_batchnorm": True, "compile": True}, "--compile: normalisation over several ranks"),
    ],
)
def test_what_ranks_cannot_do_is_reported(settings, said):
    with pytest.raises(InputError, match=re.escape(said)):
        make_config(**settings)


def test_the_digest_is_the_same_however_the_config_was_written():
    a = make_config(method="dni", lr=1, options={"bp_lambda": 1, "target": "sum"})
    b = make_config(options={"target": "sum", "bp_lambda": 1.0}, lr=1.0, method="dni")
    assert a.digest() == b.digest()


def test_run_names(tmp_path):
    config = make_config(method="dgl", seed=3)
    assert config.run_name() == f"dgl-digits-basic-cnn-s3-{config.digest()}"
    folder = tmp_path / "my images"
    folder.mkdir()
    assert make_config(data=f"{folder}/").run_name().startswith("bp-my images-basic-cnn-s0-")
    assert "/" not in make_config(data="/").run_name()


def test_differences_name_each_field_with_both_values():
    a, b = make_config(lr=1e-3, epochs=3), make_config(lr=1e-4, epochs=3, augment=True)
    assert a.differences(b) == ["augment True there, False here", "lr 0.0001 there, 0.001 here"]
    assert a.differences(a) == []


numbers = st.floats(0, 1e6, allow_nan=False)
FREE = sorted(name for name in METHODS if METHODS[name].classifies and not METHODS[name].has_teacher)


@settings(max_examples=60, deadline=None)
@given(
    lr=numbers, decay=numbers, noise=st.floats(0, 1), seed=st.integers(0, 2**63), method=st.sampled_from(FREE),
    limit=st.none() | st.integers(1, 10**6), augment=st.booleans(), data=st.text(max_size=10),
)  # fmt: skip
def test_round_trip_through_json(lr, decay, noise, seed, method, limit, augment, data):
    config = make_config(
        lr=lr, weight_decay=decay, label_noise=noise, seed=seed, method=method, limit=limit, augment=augment, data=data
    )  # fmt: skip
    back = make_config(**json.loads(json.dumps(config.as_dict())))
    assert back == config
    assert back.digest() == config.digest()


# --------------------------------------------------------------------------------------------------------- config files


def test_a_bare_config_and_a_runs_config_json_read_the_same(tmp_path):
    config = make_config(method="dgl", lr=0.1)
    bare, stored = tmp_path / "bare.json", tmp_path / "config.json"
    bare.write_text(json.dumps(config.as_dict()))
    stored.write_text(json.dumps({"config": config.as_dict(), "versions": {"torch": "2"}, "git": None}))
    assert make_config(**read_config_file(bare)) == make_config(**read_config_file(stored)) == config


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b'{"config": 3}', b'{"config": [1]}', b"\xff\xfe\x00", b"\x89PNG"])
def test_files_that_are_no_config(content, tmp_path):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_config_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot read") as caught:
            read_config_file(path)
        assert str(path) in str(caught.value)


def test_a_rules_own_defaults_hold_where_nothing_is_given_and_only_there():
    own = METHODS["kp"].defaults
    kp = make_config(method="kp")
    assert kp.as_dict(include=own) == dict(own)
    assert make_config(method="kp", lr=0.5).optimizer.lr == 0.5
    assert make_config(method="kp", optimizer="sgdw").optimizer.lr == own["lr"]
    with_adam = make_config(method="kp", optimizer="adam")  # takes nothing of what was meant for another optimiser
    assert (with_adam.optimizer.lr, with_adam.optimizer.momentum, with_adam.optimizer.weight_decay) == (3e-4, 0, 0)
    assert make_config(**kp.as_dict()) == kp
    plain = make_config(method="fa")
    assert (plain.optimizer.name, plain.optimizer.lr, plain.optimizer.weight_decay) == ("adam", 3e-4, 0)


def test_a_rules_defaults_without_an_optimiser_belong_to_the_default_one(monkeypatch):
    class Patient(Backprop):
        defaults: ClassVar = {"epochs": 30, "lr": 0.5}

    monkeypatch.setitem(METHODS, "patient", Patient)
    for said in ({}, {"optimizer": "adam"}):
        config = make_config(method="patient", **said)
        assert (config.epochs, config.optimizer.lr) == (30, 0.5)
    assert make_config(method="patient", optimizer="sgd").optimizer.lr == 3e-4


def test_feedback_inside_blocks_does_not_go_with_compiled_ones():
    assert "fa" in refused(method="fa", compile=True)
    assert make_config(method="dgl", compile=True).compile


@pytest.mark.parametrize("split", ["1.7,2", "nan", "inf,1"])
def test_a_split_is_of_whole_blocks(split):
    with pytest.raises(InputError, match="expected whole numbers of blocks"):
        configs_of(["dgl"], {"split": split, "parallel": "layers", "ranks": 2}, RunContext())


@pytest.mark.parametrize(
    ("file", "typed", "default", "wanted"),
    [
        ({}, {}, "data", ("data", 10, 5)),
        ({}, {}, "layers", ("layers", 10, 0)),
        ({"parallel": "layers"}, {}, "data", ("layers", 10, 0)),  # the file wins over the default
        ({"parallel": "layers"}, {"parallel": "data"}, "data", ("data", 10, 5)),  # and a flag over the file
        ({"parallel": "data", "ranks": 4}, {}, "layers", ("data", 10, 5)),  # of another number of processes
        ({"parallel": "none", "ranks": 1, "diagnose_every": 3}, {}, "data", ("data", 10, 3)),  # of a run in one process
        ({"parallel": "none", "ranks": 1, "diagnose_every": 3}, {"parallel": "layers"}, "data", ("layers", 10, 0)),
        ({"record_every": 4}, {"parallel": "layers"}, "data", ("layers", 4, 0)),
    ],
)
def test_what_processes_share_is_set_by_flags_then_the_file_then_the_command(file, typed, default, wanted, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(file))
    ((config,),) = configs_of(["dgl"], {**typed, "config": path}, RunContext(), ranks=(2, default))
    values = config.as_dict()
    assert values["ranks"] == 2
    assert tuple(values[name] for name in ("parallel", "record_every", "diagnose_every")) == wanted


def test_what_a_file_says_against_its_own_layers_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"parallel": "layers", "diagnose_every": 5}))
    with pytest.raises(InputError, match="--diagnose-every needs extra passes"):
        configs_of(["dgl"], {"config": path}, RunContext(), ranks=(2, "data"))
    with pytest.raises(InputError, match="--parallel none with 2 processes"):
        configs_of(["dgl"], {"parallel": "none"}, RunContext(), ranks=(2, "data"))


def test_backprop_over_layers_records_nothing_unless_requested():
    ((config,),) = configs_of(["bp"], {"parallel": "layers"}, RunContext(), ranks=(2, "data"))
    assert config.as_dict()["record_every"] == 0
    with pytest.raises(InputError, match="--record-every: torch's pipeline"):
        configs_of(["bp"], {"parallel": "layers", "record_every": 3}, RunContext(), ranks=(2, "data"))
