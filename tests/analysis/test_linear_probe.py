"""Linear probes of runs and modules: nothing of the test images in what is fitted, controls at chance, checkpoints untouched."""

import hashlib
import json
import math
import sys

import pytest
import shelf
import torch
from torch import nn
from typer.testing import CliRunner

from gradlens.analysis import linear_probe, logistic_regression
from gradlens.analysis import probe_block as analysis_probe_block
from gradlens.analysis.activations import collect_activations, freeze_module, load_snapshots
from gradlens.analysis.linear_probe import PIXELS, TRAINED, UNTRAINED, probe_module
from gradlens.analysis.logistic_regression import Standard, fit_logistic_regression
from gradlens.analysis.of_runs.interface import Session
from gradlens.analysis.of_runs.options import ProbeOptions
from gradlens.analysis.of_runs.probe import Probe
from gradlens.analysis.probe_block import PERMUTED, TRUE, ProbeFeatures, choose_l2, probe_block
from gradlens.cli import main
from gradlens.data.split import Split
from gradlens.reporting import probes
from gradlens.reporting.probes import separability_by_depth
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import no_progress
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.run_directory import load_result, load_run
from gradlens.training.runs.train_run import train_run

QUICK = ProbeOptions(separability=0, grid=(0.1, 0.01))


def probe_run(run, context, options, notify=no_progress, known=None):
    return Probe().measure(run, Session(context, options, notify=notify, shared={} if known is None else known), no_progress)


@pytest.fixture
def run(tmp_path):
    """A small run on digits that has learned something, with one snapshot before its end; a copy, to write into."""
    config = make_config(method="bp", model="mlp", width=16, epochs=4, batch_size=64, lr=3e-3, record_every=0, keep_checkpoints=2)
    return shelf.copied(shelf.trained(config), tmp_path)


def digests(run):
    return {p.relative_to(run.path): hashlib.sha256(p.read_bytes()).hexdigest() for p in run.path.rglob("*") if p.is_file()}


def blobs(n=400, d=6, k=3, spread=1.0, seed=0):
    """Features and labels of k noisy classes, and as many held out."""
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(k, d, generator=g)
    y = torch.randint(k, (2 * n,), generator=g)
    x = centres[y] + spread * torch.randn(2 * n, d, generator=g)
    return ProbeFeatures(x[:n], y[:n], x[n:], y[n:], k, 0)


# -------------------------------------------------------------------------------------------------------- one block


def test_l2_is_the_grids_best_on_held_out_images_by_a_plain_loop():
    given = blobs(spread=3.0)
    m, grid = given.fitted, (1.0, 0.1, 0.01, 0.001)
    choice = choose_l2(given.train[:m], given.y[:m], given.train[m:], given.y[m:], 3, grid)
    standard = Standard.of(given.train[:m])
    want = [fit_logistic_regression(standard(given.train[:m]), given.y[:m], l2, tolerance=1e-9) for l2 in grid]
    accuracies = [p.accuracy(standard(given.train[m:]), given.y[m:]) for p in want]
    assert [l2 for l2, _ in choice.tried] == list(grid)
    assert [a for _, a in choice.tried] == pytest.approx(accuracies, abs=2 / 80)
    assert choice.accuracy == max(a for _, a in choice.tried)
    assert choice.l2 == next(l2 for l2, a in choice.tried if a == choice.accuracy)


def test_the_grid_is_left_two_standard_errors_below_the_best(monkeypatch):
    answers = iter([0.5, 0.9, 0.88, 0.5, 0.95])
    monkeypatch.setattr(logistic_regression.LogisticProbe, "accuracy", lambda *_: next(answers))
    given = blobs()
    choice = choose_l2(given.train, given.y, given.test, given.y_test, 3, (5.0, 4.0, 3.0, 2.0, 1.0))
    assert choice.l2 == 4.0
    assert [a for _, a in choice.tried] == [0.5, 0.9, 0.88, 0.5]


def test_test_images_change_nothing_but_the_test_accuracy():
    given = blobs(spread=3.0)
    other = given._replace(test=torch.full_like(given.test, 1e6), y_test=given.y_test.flip(0) * 0)
    kept = ("l2", "train", "validation", "loss", "gradient_norm", "bound", "passes", "labels")
    for a, b in zip(probe_block(given), probe_block(other), strict=True):
        assert {key: a[key] for key in kept} == {key: b[key] for key in kept}
        assert a["test"] != b["test"]


def test_permuted_labels_test_at_chance_and_fit_as_much_as_features_allow():
    few, many = blobs(n=200, d=4), blobs(n=200, d=400)
    tests = []
    for seed in range(20):
        true, permuted = probe_block(few._replace(seed=seed), (0.1,))
        assert true["test"] > 0.8
        assert permuted["labels"] == PERMUTED
        assert permuted["l2"] == true["l2"]
        assert permuted["validation"] is None
        tests.append(permuted["test"])
    # classes are told apart well, so a permuted probe's answer is one guess a class or so: about 3 guesses a seed
    assert abs(sum(tests) / 20 - 1 / 3) < 4 * math.sqrt(2 / 9 / (3 * 20))
    assert probe_block(few, (0.1,))[1]["train"] < 0.6 < 0.95 < probe_block(many, (0.1,))[1]["train"]
    assert sorted(few.permuted().tolist()) == sorted(few.y.tolist())
    assert torch.equal(few.permuted(), few.permuted())
    assert not torch.equal(few.permuted(), few._replace(seed=1).permuted())


def test_the_last_fit_is_the_optimum_on_all_training_images():
    given = blobs(spread=3.0)
    row, _ = probe_block(given)
    standard = Standard.of(given.train)
    want = fit_logistic_regression(standard(given.train), given.y, row["l2"], tolerance=1e-9)
    assert row["loss"] == pytest.approx(want.loss, abs=1e-2)
    assert row["bound"] <= 3e-5
    assert row["test"] == pytest.approx(want.accuracy(standard(given.test), given.y_test), abs=2 / 400)


# ------------------------------------------------------------------------------------------------------ any module


def test_any_modules_layers_can_be_probed_and_it_stays_as_it_was():
    given = blobs()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = probe_module(model, ["0", "2"], (given.train, given.y), (given.test, given.y_test), QUICK)
    assert [(r["block"], r["labels"], r["features"]) for r in rows] == [(b, w, 20) for b in "02" for w in (TRUE, PERMUTED)]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert rows[0]["test"] > 0.9
    found = collect_activations(freeze_module(model, ["0"]), given.train)["0"]
    assert torch.equal(found, model[0](given.train).detach())


def test_images_are_taken_in_a_seeded_random_order():
    split = Split(torch.arange(100.0)[:, None], torch.arange(100) % 3)
    a, b = (linear_probe._chosen(split, 40, "train", seed) for seed in (0, 1))
    assert torch.equal(a.images, linear_probe._chosen(split, 40, "train", 0).images)
    assert not torch.equal(a.images, b.images)
    assert len(set(a.images.flatten().tolist())) == 40
    assert torch.equal(a.images[:, 0].long() % 3, a.labels)


# ------------------------------------------------------------------------------------------------------------ a run


def test_a_run_is_probed_with_its_controls_and_nothing_else_of_it_changes(run):
    before = digests(run)
    result = probe_run(run, RunContext(), ProbeOptions(grid=(0.1, 0.01), separability=12))
    after = digests(run)
    assert set(after) - set(before) == {(run.path / "probe.json").relative_to(run.path)}
    assert all(after[name] == digest for name, digest in before.items())
    rows = result["rows"]
    names = next(load_snapshots(run, RunContext())).names
    kinds = [(r["network"], r["block"], r["labels"]) for r in rows]
    blocks = [(PIXELS, PIXELS), *((UNTRAINED, n) for n in names), *((TRAINED, n) for n in names)]
    assert kinds == [(network, block, labels) for network, block in blocks for labels in (TRUE, PERMUTED)]
    keys = {"step", "block", "network", "labels", "features", "pooling", "l2", "train", "validation", "test", "loss", "gradient_norm"}
    assert all(keys <= set(r) for r in rows)
    last = {r["block"]: r for r in rows if r["network"] == TRAINED and r["labels"] == TRUE}
    own = [m.accuracy for m in run.metrics if m.split == "test"][-1]
    assert own > 0.8
    assert last[names[-2]]["test"] == pytest.approx(own, abs=0.05)  # the penultimate layer, read by another linear classifier
    assert last[names[-1]]["step"] == int(run.checkpoint()["step"])
    assert [r["step"] for r in rows if r["network"] != TRAINED] == [0] * (2 + 2 * len(names))
    certified = result["separability"]
    assert {(r["network"], r["block"], r["labels"]) for r in certified} == set(kinds)
    assert all(r["n"] == 12 and r["cover_capacity"] == 2 * (r["features"] + 1) for r in certified)
    said = result["protocol"]
    assert said["images"] == {"train": 1433, "of these, to choose l2 on": 286, "test": 364}
    assert said["l2_grid"] == [0.1, 0.01]


@pytest.mark.slow
def test_what_is_stored_is_not_computed_again_unless_the_protocol_differs(run, monkeypatch):
    first = probe_run(run, RunContext(), QUICK)
    fitted, said = [], []
    whole = analysis_probe_block.probe_block
    monkeypatch.setattr(linear_probe, "probe_block", lambda *a: fitted.append(1) or whole(*a))
    assert probe_run(run, RunContext(), QUICK)["rows"] == first["rows"]
    assert not fitted
    later = probe_run(run, RunContext(), ProbeOptions(separability=0, grid=QUICK.grid, over_time=True), notify=said.append)
    names = next(load_snapshots(run, RunContext())).names
    assert len(fitted) == len(names)  # one snapshot more
    assert [r for r in later["rows"] if r in first["rows"]] == first["rows"]
    assert not said
    probe_run(run, RunContext(), ProbeOptions(separability=0, grid=QUICK.grid, train_images=200), notify=said.append)
    assert len(fitted) == 1 + 3 * len(names)
    assert said == [f"{run.path}/probe.json was made in another way (images differ): computed anew"]
    fitted.clear()
    probe_run(run, RunContext(), ProbeOptions(separability=0, grid=QUICK.grid, train_images=200, overwrite=True))
    assert len(fitted) == 1 + 2 * len(names)


def test_an_interrupted_probe_goes_on_where_it_was(run, monkeypatch):
    whole, calls = analysis_probe_block.probe_block, []

    def breaks(*given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(linear_probe, "probe_block", breaks)
    with pytest.raises(KeyboardInterrupt):
        probe_run(run, RunContext(), QUICK)
    assert len(load_result(run.path, "probe")["rows"]) == 6
    result = probe_run(run, RunContext(), QUICK)
    assert len(calls) == 4 + 1 + 2 * len(next(load_snapshots(run, RunContext())).names) - 3
    monkeypatch.undo()
    seconds = ("seconds",)
    fresh = probe_run(run, RunContext(), ProbeOptions(separability=0, grid=QUICK.grid, overwrite=True))
    strip = [[{k: v for k, v in r.items() if k not in seconds} for r in one["rows"]] for one in (result, fresh)]
    assert strip[0] == strip[1]


def test_blocks_requested_one_by_one_stand_in_the_networks_order(run):
    names = next(load_snapshots(run, RunContext())).names
    for name in (names[-1], names[0]):
        result = probe_run(run, RunContext(), ProbeOptions(separability=0, grid=(0.1,), controls=False, blocks=(name,)))
    assert [r["block"] for r in result["rows"]] == [names[0], names[-1]]


def test_two_runs_with_the_same_control_fit_it_once(run, monkeypatch):
    known: linear_probe.ProbeCache = {}
    first = probe_run(run, RunContext(), QUICK, known=known)
    fitted = []
    monkeypatch.setattr(linear_probe, "probe_block", lambda *_: fitted.append(1))
    second = probe_run(run, RunContext(), ProbeOptions(separability=0, grid=QUICK.grid, overwrite=True), known=known)
    assert not fitted
    assert first["rows"] == second["rows"]


@pytest.mark.slow
def test_points_are_means_over_seeds_with_the_networks_own_answer(run, tmp_path):
    twin = train_run(run.config.replace(seed=1, epochs=4), RunContext(out=tmp_path / "other"))
    names = next(load_snapshots(run, RunContext())).names
    options = ProbeOptions(separability=12, grid=(0.01,), train_images=300, blocks=(names[0],))
    results = [probe_run(r, RunContext(), options) for r in (run, twin)]
    points = probes.probe_points([run, twin], results)
    block = names[0]
    (mine,) = [p for p in probes.last_probed(points) if (p.network, p.labels, p.block, p.half) == (TRAINED, TRUE, block, "test")]
    pair = [next(r["test"] for r in one["rows"] if (r["network"], r["block"]) == (TRAINED, block)) for one in results]
    assert mine.mean == pytest.approx(sum(pair) / 2)
    assert mine.seeds == 2
    (own,) = [p for p in points if p.network == probes.OWN]
    assert own.mean == pytest.approx((probes.own_accuracy(run) + probes.own_accuracy(twin)) / 2)
    assert [c.name for c in probes.probe_table(points).columns] == ["block", "bp"]
    later = [p._replace(step=p.step // 2) for p in points if p.network == TRAINED] + points
    assert list(probes.probe_figures(later)) == ["separability_by_depth", "separability_over_training"]
    assert len(probes.separability_table([run, twin], results).rows) == 2 + 3


def test_the_figure_shows_the_points_and_names_what_lies_far_below():
    def point(label, network, labels, block, mean):
        return probes.ProbePoint(label, network, labels, block, 5 if network == TRAINED else 0, "test", mean, mean - 0.1, mean + 0.1, 3)

    rows = [point(m, TRAINED, TRUE, b, v) for m, pair in (("bp", (0.6, 0.7)), ("dgl", (0.5, 0.8))) for b, v in zip("ab", pair, strict=True)]
    controls = [point("bp", TRAINED, PERMUTED, b, 0.1) for b in "ab"] + [point("bp", PIXELS, TRUE, PIXELS, 0.4)]
    controls += [point("bp", probes.OWN, TRUE, probes.OWN, 0.75)]
    (ax,) = separability_by_depth([*controls, *rows]).axes
    drawn = {line.get_label(): [round(float(v), 9) for v in line.get_ydata()] for line in ax.get_lines()}
    assert drawn["bp"] == [60, 70]
    assert drawn["dgl"] == [50, 80]
    assert drawn["raw pixels"] == [40, 40]
    assert "permuted labels, 10–10 %" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_ylim()[0] == 36
    with pytest.raises(InputError, match="no probe of a trained network"):
        separability_by_depth(controls)


# -------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": ("blok1",)}, "unknown block 'blok1'; nearest: block1"),
        ({"features": 0}, "--features: must be 1 or more, got 0"),
        ({"train_images": 9999}, "--train-images 9999: there are 1433"),
        ({"train_images": 10}, r"8 training images \(a fifth of 10 is held out\) are fewer than the 10 classes"),
        ({"test_images": 0}, "--test-images 0"),
    ],
)
def test_what_cannot_be_probed_is_reported_and_nothing_is_written(run, options, said):
    with pytest.raises(InputError, match=said):
        Probe().analyse([run], RunContext(), ProbeOptions(**options))
    assert not (run.path / "probe.json").exists()


def test_runs_that_cannot_be_probed_are_refused_before_any_is(run, tmp_path):
    with pytest.raises(InputError, match="no run was given to `gradlens probe`"):
        Probe().analyse([], RunContext(), QUICK)
    with pytest.raises(InputError, match="the same run"):
        Probe().analyse([run, load_run(tmp_path / "." / run.path.name)], RunContext(), QUICK)
    bare = shelf.copied(run, tmp_path / "bare")
    (bare.path / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match=r"has no checkpoint\.pt"):
        Probe().analyse([run, bare], RunContext(), QUICK)
    assert not (run.path / "probe.json").exists()


def test_one_class_only_is_reported():
    given = blobs()
    with pytest.raises(InputError, match="all 320 points are of class 1"):
        probe_block(given._replace(y=torch.ones_like(given.y)))


def test_activations_that_are_nan_are_named(run):
    state = torch.load(run.path / "checkpoint.pt", weights_only=True)
    name = next(n for n in state["model"] if n.startswith("block2") and n.endswith("weight"))
    state["model"][name].flatten()[0] = math.nan
    torch.save(state, run.path / "checkpoint.pt")
    with pytest.raises(InputError, match="block2 gives numbers that are not finite"):
        probe_run(run, RunContext(), ProbeOptions(controls=False, separability=0))
    assert not (run.path / "probe.json").exists()


# ------------------------------------------------------------------------------------------------------ the command


@pytest.mark.slow
def test_the_command_prints_stores_and_draws(run, tmp_path):
    shell = CliRunner()
    flags = [
        "--train-images",
        "300",
        "--test-images",
        "100",
        "--separability",
        "12",
        "--block",
        "block1",
        "--quiet",
        "--out",
        str(tmp_path / "figures"),
    ]
    done = shell.invoke(main.app, ["probe", str(run.path), *flags], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "the network's own prediction" in done.output
    assert "Cover's" in done.output
    assert f"{run.path} (probe.json)" in done.output.replace("\n", "")
    stored = json.loads((run.path / "probe.json").read_text())
    assert stored["protocol"]["images"] == {"train": 300, "of these, to choose l2 on": 60, "test": 100}
    drawn = {f"separability_by_depth.{e}" for e in ("png", "csv")}
    assert {f.name for f in (tmp_path / "figures").iterdir()} == {"figures.json", *drawn}


@pytest.mark.parametrize("more", [["--block", "nope"], ["--train-images", "0"], ["--features", "0"]])
def test_the_commands_errors_are_one_sentence_with_status_2(run, more, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gradlens", "probe", str(run.path), *more])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("gradlens: ")
    assert said.count("\n") == 1
    assert not (run.path / "probe.json").exists()


def test_data_of_another_run_are_refused(run):
    info = json.loads((run.path / "config.json").read_text())
    info["data_fingerprint"] = "0" * 16
    (run.path / "config.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="are not the ones"):
        Probe().analyse([load_run(run.path)], RunContext(), QUICK)
    assert load_data(run.config, RunContext()).shape == (1, 8, 8)
