"""How analyses/feedback_tables.py chooses rates, keeps what it trained, and what it tests; of its trainings only a tiny one."""

import json

import numpy as np
import pytest
import torch

from analyses import feedback_tables as tables
from analyses.figures.feedback_figures import DepthPoint, depth_figure
from gradlens.data.split import Split
from gradlens.runtime.errors import InputError

TINY = tables.Part("digits", (1,), None, 1, (100, 101), {1: 1.0})


@pytest.fixture
def source():
    x = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    half = Split(x, torch.arange(40) % 10)
    return half, half, tuple("0123456789")


def ran(monkeypatch, accuracy):
    """Replace training by a function of the learning rate; return the configs that were asked for."""
    asked = []

    def run(self, config):
        asked.append(config)
        value = accuracy(config.optimizer.lr)
        return tables.Trained([10.0, value], float("inf") if np.isnan(value) else 1.0, {}, 60.0)

    monkeypatch.setattr(tables.Table, "run", run)
    return asked


@pytest.mark.parametrize("best", [1e-5, 3e-4, 1e-3, 0.1])
def test_a_grid_grows_until_the_best_rate_lies_inside(monkeypatch, source, tmp_path, best):
    asked = ran(monkeypatch, lambda lr: 90 - abs(np.log(lr / best)))
    lr, tried = tables.Table(TINY, source, tmp_path).rate("fa", 1)
    assert lr == best
    assert min(tried) < best < max(tried)
    assert set(tables.FIRST_RATES) <= set(tried)
    assert {c.seed for c in asked} == {100, 101}
    assert {c.data.validation for c in asked} == {tables.HELD_OUT}


def test_a_rate_at_which_the_loss_diverges_is_not_chosen(monkeypatch, source, tmp_path):
    ran(monkeypatch, lambda lr: 80 + 1000 * lr if lr < 2e-3 else float("nan"))
    lr, tried = tables.Table(TINY, source, tmp_path).rate("fa", 1)
    assert lr == 1e-3
    assert tried[3e-3] == -np.inf


def test_a_run_is_trained_once_and_read_again(source, tmp_path, monkeypatch):
    table = tables.Table(TINY, source, tmp_path)
    config = tables.config_of(TINY, "fa", 1, 0, 1e-3).replace(record_every=1, batch_size=10)
    first = table.run(config)
    assert len(first.accuracy) == 2  # untrained, and after the epoch
    assert first.cosine["top.out"] == pytest.approx(1)
    assert abs(first.cosine["block1.linear"]) <= 1
    file = table.out / f"{config.run_name()}.json"
    other = tables.Table(TINY, (source[0], source[1].take(torch.arange(20)), source[2]), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(tables.Table, "train", None)
        assert table.run(config) == first
        with pytest.raises(TypeError):  # other images, as many classes: trained anew
            other.run(config)
        file.write_text(json.dumps(first._asdict()))  # of a script from before there were keys
        assert table.run(config) == first


def test_cells_hold_one_number_a_seed_and_the_tests_find_them(monkeypatch, source, tmp_path):
    ran(monkeypatch, lambda lr: 90 - abs(np.log(lr / 1e-3)))
    parts = (tables.DIGITS, tables.MNIST)
    found = list(tables.cells([tables.Table(part, source, tmp_path) for part in parts], 3))
    values, minutes = tables.as_values(found)
    for test in (leaf for whole in tables.TESTS for leaf in whole.leaves):
        assert all(len(values[test.metric][group]) == 3 for group in test.contrast)
    assert minutes["fa 1"] == 1
    points = tables.depth_points(found)
    assert [p.mean for p in points if (p.data, p.rule, p.depth) == ("digits", "fa", 4)] == [10]
    json.dumps(found)


def test_what_is_tested_is_what_the_docstring_says():
    (primary,) = [test for test in tables.TESTS if test.primary_of]
    assert [part.name for part in primary.parts] == [f"digits-{depth}-{rule}-bp" for depth in (1, 2, 4) for rule in ("fa", "dfa")]
    bounds = {leaf.name: leaf.at_least for test in tables.TESTS for leaf in test.leaves}
    assert bounds["digits-4-dfa-bp"] == bounds["mnist-1-usf-bp"] == -0.8
    assert bounds["mnist-1-fa-shallow"] == 5
    assert bounds["digits-1-fa-shallow"] == bounds["digits-2-dfa-shallow"] == 0
    assert bounds["digits-4-usf-fa"] == 0.7
    assert len(bounds) == 6 * (len(tables.DIGITS.depths) + len(tables.MNIST.depths))


def test_mnist_is_read_from_its_arrays(tmp_path):
    arrays = {f"x_{half}": np.full((n, 28, 28), n, np.uint8) for half, n in (("train", 3), ("test", 2))}
    labels = {f"y_{half}": np.arange(n, dtype=np.uint8) for half, n in (("train", 3), ("test", 2))}
    np.savez(tmp_path / "mnist.npz", **arrays, **labels)
    train, test, classes = tables.mnist(tmp_path / "mnist.npz")
    assert train.images.shape == (3, 1, 28, 28)
    assert test.labels.tolist() == [0, 1]
    assert len(classes) == 10
    np.savez(tmp_path / "other.npz", x=np.zeros(1))
    for name in ("other.npz", "none.npz"):
        with pytest.raises(InputError, match="MNIST"):
            tables.mnist(tmp_path / name)


def test_the_figure_shows_every_cell():
    rows = [DepthPoint(d, r, k, 2.0 + k, 1.5 + k, 2.5 + k, 10) for d in ("digits", "mnist") for r in ("bp", "fa") for k in (1, 7)]
    shown = depth_figure(rows, "title", "beside")
    for ax in shown.axes:
        assert [list(bars[0].get_ydata()) for bars in ax.containers] == 2 * [[3, 9]]
        assert {text.get_text() for text in ax.texts} == {"bp", "fa"}
