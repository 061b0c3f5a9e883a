"""Statistics of small samples: intervals, tests of a mean, their correction for number.

Tables, the page, studies and the scripts of analyses take from here how sure a number is. Values are one a seed; a *difference* is
paired by seed. The p value of a test and the 95 % t-interval always agree. The t-distribution's functions come from ``scipy.special``,
which takes a quarter of the time to import of ``scipy.stats``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
LEVEL = round(1 - CONFIDENCE, 9)  # of a test
RESAMPLES = 9999
ROUNDING = 1e-9  # relative: values that differ by less are the same


class Interval(NamedTuple):
    """A mean over seeds with its t-interval."""

    mean: float  # NaN without a finite value
    low: float  # NaN below two values
    high: float
    n: int  # finite values


class BootstrapMean(NamedTuple):
    """A mean over seeds with its percentile bootstrap interval."""

    mean: float
    low: float  # NaN with one seed
    high: float
    n: int


class Spread(NamedTuple):
    """The standard deviation that a test uses, and the degrees of freedom behind it."""

    sd: float  # of the values of one seed
    df: float
    pooled: bool  # estimated from several tests together


# --------------------------------------------------------------------------------------------------------- intervals


@cache
def t_quantile(df: float, share: float = 0.5 + CONFIDENCE / 2) -> float:
    """Return the quantile of Student's t-distribution."""
    return float(stdtrit(df, share))


def interval(values: Iterable[float]) -> Interval:
    """Return mean and 95 % t-interval, mean ± t(n − 1) · s / √n; NaN and infinite values are left out.

    >>> [round(v, 2) for v in interval([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48, 3]
    """
    finite = [float(v) for v in values if math.isfinite(v)]
    if len(finite) < 2:
        return Interval(finite[0] if finite else math.nan, math.nan, math.nan, len(finite))
    return t_interval(fmean(finite), own_spread(finite), len(finite))


def is_constant(values: Sequence[float], size: float = 0.0) -> bool:
    """Return whether values differ by rounding only.

    Args:
        values: one or more.
        size: the largest of the numbers that they were computed from, where they are differences of larger ones.

    """
    return max(values) - min(values) <= ROUNDING * max(size, *map(abs, values))


def t_interval(mean: float, spread: Spread, n: int) -> Interval:
    """Return the 95 % t-interval of a mean of n values whose spread is known from these or from more values."""
    half = t_quantile(spread.df) * spread.sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def own_spread(values: Sequence[float]) -> Spread:
    """Return the standard deviation of two or more values, with n − 1 degrees of freedom."""
    mean = fmean(values)
    return Spread(math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values) - 1, pooled=False)


def bootstrap_mean(values: Sequence[float], name: str) -> BootstrapMean:
    """Return the mean of some seeds' values and its 95 % percentile bootstrap interval; values that are not finite are left out.

    With few seeds such an interval is too short; the t-intervals of the other tables are wider (by how much: docs/how-to/studies.md).

    Args:
        values: one a seed.
        name: names the draws, so that the interval is the same again.

    """
    from scipy import stats

    from gradlens.runtime.rng import key  # imports torch, which tables of stored results do without

    x = np.array([v for v in values if math.isfinite(v)])
    if len(x) < 2:
        return BootstrapMean(float(x[0]) if len(x) else math.nan, math.nan, math.nan, len(x))
    rng = np.random.default_rng(key(0, name))
    drawn = stats.bootstrap((x,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return BootstrapMean(float(x.mean()), float(drawn.low), float(drawn.high), len(x))


# --------------------------------------------------------------------------------------------------------------- tests


def p_at_least(mean: float, bound: float, spread: Spread, n: int) -> float:
    """Return the two-sided p that a mean equals a bound; below 5 % exactly where the bound lies outside the 95 % t-interval."""
    return float(2 * stdtr(spread.df, -abs(mean - bound) / (spread.sd / math.sqrt(n))))


def p_same_side(n: int) -> float:
    """Return the two-sided p of a sign test in which all n values lie on one side of the bound: 2 · 0.5ⁿ.

    For values without any spread, such as accuracies of 100 % with every seed: their t-interval would have no width, which is no certainty.
    """
    return min(1.0, 2 * 0.5**n)


def paired_p(differences: Sequence[float], size: float = 0.0) -> float:
    """Return two-sided p of the paired t-test that the mean difference is 0; NaN below two pairs, 1 where all are 0.

    Differences that are all the same have no spread to test with: theirs is the sign test's.

    Args:
        differences: one a seed; what is not finite is left out.
        size: the largest of the numbers that were subtracted, so that what only rounding makes different counts as the same.

    """
    d = [v for v in differences if math.isfinite(v)]
    if len(d) < 2:
        return math.nan
    if is_constant(d, size):
        return p_same_side(len(d)) if abs(d[0]) > ROUNDING * size else 1.0
    return p_at_least(fmean(d), 0.0, own_spread(d), len(d))


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979): the running maximum of (m − i) p_(i), i from 0; NaN stay and do not count."""
    order = sorted((i for i, p in enumerate(ps) if math.isfinite(p)), key=lambda i: ps[i])
    corrected, largest = [math.nan] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[i]))
        corrected[i] = largest
    return corrected
