"""Summary of each group of runs: distance from the true gradient, accuracy, speed, beside bp where that may be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median, quantiles
from typing import TYPE_CHECKING, NamedTuple

from gradlens.methods import BASELINE
from gradlens.reporting.aggregate import FinalValue, alignment_values, final_values
from gradlens.reporting.html.wording import in_words
from gradlens.reporting.statistics import Interval, holm, interval, paired_p
from gradlens.training.metrics import held_out
from gradlens.training.run_groups import alike, pairs_by_seed

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


MACHINE = ("device", "threads")  # facts of a run that must be equal for times to be comparable
NORMAL_95 = 1.959964  # a normal deviate lies within ± this in 95 of 100 draws
NOTHING = Interval(math.nan, math.nan, math.nan, 0)


class BaselineComparison(NamedTuple):
    """A group beside bp on the same data and network."""

    label: str  # the bp group's
    points: Interval  # final accuracy minus bp's, a share; over the seeds both have, pair by pair
    p: float  # of the paired t-test that there is none, corrected for all groups that stand beside a baseline (Holm); NaN below two pairs
    time: Interval  # time an image as a multiple of bp's; over the seeds both have; NaN where it was timed otherwise
    times_differ: bool  # by the interval, or with one seed by epochs that do not overlap
    longer: str  # "15 epochs against 5" where the two were not trained equally long


class MethodSummary(NamedTuple):
    """Summary of one group of runs."""

    label: str
    method: str
    runs: Sequence[Run]
    layers: list[FinalValue]  # final cosines of the weight gradients, bottom first
    seeds: dict[int, float]  # seed -> mean cosine of the layers below the output block that have one in every seed
    below: Interval  # the same over seeds
    counted: int  # these layers
    possible: int  # all layers below the output block; all there are, where there is one block only
    idle: list[str]  # layers whose gradient is exactly zero at the end
    trained: bool  # a gradient was recorded after the first update: else all cosines are the untrained network's
    worst: FinalValue | None  # the layer of the lowest cosine
    chance: Interval  # the null cosine there, at the last steps that recorded one
    above_chance: Interval  # cosine minus null cosine at those steps, seed by seed
    split: str  # the held-out one; "" without
    accuracy: Interval  # final, a share
    best: Interval  # each seed's best epoch
    images: int  # held-out images that a run's accuracy is of; 0 where that was not stored
    pace_varies: float  # how much epochs of one run differ in time: the middle half's range over the median, of the least steady run
    against: BaselineComparison | None


def below_top(layers: Sequence[str]) -> list[str]:
    """Return the layers below the output block, whose gradient most rules leave as it is; all of them where there is only one block.

    >>> below_top(["block1.conv", "block2.conv", "top.hidden", "top.out"])
    ['block1.conv', 'block2.conv']
    """
    block = [name.split(".")[0] for name in layers]
    return [name for name, own in zip(layers, block, strict=True) if own != block[-1]] or list(layers)


def _reference(group: Sequence[Run], groups: Mapping[str, Sequence[Run]]) -> str | None:
    """Return the bp group on the same data and network, with the fewest other settings that differ."""
    fitting = [label for label, other in groups.items() if other[0].config.method == BASELINE and alike(group, other)]
    mine = group[0].config.as_dict(exclude={"method", "options", "seed"})
    return min(
        fitting,
        key=lambda label: sum(groups[label][0].config.as_dict()[name] != value for name, value in mine.items()),
        default=None,
    )


def seconds_per_image(run: Run) -> list[float]:
    """Return the seconds per image of each epoch; evaluation excluded, recording included."""
    return [1 / row.images_per_s for row in run.timing if row.images_per_s > 0]


def _time(pairs: Sequence[tuple[Run, Run]]) -> tuple[Interval, bool]:
    """Compute the time an image as a multiple of the other's: medians of epochs, then the geometric mean over seeds with its interval."""
    timed = [(seconds_per_image(a), seconds_per_image(b)) for a, b in pairs if all(a.info.get(k) == b.info.get(k) for k in MACHINE)]
    timed = [(a, b) for a, b in timed if a and b]
    logs = interval(math.log(median(a) / median(b)) for a, b in timed)
    found = Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n)
    if found.n == 1:
        ((a, b),) = timed
        return found, max(a) < min(b) or max(b) < min(a)
    return found, found.low > 1 or found.high < 1


def _pace_varies(group: Sequence[Run]) -> float:
    """Return how steady the machine was: the range of the middle half of a run's epochs over their median; the largest of the runs."""
    timed = [times for run in group if len(times := seconds_per_image(run)) > 1]
    spreads = [(q[2] - q[0]) / q[1] for times in timed for q in [quantiles(times, n=4, method="inclusive")]]
    return max(spreads, default=0.0)


def chance_limit(a: MethodSummary, b: MethodSummary) -> float:
    """Return the difference of accuracies up to which the draw of the held-out images alone explains it, in 19 of 20 draws; NaN if unknown.

    Half the interval of Agresti and Caffo (2000): two binomials, with one correct and one wrong prediction added to each. Both predict
    the same images, so their errors mostly go together and the real limit is lower; another seed's training is not in it.
    """
    if not (a.images and b.images and math.isfinite(a.accuracy.mean) and math.isfinite(b.accuracy.mean)):
        return math.nan
    variance = 0.0
    for s in (a, b):
        share = (s.accuracy.mean * s.images + 1) / (s.images + 2)
        variance += share * (1 - share) / (s.images + 2)
    return NORMAL_95 * math.sqrt(variance)


def _against(group: Sequence[Run], label: str, groups: Mapping[str, Sequence[Run]]) -> BaselineComparison:
    pairs = pairs_by_seed(group, groups[label])
    ends = [(held_out(a.metrics), held_out(b.metrics)) for a, b in pairs]
    differences = [a[-1].accuracy - b[-1].accuracy for a, b in ends if a and b and a[-1].split == b[-1].split]
    points = interval(differences)
    if not points.n and not pairs:  # no seed in common: means can be subtracted, but nothing is paired
        mean = [interval(h[-1].accuracy for run in runs if (h := held_out(run.metrics))).mean for runs in (group, groups[label])]
        points = Interval(mean[0] - mean[1], math.nan, math.nan, 0)
    return BaselineComparison(label, points, paired_p(differences), *_time(pairs), _lengths(group[0], groups[label][0]))


def _lengths(run: Run, other: Run) -> str:
    """Return how long two runs are trained by their configs, where that differs."""
    for name in ("epochs", "steps"):
        mine, theirs = run.config.as_dict()[name], other.config.as_dict()[name]
        if mine != theirs:
            return f"{in_words(mine)} {name} against {in_words(theirs)}"
    return ""


def _mean_cosines(group: Sequence[Run], layers: Sequence[str]) -> tuple[dict[int, float], int]:
    """Return a dict seed -> the mean cosine of those layers that have one in every seed; and how many these are."""
    seeds = {run.config.seed: {row.layer: row.mean for row in final_values([run], "cosine")} for run in group}
    seeds = {seed: rows for seed, rows in seeds.items() if rows}
    shared = [name for name in layers if seeds and all(math.isfinite(rows.get(name, math.nan)) for rows in seeds.values())]
    return {seed: fmean(rows[name] for name in shared) for seed, rows in seeds.items() if shared}, len(shared)


def _above_chance(group: Sequence[Run], layer: str) -> tuple[Interval, Interval]:
    """Return a layer's null cosine, and by how much its cosine is above it at the same steps, seed by seed."""
    found = [{row.quantity: row.mean for row in alignment_values([run]) if row.layer == layer} for run in group]
    found = [seed for seed in found if {"cosine", "null_cosine"} <= set(seed)]
    return interval(seed["null_cosine"] for seed in found), interval(seed["cosine"] - seed["null_cosine"] for seed in found)


def method_summaries(groups: Mapping[str, Sequence[Run]]) -> list[MethodSummary]:
    """Return where each group of runs stands, in the groups' order.

    Args:
        groups: label -> the runs of all seeds, from :func:`gradlens.training.run_groups.group_runs`.

    """
    runs = [run for group in groups.values() for run in group]
    cosines, norms = final_values(runs, "cosine"), final_values(runs, "norm_ratio")
    found = []
    for label, group in groups.items():
        layers = [row for row in cosines if row.label == label]
        below = below_top([row.layer for row in layers]) if layers else []
        cosines_below, counted = _mean_cosines(group, below)
        worst = min((row for row in layers if math.isfinite(row.mean)), key=lambda row: row.mean, default=None)
        ends = [rows for run in group if (rows := held_out(run.metrics))]
        splits = {row.split for rows in ends for row in rows}
        split = splits.pop() if len(splits) == 1 else ""
        reference = _reference(group, groups) if group[0].config.method != BASELINE else None
        chance, above = _above_chance(group, worst.layer) if worst else (NOTHING, NOTHING)
        found.append(
            MethodSummary(
                label, group[0].config.method, group, layers, cosines_below, interval(cosines_below.values()), counted, len(below),
                [row.layer for row in norms if row.label == label and row.mean == 0 and not row.dropped],
                any(row.step > 0 for run in group for row in (*run.gradients, *run.measured)), worst, chance, above, split,
                interval(rows[-1].accuracy for rows in ends) if split else NOTHING,
                interval(max((m.accuracy for m in rows if math.isfinite(m.accuracy)), default=math.nan) for rows in ends)
                if split else NOTHING,
                int((group[0].info.get("images") or {}).get(split, 0)),
                max(_pace_varies(group), _pace_varies(groups[reference]) if reference else 0.0),
                _against(group, reference, groups) if reference else None,
            )
        )  # fmt: skip
    return corrected(found)


def corrected(found: Sequence[MethodSummary]) -> list[MethodSummary]:
    """Return the summaries with their p values corrected for the number of groups that stand beside a baseline."""
    ps = iter(holm([s.against.p for s in found if s.against]))
    return [s._replace(against=s.against._replace(p=next(ps))) if s.against else s for s in found]
