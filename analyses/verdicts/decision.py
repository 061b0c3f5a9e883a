"""Verdicts: what runs say of a sentence, by one primary test chosen before looking, corrected for number, with what it could have seen.

A script of analyses lists its tests; its ``results.json`` holds one value a seed of every quantity and group. A verdict is computed from
these alone, so that a better statistic needs no new run. A test is one of three kinds:

- the mean of a contrast over seeds against a bound, by a t-test (without any spread, by a sign test);
- several of these of which all must hold (:func:`all_of`), for a sentence that says several things. It is supported if every part is: its
  p is the largest of theirs (an intersection-union test, Berger 1982, which needs no correction for the number of parts). It is refuted if
  one part is, with its p times the number of parts (Bonferroni), since any of them could have failed by chance. Undecided otherwise;
- every value against a bound (``every``), for a theorem about each run: one exception refutes it. It has no p.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

from analyses.verdicts.bounds import POWER, p_within, seeds_on_one_side, seeds_to_decide, seeds_within, visible_bound, visible_effect
from analyses.verdicts.spread import Contrast, pooled_spread
from gradlens.reporting.statistics import LEVEL, Interval, Spread, holm, is_constant, own_spread, p_at_least, p_same_side, t_interval

SUPPORTED, REFUTED, UNDECIDED = "supported", "not supported", "undecided"

Results = Mapping[str, Any]  # a results.json: values[quantity][group] one a seed, minutes[group] of one run


@dataclass(frozen=True)
class Test:
    """One test of one sentence, written down before its result is looked at."""

    __test__: ClassVar = False  # not one of pytest's

    name: str  # unique over all scripts
    says: str  # what is compared, in words
    metric: str = ""  # the quantity: a key of the results' values
    contrast: Mapping[str, float] = field(default_factory=dict)  # group -> weight; {"dgl": 1, "bp": -1}: dgl − bp, seed by seed
    unit: str = ""  # "points", "nats", ...
    at_least: float | None = None  # the sentence holds if the mean is this or more ...
    within: float | None = None  # ... or (give one of the two) no further from 0 than this
    primary_of: str = ""  # the sentence of analyses/verdicts/sentences.py whose one primary test this is; "": a further test ...
    about: str = ""  # ... and the sentence whose detail it is
    toward: Mapping[str, float] = field(default_factory=dict)  # a contrast: where its mean is negative, the test's is reversed
    every: bool = False  # the bound is one of each value of each group, not of the contrast's mean
    parts: tuple[Test, ...] = ()  # tests of which all must hold; then the test itself has no bound
    repeats: str = "seed"  # what a value is one of
    seen: int = 0  # how many repetitions had been stored when the test took its present form

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

    @property
    def leaves(self) -> tuple[Test, ...]:
        """The tests with a bound: its parts, or itself."""
        return self.parts or (self,)

    def distance(self, mean: float) -> float:
        """How far a mean lies from the nearest bound, above 0 where the sentence holds."""
        return mean - self.bound if self.at_least is not None else self.bound - abs(mean)


def all_of(name: str, says: str, *parts: Test, primary_of: str = "", about: str = "", seen: int = 0) -> Test:
    """A test of several things that one sentence says, or of one that takes several tests: all parts must hold."""
    return Test(name, says, primary_of=primary_of, about=about, parts=parts, seen=seen)


def details(about: str, *tests: Test) -> tuple[Test, ...]:
    """Further tests, as details of a sentence."""
    return tuple(replace(test, about=about) for test in tests)


class Decided(NamedTuple):
    """A test beside what the runs say."""

    test: Test
    effect: Interval  # without ends where there is one seed, or no spread; of several parts that of the one which decides
    seeds: int  # or what else is repeated; of several parts the fewest; of "every": the values
    spread: Spread | None  # of one seed's value; None with one seed, or where all are the same
    p: float  # of the bound; NaN with one seed, or of "every"
    p_holm: float  # corrected: a primary test for the script's primary tests, another one for all its tests
    visible: float  # the smallest distance from the bound (of "within": the smallest bound) found in 80 of 100 repetitions; NaN: unknown
    needed: int | None  # seeds that would decide it if the distance is as measured; None: decided, unknown or above a thousand
    minutes_a_seed: float  # that one seed of all its groups takes; NaN where unknown
    verdict: str
    dropped: int  # seeds of which a group has no finite value
    level: float  # at which it is decided if it is the first of Holm's steps
    held: int = 0  # of "every": the values that keep the bound
    parts: tuple[Decided, ...] = ()  # each decided alone

    @property
    def minutes(self) -> float:
        """What the seeds that would decide it cost, one run after the other; NaN where unknown."""
        return math.nan if self.needed is None else self.needed * self.minutes_a_seed

    @property
    def deciding(self) -> Decided:
        """The part that decides: of those that fail the one with the least p, else the one that holds with the largest."""
        if not self.parts:
            return self
        failing = [part for part in self.parts if math.isfinite(part.effect.mean) and part.test.distance(part.effect.mean) <= 0]
        ordered = sorted(failing or self.parts, key=lambda part: part.p if math.isfinite(part.p) else 2.0)
        return ordered[0] if failing else ordered[-1]


class _Measured(NamedTuple):
    """A test with a bound beside its values, before any correction."""

    test: Test
    values: list[float]
    spread: Spread | None
    p: float

    @property
    def mean(self) -> float:
        return fmean(self.values) if self.values else math.nan

    def seeds_needed(self, level: float, power: float = POWER) -> int | None:
        """Seeds that find the measured distance; None: unknown or above a thousand."""
        if len(self.values) < 2:
            return None
        distance = self.test.distance(self.mean)
        if self.spread is None:
            return seeds_on_one_side(level) if distance else None
        if self.test.within is not None:
            return seeds_within(self.mean, self.test.bound, self.spread.sd, level, power)
        return seeds_to_decide(distance, self.spread.sd, level, power)


# ---------------------------------------------------------------------------------------------------------------- values


def effects(test: Test, results: Results) -> list[float]:
    """The contrast's value of each seed that all its groups have; of an effect that was saved alone, numbers with its mean and sd.

    Raises:
        KeyError: the results hold no such quantity or group.

    """
    if saved := results.get("effects", {}).get(test.name):
        return standing_for(saved["mean"], saved["sd"], saved["n"])
    if test.every:
        return [float(v) for group in test.contrast for v in results["values"][test.metric][group] if v is not None and math.isfinite(v)]
    found = _contrast(test.contrast, results["values"][test.metric])
    if test.toward and fmean(_contrast(test.toward, results["values"][test.metric]) or [0.0]) < 0:
        return [-value for value in found]
    return found


def _contrast(weights: Mapping[str, float], values: Mapping[str, Sequence[float | None]]) -> list[float]:
    """A weighted sum of groups, seed by seed."""
    groups = [values[group] for group in weights]
    return [
        math.fsum(weight * float(value) for weight, value in zip(weights.values(), seed, strict=True) if value is not None)
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
    return [test for test in tests if all(_has_values(leaf, results) for leaf in test.leaves)]


def _has_values(leaf: Test, results: Results) -> bool:
    values = results.get("values", {}).get(leaf.metric, {})
    held = leaf.name in results.get("effects", {}) or all(values.get(group) for group in (*leaf.contrast, *leaf.toward))
    return held and bool(effects(leaf, results))


def _dropped(test: Test, results: Results) -> int:
    """Seeds that all groups were run with, and of which one has no finite value: it diverged, or found nothing to measure."""
    if test.name in results.get("effects", {}):
        return 0
    counts = [len(results["values"][test.metric][group]) for group in test.contrast]
    return (sum(counts) if test.every else min(counts)) - len(effects(test, results))


# --------------------------------------------------------------------------------------------------------------- verdicts


def decide(tests: Sequence[Test], results: Results, beside: Iterable[tuple[Sequence[Test], Results]] = ()) -> list[Decided]:
    """Every test of a study beside what its results say, in the script's order.

    Args:
        tests: of the study.
        results: of the study.
        beside: tests and results of the script's other studies, whose p values count in Holm's correction.

    """
    found = [_measure(mine, theirs) for mine, theirs in ((tests, results), *beside)]
    every = [(test, _p_of_all(parts)) for study in found for test, parts in study]
    counted = [test for test, _ in every if not test.every]
    primary = [i for i, (test, _) in enumerate(every) if test.primary_of]
    corrected = holm([p for _, p in every])
    for i, p in zip(primary, holm([every[i][1] for i in primary]), strict=True):
        corrected[i] = p
    decided = []
    for (test, parts), p_holm in zip(found[0], corrected, strict=False):  # the study's own come first
        family = [other for other in counted if other.primary_of] if test.primary_of else counted
        decided.append(_decided(test, parts, p_holm, LEVEL / max(1, len(family)), results))
    return decided


def _measure(tests: Sequence[Test], results: Results) -> list[tuple[Test, list[_Measured]]]:
    """Each test with the values, spread and p of its parts."""
    leaves = [leaf for test in tests for leaf in test.leaves]
    values = [effects(leaf, results) for leaf in leaves]
    spreads = _spreads(leaves, values, results.get("effects", {}))
    found = iter([_Measured(leaf, v, spread, _p(leaf, v, spread)) for leaf, v, spread in zip(leaves, values, spreads, strict=True)])
    return [(test, [next(found) for _ in test.leaves]) for test in tests]


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
    if len(values) < 2 or test.every:
        return math.nan
    mean = fmean(values)
    if spread is None:  # all the same; exactly on the bound they say nothing
        return p_same_side(len(values)) if test.distance(mean) else 1.0
    return (p_at_least if test.at_least is not None else p_within)(mean, test.bound, spread, len(values))


def _failing(parts: Sequence[_Measured]) -> list[_Measured]:
    """The parts on whose wrong side the mean lies."""
    return [part for part in parts if part.test.distance(part.mean) <= 0]


def _p_of_all(parts: Sequence[_Measured]) -> float:
    """P that all parts hold, or that one at least does not; NaN where that hangs on a part of one seed."""
    if failing := _failing(parts):
        finite = [part.p for part in failing if math.isfinite(part.p)]
        return min(1.0, len(parts) * min(finite)) if finite else math.nan
    ps = [part.p for part in parts]
    return max(ps) if all(map(math.isfinite, ps)) else math.nan


def _minutes_a_seed(groups: Collection[str], results: Results) -> float:
    """What one seed of some groups costs: as the results say of each, else as ``minutes_a_seed`` says of all groups of the study."""
    minutes = [results.get("minutes", {}).get(group) for group in groups]
    if any(m is None for m in minutes):
        return float(results.get("minutes_a_seed", math.nan))
    return math.fsum(minutes)


def _decided(test: Test, parts: list[_Measured], p_holm: float, level: float, results: Results) -> Decided:
    if not test.parts:
        return _every(parts[0], level, results) if test.every else _one(parts[0], p_holm, level, results)
    power = 1 - (1 - POWER) / len(parts)  # of each, so that all are found together in 80 of 100 repetitions
    failing = _failing(parts)
    alone = [_one(part, min(1.0, part.p * (len(parts) if part in failing else 1)), level, results, power) for part in parts]
    verdict = (REFUTED if failing else SUPPORTED) if p_holm <= LEVEL else UNDECIDED
    needed: int | None = None
    if verdict == UNDECIDED and failing:
        needed = min((n for part in failing if (n := part.seeds_needed(level / len(parts))) is not None), default=None)
    elif verdict == UNDECIDED:
        each = [part.seeds_needed(level, power) for part in parts]
        needed = None if None in each else max(n for n in each if n is not None)
    groups = {group: None for part in parts for group in part.test.contrast}
    whole = Decided(
        test, Interval(math.nan, math.nan, math.nan, 0), min(part.seeds for part in alone), None, _p_of_all(parts), p_holm, math.nan,
        needed, _minutes_a_seed(groups, results), verdict, max(part.dropped for part in alone), level, parts=tuple(alone),
    )  # fmt: skip
    return whole._replace(effect=whole.deciding.effect)


def _one(part: _Measured, p_holm: float, level: float, results: Results, power: float = POWER) -> Decided:
    """A test with one bound."""
    test, values, spread, p = part
    n = len(values)
    effect = Interval(part.mean, math.nan, math.nan, n) if spread is None else t_interval(part.mean, spread, n)
    holds = SUPPORTED if test.distance(part.mean) > 0 else REFUTED
    verdict = holds if p_holm <= LEVEL else UNDECIDED  # NaN, of one seed: undecided
    see = visible_bound if test.within is not None else visible_effect
    visible = math.nan if spread is None else see(spread, n, level, power)
    needed = part.seeds_needed(level, power) if verdict == UNDECIDED else None
    minutes = _minutes_a_seed(test.contrast, results)
    return Decided(test, effect, n, spread, p, p_holm, visible, needed, minutes, verdict, _dropped(test, results), level)


def _every(part: _Measured, level: float, results: Results) -> Decided:
    """A test of every value: one beyond the bound refutes it."""
    test, values, *_ = part
    furthest = min(values, key=test.distance, default=math.nan)
    n, held = len(values), sum(test.distance(value) >= 0 for value in values)
    verdict = UNDECIDED if not values else SUPPORTED if held == n else REFUTED
    effect = Interval(furthest, math.nan, math.nan, n)
    minutes = _minutes_a_seed(test.contrast, results)
    return Decided(test, effect, n, None, math.nan, math.nan, math.nan, None, minutes, verdict, _dropped(test, results), level, held)


def by_seed(pairs: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Values of one quantity for a results file, group -> one a seed, of (group, value) in the seeds' order."""
    found: dict[str, list[float]] = {}
    for group, value in pairs:
        found.setdefault(group, []).append(value)
    return found
