"""What the script on first-layer filters decides. Its trainings are not run here."""

import math

import pytest

from analyses.first_layer_filters import ADDED, DISTANCE, GABORS, JUDGED, PAIRS, RULES, SEEDS, TESTS, config, distances, located, values_of
from analyses.verdicts.decision import decide
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.models.zoo import ModelSpec, build
from gradlens.training.build import make_network_info


def numbers(**more):
    """Numbers of four seeds of every rule, which differ by seed alone; ``more``: what a rule's are more by."""

    def one(label, seed):
        noise = dict(zip(JUDGED, ([0, 1, 2, 3], [0, 2, 1, 1], [1, 0, 2, 1], [2, 1, 0, 2]), strict=True))
        here = {name: 0.1 * noise[name][seed] + more.get(label, 0.0) for name in JUDGED}
        return {name: {"trained": value, "change": 2 * value, "untrained": 0.0} for name, value in here.items()}

    return {label: [one(label, seed) for seed in range(4)] for label in RULES}


def test_no_run_is_in_two_pairs():
    assert sorted(seed for pair in PAIRS for seed in pair) == [0, 1, 2, 3]


def test_distances_are_in_standard_deviations_of_one_rules_runs():
    points = located(numbers(), "trained")
    of_gabors = [point[JUDGED.index("gabor_share")] for point in points["bp"]]
    assert of_gabors == pytest.approx([0.1 * s / (0.1 * math.sqrt(5 / 3)) for s in range(4)])
    found = distances(points)
    assert found["dgl to bp"] == pytest.approx(found["dgl or bp to itself"])  # the same numbers: no further than seeds are
    across = [math.dist(points["dgl"][0], points["bp"][1]), math.dist(points["dgl"][1], points["bp"][0])]
    assert found["dgl to bp"][0] == pytest.approx(sum(across) / 2)


def test_filters_differ_only_if_rules_are_further_apart_than_seeds():
    def verdict(**more):
        found = {f.test.name: f.verdict for f in decide(TESTS, {"values": values_of(numbers(**more))})}
        return found["filters-dgl"]

    assert verdict() == "undecided"  # no further apart, with every seed: two pairs decide nothing
    assert verdict(dgl=100.0) == "supported"


def test_values_hold_what_the_tests_read():
    values = values_of(numbers())
    assert {test.metric for test in TESTS} == {DISTANCE, ADDED, GABORS} == set(values)
    for test in TESTS:
        assert set(test.contrast) <= set(values[test.metric])
    assert values[GABORS]["untrained"] == [0.0] * 4


def test_the_five_rules_are_five():
    net = make_network_info(build("basic-cnn", ModelSpec((3, 32, 32), 10, 4, 5, 7)), (3, 32, 32), 10, LOSSES["ce"])
    configs = {label: config(label, 7, 0, "cifar10") for label in RULES}
    rules = {label: METHODS[c.method] for label, c in configs.items() if label != "bp"}
    windows = {label: tuple(rule(net, rule.Options(**configs[label].options)).reach.windows) for label, rule in rules.items()}
    assert {label: [w.last - w.first + 1 for w in spans] for label, spans in windows.items()} == {
        "chunked in two": [3, 2], "chunked in three": [2, 2, 1], "overlap": [2, 2, 2, 2], "dgl": [1, 1, 1, 1, 1],
    }  # fmt: skip
    assert SEEDS[7] > 2  # the stem that is judged
