"""Verdicts: what runs say of a sentence, by one primary test chosen before looking, corrected for number, with what it could have seen.

A script of analyses lists its tests; its ``results.json`` holds one value a seed of every quantity and group. A verdict is computed from
these alone, so that a better statistic needs no new run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

from gradlens.reporting.statistics import (
    LEVEL,
    Contrast,
    Interval,
    Spread,
    holm,
    is_constant,
    own_spread,
    p_at_least,
    p_same_side,
    p_within,
    pooled_spread,
    seeds_to_decide,
    seeds_within,
    t_interval,
    visible_bound,
    visible_effect,
)

SUPPORTED, REFUTED, UNDECIDED = "supported", "not supported", "undecided"

Results = Mapping[str, Any]  # a results.json: values[quantity][group] one a seed, minutes[group] of one run


@dataclass(frozen=True)
class Test:
    """One test of one sentence, written down before its result is looked at."""

    __test__: ClassVar = False  # not one of pytest's

    name: str  # unique over all scripts
    says: str  # what is compared, in words
    metric: str  # the quantity: a key of the results' values
    contrast: Mapping[str, float]  # group -> weight; {"dgl": 1, "bp": -1}: dgl − bp, seed by seed
    unit: str  # "points", "nats", ...
    at_least: float | None = None  # the sentence holds if the mean is this or more ...
    within: float | None = None  # ... or (give one of the two) no further from 0 than this
    primary_of: str = ""  # the sentence of analyses/claims.py whose one primary test this is; "": a further test

    @property
    def bound(self) -> float:
        """The bound."""
        value = self.at_least if self.at_least is not None else self.within
        if value is None:
            raise ValueError(f"{self.name} has no bound: give at_least or within")
        return value

    @property
    def is_difference(self) -> bool:
        """Whether groups are compared: the weights add up to 0."""
        return abs(math.fsum(self.contrast.values())) < 1e-12

    def distance(self, mean: float) -> float:
        """How far a mean lies from the nearest bound, above 0 where the sentence holds."""
        return mean - self.bound if self.at_least is not None else self.bound - abs(mean)


class Decided(NamedTuple):
    """A test beside what the runs say."""

    test: Test
    effect: Interval  # without ends where there is one seed, or no spread
    seeds: int
    spread: Spread | None  # of one seed's value; None with one seed, or where all are the same
    p: float  # of the bound; NaN with one seed
    p_holm: float  # corrected: a primary test for the script's primary tests, another one for all its tests
    visible: float  # the smallest distance from the bound (of "within": the smallest bound) found in 80 of 100 repetitions; NaN: unknown
    needed: int | None  # seeds that would decide it if the distance is as measured; None: decided, unknown or above a thousand
    minutes: float  # that they would cost, one run after the other; NaN where unknown
    verdict: str
    dropped: int  # seeds of which a group has no finite value


def effects(test: Test, results: Results) -> list[float]:
    """The contrast's value of each seed that all its groups have; of an effect that was saved alone, numbers with its mean and sd.

    Raises:
        KeyError: the results hold no such quantity or group.

    """
    if saved := results.get("effects", {}).get(test.name):
        return standing_for(saved["mean"], saved["sd"], saved["n"])
    groups = [results["values"][test.metric][group] for group in test.contrast]
    return [
        math.fsum(weight * float(value) for weight, value in zip(test.contrast.values(), seed, strict=True))
        for seed in zip(*groups, strict=False)  # a group may have more seeds than another; they are in the same order
        if all(value is not None and math.isfinite(value) for value in seed)
    ]


def standing_for(mean: float, sd: float, n: int) -> list[float]:
    """Return n numbers with this mean and standard deviation, which are all that a t-test reads of an effect.

    >>> standing_for(2.0, 1.0, 3)
    [1.0, 2.0, 3.0]
    """
    middle = (n - 1) / 2
    scale = sd / math.sqrt(math.fsum((i - middle) ** 2 for i in range(n)) / (n - 1))
    return [mean + scale * (i - middle) for i in range(n)]


def measured(tests: Sequence[Test], results: Results) -> list[Test]:
    """The tests of which one seed at least has a value, or whose effect was saved; results of some groups alone decide these."""
    values, saved = results.get("values", {}), results.get("effects", {})
    held = [test for test in tests if test.name in saved or all(values.get(test.metric, {}).get(group) for group in test.contrast)]
    return [test for test in held if effects(test, results)]


def _dropped(test: Test, results: Results) -> int:
    """Seeds that all groups were run with, and of which one has no finite value: it diverged, or found nothing to measure."""
    if test.name in results.get("effects", {}):
        return 0
    run = min(len(results["values"][test.metric][group]) for group in test.contrast)
    return run - len(effects(test, results))


def decide(tests: Sequence[Test], results: Results) -> list[Decided]:
    """Every test of a script beside what its results say, in the script's order."""
    values = [effects(test, results) for test in tests]
    spreads = _spreads(tests, values, results.get("effects", {}))
    ps = [_p(test, found, spread) for test, found, spread in zip(tests, values, spreads, strict=True)]
    primary = [i for i, test in enumerate(tests) if test.primary_of]
    corrected = holm(ps)
    for i, p in zip(primary, holm([ps[i] for i in primary]), strict=True):
        corrected[i] = p
    levels = [LEVEL / max(1, len(primary if test.primary_of else tests)) for test in tests]  # of Holm's first, strictest step
    return [
        _decided(test, found, spread, (p, p_holm), level, results)
        for test, found, spread, p, p_holm, level in zip(tests, values, spreads, ps, corrected, levels, strict=True)
    ]


def _spreads(tests: Sequence[Test], values: Sequence[list[float]], saved: Collection[str]) -> list[Spread | None]:
    """The spread of each test: pooled over the differences of one quantity where their groups vary alike, else its own, as of ``saved``."""
    contrasts = [Contrast(test.contrast, found) for test, found in zip(tests, values, strict=True)]
    pooled = {
        metric: pooled_spread(
            [c for c, test in zip(contrasts, tests, strict=True) if test.metric == metric and test.is_difference and test.name not in saved]
        )
        for metric in dict.fromkeys(test.metric for test in tests)
    }
    found: list[Spread | None] = []
    for test, contrast in zip(tests, contrasts, strict=True):
        together = pooled[test.metric] if test.is_difference and test.name not in saved else None
        if len(contrast.values) < 2 or is_constant(contrast.values):
            found.append(None)
        elif together is None:
            found.append(own_spread(contrast.values))
        else:
            found.append(together._replace(sd=together.sd * contrast.length))
    return found


def _p(test: Test, values: Sequence[float], spread: Spread | None) -> float:
    if len(values) < 2:
        return math.nan
    mean = fmean(values)
    if spread is None:  # all the same; exactly on the bound they say nothing
        return p_same_side(len(values)) if test.distance(mean) else 1.0
    return (p_at_least if test.at_least is not None else p_within)(mean, test.bound, spread, len(values))


def _decided(test: Test, values: list[float], spread: Spread | None, ps: tuple[float, float], level: float, results: Results) -> Decided:
    p, p_holm = ps
    n, mean = len(values), fmean(values) if values else math.nan
    effect = Interval(mean, math.nan, math.nan, n) if spread is None else t_interval(mean, spread, n)
    holds = SUPPORTED if test.distance(mean) > 0 else REFUTED
    word = holds if p_holm <= LEVEL else UNDECIDED  # NaN, of one seed: undecided
    within = test.within is not None
    visible = math.nan if spread is None else (visible_bound if within else visible_effect)(spread, n, level)
    needed = None
    if spread is not None and word == UNDECIDED:
        needed = seeds_within(mean, test.bound, spread.sd, level) if within else seeds_to_decide(test.distance(mean), spread.sd, level)
    minutes = [results.get("minutes", {}).get(group) for group in test.contrast]
    cost = math.nan if needed is None or any(m is None for m in minutes) else needed * math.fsum(m for m in minutes if m)
    return Decided(test, effect, n, spread, p, p_holm, visible, needed, cost, word, _dropped(test, results))


# ------------------------------------------------------------------------------------------------------------ in words


def p_in_words(value: float) -> str:
    """A p value as tables print it."""
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def effect_in_words(found: Decided) -> str:
    """A decided test's effect beside its bound, as in ``12.1 [8.78, 15.5] points, wanted at least 0``."""
    test, effect = found.test, found.effect
    if not math.isfinite(effect.mean):
        return "nothing to measure"
    over = f" [{effect.low:.3g}, {effect.high:.3g}]" if math.isfinite(effect.low) else ""
    wanted = f"at least {test.bound:.3g}" if test.at_least is not None else f"within ±{test.bound:.3g}"
    same = " with every seed" if found.spread is None and found.seeds > 1 else ""
    return f"{effect.mean:.3g}{over} {test.unit}".rstrip() + f"{same}, wanted {wanted}"


def in_words(found: Decided) -> str:
    """The same with seeds and p."""
    p = f", p {found.p_holm:.2g} after correction" if math.isfinite(found.p_holm) else ""
    return f"{effect_in_words(found)}, {found.seeds} seed{'s' * (found.seeds != 1)}{p}"


def power_in_words(found: Decided) -> str:
    """What a test could have seen; "" where that is unknown."""
    if not math.isfinite(found.visible):
        return ""
    size = f"{found.visible:.2g} {found.test.unit}".rstrip()
    if found.test.within is None:
        return f"sees {size} or more from the bound"
    enough = "" if found.visible <= found.test.bound else ", so too few seeds to find it within the bound"
    return f"finds no difference within ±{size} or wider{enough}"


def what_would_decide(found: Decided) -> str:
    """What an undecided test needs; "" for a decided one."""
    if found.verdict != UNDECIDED:
        return ""
    if found.seeds < 2:
        return "one seed decides nothing"
    if found.needed is None:
        return "more than a thousand seeds at the measured distance" if found.spread else ""
    cost = f", {found.minutes:.0f} minutes of training" if math.isfinite(found.minutes) else ""
    return f"{found.needed} seeds would decide it if the distance is as measured{cost}"


def notes_in_words(found: Decided) -> str:
    """Power, what would decide it, and what was left out, as sentences."""
    left = f"{found.dropped} seeds without a value are left out" if found.dropped else ""
    parts = [part for part in (power_in_words(found), what_would_decide(found), left) if part]
    return "; ".join(parts)


def report(tests: Sequence[Test], results: Results) -> None:
    """Print each test of a script with its verdict and numbers."""
    for found in decide(tests, results):
        more = notes_in_words(found)
        print(f"{found.verdict}: {found.test.says} ({in_words(found)})" + (f" - {more}" if more else ""))


def by_seed(pairs: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Values of one quantity for a results file, group -> one a seed, of (group, value) in the seeds' order."""
    found: dict[str, list[float]] = {}
    for group, value in pairs:
        found.setdefault(group, []).append(value)
    return found
