"""Tests of a mean against a bound: p values that ``gradlens.reporting.statistics`` does without, and what a test could have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import nctdtr, ndtr, stdtr

from gradlens.reporting.statistics import LEVEL, Spread, t_quantile

POWER = 0.8
MOST_SEEDS = 1000  # more are not worth naming


def p_within(mean: float, bound: float, spread: Spread, n: int) -> float:
    """Return p of "no further from 0 than the bound", twice the smaller of the one-sided p for it and against it.

    For it both ends are tested (Schuirmann 1987, two one-sided tests), so it is below 5 % exactly where the whole 95 % t-interval lies
    within the bounds; against it, exactly where the whole interval lies beyond one of them.
    """
    error = spread.sd / math.sqrt(n)
    inside = max(stdtr(spread.df, -(mean + bound) / error), stdtr(spread.df, -(bound - mean) / error))
    outside = stdtr(spread.df, -(abs(mean) - bound) / error)
    return float(min(1.0, 2 * min(inside, outside)))


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Return the false discovery rate at which each p-value would be accepted (Benjamini and Hochberg 1995); NaN stay and do not count."""
    from scipy import stats

    finite = [i for i, p in enumerate(ps) if math.isfinite(p)]
    corrected = [math.nan] * len(ps)
    if finite:
        for i, p in zip(finite, stats.false_discovery_control([ps[i] for i in finite]), strict=True):
            corrected[i] = float(p)
    return corrected


def power(effect: float, spread: Spread, n: int, level: float = LEVEL) -> float:
    """Return the probability that a two-sided t-test of n values calls an effect of this size by its sign.

    Args:
        effect: true distance of the mean from the bound, not negative.
        spread: as the test will use it.
        n: seeds.
        level: of the test; divide it by the number of tests for the first step of Holm's correction.

    """
    return float(1 - nctdtr(spread.df, effect * math.sqrt(n) / spread.sd, t_quantile(spread.df, 1 - level / 2)))


def power_within(mean: float, bound: float, spread: Spread, n: int, level: float = LEVEL) -> float:
    """Return the probability that both one-sided tests find a true mean within ± a bound (an approximation by the normal distribution).

    The mean must come out at least t · error inside either end: 1 − β₁ − β₂ with the errors to either side.
    """
    error = spread.sd / math.sqrt(n)
    inside = bound - t_quantile(spread.df, 1 - level / 2) * error
    return float(max(0.0, ndtr((inside - mean) / error) - ndtr((-inside - mean) / error))) if inside > 0 else 0.0


def visible_bound(spread: Spread, n: int, level: float = LEVEL, wanted: float = POWER) -> float:
    """Return the smallest bound within which a true mean of 0 is found with the power that is wanted."""
    from scipy.optimize import brentq

    unit = spread.sd / math.sqrt(n)
    most = 10 + 4 * t_quantile(spread.df, 1 - level / 2)
    return float(brentq(lambda bound: power_within(0.0, bound * unit, spread, n, level) - wanted, 0.0, most)) * unit


def seeds_within(mean: float, bound: float, sd: float, level: float = LEVEL, wanted: float = POWER) -> int | None:
    """Return how many seeds find a mean within ± a bound with the power that is wanted, if it is as measured; None above a thousand."""
    if abs(mean) >= bound:
        return seeds_to_decide(abs(mean) - bound, sd, level, wanted)
    enough = (n for n in range(2, MOST_SEEDS + 1) if power_within(mean, bound, Spread(sd, n - 1, pooled=False), n, level) >= wanted)
    return next(enough, None)


def visible_effect(spread: Spread, n: int, level: float = LEVEL, wanted: float = POWER) -> float:
    """Return the smallest distance from the bound that a test with n seeds finds with the power that is wanted."""
    from scipy.optimize import brentq

    unit = spread.sd / math.sqrt(n)
    most = 10 + 4 * t_quantile(spread.df, 1 - level / 2)
    return float(brentq(lambda effect: power(effect * unit, spread, n, level) - wanted, 0.0, most)) * unit


def seeds_to_decide(distance: float, sd: float, level: float = LEVEL, wanted: float = POWER) -> int | None:
    """Return how many seeds a test needs to find a distance from its bound; None above a thousand.

    Args:
        distance: of the mean from the bound, as measured; the true one may be smaller.
        sd: of one seed's value.
        level: of the test.
        wanted: the power.

    """
    if not (distance and math.isfinite(distance)):
        return None
    enough = (n for n in range(2, MOST_SEEDS + 1) if power(abs(distance), Spread(sd, n - 1, pooled=False), n, level) >= wanted)
    return next(enough, None)


def seeds_on_one_side(level: float = LEVEL) -> int:
    """Return how many values that are all the same, or all on one side, a sign test needs: 2 · 0.5ⁿ ≤ level."""
    return math.ceil(math.log2(2 / level))


def visible_share(n: int, wanted: float = POWER) -> float:
    """Return the smallest share of exceptions of which n values show one at least with the power that is wanted: 1 − (1 − s)ⁿ."""
    return 1 - math.pow(1 - wanted, 1 / n)
