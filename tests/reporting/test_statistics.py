"""Statistics of small samples: against scipy.stats, definitions written out, and simulations."""

import doctest

import numpy as np
import pytest
from scipy import stats

from gradlens.reporting import statistics
from gradlens.reporting.statistics import interval, own_spread, p_at_least, p_same_side, paired_p

THREE = [0.3, 1.1, 0.7]


def test_examples():
    assert doctest.testmod(statistics).failed == 0


def test_p_against_a_bound_is_that_of_the_one_sample_t_test():
    found = p_at_least(np.mean(THREE), 0.2, own_spread(THREE), 3)
    assert found == pytest.approx(stats.ttest_1samp(THREE, 0.2).pvalue)


@pytest.mark.parametrize("bound", np.linspace(-1.0, 2.5, 29))
def test_p_and_interval_agree(bound):
    low, high = interval(THREE)[1:3]
    assert (p_at_least(0.7, bound, own_spread(THREE), 3) < 0.05) == (not low < bound < high)


def test_values_without_spread_are_decided_by_signs():
    assert p_same_side(10) == pytest.approx(stats.binomtest(10, 10, 0.5).pvalue)
    assert paired_p([2.0] * 6) == pytest.approx(2 * 0.5**6)
    assert p_same_side(1) == 1.0


def test_rounding_is_no_spread():
    rounded = [0.95 - 0.90, 0.35 - 0.30, 0.55 - 0.50]
    assert len(set(rounded)) > 1
    assert paired_p(rounded, size=1.0) == paired_p([0.05] * 3, size=1.0) == pytest.approx(0.25)
    assert paired_p([1e-17, -1e-17, 0.0], size=1.0) == 1.0
