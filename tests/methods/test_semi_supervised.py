"""From pretraining to a student: labelled shares, kept heads, teachers, and how a user gets them wrong."""

import copy
import json
import math
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import shelf
import torch
import torch.nn.functional as F
from oracles import assert_near, case, rule, step
from tiny_runs import assert_same_bits, signal_at

from gradlens.data.datasets import digits, load
from gradlens.data.split import Split
from gradlens.data.subsets import choose
from gradlens.gradients.method import Step
from gradlens.gradients.true_gradient import true_gradients
from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.progress import no_progress
from gradlens.training.build import build_model_and_method
from gradlens.training.checkpoint import save_checkpoint, weights_digest
from gradlens.training.config import make_config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext
from gradlens.training.loop import fit
from gradlens.training.run_directory import load_run
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.check import check
from gradlens.training.runs.remeasure import measure_run
from gradlens.training.runs.train_run import train_or_reuse, train_run

CPU = torch.device("cpu")
SMALL = {"width": 4, "limit": 200, "limit_test": 50, "batch_size": 20, "epochs": 1, "record_every": 0}


@pytest.fixture
def runs():
    """A pretrained run, one fine-tuned from it on a tenth of the labels, and a student of that one."""
    first = shelf.trained(make_config(method="simclr", options={"layers": 3, "side": 2}, **SMALL))
    tuned = shelf.trained(make_config(method="bp", init_from=str(first.path), keep_head=1, labels=0.1, **{**SMALL, "batch_size": 5}))
    student = shelf.trained(make_config(method="distil", teacher=str(tuned.path), labels=0.1, **{**SMALL, "width": 2}))
    return {"simclr": first, "bp": tuned, "distil": student}


# ------------------------------------------------------------------------------------------------------- labelled shares


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_a_share_keeps_each_classs_share_and_hides_the_rest(share):
    whole, part = load("digits", seed=3), load("digits", seed=3, labels=share)
    for c in range(10):
        assert (part.train.labels == c).sum() == round(share * int((whole.train.labels == c).sum()))
    assert len(part.train) + len(part.unlabelled) == len(whole.train)
    images = [set(map(bytes, i.flatten(1).numpy())) for i in (part.train.images, part.unlabelled, whole.train.images)]
    assert images[0] | images[1] == images[2]
    pairs = {(bytes(i), int(y)) for i, y in zip(whole.train.images.flatten(1).numpy(), whole.train.labels, strict=True)}
    assert {(bytes(i), int(y)) for i, y in zip(part.train.images.flatten(1).numpy(), part.train.labels, strict=True)} <= pairs
    everything = part.everything
    assert len(everything) == len(whole.train)
    assert int((everything.labels == -1).sum()) == len(part.unlabelled)
    assert torch.equal(part.test.images, whole.test.images)


def test_a_smaller_share_is_part_of_a_larger_one_and_the_seed_names_it():
    few, more = (load("digits", labels=s, seed=1).train.images.flatten(1).numpy() for s in (0.1, 0.3))
    assert set(map(bytes, few)) <= set(map(bytes, more))
    assert not torch.equal(load("digits", labels=0.1, seed=1).train.images, load("digits", labels=0.1, seed=2).train.images)
    assert load("digits", labels=1.0).unlabelled is None
    assert load("digits", labels=1.0).fingerprint() == load("digits").fingerprint()
    assert load("digits", labels=0.1).fingerprint() != load("digits", labels=0.2).fingerprint()


def test_a_share_that_leaves_a_class_empty_is_refused():
    with pytest.raises(InputError, match=r"--labels 0\.001 leaves class 0 without a labelled image: it has 142 training images"):
        load("digits", labels=0.001)


def test_images_without_a_label_are_no_part_of_what_labels_are_read_from():
    train, test, classes = digits(Path(), False)
    hidden = torch.arange(len(train)) % 3 == 0
    source = Split(train.images, torch.where(hidden, -1, train.labels)), test, classes
    found = choose(source)
    assert len(found.unlabelled) == int(hidden.sum())
    assert (found.train.labels >= 0).all()
    few = choose(source, limit=100)
    assert (len(few.train), len(few.unlabelled), len(few.everything)) == (100, 100, 200)


def test_rules_without_labels_train_on_all_images_and_others_on_the_labelled():
    data = load("digits", limit=100, labels=0.2)
    states = {name: build_state(make_config(method=name, labels=0.2, **{**SMALL, "limit": 100}), data, CPU) for name in ("bp", "simclr")}
    assert len(states["bp"].batches.examples) == len(data.train)
    assert len(states["simclr"].batches.examples) == 100


# ------------------------------------------------------------------------------------------------------------ kept heads


def test_a_kept_head_is_the_pretrained_one_under_a_new_top(runs):
    pretrained, tuned = runs["simclr"].checkpoint(), runs["bp"].config
    model, _ = build_model_and_method(tuned, (1, 8, 8), 10, CPU)
    assert [n for n, _ in model.named_children()] == ["block1", "block2", "block3", "head", "top"]
    state = model.state_dict()
    for name, value in state.items():
        if name.startswith("block"):
            assert torch.equal(value, pretrained["model"][name]), name
        elif name.startswith("head"):
            assert torch.equal(value, pretrained["method"][name.replace("head.", "heads.2.")]), name
    assert state["top.out.weight"].shape == (10, 4)
    x = torch.rand(3, 1, 8, 8)
    model.eval()
    h = model[:3](x)
    kept = {k.removeprefix("heads.2."): v for k, v in pretrained["method"].items()}
    norm = [kept[f"layer1.1.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
    flat = h.mean((2, 3)) @ kept["layer1.0.weight"].T
    want = F.relu(F.batch_norm(flat, *norm))
    torch.testing.assert_close(model[3](h), want)
    assert all(p.requires_grad for p in model.parameters())


def test_how_many_layers_are_kept(runs):
    for n, layers in ((1, ["layer1"]), (2, ["layer1", "layer2"]), (3, ["layer1", "layer2", "layer3"])):
        model, _ = build_model_and_method(runs["bp"].config.replace(keep_head=n), (1, 8, 8), 10, CPU)
        assert [k for k, _ in model.head.named_children() if k.startswith("layer")] == layers
    with pytest.raises(InputError, match="has a projection head of 3 layers"):
        build_model_and_method(runs["bp"].config.replace(keep_head=4), (1, 8, 8), 10, CPU)


def test_a_block_that_is_called_head_stays_beside_the_kept_one(own_code_forgotten, tmp_path):
    net = tmp_path / "net.py"
    net.write_text(
        "from collections import OrderedDict\nfrom torch import nn\n\ndef build(spec):\n    return nn.Sequential(OrderedDict(\n"
        "        head=nn.Sequential(nn.Conv2d(spec.shape[0], 4, 3, padding=1), nn.ReLU()),\n"
        "        out=nn.Sequential(nn.Flatten(), nn.Linear(4 * spec.shape[1] * spec.shape[2], spec.classes)),\n    ))\n"
    )
    settings = {**{k: v for k, v in SMALL.items() if k != "width"}, "limit": 40, "model": f"{net}:build"}
    first = train_run(make_config(method="simclr", options={"layers": 2, "side": 2}, **settings), RunContext(out=tmp_path))
    model, _ = build_model_and_method(make_config(init_from=str(first.path), keep_head=1, **settings), (1, 8, 8), 10, CPU)
    assert [name for name, _ in model.named_children()] == ["head", "head_", "top"]
    assert torch.equal(model.head[0].weight, first.checkpoint()["model"]["head.0.weight"])
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def changed(run):
    """Other weights in a run's checkpoint; everything else stays."""
    saved = run.checkpoint()
    next(iter(saved["model"].values())).add_(1)
    save_checkpoint(run.path / "checkpoint.pt", saved)


def test_the_digest_of_weights_is_of_them_alone(runs):
    saved = runs["simclr"].checkpoint()
    want = weights_digest(saved)
    assert weights_digest({**saved, "step": 0, "optimizer": {}}) == want
    assert (
        weights_digest({**saved, "method": {name: w.clone(memory_format=torch.preserve_format) for name, w in saved["method"].items()}})
        == want
    )
    for part in ("model", "method"):
        name = next(name for name, w in saved[part].items() if w.is_floating_point())
        for other in (saved[part][name] + 1, saved[part][name].double(), saved[part][name][None]):
            assert weights_digest({**saved, part: {**saved[part], name: other}}) != want
    assert weights_digest({**saved, "method": {"rings": [[saved["model"]["block1.conv.weight"], 3]]}}) != weights_digest(
        {**saved, "method": {"rings": [[saved["model"]["block1.conv.weight"], 4]]}}
    )


@pytest.mark.parametrize(("source", "name", "setting"), [("simclr", "bp", "init_from"), ("bp", "distil", "teacher")])
def test_a_run_is_neither_reused_nor_gone_on_with_over_other_weights_than_it_was_given(source, name, setting, runs, tmp_path):
    first = shelf.copied(runs[source], tmp_path)
    config = runs[name].config.replace(**{setting: str(first.path)})
    context = RunContext(out=tmp_path / "runs")
    run = train_run(config, context)
    assert run.info["source_weights"] == {setting: weights_digest(first.checkpoint())}
    assert "source_weights" not in runs["simclr"].info
    assert train_or_reuse([config], context, lambda _: no_progress)[0].path == run.path
    changed(first)
    said = f"--{setting.replace('_', '-')} {first.path} holds other weights than {run.path} was given"
    with pytest.raises(InputError, match=re.escape(f"{said}; --overwrite trains it anew")):
        train_or_reuse([config], context, lambda _: no_progress)
    (run.path / "summary.json").unlink()
    with pytest.raises(InputError, match=re.escape(f"{said}: it cannot be resumed")):
        train_run(config, replace(context, resume=True))
    again = train_run(config, replace(context, overwrite=True))
    assert again.info["source_weights"] == {setting: weights_digest(first.checkpoint())}


def test_without_the_pretrained_run_its_offspring_is_reused_measured_and_gone_on_with(tmp_path):
    context, small = RunContext(out=tmp_path), {**SMALL, "limit": 60, "epochs": 2, "record_every": 2}
    first = train_run(make_config(method="simclr", options={"layers": 1, "side": 2}, **small), context)
    config = make_config(init_from=str(first.path), **small)
    whole = train_run(config, replace(context, name="whole"))
    with pytest.raises(Stopped, match="interrupted"):
        train_run(config, replace(context, name="cut"), signal_at(4, signal.SIGINT))
    shutil.rmtree(first.path)
    assert train_or_reuse([config], context, lambda _: no_progress)[0].path.name == "whole"
    assert measure_run(load_run(whole.path), ("cosine",), RunContext())
    resumed = replace(context, name="cut", resume=True)
    check(config, resumed)
    assert_same_bits(train_run(config, resumed), whole)
    for refusing in (check, train_run):
        with pytest.raises(InputError, match="does not exist"):
            refusing(config, replace(context, name="new"))


# ---------------------------------------------------------------------------------------------------------- distillation


def test_distil_without_a_teachers_weight_is_bp_bit_for_bit():
    c = case("basic-cnn", torch.float32)
    _, want = step(rule("bp", c), copy.deepcopy(c))
    _, got = step(rule("distil", c, alpha=0.0), c)
    for k in want:
        assert all(torch.equal(got[k].grad.params[n], g) for n, g in want[k].grad.params.items())


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_distil_descends_both_terms_each_over_its_own_images(alpha):
    c = case("basic-cnn")
    y = torch.where(torch.arange(len(c.y)) % 2 == 0, c.y, -1)
    c = c._replace(y=y)
    method = rule("distil", c, alpha=alpha, temperature=2.0)
    passes, updates = step(method, c)
    twin = copy.deepcopy(c.model)
    z, t = twin(c.x), c.x.flatten(1)[:, :10]
    loss = z.new_zeros(())
    for i in range(len(y)):
        p = (t[i] / 2).softmax(0)
        loss = loss - alpha * 4 * (p * (z[i] / 2).log_softmax(0)).sum() / len(y)
        if y[i] >= 0:
            loss = loss - (1 - alpha) * z[i].log_softmax(0)[y[i]] / int((y >= 0).sum())
    loss.backward()
    for k, block in enumerate(twin):
        assert_near(updates[k].grad.params, {n: p.grad for n, p in block.named_parameters()}, 1e-10)
    top = len(c.model) - 1
    assert updates[top].signal.loss.item() == pytest.approx(loss.item())
    truth = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert truth.reference == "distillation loss, same passes"
    assert_near(truth.grads[0].params, updates[0].grad.params, 1e-12)


def test_a_student_sees_all_images_and_is_scored_on_the_labelled(runs):
    run = runs["distil"]
    assert run.info["images"] == {"train": 20, "test": 50, "unlabelled": 180}
    train = next(m for m in run.metrics if m.split == "train")
    assert 0 <= train.accuracy <= 1
    assert round(train.accuracy * 20) == pytest.approx(train.accuracy * 20)  # of the 20 labelled ones
    assert run.summary["updates"] == 10
    state = run.checkpoint()
    assert state["method"] == {}  # the teacher is no part of it


def test_training_images_without_a_label_are_not_counted_as_wrong(runs):
    """--evaluate-train reads the images whose label is known: the others have none to be right about."""
    config = runs["distil"].config.replace(evaluate_train=True, epochs=1, record_every=0)
    state = build_state(config, load("digits", limit=200, limit_test=50, labels=0.1), CPU)
    assert len(state.batches.examples) == 200
    assert (state.labelled.labels >= 0).all()
    assert len(state.labelled) < 40
    seen = []
    fit(state, None, lambda event, numbers: seen.append(numbers) if event == "metric" else None)
    assert {m["split"] for m in seen} >= {"train-eval", "test"}


def test_the_teacher_stays_as_it_is_and_is_in_eval_mode(runs):
    before = (runs["bp"].path / "checkpoint.pt").read_bytes()
    state = build_state(runs["distil"].config, load("digits", limit=200, limit_test=50, labels=0.1), CPU)
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(state.network.method.teacher(x)[:2], state.network.method.teacher(x[:2]))  # no batch statistics
    assert not state.network.method.teacher(x).requires_grad
    assert (runs["bp"].path / "checkpoint.pt").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train distil", "distil needs --teacher RUN"),
        ("train bp --teacher {bp}", "--teacher: bp has no teacher"),
        ("train distil --teacher {simclr} --width 4", "simclr gives no logits to learn from"),
        ("train distil --teacher {bp} --normalize none", "was trained with --normalize pm1"),
        ("train distil --teacher nowhere", "nowhere does not exist"),
        ("train bp --keep-head 1", "it needs --init-from RUN"),
        ("train bp --keep-head 1 --init-from {distil} --width 2", "has no projection head"),
        ("train bp --labels 0.001", "leaves class 0 without a labelled image"),
        ("train bp --labels 1.5", "--labels: input should be less than or equal to 1"),
        ("train simclr --batch-size 1", "needs 2 or more"),
        ("train simclr --online-probe", "--online-probe uses labels"),
        ("train simclr --label-noise 0.5", "--label-noise changes labels and simclr does not use labels"),
        ("train loco --batch-size 1", "needs 2 or more"),
        ("train bp --labels 0.1 --batch-size 256", "is larger than the 141 labelled (--labels 0.1) images"),
        ("memorize simclr", "simclr does not use labels"),
        ("train simclr --set layers=4", "layers"),
        ("train loco --set modules=9", "modules=9 is too many: this network has 3 units: block1 | block2 | block3"),
        ("train simclr-local --set modules=[1,1]", "modules=[1,1] adds up to 2 units"),
    ],
)
def test_mistakes_are_reported_in_one_sentence(command, said, runs, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = command.format(**{name: run.path for name, run in runs.items()})
    code, _, err = program(*text.split())
    assert code == 2, err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_student_of_other_classes_is_refused(runs, tmp_path):
    from PIL import Image

    for half in ("train", "test"):
        for c in "ab":
            (tmp_path / half / c).mkdir(parents=True)
            for i in range(4):
                Image.new("L", (8, 8), 40 * i).save(tmp_path / half / c / f"{i}.png")
    config = make_config(method="distil", data=str(tmp_path), teacher=str(runs["bp"].path), width=4, batch_size=2)
    with pytest.raises(InputError, match="has 10 classes and this data set has 2"):
        train_run(config, RunContext(out=tmp_path / "runs"))


def test_with_gaussian_a_teacher_must_have_seen_the_same_images(tmp_path):
    context, small = RunContext(out=tmp_path), {**SMALL, "normalize": "gaussian", "epochs": 0}
    teacher = train_run(make_config(method="bp", labels=0.5, **small), context)
    train_run(make_config(method="distil", teacher=str(teacher.path), labels=0.2, **small), context)  # other labels, the same statistics
    with pytest.raises(InputError, match="normalised by other statistics"):
        train_run(make_config(method="distil", teacher=str(teacher.path), **{**small, "seed": 1}), context)


def test_a_run_without_answers_is_shown_without_an_accuracy(runs, program):
    code, out, _ = program("show", str(runs["simclr"].path))
    assert not code
    assert "nan" not in out.lower()
    assert math.isnan(load_run(runs["simclr"].path).metrics[-1].accuracy)
    best = runs["simclr"].summary["test"]
    assert best["best_accuracy"] is None or math.isnan(best["best_accuracy"])


# ----------------------------------------------------------------------------------------------- the papers' own settings


CONFIGS = sorted((Path(__file__).parents[2] / "analyses" / "configs").glob("*.json"))
OURS = [
    path for path in CONFIGS if json.loads(path.read_text())["method"] in ("simclr", "loco", "cpc", "infomax", "context-encoder", "distil")
]


@pytest.mark.parametrize("path", [*OURS, *(p for p in CONFIGS if p.stem == "simclr2-finetune")], ids=lambda p: p.stem)
def test_the_papers_settings_train_for_two_steps(path, tmp_path):
    """On random images of the data set's size, everything as it is written but widths, batches and lengths."""
    from PIL import Image

    settings = read_config_file(path)
    side = {"stl10": 96, "cifar10": 32}[settings["data"]]
    noise = torch.randint(0, 256, (8, side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    for half in ("train", "test"):
        for c in "ab":
            (tmp_path / half / c).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(noise[i + 4 * (c == "b")]).save(tmp_path / half / c / f"{i}.png")
    small = {"data": str(tmp_path), "width": 4, "batch_size": 4, "steps": 2, "record_every": 1, "warmup": 0}
    if settings.get("labels"):
        small["labels"] = 0.5
        small["batch_size"] = 2
    context = RunContext(out=tmp_path / "runs")
    if settings["method"] == "distil":
        teacher = train_run(make_config(**{**small, "method": "bp", "normalize": "none", "model": "basic-cnn"}), context)
        settings["teacher"] = str(teacher.path)
    if settings.get("keep_head"):
        first = read_config_file(path.with_name("simclr2-pretrain.json"))
        settings["init_from"] = str(train_run(make_config(**{**first, **small, "labels": None, "batch_size": 4}), context).path)
    run = train_run(make_config(**{**settings, **small}), context)
    assert run.summary["updates"] == 2
    assert {row.step for row in run.gradients} == {0, 1}
