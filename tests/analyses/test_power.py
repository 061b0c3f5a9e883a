"""What tests of verdicts could have seen, and one spread of several tests: definitions written out, and simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from analyses.verdicts.bounds import (
    benjamini_hochberg,
    p_within,
    power,
    power_within,
    seeds_on_one_side,
    seeds_to_decide,
    seeds_within,
    visible_bound,
    visible_effect,
    visible_share,
)
from analyses.verdicts.spread import Contrast, correlation, equal_spread_p, pooled_spread
from gradlens.reporting.statistics import Spread, holm, own_spread, p_at_least, p_same_side, t_interval


@pytest.mark.parametrize("mean", [-3.0, -1.2, 0.0, 0.4, 2.0])
@pytest.mark.parametrize("bound", [0.2, 0.8, 1.5, 2.5])
def test_within_is_decided_where_the_interval_lies_on_one_side(mean, bound):
    spread, n = Spread(0.9, 7, pooled=False), 8
    _, low, high, _ = t_interval(mean, spread, n)
    inside, outside = -bound < low and high < bound, low > bound or high < -bound
    assert (p_within(mean, bound, spread, n) < 0.05) == (inside or outside)


def test_within_is_two_one_sided_tests():
    values = np.array([0.1, -0.2, 0.15, 0.05, 0.3])
    ends = stats.ttest_1samp(values, -0.5, alternative="greater").pvalue, stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    assert p_within(values.mean(), 0.5, own_spread(list(values)), 5) == pytest.approx(2 * max(ends))


def test_benjamini_hochberg_is_its_definition():
    ps = [0.01, 0.04, 0.03, 0.8, math.nan]
    m = 4
    wanted = [min(min(1.0, m * q / (1 + sum(o < q for o in ps[:4]))) for q in ps[:4] if q >= p) for p in ps[:4]]
    assert benjamini_hochberg(ps)[:4] == pytest.approx(wanted)
    assert math.isnan(benjamini_hochberg(ps)[4])
    assert benjamini_hochberg([]) == []
    assert all(b <= h for b, h in zip(benjamini_hochberg(ps)[:4], holm(ps)[:4], strict=True))


# ------------------------------------------------------------------------------------------------------ pooled spread


def differences(runs, *pairs):
    return [Contrast({a: 1.0, b: -1.0}, [x - y for x, y in zip(runs[a], runs[b], strict=True)]) for a, b in pairs]


def test_independent_contrasts_add_their_degrees_of_freedom():
    rng = np.random.default_rng(0)
    runs = {name: rng.normal(size=8) for name in "abcd"}
    pooled = pooled_spread(differences(runs, "ab", "cd"))
    own = [np.var(runs[a] - runs[b], ddof=1) / 2 for a, b in ("ab", "cd")]
    assert pooled == pytest.approx((math.sqrt(np.mean(own)), 14.0, True))


def test_the_same_contrast_twice_adds_none():
    rng = np.random.default_rng(1)
    runs = {name: rng.normal(size=9) for name in "ab"}
    same = differences(runs, "ab", "ba")
    assert correlation(*same) == pytest.approx(-1)
    assert pooled_spread(same).df == pytest.approx(8)


def test_contrasts_that_share_a_run_are_half_correlated():
    a, b, nested = Contrast({"x": 1, "bp": -1}, []), Contrast({"y": 1, "bp": -1}, []), Contrast({"x": 1, "y": -1, "z": -1, "bp": 1}, [])
    assert correlation(a, b) == pytest.approx(0.5)
    assert nested.length == pytest.approx(2.0)


def test_pooled_degrees_of_freedom_match_the_variance_of_the_estimate():
    """Var(s²) = 2 σ⁴ / df, simulated for three contrasts with a common baseline and eight seeds."""
    rng = np.random.default_rng(2)
    runs = rng.normal(size=(20_000, 4, 8))
    found = np.mean([np.var(runs[:, k] - runs[:, 3], axis=1, ddof=1) / 2 for k in range(3)], axis=0)
    bp, noise = runs[0, 0], runs[0, 1]
    one = {"bp": bp, "x": bp + noise, "y": bp + noise[::-1], "z": bp + np.roll(noise, 3)}
    wanted = 21**2 / (7 * 3 * (1 + 2 * 0.25))
    assert pooled_spread(differences(one, ("x", "bp"), ("y", "bp"), ("z", "bp"))).df == pytest.approx(wanted)
    assert 2 / np.var(found) == pytest.approx(wanted, rel=0.05)


def test_few_seeds_are_not_pooled():
    """With three seeds the test of equal spreads never refuses: a noisy rule would be judged by the quiet ones' spread."""
    rng = np.random.default_rng(6)
    refused = []
    for _ in range(50):
        runs = {"noisy": 10 * rng.normal(size=3), **{name: rng.normal(size=3) for name in ("a", "b", "c", "bp")}}
        contrasts = differences(runs, *((name, "bp") for name in ("noisy", "a", "b", "c")))
        refused.append(equal_spread_p([c.values for c in contrasts]) < 0.05)
        assert pooled_spread(contrasts) is None
    assert not any(refused)


def test_pooling_keeps_the_size_of_the_test_where_one_rule_is_noisy():
    """Of 2,000 tests of no difference, with eight seeds and one rule three times as noisy, some 5 % are called different."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(2_000):
        runs = {"noisy": 3 * rng.normal(size=8), **{name: rng.normal(size=8) for name in ("a", "b", "bp")}}
        noisy, *quiet = differences(runs, ("noisy", "bp"), ("a", "bp"), ("b", "bp"))
        pooled = pooled_spread([noisy, *quiet])
        spread = own_spread(noisy.values) if pooled is None else pooled._replace(sd=pooled.sd * noisy.length)
        wrong += p_at_least(np.mean(noisy.values), 0.0, spread, 8) < 0.05
    assert wrong / 2_000 < 0.085  # refused below p = 0.05 only: 0.12


def test_unequal_spreads_are_not_pooled():
    rng = np.random.default_rng(3)
    wide, narrow = rng.normal(size=20), 0.01 * rng.normal(size=20)
    assert pooled_spread([Contrast({"a": 1, "b": -1}, list(wide)), Contrast({"c": 1, "d": -1}, list(narrow))]) is None


def test_ceilings_and_single_seeds_are_left_out():
    a = Contrast({"a": 1, "b": -1}, [0.0, 0.0, 0.0])
    b = Contrast({"c": 1, "d": -1}, [0.4])
    c = Contrast({"e": 1, "f": -1}, [0.4, 0.1, 0.3])
    assert pooled_spread([a, b, c]) is None


# -------------------------------------------------------------------------------------------------------------- power


def test_power_is_the_share_of_simulated_tests_that_decide():
    rng = np.random.default_rng(4)
    x = rng.normal(0.9, 1.0, size=(40_000, 6))
    t = x.mean(1) / (x.std(1, ddof=1) / math.sqrt(6))
    assert power(0.9, Spread(1.0, 5, pooled=False), 6) == pytest.approx(np.mean(t > stats.t.ppf(0.975, 5)), abs=0.01)


@pytest.mark.parametrize("n", [2, 3, 10, 200])
@pytest.mark.parametrize("level", [0.05, 0.05 / 20])
def test_the_visible_effect_is_found_in_80_of_100(n, level):
    spread = Spread(1.7, n - 1, pooled=False)
    assert power(visible_effect(spread, n, level), spread, n, level) == pytest.approx(0.8, abs=1e-4)


def test_three_seeds_see_what_the_audit_says():
    assert visible_effect(Spread(1.0, 2, pooled=False), 3) == pytest.approx(3.3, abs=0.1)  # "effects of 3.3 sd"
    assert visible_effect(Spread(1.0, 9, pooled=False), 10) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("mean", "bound", "n"), [(0.0, 1.0, 12), (0.3, 1.0, 20), (0.0, 0.4, 12)])
def test_power_of_two_one_sided_tests_is_the_share_of_simulated_ones(mean, bound, n):
    rng = np.random.default_rng(8)
    x = rng.normal(mean, 1.0, size=(40_000, n))
    half = stats.t.ppf(0.975, n - 1) * x.std(1, ddof=1) / math.sqrt(n)
    found = np.mean((x.mean(1) - half > -bound) & (x.mean(1) + half < bound))
    assert power_within(mean, bound, Spread(1.0, n - 1, pooled=False), n) == pytest.approx(found, abs=0.07)


def test_seeds_within_have_the_power_that_they_promise():
    n = seeds_within(0.0, 1.0, 1.0)
    rng = np.random.default_rng(9)
    x = rng.normal(size=(40_000, n))
    half = stats.t.ppf(0.975, n - 1) * x.std(1, ddof=1) / math.sqrt(n)
    assert np.mean((abs(x.mean(1)) + half) < 1.0) == pytest.approx(0.8, abs=0.06)
    assert power_within(0.0, visible_bound(Spread(1.0, 9, pooled=False), 10), Spread(1.0, 9, pooled=False), 10) == pytest.approx(
        0.8, abs=1e-3
    )


def test_seeds_to_decide_is_the_first_number_with_enough_power():
    n = seeds_to_decide(0.8, 1.0)
    assert power(0.8, Spread(1.0, n - 1, pooled=False), n) >= 0.8 > power(0.8, Spread(1.0, n - 2, pooled=False), n - 1)
    assert seeds_to_decide(0.0, 1.0) is None
    assert seeds_to_decide(1e-6, 1.0) is None


def test_power_may_be_asked_for():
    spread = Spread(1.7, 9, pooled=False)
    assert power(visible_effect(spread, 10, 0.01, 0.9), spread, 10, 0.01) == pytest.approx(0.9, abs=1e-4)
    assert power_within(0.0, visible_bound(spread, 10, 0.01, 0.9), spread, 10, 0.01) == pytest.approx(0.9, abs=1e-4)
    n = seeds_to_decide(0.8, 1.0, 0.05, 0.9)
    assert power(0.8, Spread(1.0, n - 1, pooled=False), n) >= 0.9 > power(0.8, Spread(1.0, n - 2, pooled=False), n - 1)


@pytest.mark.parametrize("level", [0.05, 0.05 / 10])
def test_so_many_seeds_on_one_side_are_enough_for_a_sign_test(level):
    n = seeds_on_one_side(level)
    assert p_same_side(n) <= level < p_same_side(n - 1)


def test_exceptions_of_the_visible_share_are_seen_in_80_of_100():
    rng = np.random.default_rng(10)
    share = visible_share(28)
    assert np.mean((rng.random((20_000, 28)) < share).any(1)) == pytest.approx(0.8, abs=0.01)
