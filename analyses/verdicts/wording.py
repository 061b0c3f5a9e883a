"""Verdicts in words: effect, power, and what would decide what is undecided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from analyses.verdicts.bounds import seeds_on_one_side, seeds_within, visible_bound, visible_effect, visible_share
from analyses.verdicts.decision import UNDECIDED, Decided, Results, Test, decide
from gradlens.reporting.statistics import Spread

MANY = 100  # seeds whose power is named where a thousand would not find the measured distance
SOME = 10  # ... and where the spread is not known


def counted(n: int, of: str) -> str:
    """A number of seeds, or of what else is repeated.

    >>> counted(1, "seed"), counted(3, "round")
    ('1 seed', '3 rounds')
    """
    return f"{n} {of}{'s' * (n != 1)}"


def p_in_words(value: float) -> str:
    """A p value as tables print it."""
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _wanted(test: Test) -> str:
    return f"at least {test.bound:.3g}" if test.at_least is not None else f"within ±{test.bound:.3g}"


def effect_in_words(found: Decided) -> str:
    """A test's effect beside its bound, as in ``12.1 [8.78, 15.5] points, wanted at least 0``; of several parts, of the deciding one."""
    if found.parts:
        one = found.deciding
        return f"{one.test.says}: {effect_in_words(one)} (the part that decides, of {len(found.parts)})"
    test, effect = found.test, found.effect
    if not math.isfinite(effect.mean):
        return "nothing to measure"
    unit = f" {test.unit}".rstrip()
    if test.every:
        return f"{found.held} of {counted(found.seeds, test.repeats)} {_wanted(test)}, the furthest {effect.mean:.3g}{unit}"
    over = f" [{effect.low:.3g}, {effect.high:.3g}]" if math.isfinite(effect.low) else ""
    same = f" with every {test.repeats}" if found.spread is None and found.seeds > 1 else ""
    return f"{effect.mean:.3g}{over}{unit}{same}, wanted {_wanted(test)}"


def repeated(found: Decided) -> str:
    """How often a test's values are repeated, and of what they are repetitions."""
    return counted(found.seeds, found.deciding.test.repeats)


def in_words(found: Decided) -> str:
    """The same with seeds and p."""
    p = f", p {found.p_holm:.2g} after correction" if math.isfinite(found.p_holm) else ""
    if found.parts:
        return f"all of {len(found.parts)} parts{p}"
    if found.test.every:
        return effect_in_words(found)
    return f"{effect_in_words(found)}, {repeated(found)}{p}"


def part_in_words(found: Decided) -> str:
    """The same of a part, whose p is not corrected for other tests."""
    p = f", p {found.p_holm:.2g} by itself" if math.isfinite(found.p_holm) else ""
    return f"{effect_in_words(found)}, {repeated(found)}{p}"


def power_in_words(found: Decided) -> str:
    """What a test could have seen."""
    test, of = found.test, f"{found.test.repeats}s"
    if found.parts:
        return ""  # of each part by itself
    if found.seeds < 2:
        return f"one {test.repeats} decides nothing" if found.seeds else ""
    if test.every:
        return f"so many {of} show an exception where {100 * visible_share(found.seeds):.0f} % or more of all are"
    if found.spread is None:
        return f"a sign test, as there is no spread: it needs {seeds_on_one_side(found.level)} {of}"
    size = f"{found.visible:.2g} {test.unit}".rstrip()
    if test.within is None:
        return f"sees {size} or more from the bound"
    if found.visible <= test.bound:
        return f"finds no difference within ±{size} or wider"
    enough = seeds_within(0.0, test.bound, found.spread.sd, found.level)
    return f"finds no difference within ±{size} or wider, so too few {of} to find it within the bound" + (
        f": that takes {enough}" if enough else ""
    )


def _cost(found: Decided, seeds: int) -> str:
    minutes = seeds * found.minutes_a_seed
    return f", {minutes:,.0f} minutes of training" if math.isfinite(minutes) else ""


def what_would_decide(found: Decided) -> str:
    """What an undecided test needs; "" for a decided one."""
    if found.verdict != UNDECIDED:
        return ""
    of = f"{found.deciding.test.repeats}s"
    if found.needed is not None:
        return f"{found.needed} {of} would decide it if the distance is as measured{_cost(found, found.needed)}"
    one = found.deciding
    if one.seeds < 2:
        sees = visible_effect(Spread(1.0, SOME - 1, pooled=False), SOME, found.level)
        return f"{SOME} {of} would see {sees:.2g} of their standard deviations{_cost(found, SOME)}"
    if one.spread is None:
        return f"a mean on the bound with every {one.test.repeats} decides nothing; a finer measure would{_cost(found, one.seeds)}"
    see = visible_bound if one.test.within is not None else visible_effect
    sees = see(Spread(one.spread.sd, MANY - 1, pooled=False), MANY, found.level)
    distance = "a margin of" if one.test.within is not None else "a distance of"
    size = f"{sees:.2g} {one.test.unit}".rstrip()
    return f"more than a thousand {of} at the measured distance; {MANY} would show {distance} {size}{_cost(found, MANY)}"


def notes_in_words(found: Decided) -> str:
    """Power, what would decide it, and what was left out, as sentences."""
    left = f"{found.dropped} {found.deciding.test.repeats}s without a value are left out" if found.dropped else ""
    parts = [part for part in (power_in_words(found), what_would_decide(found), left) if part]
    return "; ".join(parts)


def report(tests: Sequence[Test], results: Results, beside: Iterable[tuple[Sequence[Test], Results]] = ()) -> None:
    """Print each test of a study with its verdict and numbers."""
    for found in decide(tests, results, beside):
        for one, before in ((found, ""), *((part, "  ") for part in found.parts)):
            more = notes_in_words(one)
            print(f"{before}{one.verdict}: {one.test.says} ({in_words(one)})" + (f" - {more}" if more else ""))
