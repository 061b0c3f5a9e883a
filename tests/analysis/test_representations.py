"""What blocks represent: information estimates with known answers, the files of a run, comparisons, the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import shelf
import torch
from scipy.stats import entropy
from torch import nn

from gradlens.analysis import information, network_similarity
from gradlens.analysis import representations as rep
from gradlens.analysis.activations import freeze_module, load_snapshots
from gradlens.analysis.of_runs.interface import Session
from gradlens.analysis.of_runs.options import RepresentationOptions
from gradlens.analysis.of_runs.representations import Representations
from gradlens.analysis.representation_similarity import effective_rank, fisher_ratio, linear_cka, rdm, rdm_correlation, spectrum
from gradlens.data.split import Split
from gradlens.reporting import representations
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import no_progress
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_result, load_run

SMALL = RepresentationOptions(images=90, steps=2)
TINY = {"width": 4, "limit": 64, "batch_size": 32, "epochs": 2, "record_every": 0}


def represented(run, context, options, known=None):
    return Representations().measure(run, Session(context, options, shared={} if known is None else known), no_progress)


def compared(run, others, context, options):
    return Representations().compare([run, *others], Session(context, options))


def smooth_images(n, seed=0):
    """Images that neighbours predict, as photographs are."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=True) * 255).to(torch.uint8)


@pytest.fixture
def runs():
    """bp with two seeds, dgl, and bp on another width; all with snapshots."""
    return [
        shelf.trained(make_config(**{**TINY, "keep_checkpoints": 2, **some})) for some in ({}, {"seed": 1}, {"method": "dgl"}, {"width": 3})
    ]


@pytest.fixture
def copies(runs, tmp_path):
    """Run directories of the test's own."""
    import shutil

    return [Path(shutil.copytree(run.path, tmp_path / run.path.name)) for run in runs]


# -------------------------------------------------------------------------------------------------------- information


def test_images_come_back_from_themselves_and_not_from_a_constant():
    x, held = smooth_images(160), smooth_images(60, seed=1)
    itself = information.reconstruct(x.float(), x, held.float(), held, steps=160)
    assert itself.r2 > 0.95
    nothing = information.reconstruct(torch.full((160, 5, 4, 4), 0.3), x, torch.full((60, 5, 4, 4), 0.3), held, steps=100)
    assert nothing.r2 == pytest.approx(0, abs=0.02)
    flat = information.reconstruct(torch.ones(160, 6), x, torch.ones(60, 6), held, steps=100)
    assert flat.r2 == pytest.approx(0, abs=0.02)


def test_the_share_of_variance_is_that_of_the_error(monkeypatch):
    x, held = smooth_images(40), smooth_images(30, seed=1)
    answer = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(information, "_answers", lambda reader, h: answer.expand(len(h), *answer.shape))
    got = information.reconstruct(x.float(), x, held.float(), held, steps=1)
    pixels, test = x.double().numpy() / 255, held.double().numpy() / 255
    mean = pixels.mean(0)
    shown = mean + math.sqrt(((pixels - mean) ** 2).mean()) * answer.double().numpy()
    assert got.mse == pytest.approx(((shown - test) ** 2).mean(), rel=1e-5)
    assert got.r2 == pytest.approx(1 - ((shown - test) ** 2).sum() / ((test - mean) ** 2).sum(), rel=1e-5)


def test_activations_of_any_scale_are_read_alike():
    x, held = smooth_images(60), smooth_images(30, seed=1)
    got = [information.reconstruct(s * x.float() + b, x, s * held.float() + b, held, steps=30).r2 for s, b in ((1, 0), (1e-3, 0), (100, 5))]
    assert got[1:] == pytest.approx([got[0]] * 2, abs=0.01)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_images_of_any_scale_come_back_alike(scale):
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    plain, scaled = (information.reconstruct(x.flatten(1), a, x.flatten(1), a, steps=20) for a in (x, scale * x))
    assert 0 < plain.r2 <= 1
    assert scaled.r2 == pytest.approx(plain.r2, abs=1e-3)


def test_a_head_finds_the_bits_that_are_there():
    y, held = torch.arange(200) % 4, torch.arange(80) % 4
    told = information.label_information(nn.functional.one_hot(y).float(), y, nn.functional.one_hot(held).float(), held, 4)
    assert told.accuracy == 1
    assert 1.9 < told.bits <= 2
    half = information.label_information((y % 2).float()[:, None], y, (held % 2).float()[:, None], held, 4)  # one bit of two
    assert half.bits == pytest.approx(1, abs=0.1)
    nothing = information.label_information(torch.ones(200, 3), y, torch.ones(80, 3), held, 4)
    assert nothing.bits == pytest.approx(0, abs=0.05)


def test_a_head_that_overfits_is_below_zero_and_stays_there():
    noise = torch.Generator().manual_seed(0)
    y, held = torch.arange(40) % 4, torch.arange(40) % 4
    got = information.label_information(torch.randn(40, 200, generator=noise), y, torch.randn(40, 200, generator=noise), held, 4)
    assert got.bits < -0.5


def test_bits_are_entropy_less_cross_entropy(monkeypatch):
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(information, "_answers", lambda reader, h: logits)
    held = torch.tensor([0] * 25 + [1] * 15 + [2] * 10)
    got = information.label_information(torch.zeros(9, 4), torch.zeros(9, dtype=torch.long), torch.zeros(50, 4), held, 3, steps=1)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    want = entropy([25, 15, 10], base=2) + np.mean([math.log2(p[i, c]) for i, c in enumerate(held.tolist())])
    assert got.bits == pytest.approx(want, rel=1e-10)
    assert got.accuracy == pytest.approx(np.mean(p.argmax(1) == held.numpy()))


# ------------------------------------------------------------------------------------------------------------- images


def test_images_are_dealt_class_by_class_and_a_third_of_each_is_held_out():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 30)
    split = Split(torch.arange(100).reshape(100, 1, 1, 1).to(torch.uint8), labels)
    shown = rep.pictures(split, 3, 60)
    assert shown.fit.labels.bincount().tolist() == [14, 14, 14]
    assert shown.held.labels.bincount().tolist() == [6, 6, 6]
    assert shown.held.labels[:9].bincount().tolist() == [3, 3, 3]
    ids = torch.cat([shown.fit.images, shown.held.images]).flatten().tolist()
    assert len(set(ids)) == 60
    assert all(labels[i] == y for i, y in zip(ids, torch.cat([shown.fit.labels, shown.held.labels]).tolist(), strict=True))
    everything = rep.pictures(split, 3, 1000)
    assert len(everything.fit) + len(everything.held) == 100
    with pytest.raises(InputError, match="too few for 3 classes"):
        rep.pictures(split, 3, 6)


# -------------------------------------------------------------------------------------------------------- any network


def test_any_modules_numbers_are_those_of_its_activations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(), nn.Linear(4 * 9, 5)).train()
    split = Split(smooth_images(90).float() / 255, torch.arange(90) % 3)
    shown = rep.pictures(split, 3, 90)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = {row["block"]: (row, h) for row, h in rep.represent(freeze_module(model), shown, RepresentationOptions(steps=2))}
    x = shown.held.images
    with torch.no_grad():
        want = {"0": model[0](x).flatten(1), "1": model[0](x).flatten(1), "2": model(x)}
    for name, h in want.items():
        row, got = found[name]
        np.testing.assert_allclose(got.numpy(), h.numpy(), atol=1e-6)
        assert row["features"] == h.shape[1]
        assert row["fisher"] == pytest.approx(fisher_ratio(h, shown.held.labels), rel=1e-4)
        assert row["effective_rank"] == pytest.approx(effective_rank(spectrum(h)), rel=1e-4)
        assert {"reconstruction_r2", "information_y_bits", "head_accuracy", "participation_ratio"} <= set(row)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_all_pairs_of_blocks_are_compared_as_one_by_one():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Flatten(), nn.Linear(48, d), nn.Tanh(), nn.Linear(d, 4)) for d in (10, 60))
    x = torch.rand(30, 3, 4, 4)
    split = Split(x, torch.arange(30) % 3)
    got = network_similarity.cka_matrix(freeze_module(a), freeze_module(b), split, batch=11)
    assert got.shape == (4, 4)
    with torch.no_grad():
        for i, j in ((0, 0), (1, 3), (2, 1), (3, 2)):
            assert float(got[i, j]) == pytest.approx(linear_cka(a[: i + 1](x), b[: j + 1](x), batch=11), rel=1e-4)
    same = network_similarity.cka_matrix(freeze_module(a), freeze_module(a), split)
    assert torch.equal(same.diagonal(), torch.ones(4, dtype=same.dtype))
    torch.testing.assert_close(same, same.T)
    assert got.abs().max() <= 1


def test_a_constant_block_is_nothing_and_no_error():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 4, 2, 2)

    split = Split(smooth_images(60), torch.arange(60) % 3)
    frozen = freeze_module(nn.Sequential(Constant()), to_input=lambda x: x.float())
    ((row, _),) = rep.represent(frozen, rep.pictures(split, 3, 60), RepresentationOptions(steps=3))
    assert (row["effective_rank"], row["participation_ratio"]) == (0, 0)
    assert math.isnan(row["fisher"])
    assert math.isnan(float(network_similarity.cka_matrix(frozen, frozen, split)))


def test_numbers_that_are_none_are_named_by_their_block():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with torch.no_grad():
        model[1].bias[0] = math.nan
    shown = rep.pictures(Split(smooth_images(60), torch.arange(60) % 3), 3, 60)
    with pytest.raises(InputError, match="1 gives numbers that are not finite"):
        list(rep.represent(freeze_module(model, to_input=lambda x: x.float()), shown, SMALL))


def test_one_class_only_is_reported():
    model = nn.Sequential(nn.Flatten())
    shown = rep.pictures(Split(smooth_images(60), torch.zeros(60, dtype=torch.long)), 1, 60)
    with pytest.raises(InputError, match="two classes or more; all 20 samples are of one"):
        list(rep.represent(freeze_module(model, to_input=lambda x: x.float()), shown, SMALL))


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_runs_numbers_are_stored_and_nothing_else_changes(copies):
    path = copies[0]
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    state = torch.random.get_rng_state()
    found = represented(load_run(path), RunContext(), SMALL)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {f: f.read_bytes() for f in before} == before
    assert {f.name for f in path.rglob("*") if f.is_file() and f not in before} == {"representations.json"}
    stored = load_result(path, "representations")
    assert (stored["protocol"], stored["rows"]) == (found["protocol"], found["rows"])
    assert [(r["network"], r["step"], r["block"]) for r in found["rows"]] == [
        (network, step, block) for network, step in (("untrained", 0), ("trained", 4)) for block in ("block1", "block2", "block3", "top")
    ]
    assert str(path.parent) not in json.dumps({k: stored[k] for k in ("protocol", "rows", "rdm")})
    shown = rep.pictures_of(load_run(path), RunContext(), 90)
    (last,) = load_snapshots(load_run(path), RunContext())
    *_, (_, top) = rep.represent(last, shown, SMALL)
    want = rdm(top, shown.held.labels)
    np.testing.assert_allclose(np.array(stored["rdm"]["top"], dtype=float), want.numpy(), atol=6e-4)
    assert stored["rdm_labels"] == sorted(shown.held.labels.tolist())


def test_the_same_numbers_come_again(copies):
    path = copies[1]
    first = represented(load_run(path), RunContext(), SMALL)
    assert represented(load_run(path), RunContext(), RepresentationOptions(images=90, steps=2, overwrite=True)) == first


def test_what_is_stored_is_not_computed_again_unless_it_depends_on_something_else(copies, monkeypatch):
    path, seen = copies[0], []
    real = rep._numbers_of
    monkeypatch.setattr(rep, "_numbers_of", lambda h, *rest: seen.append(tuple(h.shape)) or real(h, *rest))
    whole = represented(load_run(path), RunContext(), SMALL)
    assert len(seen) == 8
    assert represented(load_run(path), RunContext(), SMALL) == whole
    assert len(seen) == 8
    represented(load_run(path), RunContext(), RepresentationOptions(images=90, steps=2, over_time=True))
    assert len(seen) == 12
    stored = load_result(path, "representations")
    assert [r["step"] for r in stored["rows"] if r["block"] == "top"] == [0, 2, 4]
    represented(load_run(path), RunContext(), RepresentationOptions(images=90, steps=1, blocks=("block2",)))
    assert len(seen) == 14
    represented(load_run(path), RunContext(), RepresentationOptions(images=90, steps=1))
    assert len(seen) == 20


def test_an_interrupted_command_goes_on(copies, monkeypatch):
    path, seen = copies[0], []
    real = rep._numbers_of

    def stopped(h, *rest):
        seen.append(h)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(h, *rest)

    monkeypatch.setattr(rep, "_numbers_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        represented(load_run(path), RunContext(), SMALL)
    assert [r["block"] for r in load_result(path, "representations")["rows"]] == ["block1", "block2"]
    assert len(represented(load_run(path), RunContext(), SMALL)["rows"]) == 8
    assert len(seen) == 3 + 6


def test_what_two_networks_have_in_common_is_computed_once(copies, monkeypatch):
    seen = []
    real = rep._numbers_of
    monkeypatch.setattr(rep, "_numbers_of", lambda h, *rest: seen.append(1) or real(h, *rest))
    known = {}
    bp, dgl = load_run(copies[0]), load_run(copies[2])  # of one beginning
    a, b = (represented(run, RunContext(), SMALL, known=known) for run in (bp, dgl))
    assert len(seen) == 4 + 4 + 4
    assert a["rows"][:4] == b["rows"][:4]


def test_a_run_is_compared_with_its_beginning_and_with_others(copies):
    path, twin, other, narrow = copies
    before = {f: f.read_bytes() for f in path.rglob("*") if f.is_file()}
    found = compared(load_run(path), [load_run(twin), load_run(other), load_run(narrow)], RunContext(), SMALL)
    assert {f: f.read_bytes() for f in before} == before
    assert [(e["run"], e["network"], e["other_seed"]) for e in found["with"]] == [
        (path.name, "untrained", False), (twin.name, "trained", True), (other.name, "trained", False), (narrow.name, "trained", False),
    ]  # fmt: skip
    assert load_result(path, "cka")["with"] == found["with"]
    shown = rep.pictures_of(load_run(path), RunContext(), 90).held
    a, b = (next(iter(load_snapshots(load_run(p), RunContext()))) for p in (path, twin))
    np.testing.assert_allclose(found["with"][1]["matrix"], network_similarity.cka_matrix(a, b, shown).numpy())
    h, j = (rep.collect_activations(f, shown.images) for f in (a, b))
    want = rdm_correlation(rdm(h["block2"], shown.labels), rdm(j["top"], shown.labels))
    assert found["with"][1]["rdm_correlation"][1][3] == pytest.approx(want, rel=1e-4)


def test_comparisons_that_are_stored_stay(copies, monkeypatch):
    path, twin, other, _ = copies
    first = compared(load_run(path), [load_run(twin)], RunContext(), SMALL)
    made = []
    real = network_similarity.signature
    monkeypatch.setattr(network_similarity, "signature", lambda *args: made.append(1) or real(*args))
    assert compared(load_run(path), [load_run(twin)], RunContext(), SMALL) == first
    assert not made
    compared(load_run(path), [load_run(other)], RunContext(), SMALL)
    assert len(made) == 2
    assert {e["run"] for e in load_result(path, "cka")["with"]} == {path.name, twin.name, other.name}


# ------------------------------------------------------------------------------------------------------------- tables


def made_result(*fishers):
    """A result of one block: untrained, then trained at steps 10, 20, …"""
    rows = [{"step": 10 * i, "network": "trained" if i else "untrained", "block": "b", "fisher": f} for i, f in enumerate(fishers)]
    return {"rows": rows, "rdm": {"b": [[0.0, None], [None, 0.0]]}, "rdm_labels": [0, 3]}


def test_blocks_are_averaged_over_seeds_and_untrained_networks_told_once(runs):
    results = [made_result(1.0, 9.0, 2.0), made_result(2.0, 4.0), made_result(1.0, 7.0)]  # bp s0, bp s1, dgl s0
    points = {(p.label, p.network): p for p in representations.depth_points(runs[:3], results)}
    half = 12.706 * math.sqrt(2) / math.sqrt(2)
    assert points["bp", "trained"][4:] == pytest.approx((3, 3 - half, 3 + half, 2), rel=1e-4)
    assert points["dgl", "trained"].mean == 7
    assert points["untrained", "untrained"].mean == 1.5
    assert points["untrained", "untrained"].seeds == 2
    apart = {p.label for p in representations.depth_points([runs[0], runs[3]], results[:2])}
    assert apart == {"bp width=4", "bp width=3", "bp width=4 untrained", "bp width=3 untrained"}


def test_numbers_over_training_begin_untrained(runs):
    points = representations.over_steps(runs[:1], [made_result(1.0, None, 2.0)], "fisher")
    assert [(p.step, p.mean, p.dropped) for p in points[::2]] == [(0, 1.0, 0), (20, 2.0, 0)]
    assert math.isnan(points[1].mean)
    assert points[1].dropped == 1


def test_dissimilarities_in_a_table(runs):
    rows = representations.rdm_rows(runs[:2], [made_result(1.0, 2.0)] * 2)
    assert [tuple(r) for r in rows] == [("bp s0", "b", 0, 0, "0.00 nan"), ("bp s0", "b", 1, 3, "nan 0.00")]


# ------------------------------------------------------------------------------------------------------------ command


@pytest.fixture
def gradlens(program, monkeypatch, tmp_path):
    """Run the program in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    return program


@pytest.mark.slow
def test_the_command_prints_stores_and_draws(gradlens, copies, tmp_path):
    few = ("--images", 90, "--information-steps", 2, "--out", "f", "--quiet", "--device", "cpu")
    status, out, err = gradlens("representations", *copies[:3], *few)
    assert (status, err) == (0, "")
    for word in ("untrained", "block3", "bp s1 (another seed)", "dgl s0", "eff.", "representations.json, cka.json"):
        assert word in out
    drawn = {f.name for f in (tmp_path / "f").iterdir()}
    assert drawn == {"figures.json"} | {f"{name}.{end}" for name in ("cka", "rdm", "representation_by_depth") for end in ("png", "csv")}


def test_options_of_the_command(gradlens, copies, monkeypatch):
    drawn = {}

    def kept(_, rows, folder, name, **__):
        drawn[name] = rows
        return [Path(folder) / f"{name}.png", Path(folder) / f"{name}.csv"]

    monkeypatch.setattr("gradlens.reporting.analysis_report.save_figure", kept)
    few = ("--images", 90, "--information-steps", 0, "--block", "block2", "--over-time", "--quiet")
    status, out, _ = gradlens("representations", copies[0], *few)
    assert status == 0
    assert "bits" not in out
    rows = load_result(copies[0], "representations")["rows"]
    assert [(r["block"], r["step"]) for r in rows] == [("block2", step) for step in (0, 2, 4)]
    assert not any("reconstruction_r2" in r for r in rows)
    assert set(drawn) == {"cka", "rdm", "representation_by_depth", "effective_rank_over_training", "fisher_over_training"}
    assert [(p.layer, p.step, p.mean) for p in drawn["fisher_over_training"]] == [(r["block"], r["step"], r["fisher"]) for r in rows]


def test_what_cannot_be_used_is_one_sentence_and_leaves_nothing(gradlens, copies, tmp_path):
    def refused(*arguments):
        status, out, err = gradlens("representations", *arguments, "--quiet")
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert not list(tmp_path.rglob("representations.json"))
        assert not (tmp_path / "figures").exists()
        return err

    assert "unknown block 'blok'; nearest: block" in refused(copies[0], "--block", "blok")
    assert "is not a run directory" in refused(copies[0], Path(__file__).parent)
    assert "too few for 10 classes" in refused(copies[0], "--images", 12)
    assert "missing argument" in refused().lower()
    (copies[1] / "checkpoint.pt").unlink()
    assert "has no checkpoint.pt" in refused(copies[0], copies[1])
    (copies[2] / "config.json").write_text((copies[2] / "config.json").read_text().replace('"digits"', '"mnist"'))
    assert "was trained on mnist and" in refused(copies[0], copies[2])


def test_a_run_trained_anew_is_measured_anew(copies):
    path = copies[0]
    first = represented(load_run(path), RunContext(), SMALL)
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    for value in state["model"].values():
        if value.dtype == torch.float32:
            value.mul_(1.5)
    torch.save(state, path / "checkpoint.pt")
    again = represented(load_run(path), RunContext(), SMALL)
    assert again["protocol"]["weights"] != first["protocol"]["weights"]
    assert again["rows"][-1] != first["rows"][-1]
    assert again["rows"][0] == first["rows"][0]
