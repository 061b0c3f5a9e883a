"""What scripts of analyses share: names of data, numbers in tables. Their trainings are not run here."""

import json
import math
from argparse import Namespace

import pytest

from analyses.all_methods import corrected
from analyses.training.study import data_name
from gradlens.reporting.aggregate import without_noise
from gradlens.training.run_directory import plain


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
