"""What a person wants to know first: how far each method is from the true gradient, where, and what it costs. Numbers in, sentences out.

Nothing is said that the runs do not hold: a difference whose interval holds zero, or that rests on one seed, is called what it is.
Pure functions; nothing here trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gradlens.methods import BASELINE
from gradlens.reporting.aggregate import Interval, interval
from gradlens.reporting.html.notices import Notice
from gradlens.reporting.html.standings import BaselineComparison, MethodSummary, below_top
from gradlens.reporting.html.wording import listed
from gradlens.reporting.numbers import number_text, short_number
from gradlens.runtime.terminal import shell_word

SAME_TO = 0.995  # cosines from here on are written 1.00


def _equal(a: MethodSummary, b: MethodSummary) -> bool:
    """Whether there are seeds in common by which two groups' cosines could differ, and do not: by the seeds both have."""
    difference = interval(a.seeds[seed] - b.seeds[seed] for seed in a.seeds if seed in b.seeds)
    return difference.low <= 0 <= difference.high


def _gradient(s: MethodSummary) -> str:
    if s.method == BASELINE:
        return "uses the true gradient itself"
    if not s.layers:
        return "recorded no gradients"
    if not s.counted:
        return (
            "uses no gradient below the top block at the end"
            if s.idle
            else "no cosine below the top block: one of the two gradients is zero"
        )
    text = f"cosine {number_text(s.below.mean, s.below.low)}"
    if s.counted < s.possible:
        text += f" in the {s.counted} of {s.possible} layers that have one"
    return text + (f", no gradient at {listed(s.idle)}" if s.idle else "")


def _where(s: MethodSummary) -> str:
    if s.method == BASELINE or s.worst is None or s.worst.mean >= SAME_TO:
        return ""
    chance = ""
    if s.above_chance.n > 1:
        differs = s.above_chance.low > 0 or s.above_chance.high < 0
        chance = "" if differs else f", not distinguishable from chance by {s.above_chance.n} seeds"
    elif s.chance.n:
        chance = f", where chance gives {short_number(s.chance.mean)}"
    return f"worst at {s.worst.layer} ({short_number(s.worst.mean)}{chance})"


def _accuracy(s: MethodSummary) -> str:
    if not math.isfinite(s.accuracy.mean):
        return "no accuracy on held-out images"
    text = f"{short_number(s.accuracy.mean, 1, scale=100)} % {s.split} accuracy"
    if s.method == BASELINE:
        return text
    if s.against is None:
        return f"{text}; no {BASELINE} run on the same data and network"
    if not math.isfinite(s.against.points.mean):
        return text
    points, other = s.against.points, s.against.label
    size = short_number(abs(points.mean), 1, scale=100)
    how = f"{size} points {'below' if points.mean < 0 else 'above'} {other}" if size != "0.0" else f"as {other} to a tenth of a point"
    ends = " to ".join(short_number(end, 1, sign=True, scale=100) for end in (points.low, points.high)) if math.isfinite(points.low) else ""
    sure = "; ".join(part for part in (ends, _sure(points), s.against.longer) if part)
    return f"{text}, {how} ({sure})" if sure else f"{text}, {how}"


def _sure(points: Interval) -> str:
    """What keeps a difference from being sure."""
    if not math.isfinite(points.low):
        return "one seed" if points.n == 1 else "no seed in common"
    return "" if points.low > 0 or points.high < 0 else "not distinguishable"


def _pace(s: MethodSummary) -> str:
    if s.against is None:
        return ""
    ratio = s.against.time
    if not math.isfinite(ratio.mean):
        return f"time not comparable with {s.against.label}'s" if any(run.timing for run in s.runs) else ""
    times = short_number(ratio.mean, 1 if ratio.mean >= 0.95 else 2)
    return f"{times} × {s.against.label}'s time an image" + ("" if s.against.times_differ else " (not distinguishable)")


class VerdictLine(NamedTuple):
    """One group in one line; each part a sentence, or empty."""

    gradient: str  # how far from the true one, and where it is worst
    accuracy: str
    time: str


def verdict_line(s: MethodSummary) -> VerdictLine:
    """One group in one line: gradient and where it is worst; accuracy; time."""
    unfinished = "" if all(run.finished for run in s.runs) else "unfinished: "
    gradient = "; ".join(part for part in (_gradient(s), _where(s)) if part)
    return VerdictLine(*(f"{part[0].upper()}{part[1:]}." if part else "" for part in (gradient, unfinished + _accuracy(s), _pace(s))))


def _nearest(found: Sequence[MethodSummary]) -> list[str]:
    """Which method's gradient is nearest to the true one below the top block, which is farthest, and who has none."""
    ranked = sorted((s for s in found if s.method != BASELINE and s.counted and s.counted == s.possible), key=lambda s: -s.below.mean)
    idle = [s.label for s in found if set(s.idle) & set(below_top([row.layer for row in s.layers]))] if found else []
    said = [f"At the end {listed(idle)} {'leaves' if len(idle) == 1 else 'leave'} layers below the top block untrained."] if idle else []
    if not ranked:
        return said
    first, last = ranked[0], ranked[-1]
    if first is last:
        where = f"; {_where(first)}" if _where(first) else ""
        cosine = number_text(first.below.mean, first.below.low)
        return [f"The gradient of {first.label} has cosine {cosine} with the true one below the top block{where}.", *said]
    equal = [s.label for s in ranked[1:] if _equal(first, s)]
    same = f" (not distinguishable: {listed(equal)})" if equal else ""
    far = "" if last.label in equal else f"; farthest: {last.label}, {short_number(last.below.mean)}"
    return [f"Nearest to the true gradient below the top block: {first.label}, cosine {short_number(first.below.mean)}{same}{far}.", *said]


def _priciest(found: Sequence[MethodSummary]) -> list[str]:
    """Which method loses most in accuracy beside bp, and which is best; of those trained as long as bp."""
    costs = [(s.label, s.against) for s in found if s.against and math.isfinite(s.against.points.mean)]
    if not costs:
        if any(s.method == BASELINE for s in found):
            other = any(s.method != BASELINE for s in found)
            return [f"No {BASELINE} run can be put beside the other methods: what they cost is not known."] if other else []
        path = found[0].runs[0].path / "config.json"
        return [
            f"No {BASELINE} is among these runs: what a rule costs in accuracy or time is not known."
            f" `gradlens train {BASELINE} --config {shell_word(path)}` makes one."
        ]
    ranked = sorted(((a.points.mean, label, a) for label, a in costs if not a.longer), key=lambda cost: cost[0])
    if not ranked:
        return [f"None was trained as long as {BASELINE}: accuracies are not ranked."]

    def gain_text(label: str, against: BaselineComparison, how: str = "") -> str:
        inner = "; ".join(
            part for part in (short_number(against.points.mean, 1, sign=True, scale=100, unit=" points"), _sure(against.points)) if part
        )
        return f"{label}{how} ({inner})"

    (_, worst, cost), (_, best, gain) = ranked[0], ranked[-1]
    if len(ranked) == 1:
        return [f"Final accuracy against {BASELINE}: {gain_text(worst, cost)}."]
    return [f"Final accuracy against {BASELINE}: {gain_text(worst, cost, ' loses most')}, {gain_text(best, gain, ' is best')}."]


def headline(found: Sequence[MethodSummary], notices: Sequence[Notice]) -> list[str]:
    """The verdict in two or three sentences; methods on different data or networks are not ranked."""
    if any(notice.unlike for notice in notices):
        return ["These runs are of different data or networks: they are listed separately below and not ranked."]
    if all(s.method == BASELINE for s in found):
        return [f"Only {BASELINE} is here: it uses the true gradient, so there is no distance to report."]
    return [*_nearest(found), *_priciest(found)]
