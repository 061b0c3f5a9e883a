"""One spread of the differences of several tests, where the groups that they compare vary alike."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gradlens.reporting.statistics import Spread, is_constant, own_spread

POOLED_FROM = 8  # seeds of each contrast: with fewer Brown and Forsythe's test sees no inequality (with three it never rejects)
UNEQUAL = 0.5  # p of equal spreads below which they are not pooled; at 0.05 a rule three times as noisy is called different too often


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
