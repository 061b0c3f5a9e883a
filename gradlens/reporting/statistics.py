"""Statistics of small samples: intervals, one pooled spread, tests against a bound, their correction for number, and their power.

Tables, the page, studies and the scripts of analyses take from here how sure a number is. Values are one a seed; a *difference* is
paired by seed. A *test* asks whether a mean is at least a bound, or no further from zero than one; its p value and the 95 % t-interval
always agree. The t-distribution's functions come from ``scipy.special``, which takes a quarter of the time to import of ``scipy.stats``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy.special import nctdtr, ndtr, stdtr, stdtrit

CONFIDENCE = 0.95
LEVEL = round(1 - CONFIDENCE, 9)  # of a test
POWER = 0.8
RESAMPLES = 9999
POOLED_FROM = 8  # seeds of each contrast: with fewer Brown and Forsythe's test sees no inequality (with three it never rejects)
UNEQUAL = 0.5  # p of equal spreads below which they are not pooled; at 0.05 a rule three times as noisy is called different too often
ROUNDING = 1e-9  # relative: values that differ by less are the same
MOST_SEEDS = 1000  # more are not worth naming


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


# ----------------------------------------------------------------------------------------------------- a pooled spread


class Contrast(NamedTuple):
    """A sum of groups' values with weights that add up to 0, seed by seed: ``{"dgl": 1, "bp": -1}`` is a difference."""

    weights: Mapping[str, float]
    values: Sequence[float]  # one a seed, finite

    @property
    def length(self) -> float:
        """Return √Σc²: a contrast of groups that vary alike has this times the spread of one group."""
        return math.sqrt(math.fsum(c * c for c in self.weights.values()))


def correlation(a: Contrast, b: Contrast) -> float:
    """Return the correlation that two contrasts have by design, Σ a_g b_g / (|a| |b|): runs that they share make both vary together."""
    return math.fsum(c * b.weights.get(group, 0.0) for group, c in a.weights.items()) / (a.length * b.length)


def pooled_spread(contrasts: Sequence[Contrast]) -> Spread | None:
    """Return the spread of one group's values that all contrasts of one quantity give together; None where they must not be pooled.

    A contrast's own spread has n − 1 degrees of freedom, with three seeds hardly any. If the groups vary alike, every contrast
    estimates the same σ: its variance is |c|² σ². The pooled σ² is the mean weighted by n − 1. Contrasts that share runs are
    correlated, so the degrees of freedom are fewer than Σ(n − 1): matching the variance of the pooled estimate
    (Satterthwaite 1946) gives (Σ(n_i − 1))² / Σ_ij (min(n_i, n_j) − 1) ρ_ij², with ρ from :func:`correlation`.

    Whether the groups vary alike is tested (Brown and Forsythe 1974, on residuals divided by |c|); where p is below 0.5, or fewer than
    two contrasts have a spread, there is no pooled one. Nor is there with fewer than eight seeds, of which that test can tell too
    little: a noisy rule pooled with quiet ones would then be called different three to six times too often.
    """
    used = [c for c in contrasts if len(c.values) > 1 and not is_constant(c.values)]
    if len(used) < 2 or min(len(c.values) for c in used) < POOLED_FROM:
        return None
    if equal_spread_p([[v / c.length for v in c.values] for c in used]) < UNEQUAL:
        return None
    free = [len(c.values) - 1 for c in used]
    variance = math.fsum(f * (own_spread(c.values).sd / c.length) ** 2 for f, c in zip(free, used, strict=True)) / sum(free)
    shared = math.fsum(min(f, g) * correlation(a, b) ** 2 for f, a in zip(free, used, strict=True) for g, b in zip(free, used, strict=True))
    return Spread(math.sqrt(variance), sum(free) ** 2 / shared, pooled=True)


def equal_spread_p(groups: Sequence[Sequence[float]]) -> float:
    """Return p of Brown and Forsythe's test that some groups of values have equal variances; 1 where it cannot tell."""
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two values a group: all distances from the median are the same
        p = float(stats.levene(*groups, center="median").pvalue)
    return p if math.isfinite(p) else 1.0


# --------------------------------------------------------------------------------------------------------------- tests


def p_at_least(mean: float, bound: float, spread: Spread, n: int) -> float:
    """Return the two-sided p that a mean equals a bound; below 5 % exactly where the bound lies outside the 95 % t-interval."""
    return float(2 * stdtr(spread.df, -abs(mean - bound) / (spread.sd / math.sqrt(n))))


def p_within(mean: float, bound: float, spread: Spread, n: int) -> float:
    """Return p of "no further from 0 than the bound", twice the smaller of the one-sided p for it and against it.

    For it both ends are tested (Schuirmann 1987, two one-sided tests), so it is below 5 % exactly where the whole 95 % t-interval lies
    within the bounds; against it, exactly where the whole interval lies beyond one of them.
    """
    error = spread.sd / math.sqrt(n)
    inside = max(stdtr(spread.df, -(mean + bound) / error), stdtr(spread.df, -(bound - mean) / error))
    outside = stdtr(spread.df, -(abs(mean) - bound) / error)
    return float(min(1.0, 2 * min(inside, outside)))


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


def benjamini_hochberg(ps: Sequence[float]) -> list[float]:
    """Return the false discovery rate at which each p-value would be accepted (Benjamini and Hochberg 1995); NaN stay and do not count."""
    from scipy import stats

    finite = [i for i, p in enumerate(ps) if math.isfinite(p)]
    corrected = [math.nan] * len(ps)
    if finite:
        for i, p in zip(finite, stats.false_discovery_control([ps[i] for i in finite]), strict=True):
            corrected[i] = float(p)
    return corrected


# --------------------------------------------------------------------------------------------------------------- power


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


def visible_bound(spread: Spread, n: int, level: float = LEVEL) -> float:
    """Return the smallest bound within which a true mean of 0 is found in 80 of 100 repetitions."""
    from scipy.optimize import brentq

    unit = spread.sd / math.sqrt(n)
    most = 10 + 4 * t_quantile(spread.df, 1 - level / 2)
    return float(brentq(lambda bound: power_within(0.0, bound * unit, spread, n, level) - POWER, 0.0, most)) * unit


def seeds_within(mean: float, bound: float, sd: float, level: float = LEVEL) -> int | None:
    """Return how many seeds find a mean within ± a bound in 80 of 100 repetitions, if it is as measured; None above a thousand."""
    if abs(mean) >= bound:
        return seeds_to_decide(abs(mean) - bound, sd, level)
    enough = (n for n in range(2, MOST_SEEDS + 1) if power_within(mean, bound, Spread(sd, n - 1, pooled=False), n, level) >= POWER)
    return next(enough, None)


def visible_effect(spread: Spread, n: int, level: float = LEVEL) -> float:
    """Return the smallest distance from the bound that a test with n seeds finds in 80 of 100 repetitions."""
    from scipy.optimize import brentq

    unit = spread.sd / math.sqrt(n)
    most = 10 + 4 * t_quantile(spread.df, 1 - level / 2)
    return float(brentq(lambda effect: power(effect * unit, spread, n, level) - POWER, 0.0, most)) * unit


def seeds_to_decide(distance: float, sd: float, level: float = LEVEL) -> int | None:
    """Return how many seeds a test needs to find a distance from its bound in 80 of 100 repetitions; None above a thousand.

    Args:
        distance: of the mean from the bound, as measured; the true one may be smaller.
        sd: of one seed's value.
        level: of the test.

    """
    if not (distance and math.isfinite(distance)):
        return None
    enough = (n for n in range(2, MOST_SEEDS + 1) if power(abs(distance), Spread(sd, n - 1, pooled=False), n, level) >= POWER)
    return next(enough, None)
