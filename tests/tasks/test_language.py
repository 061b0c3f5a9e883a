"""The language task: windows and scores against plain loops, what it writes, and what it refuses in one sentence."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gradlens.analysis.doctor_evidence import RunView
from gradlens.analysis.doctor_outcome import at_chance
from gradlens.data.split import Split
from gradlens.runtime.errors import InputError
from gradlens.tasks.language import WRITTEN
from gradlens.tasks.registry import TASKS
from gradlens.training.build import check_model_and_method, load_model_and_method
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.runs.train_run import train_run

TEXT = "the cat sat on the mat, the rat ran at the cat; " * 12
SMALL = {"task": "language", "width": 8, "depth": 2, "heads": 2, "batch_size": 8, "epochs": 2, "lr": 0.01, "record_every": 0}
TASK = TASKS["language"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def config(text, method="bp", **more):
    return make_config(method=method, data=str(text), **{**SMALL, "task_options": {"length": 6}, **more})


def test_examples_are_windows_and_targets_the_next_tokens(text):
    data = load_data(config(text), RunContext())
    letters, kept = sorted(set(TEXT)), len(TEXT) - round(len(TEXT) / 10)
    assert data.classes == tuple(letters)
    assert data.shape == (6,)
    batch = TASK.batch(data.train.take(torch.tensor([0, 3])), 0, config(text))
    for row, start in ((0, 0), (1, 18)):
        assert "".join(letters[i] for i in batch.x[row]) == TEXT[start : start + 6]
        assert "".join(letters[i] for i in batch.y[row]) == TEXT[start + 1 : start + 7]
    assert batch.x.dtype == batch.y.dtype == torch.int64
    assert len(data.train) == (kept - 1) // 6
    assert TASK.count(batch.y) == 12


def test_limits_choose_windows_and_a_validation_share_is_the_end_of_the_training_text(text):
    whole, some = (load_data(config(text, **more), RunContext()) for more in ({}, {"limit": 9, "limit_test": 3}))
    assert (len(some.train), len(some.test)) == (9, 3)
    rows = {tuple(row) for row in whole.train.x.tolist()}
    assert all(tuple(row) in rows for row in some.train.x.tolist())
    held = load_data(config(text, validation=0.2), RunContext())
    assert held.test_name == "validation"
    kept = len(TEXT) - round(len(TEXT) / 10)
    first = kept - round(kept * 0.2)
    assert "".join(held.classes[i] for i in held.test.x[0]) == TEXT[first : first + 6]


def test_a_folders_own_files_are_its_parts(tmp_path):
    for name, part in (("train.txt", TEXT), ("test.txt", TEXT[10:60]), ("valid.txt", TEXT[20:90])):
        (tmp_path / name).write_text(part)
    for share, wanted, name in ((0.0, TEXT[10:60], "test"), (0.5, TEXT[20:90], "validation")):
        data = load_data(config(tmp_path, validation=share), RunContext())
        assert (data.test_name, len(data.test)) == (name, (len(wanted) - 1) // 6)
        assert "".join(data.classes[i] for i in data.test.x[0]) == wanted[:6]
        assert len(data.train) == (len(TEXT) - 1) // 6


def test_a_text_that_changes_is_read_again(text):
    before = load_data(config(text), RunContext())
    assert load_data(config(text), RunContext()) is before
    text.write_text(TEXT.upper())
    assert load_data(config(text), RunContext()).classes != before.classes


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens():
    rng = torch.Generator().manual_seed(0)
    parts = [(torch.randn(n, 6, 5, generator=rng), torch.randint(5, (n, 6), generator=rng)) for n in (4, 1, 3)]
    total, tokens = 0.0, 0
    for z, y in parts:
        for n in range(len(y)):
            for t in range(6):
                total -= float(z[n, t].double().log_softmax(0)[y[n, t]])
                tokens += 1
    collected = torch.cat([TASK.collect(z, y) for z, y in parts])
    assert TASK.score(collected) == pytest.approx(math.exp(total / tokens), rel=1e-6)
    assert TASK.running_score(1.5, 0.0) == pytest.approx(math.exp(1.5))
    assert TASK.running_score(1e4, 0.0) == math.inf


def test_a_run_scores_the_perplexity_and_writes_text(text, tmp_path):
    run = train_run(config(text), RunContext(out=tmp_path / "runs"))
    last = run.metrics[-1]
    assert last.score_name == "perplexity"
    data = load_data(run.config, RunContext())
    model, _ = load_model_and_method(run, data.shape, len(data.classes), torch.device("cpu"))
    with torch.no_grad():
        z = model(data.test.x.long())
    want = F.cross_entropy(z.flatten(0, 1), data.test.y.long().flatten()).exp().item()
    assert last.score == pytest.approx(want, rel=1e-5)
    assert last.loss == pytest.approx(math.log(want), rel=1e-5)
    given, written = run.summary["sample"].split("▸")
    kept = len(TEXT) - round(len(TEXT) / 10)
    assert given == TEXT[kept : kept + 6]
    assert len(written) == WRITTEN
    assert set(written) <= set(TEXT)


def test_what_is_written_follows_what_is_predicted(text):
    """A network that is sure of the letter after the last one writes the alphabet of the text in a circle."""
    c = config(text)
    data = load_data(c, RunContext())
    size = len(data.classes)
    chosen = [load_data(c.replace(limit_test=3, seed=seed), RunContext()) for seed in range(4)]
    assert len({tuple(some.test.x[0].tolist()) for some in chosen}) > 1
    assert all(torch.equal(some.first, data.test.x[0]) for some in chosen)  # it begins with the first window, whichever are chosen

    def sure(x):
        assert x.shape[1] <= 6
        return 1e3 * F.one_hot((x + 1) % size, size).float()

    given, written = TASK.sample(sure, data, c).split("▸")
    place = data.classes.index(given[-1])
    assert written == "".join(data.classes[(place + 1 + i) % size] for i in range(WRITTEN))
    even = lambda x: torch.zeros(*x.shape, size)  # noqa: E731
    assert TASK.sample(even, data, c) == TASK.sample(even, data, c) != TASK.sample(even, data, c.replace(seed=1))


def test_a_network_that_always_writes_the_same_letter_is_at_chance(text, tmp_path):
    """The most frequent letter is right far more often than one of all letters; what is counted are tokens."""
    run = train_run(config(text, epochs=1), RunContext(out=tmp_path))
    y = run.data().test.y.flatten().tolist()
    share = max(y.count(token) for token in y) / len(y)
    limit = share + 3 * math.sqrt(share * (1 - share) / len(y))
    for accuracy, found in ((share, 1), (limit - 1e-6, 1), (limit + 1e-6, 0)):
        last = run.metrics[-1]._replace(step=60, accuracy=accuracy)
        seen = RunView(replace(run, metrics=[*run.metrics[:-1], last]), RunContext())
        assert len(at_chance(seen)) == found


def test_bytes_take_any_file(tmp_path):
    path = tmp_path / "any.bin"
    path.write_bytes(bytes(range(256)) * 2)
    c = config(path, task_options={"length": 6, "tokens": "bytes"}, epochs=1)
    assert len(load_data(c, RunContext()).classes) == 256
    assert "sample" in train_run(c, RunContext(out=tmp_path / "runs")).summary


# ------------------------------------------------------------------------------------------------------------ refusals

FLAGS = ["--width", "8", "--depth", "2", "--heads", "2", "--batch-size", "8", "--epochs", "1", "--record-every", "0", "--quiet"]
FLAGS += ["--set", "language.length=6"]


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        (b"short", [], "the training text has 5 tokens and a window needs 7"),
        (b"fine until \xff here", [], "is not UTF-8 (byte 0xff at position 12, in line 1)"),
        (TEXT.encode(), ["--heads", "3"], "--heads 3 do not divide the transformer's width of 8"),
        (TEXT.encode(), ["--augment"], "--augment has no meaning for --task language"),
        (TEXT.encode(), ["--loss", "mse"], "unknown loss of --task language 'mse'"),
        (TEXT.encode(), ["--model", "mlp"], "--model mlp reads images"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(content, flags, said, tmp_path, program):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    status, out, err = program("train", "bp", "--task", "language", "--data", str(path), "--out", str(tmp_path / "runs"), *FLAGS, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("method", ["predsim", "simclr", "infopro", "dni-unlocked"])
def test_rules_of_images_are_refused_with_the_reason(method, text):
    with pytest.raises(InputError, match=f"{method} is a rule of the image task and cannot be used with --task language: it "):
        config(text, method)


def test_a_missing_text_is_asked_for(tmp_path):
    with pytest.raises(InputError, match="--task language reads a text: set --data to a text file"):
        load_data(make_config(task="language"), RunContext())
    with pytest.raises(InputError, match="does not exist: set --data to a text file"):
        load_data(config(tmp_path / "none.txt"), RunContext())


def test_a_run_is_not_resumed_on_a_token_outside_its_vocabulary(text, tmp_path, program):
    words = ("train", "bp", "--task", "language", "--data", str(text), "--out", str(tmp_path / "runs"), *FLAGS)
    assert program(*words)[0] == 0
    text.write_text(TEXT.replace("cat", "cät", 1))
    status, _, err = program(*words, "--resume")
    assert (status, err.count("\n")) == (2, 1)
    assert f"('ä' is not in its vocabulary of {len(set(TEXT))} tokens): it cannot be resumed" in err
    text.write_text(TEXT.replace("cat", "rat", 1))
    status, _, err = program(*words, "--resume")
    assert status == 2
    assert "sequences" in err


def test_a_run_does_not_begin_with_weights_of_another_vocabulary(text, tmp_path, program):
    """As many letters, but others: the rows of the embedding would be those of other letters."""
    words = ("train", "bp", "--task", "language", "--out", str(tmp_path / "runs"), *FLAGS, "--data")
    assert program(*words, str(text))[0] == 0
    (run,) = (tmp_path / "runs").glob("bp*")
    other, fewer = tmp_path / "other.txt", tmp_path / "fewer.txt"
    other.write_text(TEXT.replace("c", "k"))
    fewer.write_text(TEXT.replace("c", "r"))
    known = f"vocabulary of {len(set(TEXT))} tokens"
    for path, said in (
        (other, f"'k' is not in its {known}"),
        (fewer, f"has {len(set(TEXT)) - 1} classes, this run {len(set(TEXT))} ('c' "),
    ):
        status, _, err = program(*words, str(path), "--init-from", str(run))
        assert (status, err.count("\n")) == (2, 1)
        assert said in err
    assert program(*words, str(text), "--init-from", str(run))[0] == 0


def test_transformer_settings_belong_to_the_transformer():
    for flag, setting in (("heads", {"heads": 2}), ("pre-norm", {"pre_norm": True}), ("dropout", {"dropout": 0.1})):
        other = make_config(model="mlp", **setting)
        with pytest.raises(InputError, match=rf"--{flag} is of .*transformer.*, and has no meaning for mlp: leave it out"):
            check_model_and_method(other, (1, 8, 8), 10)


@pytest.mark.slow
@pytest.mark.parametrize("norm_first", [False, True])
def test_every_network_setting_arrives(text, norm_first):
    data = load_data(config(text), RunContext())
    c = config(text, pre_norm=norm_first, activation="gelu", dropout=0.2)
    model, _ = check_model_and_method(c, data.shape, len(data.classes))
    layer = model.block2
    assert (layer.norm_first, layer.dropout.p, layer.attention.heads) == (norm_first, 0.2, 2)
    assert isinstance(layer.act, torch.nn.GELU)
    assert len(model) == 3
    assert ("norm" in model.top._modules) == norm_first


def test_a_stored_config_holds_the_task(text, tmp_path):
    run = train_run(config(text, epochs=0), RunContext(out=tmp_path / "runs"))
    stored = json.loads((run.path / "config.json").read_text())
    assert stored["config"]["task"] == "language"
    assert stored["config"]["task_options"] == {"length": 6, "tokens": "characters"}
    assert stored["config"]["model"] == "transformer"
    assert isinstance(load_data(run.config, RunContext()).train, Split)
