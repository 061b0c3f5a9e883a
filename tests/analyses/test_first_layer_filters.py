"""What the script on first-layer filters decides. Its trainings are not run here."""

import math

import pytest
from scipy import stats

from analyses.first_layer_filters import JUDGED, RULES, SEEDS, config, corrected, differences, different
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.models.zoo import ModelSpec, build
from gradlens.training.build import make_network_info


def found(**changes):
    """Numbers of three seeds of bp and dgl; ``changes``: what dgl's are more by."""

    def one(label, seed):
        here = {name: 0.1 * seed + (changes.get(name, [0.0] * 3)[seed] if label == "dgl" else 0) for name in JUDGED}
        return {"numbers": {name: {"trained": value, "change": 2 * value} for name, value in here.items()}}

    return {label: [one(label, seed) for seed in range(3)] for label in ("bp", "dgl")}


def test_the_correction_widens_the_interval_as_bonferroni_says():
    values = [1.0, 2.0, 4.0]
    alone, four = corrected(values, 1), corrected(values, 4)
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values))
    assert alone == pytest.approx((7 / 3, low, high, 3))
    low, high = stats.t.interval(1 - 0.05 / 4, 2, loc=7 / 3, scale=stats.sem(values))
    assert four == pytest.approx((7 / 3, low, high, 3))
    assert math.isnan(corrected([1.0], 4).low)


def test_differences_are_paired_by_seed_and_in_percent_where_the_figure_is():
    made = found(colour_share=[0.1, 0.2, 0.3], frequency_entropy=[0.5, 0.5, 0.5])
    assert differences(made, "dgl", "colour_share") == pytest.approx([10, 20, 30])
    assert differences(made, "dgl", "frequency_entropy") == pytest.approx([0.5] * 3)
    assert differences(made, "dgl", "colour_share", "change") == pytest.approx([20, 40, 60])


def test_one_sure_difference_supports_the_claim_in_either_direction():
    for sign in (1, -1):
        all_of_them, claim = different(found(effective_rank=[sign * v for v in (1.0, 1.01, 0.99)], colour_share=[5.0, -9.0, 9.0]), "dgl")
        assert claim["verdict"] == "supported"
        assert f"effective rank ({'higher' if sign > 0 else 'lower'}" in claim["claim"]
        assert claim["difference"][0] == pytest.approx(1)
        assert all_of_them["effective_rank"].mean == pytest.approx(sign)


def test_noise_decides_nothing():
    _, claim = different(found(gabor_share=[0.1, -0.05, 0.02], colour_share=[-0.1, 0.2, 0.1]), "dgl")
    assert claim["verdict"] == "undecided"


def test_the_five_rules_are_five():
    net = make_network_info(build("basic-cnn", ModelSpec((3, 32, 32), 10, 4, 5, 7)), (3, 32, 32), 10, LOSSES["ce"])
    configs = {label: config(label, 7, 0, "cifar10") for label in RULES}
    rules = {label: METHODS[c.method] for label, c in configs.items() if label != "bp"}
    windows = {label: tuple(rule(net, rule.Options(**configs[label].options)).reach.windows) for label, rule in rules.items()}
    assert {label: [w.last - w.first + 1 for w in spans] for label, spans in windows.items()} == {
        "chunked in two": [3, 2], "chunked in three": [2, 2, 1], "overlap": [2, 2, 2, 2], "dgl": [1, 1, 1, 1, 1],
    }  # fmt: skip
    assert SEEDS[7] > 2  # the stem that is judged
