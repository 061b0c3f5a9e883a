"""What a person wants to know first: how far each method is from the true gradient, where, and what it costs. Numbers in, sentences out.

Nothing is said that the runs do not hold: a difference whose interval holds zero, or that rests on one seed, is called what it is.
Pure functions; nothing here trains or imports torch.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

from gradlens.tables import FinalValue, Interval, alignment_values, final_values, interval
from gradlens.training_metrics import TRAIN, TRAIN_EVAL
from gradlens.training_run_groups import settings

if TYPE_CHECKING:  # imports torch
    from gradlens.run import Metric, Run

TRUTH = "bp"  # the method that uses the true gradient, beside which costs are told
DATA = ("data", "limit", "label_noise", "validation")  # settings that must agree for accuracies to be comparable
NETWORK = ("model", "width", "depth", "stem", "activation", "cut")
MACHINE = ("device", "threads")  # facts of a run that must agree for times to be comparable
NOTHING = Interval(math.nan, math.nan, math.nan, 0)
SAME_TO = 0.995  # cosines from here on are written 1.00


class Against(NamedTuple):
    """A group beside bp on the same data and network."""

    label: str  # the bp group's
    points: Interval  # final accuracy minus bp's, a share; over the seeds both have, pair by pair
    time: Interval  # time an image as a multiple of bp's; over the seeds both have; NaN where it was timed otherwise
    told: bool  # whether the times are told apart: by the interval, or with one seed by epochs that do not overlap
    longer: str  # "15 epochs against 5" where the two were not trained equally long


class Standing(NamedTuple):
    """Where one group of runs stands."""

    label: str
    method: str
    runs: Sequence[Run]
    layers: list[FinalValue]  # final cosines of the weight gradients, bottom first
    seeds: dict[int, float]  # seed -> mean cosine of the layers below the top block that have one in every seed
    below: Interval  # the same over seeds
    counted: int  # these layers
    possible: int  # all layers below the top block; all there are, where there is one block only
    idle: list[str]  # layers whose gradient is exactly zero at the end
    worst: FinalValue | None  # the layer of the lowest cosine
    chance: Interval  # the null cosine there, at the last steps that recorded one
    above_chance: Interval  # cosine minus null cosine at those steps, seed by seed
    split: str  # the held-out one; "" without
    accuracy: Interval  # final, a share
    best: Interval  # each seed's best epoch
    against: Against | None


# ----------------------------------------------------------------------------------------------------------- standings


def below_top(layers: Sequence[str]) -> list[str]:
    """The layers below the top block, whose gradient most rules leave as it is; all of them where there is only one block.

    >>> below_top(["block1.conv", "block2.conv", "top.hidden", "top.out"])
    ['block1.conv', 'block2.conv']
    """
    block = [name.split(".")[0] for name in layers]
    return [name for name, own in zip(layers, block, strict=True) if own != block[-1]] or list(layers)


def held_out(run: Run) -> list[Metric]:
    """The rows of the held-out split, in order."""
    return [m for m in run.metrics if m.split not in (TRAIN, TRAIN_EVAL)]


def alike(group: Sequence[Run], other: Sequence[Run]) -> bool:
    """Whether two groups are on the same images, labels and network: then accuracies and times may be compared.

    Images are compared by the hash that runs store; it is of the seed's choice of images, so runs of one seed are compared. Without
    a seed in common, or a hash, the data set's name must do.
    """
    kept = {*DATA, *NETWORK} - {"data"}
    if group[0].config.model_dump(include=kept) != other[0].config.model_dump(include=kept):
        return False
    hashes = [(a.info.get("data_fingerprint"), b.info.get("data_fingerprint")) for a, b in _pairs(group, other)]
    known = [(a, b) for a, b in hashes if a and b]
    return all(a == b for a, b in known) if known else group[0].config.data == other[0].config.data


def _reference(group: Sequence[Run], groups: Mapping[str, Sequence[Run]]) -> str | None:
    """The bp group on the same data and network, with the fewest other settings that differ."""
    fitting = [label for label, other in groups.items() if other[0].config.method == TRUTH and alike(group, other)]
    mine = group[0].config.model_dump(exclude={"method", "options", "seed"})
    return min(
        fitting,
        key=lambda label: sum(groups[label][0].config.model_dump()[name] != value for name, value in mine.items()),
        default=None,
    )


def _pairs(group: Sequence[Run], other: Sequence[Run]) -> list[tuple[Run, Run]]:
    """The runs of two groups that share a seed."""
    by_seed = {run.config.seed: run for run in other}
    return [(run, by_seed[run.config.seed]) for run in group if run.config.seed in by_seed]


def seconds_per_image(run: Run) -> list[float]:
    """Of each epoch; evaluation excluded, recording included."""
    return [1 / row.images_per_s for row in run.timing if row.images_per_s > 0]


def _time(pairs: Sequence[tuple[Run, Run]]) -> tuple[Interval, bool]:
    """Time an image as a multiple of the other's: medians of epochs, then the geometric mean over seeds with its interval."""
    timed = [(seconds_per_image(a), seconds_per_image(b)) for a, b in pairs if all(a.info.get(k) == b.info.get(k) for k in MACHINE)]
    timed = [(a, b) for a, b in timed if a and b]
    logs = interval(math.log(median(a) / median(b)) for a, b in timed)
    found = Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n)
    if found.n == 1:
        ((a, b),) = timed
        return found, max(a) < min(b) or max(b) < min(a)
    return found, found.low > 1 or found.high < 1


def _against(group: Sequence[Run], label: str, groups: Mapping[str, Sequence[Run]]) -> Against:
    pairs = _pairs(group, groups[label])
    ends = [(held_out(a), held_out(b)) for a, b in pairs]
    points = interval(a[-1].accuracy - b[-1].accuracy for a, b in ends if a and b and a[-1].split == b[-1].split)
    if not points.n and not pairs:  # no seed in common: means can be subtracted, but nothing is paired
        mean = [interval(h[-1].accuracy for run in runs if (h := held_out(run))).mean for runs in (group, groups[label])]
        points = Interval(mean[0] - mean[1], math.nan, math.nan, 0)
    return Against(label, points, *_time(pairs), _lengths(group[0], groups[label][0]))


def _lengths(run: Run, other: Run) -> str:
    """How long two runs are trained by their configs, where that differs."""
    for name in ("epochs", "steps"):
        mine, theirs = getattr(run.config, name), getattr(other.config, name)
        if mine != theirs:
            return f"{in_words(mine)} {name} against {in_words(theirs)}"
    return ""


def _mean_cosines(group: Sequence[Run], layers: Sequence[str]) -> tuple[dict[int, float], int]:
    """seed -> the mean cosine of those layers that have one in every seed; and how many these are."""
    seeds = {run.config.seed: {row.layer: row.mean for row in final_values([run], "cosine")} for run in group}
    seeds = {seed: rows for seed, rows in seeds.items() if rows}
    shared = [name for name in layers if seeds and all(math.isfinite(rows.get(name, math.nan)) for rows in seeds.values())]
    return {seed: fmean(rows[name] for name in shared) for seed, rows in seeds.items() if shared}, len(shared)


def _above_chance(group: Sequence[Run], layer: str) -> tuple[Interval, Interval]:
    """A layer's null cosine, and by how much its cosine is above it at the same steps, seed by seed."""
    found = [{row.quantity: row.mean for row in alignment_values([run]) if row.layer == layer} for run in group]
    found = [seed for seed in found if {"cosine", "null_cosine"} <= set(seed)]
    return interval(seed["null_cosine"] for seed in found), interval(seed["cosine"] - seed["null_cosine"] for seed in found)


def standings(groups: Mapping[str, Sequence[Run]]) -> list[Standing]:
    """Where each group of runs stands, in the groups' order.

    Args:
        groups: label -> the runs of all seeds, from :func:`gradlens.training_run_groups.groups`.

    """
    runs = [run for group in groups.values() for run in group]
    cosines, norms = final_values(runs, "cosine"), final_values(runs, "norm_ratio")
    found = []
    for label, group in groups.items():
        layers = [row for row in cosines if row.label == label]
        below = below_top([row.layer for row in layers]) if layers else []
        cosines_below, counted = _mean_cosines(group, below)
        worst = min((row for row in layers if math.isfinite(row.mean)), key=lambda row: row.mean, default=None)
        ends = [rows for run in group if (rows := held_out(run))]
        splits = {row.split for rows in ends for row in rows}
        split = splits.pop() if len(splits) == 1 else ""
        reference = _reference(group, groups) if group[0].config.method != TRUTH else None
        chance, above = _above_chance(group, worst.layer) if worst else (NOTHING, NOTHING)
        found.append(
            Standing(
                label, group[0].config.method, group, layers, cosines_below, interval(cosines_below.values()), counted, len(below),
                [row.layer for row in norms if row.label == label and row.mean == 0 and not row.dropped],
                worst, chance, above, split,
                interval(rows[-1].accuracy for rows in ends) if split else NOTHING,
                interval(max((m.accuracy for m in rows if math.isfinite(m.accuracy)), default=math.nan) for rows in ends)
                if split else NOTHING,
                _against(group, reference, groups) if reference else None,
            )
        )  # fmt: skip
    return found


# ------------------------------------------------------------------------------------------------------------ wording


def listed(names: Iterable[str]) -> str:
    """Names as in a sentence.

    >>> listed(["bp", "dgl", "dni"])
    'bp, dgl and dni'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def short(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number with a real minus sign, and no sign on a zero; a dash for none.

    >>> short(-0.004), short(-0.126), short(2.04, 1, sign=True), short(float("nan"))
    ('0.00', '−0.13', '+2.0', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−")


def spread(value: Interval, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A mean with half its interval, where there is one.

    >>> spread(Interval(0.5, 0.4, 0.6, 3)), spread(Interval(0.5, float("nan"), float("nan"), 1))
    ('0.50 ± 0.10', '0.50')
    """
    text = short(value.mean * scale, digits, sign)
    return f"{text} ± {short((value.high - value.mean) * scale, digits)}" if math.isfinite(value.low) else text


def _equal(a: Standing, b: Standing) -> bool:
    """Whether seeds are there to tell two groups' cosines apart, and do not: by the seeds both have."""
    difference = interval(a.seeds[seed] - b.seeds[seed] for seed in a.seeds if seed in b.seeds)
    return difference.low <= 0 <= difference.high


def _gradient(s: Standing) -> str:
    if s.method == TRUTH:
        return "uses the true gradient itself"
    if not s.layers:
        return "recorded no gradients"
    if not s.counted:
        return (
            "uses no gradient below the top block at the end"
            if s.idle
            else "no cosine below the top block: one of the two gradients is zero"
        )
    text = f"cosine {spread(s.below)}"
    if s.counted < s.possible:
        text += f" in the {s.counted} of {s.possible} layers that have one"
    return text + (f", no gradient at {listed(s.idle)}" if s.idle else "")


def _where(s: Standing) -> str:
    if s.method == TRUTH or s.worst is None or s.worst.mean >= SAME_TO:
        return ""
    chance = ""
    if s.above_chance.n > 1:
        told = s.above_chance.low > 0 or s.above_chance.high < 0
        chance = "" if told else f", not told apart from chance by {s.above_chance.n} seeds"
    elif s.chance.n:
        chance = f", where chance gives {short(s.chance.mean)}"
    return f"worst at {s.worst.layer} ({short(s.worst.mean)}{chance})"


def _accuracy(s: Standing) -> str:
    if not math.isfinite(s.accuracy.mean):
        return "no accuracy on held-out images"
    text = f"{short(100 * s.accuracy.mean, 1)} % {s.split} accuracy"
    if s.method == TRUTH:
        return text
    if s.against is None:
        return f"{text}; no {TRUTH} run on the same data and network"
    if not math.isfinite(s.against.points.mean):
        return text
    points, other = s.against.points, s.against.label
    size = short(100 * abs(points.mean), 1)
    how = f"{size} points {'below' if points.mean < 0 else 'above'} {other}" if size != "0.0" else f"as {other} to a tenth of a point"
    ends = f"{short(100 * points.low, 1, sign=True)} to {short(100 * points.high, 1, sign=True)}" if math.isfinite(points.low) else ""
    sure = "; ".join(part for part in (ends, _sure(points), s.against.longer) if part)
    return f"{text}, {how} ({sure})" if sure else f"{text}, {how}"


def _sure(points: Interval) -> str:
    """What keeps a difference from being sure."""
    if not math.isfinite(points.low):
        return "one seed" if points.n == 1 else "no seed in common"
    return "" if points.low > 0 or points.high < 0 else "not told apart"


def _pace(s: Standing) -> str:
    if s.against is None:
        return ""
    ratio = s.against.time
    if not math.isfinite(ratio.mean):
        return f"time not comparable with {s.against.label}'s" if any(run.timing for run in s.runs) else ""
    times = short(ratio.mean, 1 if ratio.mean >= 0.95 else 2)
    return f"{times} × {s.against.label}'s time an image" + ("" if s.against.told else " (not told apart)")


class Line(NamedTuple):
    """One group in one line; each part a sentence, or empty."""

    gradient: str  # how far from the true one, and where it is worst
    accuracy: str
    time: str


def line(s: Standing) -> Line:
    """One group in one line: gradient and where it is worst; accuracy; time."""
    unfinished = "" if all(run.finished for run in s.runs) else "unfinished: "
    gradient = "; ".join(part for part in (_gradient(s), _where(s)) if part)
    return Line(*(f"{part[0].upper()}{part[1:]}." if part else "" for part in (gradient, unfinished + _accuracy(s), _pace(s))))


def _nearest(found: Sequence[Standing]) -> list[str]:
    """Which method's gradient is nearest to the true one below the top block, which is farthest, and who has none."""
    ranked = sorted((s for s in found if s.method != TRUTH and s.counted and s.counted == s.possible), key=lambda s: -s.below.mean)
    idle = [s.label for s in found if set(s.idle) & set(below_top([row.layer for row in s.layers]))] if found else []
    said = [f"At the end {listed(idle)} {'leaves' if len(idle) == 1 else 'leave'} layers below the top block untrained."] if idle else []
    if not ranked:
        return said
    first, last = ranked[0], ranked[-1]
    if first is last:
        where = f"; {_where(first)}" if _where(first) else ""
        return [f"The gradient of {first.label} has cosine {spread(first.below)} with the true one below the top block{where}.", *said]
    equal = [s.label for s in ranked[1:] if _equal(first, s)]
    same = f" (not told apart: {listed(equal)})" if equal else ""
    far = "" if last.label in equal else f"; farthest: {last.label}, {short(last.below.mean)}"
    return [f"Nearest to the true gradient below the top block: {first.label}, cosine {short(first.below.mean)}{same}{far}.", *said]


def _priciest(found: Sequence[Standing]) -> list[str]:
    """Which method loses most in accuracy beside bp, and which is best; of those trained as long as bp."""
    costs = [(s.label, s.against) for s in found if s.against and math.isfinite(s.against.points.mean)]
    if not costs:
        if any(s.method == TRUTH for s in found):
            other = any(s.method != TRUTH for s in found)
            return [f"No {TRUTH} run can be put beside the other methods: what they cost is not told."] if other else []
        path = found[0].runs[0].path / "config.json"
        return [
            f"No {TRUTH} is among these runs: nothing can be said of what a rule costs in accuracy or time."
            f" `gradlens train {TRUTH} --config {shlex.quote(str(path))}` makes one."
        ]
    ranked = sorted(((a.points.mean, label, a) for label, a in costs if not a.longer), key=lambda cost: cost[0])
    if not ranked:
        return [f"None was trained as long as {TRUTH}: accuracies are not ranked."]

    def told(label: str, against: Against, how: str = "") -> str:
        inner = "; ".join(part for part in (short(100 * against.points.mean, 1, sign=True) + " points", _sure(against.points)) if part)
        return f"{label}{how} ({inner})"

    (_, worst, cost), (_, best, gain) = ranked[0], ranked[-1]
    if len(ranked) == 1:
        return [f"Final accuracy against {TRUTH}: {told(worst, cost)}."]
    return [f"Final accuracy against {TRUTH}: {told(worst, cost, ' loses most')}, {told(best, gain, ' is best')}."]


def headline(found: Sequence[Standing], notices: Sequence[Notice]) -> list[str]:
    """The verdict in two or three sentences; methods on different data or networks are not ranked."""
    if any(notice.unlike for notice in notices):
        return ["These runs are of different data or networks: each is told for itself below, and none is ranked."]
    if all(s.method == TRUTH for s in found):
        return [f"Only {TRUTH} is here: it uses the true gradient, so there is no distance to tell."]
    return [*_nearest(found), *_priciest(found)]


# ------------------------------------------------------------------------------------------- differences and notices


class Difference(NamedTuple):
    """A setting or fact in which groups of runs differ."""

    name: str
    kind: str  # data, network, training, method (its own options), made with (versions, machine)
    values: dict[str, str]  # label -> the group's value, in words; "–" where it has none


class Notice(NamedTuple):
    """What a reader must know before comparing."""

    text: str
    unlike: bool = False  # the runs are not of one data set and network


def in_words(value: Any) -> str:
    """A setting as it is shown."""
    return {None: "none", False: "no", True: "yes"}[value] if value is None or isinstance(value, bool) else str(value)


def _facts(run: Run) -> dict[str, Any]:
    """What a run was made with, beside its settings."""
    images = run.info.get("images") or {}
    return {
        **{f"images: {split}": n for split, n in images.items()},
        **{f"version: {name}": version for name, version in (run.info.get("versions") or {}).items()},
        **{name: run.info.get(name) for name in ("git", *MACHINE)},
    }


def _kind(name: str) -> str:
    return "data" if name in DATA else "network" if name in NETWORK else "training"


def differences(groups: Mapping[str, Sequence[Run]]) -> list[Difference]:
    """Every setting and fact in which the groups differ (seeds aside); a group whose own runs differ shows each value."""
    shared = set(next(iter(groups.values()))[0].config.model_dump())
    settled = {label: settings(group[0].config) for label, group in groups.items()}
    rows = []
    for name in dict.fromkeys(name for own in settled.values() for name in own):
        values = {label: in_words(own[name]) if name in own else "–" for label, own in settled.items()}
        rows.append(Difference(name, _kind(name) if name in shared else "method", values))
    facts = {label: [_facts(run) for run in group] for label, group in groups.items()}
    for name in dict.fromkeys(name for own in facts.values() for run in own for name in run):
        values = {label: ", ".join(dict.fromkeys(in_words(run.get(name)) for run in own)) for label, own in facts.items()}
        rows.append(Difference(name, "data" if name.startswith("images: ") else "made with", values))
    rows.append(Difference("data hash", "data", _hashes(groups)))
    order = ("data", "network", "training", "method", "made with")
    return sorted((row for row in rows if len(set(row.values.values())) > 1), key=lambda row: order.index(row.kind))


def _hashes(groups: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """label -> hashes of the images for the seeds that all groups have: which images --limit takes depends on the seed."""
    seeds = set.intersection(*({run.config.seed for run in group} for group in groups.values()))
    return {
        label: ", ".join(
            in_words(run.info.get("data_fingerprint")) for run in sorted(group, key=lambda r: r.config.seed) if run.config.seed in seeds
        )
        for label, group in groups.items()
    }


def _by_value(difference: Difference) -> str:
    """As in `lr 0.001 (bp and dgl) or 0.0003 (dni)`."""
    of: dict[str, list[str]] = {}
    for label, value in difference.values.items():
        of.setdefault(value, []).append(label)
    return f"{difference.name.replace('_', ' ')} {' or '.join(f'{value} ({listed(labels)})' for value, labels in of.items())}"


def notices(groups: Mapping[str, Sequence[Run]]) -> list[Notice]:
    """What must be known before comparing: different data, networks or settings, unfinished runs, single seeds."""
    found = []
    differ = differences(groups)
    for kind, what in (("data", "data"), ("network", "networks")):
        rows = [d for d in differ if d.kind == kind and d.name in (*DATA, *NETWORK)] or [d for d in differ if d.kind == kind]
        if rows and not all(alike(a, b) for a, b in combinations(groups.values(), 2)):
            found.append(Notice(f"These runs are of different {what}: {'; '.join(map(_by_value, rows))}.", unlike=True))
    if rows := [d for d in differ if d.kind == "training"]:
        found.append(Notice(f"Besides the rule they differ in: {'; '.join(map(_by_value, rows))}."))
    if unfinished := [run for group in groups.values() for run in group if not run.finished]:
        told = [f"{run.path.name} ({run.metrics[-1].step if run.metrics else 0} updates at its last evaluation)" for run in unfinished]
        found.append(Notice(f"Not finished, and told as far as they came: {listed(told)}."))
    first_only = [
        label for label, group in groups.items() if (steps := {r.step for run in group for r in run.gradients}) and not max(steps)
    ]
    if first_only:
        text = f"Of {listed(first_only)} only the first update was recorded: all distances are those of untrained networks"
        found.append(Notice(f"{text} (a lower --record-every records later ones)."))
    silent = [
        label
        for label, group in groups.items()
        if group[0].config.method != TRUTH and not any(run.gradients or run.measured for run in group)
    ]
    if silent:
        found.append(
            Notice(f"No gradients were recorded (--record-every 0) of {listed(silent)}: their distance from the truth is not known.")
        )
    if single := [label for label, group in groups.items() if len(group) == 1]:
        found.append(Notice(f"One seed only, so without intervals: {listed(single)}. A small difference may be chance."))
    return found
