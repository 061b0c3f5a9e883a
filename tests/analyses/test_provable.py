"""What the script on learning layer by layer decides, and that it goes on where it was interrupted. Its trainings are not run here."""

import json

import pytest
import torch

from analyses import provable
from analyses.figures.provable_figures import grids_of, hierarchical_digits, layerwise_sweep
from analyses.provable import CIFAR_LEARNERS, CONDITIONS, DEFAULT, LEARNERS, NOISES
from analyses.verdicts.decision import decide
from gradlens.analysis.theory.layerwise_clustering import LayerwisePlan
from gradlens.data.hierarchical_digits import draw
from gradlens.reporting.style import save_figure
from gradlens.runtime.errors import InputError


def made(purity=lambda noise: 1 - noise, **accuracy):
    """Results of ten seeds; ``accuracy``: what a learner has, if not 0.5."""

    def one(name, noise, seed):
        levels = dict.fromkeys(provable.LEVEL_NAMES, purity(noise)) if name != "bp" else {}
        return {"accuracy": accuracy.get(name, 0.5) + seed / 1000 * (name == "pixels"), **levels}

    names = ("bp", *LEARNERS, "floor")
    return {c: {name: [one(name, c[0], seed) for seed in range(10)] for name in names} for c in CONDITIONS}


def verdicts(digits, cifar=None):
    """Test name -> verdict."""
    cifar = cifar or {name: [{"accuracy": 0.3 + seed / 100} for seed in range(10)] for name in ("bp", *CIFAR_LEARNERS)}
    return {found.test.name: found.verdict for found in decide(provable.TESTS, {"values": provable.values_of(digits, cifar)})}


def test_the_default_is_the_data_set_s_and_every_sweep_goes_through_it():
    from gradlens.data import hierarchical_digits as hierarchy

    assert DEFAULT == (hierarchy.NOISE, hierarchy.DISTRACTORS)
    assert DEFAULT in CONDITIONS
    assert len(CONDITIONS) == len(set(CONDITIONS)) == 7
    assert provable.CLUSTERS == (4, 9, 10)
    assert provable.TEMPLATES == (7, 17, 20)
    for name in LEARNERS:
        LayerwisePlan(**{"sizes": (3, 3, 3), "clusters": provable.CLUSTERS, **LEARNERS[name]})


def test_all_tests_hold_where_everything_is_found():
    found = verdicts(made(layerwise=1.0, bp=1.0))
    assert {name for name, verdict in found.items() if verdict != "supported"} == {
        f"layerwise-above-{n}-CIFAR-10" for n in CIFAR_LEARNERS[1:]
    }
    assert len(found) == 2 + 2 + (len(LEARNERS) - 1) + (len(CIFAR_LEARNERS) - 1) + 3


def test_each_test_can_fail():
    low = [{"accuracy": 0.3 + seed / 1000} for seed in range(10)]
    high = [{"accuracy": 0.4 + seed / 500} for seed in range(10)]
    cifar = {"layerwise": low, "bp": high, **dict.fromkeys(CIFAR_LEARNERS[1:], high)}
    found = verdicts(made(purity=lambda noise: 0.9 + noise / 10, layerwise=0.4, bp=0.9), cifar)
    assert set(found.values()) == {"not supported"}


def test_ties_say_nothing_of_an_order():
    found = verdicts(made(layerwise=1.0, bp=1.0))
    assert found["provable-cifar-near-bp"] == "supported"  # five points are allowed
    assert found["layerwise-above-pixels-CIFAR-10"] == "undecided"


def test_parts_are_computed_once_and_anew_under_other_settings(tmp_path, monkeypatch):
    calls = []

    def compute():
        calls.append(1)
        return {"layerwise": {"accuracy": 0.5}}

    first = provable.part(tmp_path, "x", compute)
    assert provable.part(tmp_path, "x", compute) == first
    assert len(calls) == 1
    assert first["layerwise"] == {"accuracy": 0.5}
    monkeypatch.setitem(provable.SETTINGS, "images", 7)
    provable.part(tmp_path, "x", compute)
    assert len(calls) == 2
    assert len(list(tmp_path.glob("provable/x-*.json"))) == 2


def test_shuffled_labels_are_the_same_labels_elsewhere():
    y = torch.arange(50) % 10
    dealt = provable.shuffled(y, 0)
    assert not torch.equal(dealt, y)
    assert dealt.sort().values.tolist() == y.sort().values.tolist()
    assert torch.equal(dealt, provable.shuffled(y, 0))


def test_the_figures_are_drawn_from_their_tables(tmp_path):
    rows = provable.points(made(layerwise=1.0, bp=0.9))
    assert len(rows) == len(CONDITIONS) * (1 + 4 * len(LEARNERS))
    figure = layerwise_sweep(rows, DEFAULT, title="made up")
    assert figure.axes[0].get_ylabel() == "test accuracy (%)"
    (line,) = (line for line in figure.axes[0].lines if line.get_color() == "#0072B2")
    assert list(line.get_xdata()) == list(NOISES)
    assert all(v == pytest.approx(100) for v in line.get_ydata())
    drawn = draw(60, 0)
    pictured = grids_of(drawn)
    assert len(pictured) == 30
    i = int((drawn.labels == 4).nonzero()[0, 0])
    assert next(r for r in pictured if (r.digit, r.level) == (4, "parts")).cells == drawn.levels[2][i].tolist()
    assert len(save_figure(hierarchical_digits(pictured[:6]), pictured[:6], tmp_path, "digits")) == 2  # png and csv
    for empty in (lambda: layerwise_sweep([], DEFAULT), lambda: hierarchical_digits([])):
        with pytest.raises(InputError):
            empty()


def test_settings_can_be_stored():
    assert json.loads(json.dumps(provable.SETTINGS))["clusters"] == [4, 9, 10]
