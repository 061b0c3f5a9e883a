"""What the analyses decide: verdicts, names of data, numbers in tables. Their trainings are not run here."""

import json
import math
from argparse import Namespace

import pytest

from analyses.all_methods import corrected
from analyses.study import data_name, judged, told, verdict, verdict_within
from gradlens.reporting.aggregate import without_noise
from gradlens.reporting.statistics import Interval
from gradlens.training.run_directory import plain


@pytest.mark.parametrize(
    ("low", "high", "bound", "word"),
    [(0.1, 0.3, 0.0, "supported"), (-0.3, -0.1, 0.0, "not supported"), (-0.1, 0.3, 0.0, "undecided"), (-0.9, 2.0, -1.0, "supported")],
)
def test_a_verdict_is_what_the_whole_interval_says(low, high, bound, word):
    assert verdict(Interval((low + high) / 2, low, high, 3), bound) == word


def test_exact_ties_decide_no_order_but_meet_a_wanted_number():
    assert verdict(Interval(0.0, 0.0, 0.0, 3), 0.0) == "undecided"
    assert verdict(Interval(100.0, 100.0, 100.0, 3), 100.0) == "supported"


def test_one_seed_decides_nothing():
    assert verdict(Interval(5.0, math.nan, math.nan, 1), 0.0) == "undecided"


@pytest.mark.parametrize(
    ("data", "said"),
    [("cifar10", "CIFAR-10"), ("/x/cifar10", "CIFAR-10 (JPEG copy)"), ("digits", "digits"), ("/x/flowers", "flowers")],
)
def test_data_are_called_what_they_are(data, said):
    assert data_name(Namespace(data=data)) == said


def test_noise_is_taken_out_of_both_sides():
    assert without_noise(0.3, 0.3, 0.3) == pytest.approx(1)
    assert without_noise(0.3, 0.09, 1.0) == pytest.approx(1)  # a rule without noise: the truth's ceiling alone would say 3.3
    assert math.isnan(without_noise(0.3, -0.1, 0.3))
    assert math.isnan(without_noise(0.3, 0.3, 0.0))


def test_the_correction_is_made_of_means_and_not_a_mean_of_ratios():
    seeds = [
        {("l", "across_halves"): a, ("l", "noise_ceiling"): c, ("l", "rule_ceiling"): r} for a, c, r in ((0.2, 0.4, 0.5), (0.1, 0.01, 0.2))
    ]
    assert corrected(seeds, "l") == pytest.approx(0.15 / math.sqrt(0.205 * 0.35))
    assert math.isnan(corrected([{}], "l"))


def test_results_are_strict_json():
    assert json.loads(json.dumps(plain({"a": [math.nan, (1.0, math.inf)]}), allow_nan=False)) == {"a": [None, [1.0, None]]}


@pytest.mark.parametrize(
    ("low", "high", "word"), [(-0.5, 0.9, "supported"), (1.1, 2.0, "not supported"), (-3.0, -1.1, "not supported"), (0.5, 1.5, "undecided")]
)
def test_a_difference_is_small_where_its_whole_interval_is(low, high, word):
    assert verdict_within(Interval((low + high) / 2, low, high, 3), 1.0) == word
    assert verdict_within(Interval(0.0, math.nan, math.nan, 1), 1.0) == "undecided"


def test_a_judged_claim_says_what_it_is_judged_by():
    row = judged("a is above b", [1.0, 2.0, 3.0], "points", at_least=-1)
    assert row["verdict"] == "supported"
    assert told(row) == "2 [-0.484, 4.48] points, wanted at least -1, 3 seeds"
    assert told(judged("c", [2.0], "points", within=1)) == "2 points, wanted within ±1, 1 seed"
