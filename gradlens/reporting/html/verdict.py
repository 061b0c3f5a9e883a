"""Verdict of the page: how far each method is from the true gradient, where, and what it costs. Numbers in, sentences out.

Nothing is claimed that the runs do not support: a difference whose interval holds zero, or that rests on one seed, is reported as such.
Pure functions; nothing here trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gradlens.methods import BASELINE
from gradlens.reporting.html.notices import Notice
from gradlens.reporting.html.standings import MethodSummary, below_top, chance_limit
from gradlens.reporting.html.wording import listed
from gradlens.reporting.numbers import number_text, short_number, with_thousands
from gradlens.reporting.statistics import LEVEL, interval
from gradlens.reporting.task_words import an_item, example_of
from gradlens.runtime.terminal import shell_word

SAME_TO = 0.995  # cosines from here on are written 1.00
UNSTEADY = 0.1  # from here on epochs of one run that differ so much in time are named as the reason why times cannot be compared
TIE = 0.01  # as accurate: a difference written 0.0 points, whose interval over seeds, if there is one, is within a point
NAMED = 4  # rules that a sentence gives a number each; more get a range


def _equal(a: MethodSummary, b: MethodSummary) -> bool:
    """Return whether two groups' cosines are the same: written alike, or not distinguishable by the seeds that both have."""
    difference = interval(a.seeds[seed] - b.seeds[seed] for seed in a.seeds if seed in b.seeds)
    return difference.low <= 0 <= difference.high or short_number(a.below.mean) == short_number(b.below.mean)


def _gradient(s: MethodSummary) -> str:
    if s.method == BASELINE:
        return "uses the true gradient itself"
    if not s.layers:
        return "recorded no gradients"
    if not s.counted:
        return (
            "uses no gradient below the output block at the end"
            if s.idle
            else "no cosine below the output block: one of the two gradients is zero"
        )
    text = f"cosine {number_text(s.below.mean, s.below.low)}" + ("" if s.trained else " of the untrained network, all that was recorded")
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
        return f"no accuracy on held-out {example_of(s.runs)}s"
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
    sure = "; ".join(part for part in (ends, _sure(s), s.against.longer) if part)
    return f"{text}, {how} ({sure})" if sure else f"{text}, {how}"


def _sure(s: MethodSummary) -> str:
    """Return what keeps a difference from being sure."""
    assert s.against is not None
    points = s.against.points
    if not math.isfinite(points.low):
        return "one seed" if points.n == 1 else "no seed in common"
    if not difference_is_chance(s, math.nan):
        return ""
    return "not distinguishable" if points.low <= 0 <= points.high else "not distinguishable after correction for all comparisons"


def _pace(s: MethodSummary) -> str:
    if s.against is None:
        return ""
    ratio = s.against.time
    if not math.isfinite(ratio.mean):
        return f"time not comparable with {s.against.label}'s" if any(run.timing for run in s.runs) else ""
    if s.against.times_differ:
        return f"{short_number(ratio.mean, 1 if ratio.mean >= 0.95 else 2)} × {s.against.label}'s time {an_item(s.runs)}"
    varied = f": its epochs vary by {100 * s.pace_varies:.0f} %" if s.pace_varies >= UNSTEADY else ""
    return f"time not distinguishable from {s.against.label}'s{varied}"


class VerdictLine(NamedTuple):
    """One group in one line; each part a sentence, or empty."""

    gradient: str  # how far from the true one, and where it is worst
    accuracy: str
    time: str


def verdict_line(s: MethodSummary) -> VerdictLine:
    """Describe one group in one line: gradient and where it is worst; accuracy; time."""
    unfinished = "" if all(run.finished for run in s.runs) else "unfinished: "
    gradient = "; ".join(part for part in (_gradient(s), _where(s)) if part)
    return VerdictLine(*(f"{part[0].upper()}{part[1:]}." if part else "" for part in (gradient, unfinished + _accuracy(s), _pace(s))))


def _nearest(found: Sequence[MethodSummary]) -> list[str]:
    """Return which method's gradient is nearest to the true one below the output block, which is farthest, and which have none.

    What was recorded of the untrained network alone is not ranked: it is no evidence about training.
    """
    ranked = sorted((s for s in found if _rankable(s)), key=lambda s: -s.below.mean)
    idle = [s.label for s in found if set(s.idle) & set(below_top([row.layer for row in s.layers]))] if found else []
    lines = (
        [f"At the end {listed(idle)} {'leaves' if len(idle) == 1 else 'leave'} layers below the output block untrained."] if idle else []
    )
    if not ranked:
        return lines
    first, last = ranked[0], ranked[-1]
    if first is last:
        where = f"; {_where(first)}" if _where(first) else ""
        cosine = number_text(first.below.mean, first.below.low)
        return [f"The gradient of {first.label} has cosine {cosine} with the true one below the output block{where}.", *lines]
    equal = [s.label for s in ranked[1:] if _equal(first, s)]
    same = f"; not distinguishable: {listed(equal)}" if equal else ""
    far = "" if last.label in equal else f", that of {last.label} farthest ({short_number(last.below.mean)})"
    near = f"the gradient of {first.label} is nearest to the true one (cosine {short_number(first.below.mean)}{same})"
    return [f"Below the output block {near}{far}.", *lines]


def _rankable(s: MethodSummary) -> bool:
    """Return whether a group's cosine may be ranked: every layer below the output block has one, and training was recorded."""
    return s.method != BASELINE and s.counted > 0 and s.counted == s.possible and s.trained


def comparable(found: Sequence[MethodSummary]) -> list[tuple[MethodSummary, MethodSummary]]:
    """Return each pair (group, its baseline) where final accuracies may be compared: both finished, trained equally long."""
    by = {s.label: s for s in found}
    pairs = [(s, by[s.against.label]) for s in found if s.against and s.against.label in by]
    return [
        (s, base)
        for s, base in pairs
        if s.against and math.isfinite(s.against.points.mean) and not s.against.longer and all(r.finished for r in (*s.runs, *base.runs))
    ]


def single_seed_limit(compared: Sequence[tuple[MethodSummary, MethodSummary]]) -> float:
    """Return the difference below which accuracies of one seed are called chance: one number for all that are put beside a baseline.

    It is the largest limit of those pairs that lie below their own, or where none does, the largest that all lie above; rounded up to a
    tenth of a point, as it is written. NaN if unknown.
    """
    pairs = [(abs(s.against.points.mean), chance_limit(s, base)) for s, base in compared if s.against and s.against.points.n < 2]
    known = [(points, limit) for points, limit in pairs if math.isfinite(limit)]
    within = [limit for points, limit in known if points <= limit]
    smallest = min((points for points, _ in known), default=math.nan)
    limit = max(within or (limit for _, limit in known if limit < smallest), default=math.nan)
    return math.ceil(1000 * limit) / 1000 if math.isfinite(limit) else math.nan


def difference_is_chance(s: MethodSummary, limit: float) -> bool:
    """Return whether a difference of final accuracies may be chance: by its corrected p, or with one seed if it is below a limit."""
    assert s.against is not None
    return s.against.p > LEVEL if math.isfinite(s.against.p) else abs(s.against.points.mean) <= limit


def _size(points: float) -> str:
    """Return the size of a difference, without a decimal from ten points on."""
    return short_number(abs(points), 0 if abs(points) >= 0.0995 else 1, scale=100)


def _gap(s: MethodSummary) -> str:
    """Return a difference with its interval, as in "9.3 (9.0 to 9.6)"."""
    assert s.against is not None
    points = s.against.points
    if not math.isfinite(points.low):
        return _size(points.mean)
    sign = -1 if points.mean < 0 else 1
    ends = sorted(sign * 100 * end for end in (points.low, points.high))
    return f"{_size(points.mean)} ({short_number(ends[0], 1)} to {short_number(ends[1], 1)})"


def _clause(group: Sequence[MethodSummary], ending: str) -> str:
    """Write a clause, as in "dni is 14 points worse, cdni 2.5"; of many, the range that their differences span."""
    first, *others = sorted(group, key=lambda s: -abs(s.against.points.mean) if s.against else 0.0)
    if len(group) > NAMED:
        sizes = [abs(s.against.points.mean) for s in group if s.against]
        names = listed(s.label for s in (first, *others))
        return f"{names} are {_size(min(sizes))} to {_size(max(sizes))} points {ending}"
    return ", ".join([f"{first.label} is {_gap(first)} points {ending}", *(f"{s.label} {_gap(s)}" for s in others)])


def _who(group: Sequence[MethodSummary]) -> str:
    """Write subject and verb, as in "dgl is"."""
    return f"{listed(s.label for s in group)} {'is' if len(group) == 1 else 'are'}"


def _beside_baseline(group: Sequence[MethodSummary], base: MethodSummary, limit: float) -> str:
    """List who is better, as accurate, worse than a baseline, a sentence each; the first names the baseline with its accuracy."""
    names = ("better", "equal", "not distinguishable", "perhaps better", "perhaps worse", "worse")
    kinds: dict[str, list[MethodSummary]] = {name: [] for name in names}
    for s in group:
        assert s.against is not None
        points = s.against.points
        side = "better" if points.mean > 0 else "worse"
        tight = not points.high - points.low > 2 * TIE  # one seed has no interval
        if abs(points.mean) < TIE / 20:
            kinds["equal" if tight else "not distinguishable"].append(s)
        else:
            kinds[f"perhaps {side}" if difference_is_chance(s, limit) else side].append(s)
    name = "backprop" if base.label == BASELINE else base.label
    than = f"{name} ({short_number(base.accuracy.mean, 1, scale=100, unit=' %')})"
    sentences: list[str] = []
    for kind, mine in kinds.items():
        if not mine:
            continue
        word = kind.rpartition(" ")[2]
        if kind == "equal":
            text = f"{_who(mine)} as accurate as {name if sentences else than}"
        elif kind == "not distinguishable":
            text = f"{_who(mine)} not distinguishable from {name if sentences else than}: the seeds differ too much"
        else:
            text = _clause(mine, word if sentences else f"{word} than {than}")
            text += ", which may be chance" if kind.startswith("perhaps") else ""
        sentences.append(f"{text}.")
    return " ".join(sentences)


def _chance(compared: Sequence[tuple[MethodSummary, MethodSummary]], limit: float) -> list[str]:
    """State the smallest difference that one seed can support; intervals over several seeds stand in brackets."""
    single = [(s, base) for s, base in compared if s.against and s.against.points.n < 2]
    if not single:
        many = (
            f" A difference counts where p ≤ {LEVEL:g} after Holm's correction for {len(compared)} comparisons."
            if len(compared) > 1
            else ""
        )
        return [f"In brackets: 95 % intervals over seeds.{many}"]
    each = "One seed each" if len(single) == len(compared) else f"One seed of {listed(s.label for s, _ in single)}"
    if not math.isfinite(limit):
        return [f"{each}: small differences may be chance."]
    s = single[0][0]
    images = f"{with_thousands(s.images)} {s.split} {example_of(s.runs)}s alone"
    return [f"{each}: differences below {short_number(limit, 1, scale=100)} points may be chance (by the draw of {images})."]


def _accuracies(found: Sequence[MethodSummary]) -> list[str]:
    """Return how accurate each method is beside bp, of those trained as long; ties are ties."""
    if not any(s.against and math.isfinite(s.against.points.mean) for s in found):
        return _without_baseline(found)
    if not (compared := comparable(found)):
        return [f"No other run was trained to its end as long as {BASELINE}: accuracies are not ranked."]
    by = {base.label: base for _, base in compared}
    limit = single_seed_limit(compared)
    sentences = []
    for label in dict.fromkeys(base.label for _, base in compared):
        sentences.append(_beside_baseline([s for s, base in compared if base.label == label], by[label], limit))
    return [" ".join([*sentences, *_chance(compared, limit)])]


def _without_baseline(found: Sequence[MethodSummary]) -> list[str]:
    """Return what is missing where no accuracy can be put beside bp's."""
    if any(s.method == BASELINE for s in found):
        other = any(s.method != BASELINE for s in found)
        return [f"No {BASELINE} run can be compared with the other methods: their cost is unknown."] if other else []
    path = found[0].runs[0].path / "config.json"
    return [
        f"No {BASELINE} is among these runs: the cost of a rule in accuracy or time is unknown."
        f" `gradlens train {BASELINE} --config {shell_word(path)}` makes one."
    ]


def headline(found: Sequence[MethodSummary], notices: Sequence[Notice]) -> list[str]:
    """Return the verdict in two or three sentences; methods on different data or networks are not ranked."""
    if any(notice.unlike for notice in notices):
        return ["These runs have different data or networks: they are listed separately below and not ranked."]
    if all(s.method == BASELINE for s in found):
        return [f"Only {BASELINE} is here: it uses the true gradient, so there is no distance to report."]
    return [*_accuracies(found), *_nearest(found)]
