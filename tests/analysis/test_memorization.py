"""Memorization: what the curve comes to, which labels were changed, what the blocks know, and that looking changes nothing."""

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import shelf
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from PIL import Image

from gradlens.analysis import memorization
from gradlens.analysis.activations import freeze_module
from gradlens.analysis.memorization import Noise, area, curve_of, epochs_to, noise_of
from gradlens.analysis.of_runs.interface import Session
from gradlens.analysis.of_runs.memorization import Memorization
from gradlens.data.datasets import load as load_data
from gradlens.models.zoo import ModelSpec, build
from gradlens.reporting import memorization as reporting_memorization
from gradlens.reporting.aggregate import scores
from gradlens.reporting.training_figures import figure_set
from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.progress import no_progress
from gradlens.runtime.rng import generator
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.metrics import TRAIN_EVAL
from gradlens.training.run_directory import load_run
from gradlens.training.runs.train_run import train_run

TINY = {"width": 4, "limit": 160, "limit_test": 100, "batch_size": 32, "epochs": 3, "record_every": 0, "lr": 3e-3, "evaluate_train": True}
FLAGS = ["--width", 4, "--limit", 160, "--limit-test", 100, "--batch-size", 32, "--epochs", 3, "--lr", "3e-3", "--quiet"]


def tiny(method="bp", **changes):
    return make_config(**{"label_noise": 1.0, **TINY, "method": method, **changes})


def memorized(run):
    return Memorization().measure(run, Session(RunContext(), Memorization.Options()), no_progress)


def same(a, b):
    """Whether two nested states are equal bit for bit."""
    if torch.is_tensor(a):
        return torch.is_tensor(b) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(v, w) for v, w in zip(a, b, strict=True))
    return a == b


@pytest.fixture
def finished():
    """A tiny run of a config, from the shelf; not to be changed."""
    return lambda method="bp", **changes: shelf.trained(tiny(method, **changes))


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of such a run, to be written into."""

    return lambda method="bp", **changes: shelf.copied(finished(method, **changes), tmp_path / "copies")


@pytest.fixture
def gradlens(program, monkeypatch, tmp_path):
    """Run the program in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    return program


def refused(result, *words):
    """Exit 2, nothing on stdout, one sentence on stderr that holds these words."""
    status, out, err = result
    assert (status, out) == (2, ""), err
    assert err.startswith("gradlens: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err, err


# -------------------------------------------------------------------------------------------------- area and epochs


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.data())
def test_the_area_is_the_mean_height_of_the_curve(heights, data):
    steps = data.draw(st.lists(st.integers(1, 4), min_size=len(heights) - 1, max_size=len(heights) - 1))
    epochs = [0, *np.cumsum(steps).tolist()]
    found = area(list(zip(epochs, heights, strict=True)))
    fine = np.linspace(0, epochs[-1], 12 * epochs[-1] + 1)  # every corner is on this grid, so its trapezoids are exact
    values = np.interp(fine, epochs, heights)
    assert found == pytest.approx(np.mean((values[:-1] + values[1:]) / 2), abs=1e-12)
    assert min(heights) - 1e-12 <= found <= max(heights) + 1e-12


def test_the_area_of_one_point_and_of_none():
    assert area([(0, 0.3)]) == 0.3
    assert math.isnan(area([]))


@pytest.mark.parametrize(
    ("curve", "when"),
    [
        ([(0, 0.1), (1, 0.3), (2, 0.7), (3, 0.9)], 1.5),
        ([(0, 0.1), (4, 0.6)], 3.2),  # epochs apart
        ([(0, 0.1), (1, 0.5)], 1.0),  # exactly there
        ([(0, 0.5), (1, 0.1)], 0.0),  # from the start
        ([(0, 0.1), (1, 0.6), (2, 0.2), (3, 0.9)], 0.8),  # the first crossing counts
        ([(0, 0.1), (1, 0.49)], None),
        ([], None),
    ],
)
def test_the_epoch_of_a_share_is_the_first_crossing(curve, when):
    found = epochs_to(curve, 0.5)
    assert found is None if when is None else found == pytest.approx(when)


# ------------------------------------------------------------------------------------- the training images evaluated


@pytest.mark.parametrize("method", ["bp", "dgl", "cdni", "greedy", "dgl-async"])
def test_evaluating_the_training_images_leaves_no_trace(method, finished):
    with_, without = finished(method, label_noise=0.0), finished(method, label_noise=0.0, evaluate_train=False)
    for part in ("model", "method", "optimizer"):
        assert same(with_.checkpoint()[part], without.checkpoint()[part]), part
    assert [m for m in with_.metrics if m.split != TRAIN_EVAL] == without.metrics
    assert [m.epoch for m in with_.metrics if m.split == TRAIN_EVAL] == [0, 1, 2, 3]


def test_memorizing_true_labels_is_ordinary_training(gradlens, finished):
    status, out, _ = gradlens("memorize", "bp", *FLAGS, "--label-noise", 0)
    assert status == 0
    assert "label noise 0: these labels are the true ones" in out
    (path,) = [p.parent for p in Path("runs").glob("*/config.json")]
    mine, ordinary = load_run(path), finished(label_noise=0.0, evaluate_train=False)
    assert [m for m in mine.metrics if m.split != TRAIN_EVAL] == ordinary.metrics
    assert same(mine.checkpoint()["model"], ordinary.checkpoint()["model"])


@pytest.mark.parametrize("step", [3, 5, 14])
def test_a_resumed_run_has_the_same_bits(step, finished, tmp_path):
    def watch(event, numbers):
        if event == "step" and numbers["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        train_run(tiny("dgl"), RunContext(out=tmp_path), watch)
    run = train_run(tiny("dgl"), RunContext(out=tmp_path, resume=True))
    assert (run.path / "metrics.csv").read_bytes() == (finished("dgl").path / "metrics.csv").read_bytes()
    assert same(run.checkpoint()["model"], finished("dgl").checkpoint()["model"])


def test_the_evaluation_is_of_the_training_images_in_eval_mode_as_slow_code_finds_it(finished):
    run = finished("dgl", epochs=6)
    train = load_data("digits", limit=160, label_noise=1.0).train
    model = build("basic-cnn", ModelSpec((1, 8, 8), 10, width=4))
    model.load_state_dict(run.checkpoint()["model"])
    model.double().eval()
    right, loss = 0, 0.0
    with torch.no_grad():
        for image, label in zip(train.images, train.labels, strict=True):
            logits = model(image[None].double() / 255 * 2 - 1)[0]
            right += int(logits.argmax()) == int(label)
            loss += float(logits.exp().sum().log() - logits[label]) / len(train)
    last = [m for m in run.metrics if m.split == TRAIN_EVAL][-1]
    assert last.accuracy == right / 160
    assert last.loss == pytest.approx(loss, rel=1e-5)


def test_it_is_no_held_out_split(finished):
    runs = [finished("bp"), finished("dgl")]
    assert [score.split for score in scores(runs)] == ["test", "test"]
    figures = figure_set(runs)
    assert {"train_eval_accuracy", "train_eval_loss", "train_accuracy", "test_accuracy"} <= set(figures.drawn)
    assert figures.drawn["train_eval_accuracy"][0].axes[0].get_legend().get_title().get_text() == ""  # no star: a fit is no result
    assert figures.drawn["test_accuracy"][0].axes[0].get_legend().get_title().get_text() != ""


# ---------------------------------------------------------------------------------------------------- the noisy labels


@pytest.mark.parametrize("p", [0.2, 0.6, 1.0])
def test_noise_changes_labels_and_nothing_else(p):
    config = make_config(label_noise=p, limit=1000, validation=0.1, seed=3)
    noise, clean = noise_of(config, RunContext()), load_data("digits", limit=1000, validation=0.1, seed=3).train
    assert torch.equal(noise.true, clean.labels)
    assert torch.equal(noise.images, clean.images)
    replaced = torch.rand(900, generator=generator(3, f"label noise {p}")) < p
    assert not (noise.changed & ~replaced).any()
    expected, spread = p * 0.9, math.sqrt(900 * p * 0.9 * (1 - p * 0.9))
    assert abs(int(noise.changed.sum()) - 900 * expected) < 4 * spread


def test_labels_are_drawn_once_for_all_methods_and_epochs(finished):
    hashes = {finished(method, **changes).info["label_hash"] for method in ("bp", "dgl") for changes in ({}, {"epochs": 6})}
    assert len(hashes) == 1
    assert finished(seed=1).info["label_hash"] not in hashes


# --------------------------------------------------------------------------------------------------------- the result


def test_the_result_is_what_the_tables_of_the_run_say(copied):
    run = copied()
    found = memorized(run)
    curve = [(m.epoch, m.accuracy) for m in run.metrics if m.split == "train-eval"]
    assert found["curve"] == [list(point) for point in curve]
    assert found["final"] == curve[-1][1]
    assert found["best"] == max(a for _, a in curve)
    assert found["area"] == pytest.approx(np.trapezoid([a for _, a in curve], [e for e, _ in curve]) / 3)
    assert found["held_out"] == {"split": "test", "final": run.summary["test"]["final_accuracy"]}
    assert (found["chance"], found["own_parameters"]) == (0.1, 0)
    assert found["network_parameters"] == sum(
        v.numel() for n, v in run.checkpoint()["model"].items() if "running" not in n and "num" not in n
    )
    assert "blocks" not in found  # all labels are noise
    assert found["protocol"]["label_hash"] == run.info["label_hash"]


def test_heads_are_counted(copied):
    heads = {name: v for name, v in copied("dgl").checkpoint()["method"].items() if name.startswith("heads.")}
    assert memorized(copied("dgl", epochs=6))["own_parameters"] == sum(v.numel() for v in heads.values()) > 10_000


@pytest.mark.parametrize(("method", "p"), [("bp", 0.4), ("dgl", 0.4), ("greedy", 0.4), ("bp", 1.0)])
def test_changed_and_kept_labels_together_are_the_curve_s_end(method, p, copied):
    found = memorized(copied(method, label_noise=p))
    corrupted, clean = found["corrupted"], found["clean"]
    assert corrupted["images"] + clean["images"] == 160
    assert round(corrupted["noisy"] * corrupted["images"] + clean["accuracy"] * clean["images"]) == round(160 * found["final"])
    assert corrupted["noisy"] + corrupted["true"] <= 1


def test_looking_changes_no_file_of_the_run(copied):
    run = copied("dgl", label_noise=0.4)
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    memorized(run)
    after = {p.name: p.read_bytes() for p in run.path.iterdir()}
    assert after.pop("memorization.json")
    assert after == before


def test_what_was_found_is_read_and_what_is_stale_is_not(copied, monkeypatch):
    run = copied(label_noise=0.4)
    first = memorized(run)
    with monkeypatch.context() as m:
        m.setattr(memorization, "by_block", None)  # not needed any more
        assert memorized(run) == first
    stored = json.loads((run.path / "memorization.json").read_text())
    stored["curve"][-1][1] += 0.01
    (run.path / "memorization.json").write_text(json.dumps(stored))
    assert memorized(run)["curve"] == first["curve"]


def test_what_cannot_be_read(copied, monkeypatch):
    run = copied(evaluate_train=False)
    with pytest.raises(InputError, match="without --evaluate-train.*`gradlens memorize bp`"):
        Memorization().analyse([run], RunContext())
    run = copied(augment=True)
    with pytest.raises(InputError, match="augmentation"):
        Memorization().analyse([run], RunContext())
    run = copied()
    (run.path / "summary.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        Memorization().analyse([load_run(run.path)], RunContext())
    run = copied("dgl")
    info = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**info, "data_fingerprint": "0" * 16}))
    with pytest.raises(InputError, match="not the ones"):
        Memorization().analyse([load_run(run.path)], RunContext())


# ---------------------------------------------------------------------------------------------------- probes by block


class Knows(torch.nn.Module):
    """Gives each image, known by its only pixel, the one-hot of what it was told about it."""

    def __init__(self, labels):
        super().__init__()
        self.labels = labels

    def forward(self, x):
        return torch.nn.functional.one_hot(self.labels[x.long().flatten()], 10).float()


def test_probes_find_what_a_block_knows_and_nothing_else():
    rng = torch.Generator().manual_seed(0)
    true = torch.randint(10, (400,), generator=rng)
    labels = torch.where(torch.rand(300, generator=rng) < 0.3, torch.randint(10, (300,), generator=rng), true[:300])
    images = torch.arange(400.0).reshape(-1, 1, 1, 1)
    noise = Noise(images[:300], labels, true[:300])
    memory = torch.cat([labels, true[300:]])
    blocks = torch.nn.ModuleDict({"memory": Knows(memory), "truth": Knows(true), "nothing": Knows(torch.zeros_like(true))})

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks

        def forward(self, x):
            return [block(x) for block in self.blocks.values()][-1]

    frozen = freeze_module(Net(), ["blocks.memory", "blocks.truth", "blocks.nothing"])
    test = memorization.Split(images[300:], true[300:])
    memory_row, truth_row, nothing_row = memorization.by_block(frozen, frozen, noise, test, 10, RunContext())
    assert memory_row["block"] == "blocks.memory"
    assert (memory_row["corrupted_noisy"], memory_row["corrupted_true"], memory_row["clean"]) == (1, 0, 1)
    assert (truth_row["corrupted_noisy"], truth_row["corrupted_true"]) == (0, 1)
    assert (truth_row["clean"], truth_row["held_out"]) == (1, 1)
    most = int(labels.mode().values)  # a probe of nothing says the commonest label
    assert nothing_row["clean"] == pytest.approx(float((noise.true[~noise.changed] == most).double().mean()))
    assert max(row["bound"] for row in (memory_row, truth_row, nothing_row)) <= 1e-5
    assert truth_row["untrained"] == {k: v for k, v in truth_row.items() if k not in ("block", "untrained")}


# ------------------------------------------------------------------------------------------------- tables and figures


def test_the_row_of_a_group_is_the_mean_over_its_seeds(copied):
    runs = [copied(seed=seed) for seed in (0, 1)]
    results = [memorized(run) for run in runs]
    (row,) = reporting_memorization.memorization_scores(runs, results)
    assert (row.label, row.seeds, row.epochs) == ("bp", 2, 3)
    assert row.area == pytest.approx((results[0]["area"] + results[1]["area"]) / 2)
    assert row.final - row.final_low == pytest.approx(12.706 * abs(results[0]["final"] - results[1]["final"]) / 2, rel=1e-3)
    assert row.reached_90 == 0
    assert math.isnan(row.epochs_to_90)


def test_an_epoch_that_not_all_seeds_reach_says_so():
    row = reporting_memorization.Memorized("bp", 3, 20, *[0.5] * 3, 4.0, 2, math.nan, 0, *[0.5] * 7, 0)
    assert reporting_memorization._when(row.epochs_to_50, row.reached_50, row).text == "4.0 (2 of 3)"
    assert reporting_memorization._when(row.epochs_to_90, row.reached_90, row).text == "> 20"
    assert reporting_memorization._when(7.25, 3, row).text == "7.2"


def test_the_reader_is_told_what_differs(copied):
    runs = [copied("bp"), copied("dgl", lr=1e-3, limit=128)]
    said = reporting_memorization.cautions(runs, [memorized(run) for run in runs])
    assert "different schedules: lr is 0.003, 0.001" in said
    assert "different schedules: limit is 160, 128" in said
    assert any("different labels: the runs of seed 0" in line for line in said)
    same = [copied("greedy"), copied("cdni")]
    (only,) = reporting_memorization.cautions(same, [memorized(run) for run in same])
    assert "confounder" in only


def test_the_curve_shows_every_group_and_chance(finished):
    runs = [finished("bp"), finished("dgl")]
    ax = reporting_memorization.memorization_curve(reporting_memorization.memorization_curves(runs), 0.1).axes[0]
    drawn = {line.get_label(): line for line in ax.lines}
    assert list(drawn["bp"].get_ydata()) == [a for _, a in curve_of(runs[0])]
    assert list(drawn["dgl"].get_ydata()) == [a for _, a in curve_of(runs[1])]
    assert any(set(line.get_ydata()) == {0.1} for line in ax.lines)
    assert ax.get_ylim() == (0, 1.02)


def test_the_panels_show_every_block_the_control_and_the_network(copied):
    runs = [copied("bp", label_noise=0.4), copied("dgl", label_noise=0.4)]
    points = reporting_memorization.block_points(runs, [memorized(run) for run in runs])
    figure = reporting_memorization.noise_by_block(points, reporting_memorization.MEMORIZATION_QUANTITIES, 0.1)
    assert len(figure.axes) == 4
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["block1", "block2", "block3", "top", "network"]
    mine = [p for p in points if (p.label, p.quantity) == ("bp", "corrupted_noisy")]
    black = [list(line.get_ydata()) for line in ax.lines if to_hex(line.get_color()) == "#000000"]
    assert [p.mean for p in mine[:4]] in black
    assert [p.untrained for p in mine[:4]] in black
    assert [mine[4].mean] in black
    with pytest.raises(InputError, match="no block was probed"):
        reporting_memorization.noise_by_block([], reporting_memorization.MEMORIZATION_QUANTITIES, 0.1)


# ---------------------------------------------------------------------------------------------------- the command line


@pytest.mark.slow
def test_the_command_trains_compares_and_stores(gradlens, tmp_path):
    status, out, _ = gradlens("memorize", "bp", "dgl", *FLAGS, "--label-noise", 0.4, "--figures", "pictures")
    assert status == 0
    for word in (
        "area",
        "> 3",
        "own",
        "confounder",
        "kept",
        "own prediction",
        "memorization.png",
        "memorization_by_block.png",
    ):
        assert word in out, word
    runs = [load_run(p.parent) for p in (tmp_path / "runs").glob("*/memorization.json")]
    assert len(runs) == 2
    assert len({run.info["label_hash"] for run in runs}) == 1
    assert all(run.config.record.evaluate_train and run.config.record.every == 0 and run.config.data.label_noise == 0.4 for run in runs)
    names = {p.name for p in (tmp_path / "pictures").iterdir()}
    assert names == {"figures.json"} | {f"memorization{kind}.{end}" for kind in ("", "_by_block") for end in ("png", "csv")}
    before = {run.path: load_checkpoint(run.path / "checkpoint.pt")["step"] for run in runs}
    again, out, _ = gradlens("memorize", *[run.path for run in runs], "bp", *FLAGS, "--label-noise", 0.4)
    assert again == 0
    assert {p.parent for p in (tmp_path / "runs").glob("*/config.json")} == set(before)  # nothing new was trained


def test_all_labels_are_random_unless_given(gradlens, tmp_path):
    assert gradlens("memorize", "bp", *FLAGS)[0] == 0
    (path,) = (p.parent for p in (tmp_path / "runs").glob("*/config.json"))
    assert load_run(path).config.data.label_noise == 1
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"label_noise": 0.3, "record_every": 5}))
    assert memorization.wanted({"config": file}) == {"config": file, "record_every": 0, "label_noise": 0.3, "evaluate_train": True}
    file.write_text(json.dumps({"label_noise": 0.0}))
    assert memorization.wanted({"config": file})["label_noise"] == 1
    assert memorization.wanted({"config": file, "label_noise": 0.0})["label_noise"] == 0
    assert memorization.wanted({"record_every": 7})["record_every"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bp", "--augment"], ["augmentation must be off"]),
        (["bp", "--no-evaluate-train"], ["--no-evaluate-train"]),
        (["bp", "--run-name", "mine"], ["--run-name"]),
        (["bqp"], ["bqp", "bp", "`gradlens list methods` lists all"]),
        (["bp", "--limit", 5, "--batch-size", 2], ["5 training images", "10 classes"]),
        (["bp", "--label-noise", 2], ["--label-noise"]),
        (["no/such/run"], ["no/such/run"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(arguments, words, gradlens, tmp_path):
    refused(gradlens("memorize", *arguments, "--quiet"), *words)
    assert not list(tmp_path.iterdir())


def test_one_class_cannot_be_memorized(gradlens, tmp_path):
    for half in ("train", "test"):
        (tmp_path / "images" / half / "cat").mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(tmp_path / "images" / half / "cat" / f"{i}.png")
    refused(gradlens("memorize", "bp", "--data", "images", "--batch-size", 2, "--quiet"), "two classes or more")
    assert not (tmp_path / "runs").exists()


def test_runs_that_tell_nothing_are_refused(gradlens, copied):
    refused(gradlens("memorize", copied(evaluate_train=False).path), "without --evaluate-train")
    refused(gradlens("memorize", copied(augment=True).path), "augmentation")
