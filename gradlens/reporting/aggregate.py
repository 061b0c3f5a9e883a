"""Runs in, small long tables out: means and intervals over seeds. Pure functions; nothing here trains or imports torch.

A *group* is the set of runs whose configs are equal but for the seed; each row of a table describes one group, named by its label.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from gradlens.gradients.layer_names import is_norm
from gradlens.reporting.statistics import interval
from gradlens.runtime.errors import InputError
from gradlens.training.metrics import ACCURACY, TRAIN, best_held_out, held_out, score_of
from gradlens.training.run_groups import group_runs
from gradlens.training.run_progress import recorded_only_untrained

if TYPE_CHECKING:  # these modules import torch
    from gradlens.training.config import Config
    from gradlens.training.run_directory import Run


class CurvePoint(NamedTuple):
    """One epoch of a learning curve."""

    label: str
    split: str  # train, train-eval, test, validation
    quantity: str  # loss, accuracy (share), the task's score
    epoch: int  # 0: the untrained network
    mean: float
    low: float
    high: float
    seeds: int  # seeds that reached this epoch


class LayerPoint(NamedTuple):
    """One recorded step of one layer."""

    label: str
    layer: str
    kind: str  # weight, bias, parameters, activation, rule: as in gradients.csv
    quantity: str
    step: int  # updates made before the batch
    mean: float
    low: float
    high: float
    seeds: int  # seeds with a finite value
    dropped: int  # seeds with a value that is NaN (an exact zero has no direction) or infinite


class FinalValue(NamedTuple):
    """Final value of a layer's quantity: its mean over the recorded steps of the last epoch that recorded it."""

    label: str
    layer: str
    kind: str
    quantity: str
    mean: float
    low: float
    high: float
    seeds: int  # seeds with a finite value in that epoch
    dropped: int  # recorded values left out as NaN or infinite, over all seeds


class Score(NamedTuple):
    """One line of a results table."""

    label: str
    lr: float
    seeds: int
    split: str  # the held-out one: test, or validation where the config holds out training images
    best_score: float  # an accuracy as a share; each seed's best epoch, then the mean over seeds
    best_low: float
    best_high: float
    best_epoch: float  # median over seeds; the earliest of equals
    final_score: float
    final_low: float
    final_high: float
    train_loss: float  # last epoch, mean over seeds
    test_loss: float  # of ``split``
    images_per_s: float  # median over epochs and seeds
    score_name: str = ACCURACY


# ------------------------------------------------------------------------------------------------------------ groups


SUPERVISED_TRUTH = "loss, same passes"  # what "true" means by default


def truths(runs: Sequence[Run]) -> list[str]:
    """Explain "true" where the true gradient is not the loss's on the same passes, a sentence each, from the rows' references."""
    methods_of: dict[str, dict[str, None]] = {}
    for run in runs:
        for reference in dict.fromkeys(row.reference for row in run.gradients if row.kind == "weight"):
            if reference != SUPERVISED_TRUTH:
                methods_of.setdefault(reference, {})[run.config.method] = None
    return [f"true for {', '.join(methods)}: the gradient of the {reference}" for reference, methods in methods_of.items()]


def recorded_untrained(runs: Sequence[Run]) -> list[str]:
    """List the labels of runs with recorded gradients of the first update only, the untrained network's: no final ones."""
    return [label for label, group in group_runs(runs).items() if any(map(recorded_only_untrained, group))]


# ----------------------------------------------------------------------------------------------------------- titles


def runs_title(runs: Sequence[Run]) -> str:
    """Return data and model of runs, for a figure's title."""
    return configs_title([run.config for run in runs])


def configs_title(configs: Sequence[Config]) -> str:
    """Return data and model of configs, for a figure's title; several are all named, so that no one compares them by mistake."""
    data = dict.fromkeys(Path(config.data.name).name for config in configs)
    return f"{' / '.join(data)} · {' / '.join(dict.fromkeys(config.model.name for config in configs))}"


# ------------------------------------------------------------------------------------------------------------ tables


def curve_points(runs: Sequence[Run]) -> list[CurvePoint]:
    """Return learning curves of every split, without smoothing; seeds that stopped earlier leave the later epochs to the rest."""
    rows = []
    for label, group in group_runs(runs).items():
        found: dict[tuple[str, str, int], list[float]] = {}
        for metric in (m for run in group for m in run.metrics):
            found.setdefault((metric.split, "loss", metric.epoch), []).append(metric.loss)
            found.setdefault((metric.split, ACCURACY, metric.epoch), []).append(metric.accuracy)
            if metric.score_name not in ("", ACCURACY):
                found.setdefault((metric.split, metric.score_name, metric.epoch), []).append(metric.score)
        for split, quantity, epoch in sorted(found):
            rows.append(CurvePoint(label, split, quantity, epoch, *interval(found[split, quantity, epoch])))
    return rows


def _recorded(run: Run, quantity: str, kind: str, norms: bool = False) -> dict[tuple[str, int], float]:
    """Return a dict (layer, step) -> value. Where a step was both recorded and measured later, the recorded batch counts."""
    found: dict[tuple[str, int], float] = {}
    for rows in (run.gradients, run.measured):
        for row in rows:
            if row.quantity == quantity and row.kind == kind and (norms or not (kind == "weight" and is_norm(row.layer))):
                found.setdefault((row.layer, row.step), row.value)
    return found


def layer_points(runs: Sequence[Run], quantity: str, kind: str = "weight") -> list[LayerPoint]:
    """Return a quantity of every layer at every recorded step, layers bottom first.

    Args:
        runs: several methods, several seeds each.
        quantity: as in ``gradients.csv``: cosine, norm_ratio, …
        kind: ``weight`` (convolutional and linear layers), or ``activation``, ``parameters``, ``rule`` (blocks).

    """
    found = {label: [_recorded(run, quantity, kind) for run in group] for label, group in group_runs(runs).items()}
    order = _first_seen(layer for group in found.values() for values in group for layer, _ in values)
    rows = []
    for label, group in found.items():
        seeds: dict[tuple[str, int], list[float]] = {}
        for values in group:
            for cell, value in values.items():
                seeds.setdefault(cell, []).append(value)
        for layer, step in sorted(seeds, key=lambda cell: (order[cell[0]], cell[1])):
            here = interval(seeds[layer, step])
            rows.append(LayerPoint(label, layer, kind, quantity, step, *here, len(seeds[layer, step]) - here.n))
    return rows


def _first_seen(names: Iterable[str]) -> dict[str, int]:
    """Return a dict name -> its place; rows are recorded bottom layer first, so this is the layers' order."""
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _last_epoch(run: Run, steps: Iterable[int]) -> set[int]:
    """Return those of the given steps that lie in the last epoch any of them lies in.

    A metrics row holds how many updates had been made at the end of its epoch; a recorded step how many had been
    made before it, so the step equal to an end belongs to the epoch after it. Only what was measured after the very last
    update (of a finished run) has no epoch after it, and belongs to the last.
    """
    ends = sorted({m.step for m in run.metrics if m.epoch > 0})
    last = len(ends) - 1 if run.finished and ends else len(ends)
    epoch = {step: min(bisect_right(ends, step), last) for step in steps}
    return {step for step, e in epoch.items() if e == max(epoch.values())}


def _final(run: Run, quantity: str, kind: str, norms: bool = False) -> dict[str, list[float]]:
    """Return a dict layer -> what the last epoch recorded of it."""
    values = _recorded(run, quantity, kind, norms)
    last = _last_epoch(run, {step for _, step in values})
    found: dict[str, list[float]] = {}
    for (layer, step), value in values.items():
        if step in last:
            found.setdefault(layer, []).append(value)
    return found


def final_values(runs: Sequence[Run], quantity: str, kind: str = "weight", norms: bool = False) -> list[FinalValue]:
    """Return each layer's value at the end of training, layers bottom first: the mean over the last recorded epoch, then over seeds.

    Args:
        runs: several methods, several seeds each.
        quantity: as in ``gradients.csv``.
        kind: as for :func:`layer_points`.
        norms: whether the scales of normalisation layers count as weights.

    """
    found = {label: [_final(run, quantity, kind, norms) for run in group] for label, group in group_runs(runs).items()}
    order = _first_seen(layer for group in found.values() for values in group for layer in values)
    rows = []
    for label, group in found.items():
        for layer in order:
            if seeds := [values[layer] for values in group if layer in values]:
                means = [interval(steps) for steps in seeds]
                dropped = sum(map(len, seeds)) - sum(mean.n for mean in means)
                rows.append(FinalValue(label, layer, kind, quantity, *interval(mean.mean for mean in means), dropped))
    return rows


def alignment_values(runs: Sequence[Run]) -> list[FinalValue]:
    """Return each layer's ``cosine``, ``null_cosine`` and ``noise_corrected`` cosine at the end of training, all of the same steps.

    The steps are those of the last epoch that recorded nulls while training. The noise-corrected cosine is made of each seed's means
    over them: a mean of ratios would be dominated by the steps with a ceiling near zero.
    """
    parts = ("cosine", "null_cosine", "across_halves", "noise_ceiling", "rule_ceiling")
    found = {label: [_with_nulls(run, parts) for run in group] for label, group in group_runs(runs).items()}
    order = _first_seen(layer for group in found.values() for values in group for layer, _ in values)
    rows = []
    for label, group in found.items():
        for layer in order:
            seeds = [{part: values[layer, part] for part in parts if (layer, part) in values} for values in group]
            seeds = [seed for seed in seeds if "null_cosine" in seed]
            for quantity in ("cosine", "null_cosine"):
                if seeds:
                    here = interval(seed[quantity] for seed in seeds)
                    rows.append(FinalValue(label, layer, "weight", quantity, *here, len(seeds) - here.n))
            if whole := [without_noise(*(seed[part] for part in parts[2:])) for seed in seeds if len(seed) == len(parts)]:
                here = interval(whole)
                rows.append(FinalValue(label, layer, "weight", "noise_corrected", *here, len(whole) - here.n))
    return rows


def _with_nulls(run: Run, quantities: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return a dict (layer, quantity) -> mean over the steps of the last epoch that recorded nulls in training."""
    steps = {row.step for row in run.gradients if row.quantity == "null_cosine"}
    last = _last_epoch(run, steps) if steps else set()
    found: dict[tuple[str, str], list[float]] = {}
    for row in run.gradients:
        if row.step in last and row.quantity in quantities and row.kind == "weight" and not is_norm(row.layer):
            found.setdefault((row.layer, row.quantity), []).append(row.value)
    return {key: interval(values).mean for key, values in found.items()}


def without_noise(across: float, noise_ceiling: float, rule_ceiling: float) -> float:
    """Return the cosine of rule and truth on a batch without noise: cos(rule A, truth B) / √(cos(truth A, truth B) · cos(rule A, rule B)).

    Spearman's correction for attenuation. Dividing by the truth's ceiling alone, as the recorded ``corrected_cosine`` does, is right
    only for a rule that is exactly as noisy as the truth. NaN where a ceiling is not above zero: nothing can be concluded then.
    """
    product = noise_ceiling * rule_ceiling
    return across / math.sqrt(product) if noise_ceiling > 0 and rule_ceiling > 0 else math.nan


def descent_points(runs: Sequence[Run]) -> list[LayerPoint]:
    """Return measured over predicted change of the loss at every diagnosed step, each a mean over seeds first; without an interval."""
    predicted, measured = (layer_points(runs, name, "descent") for name in ("predicted_change", "measured_change"))
    change = {(p.label, p.step): p.mean for p in measured if p.layer == "network"}
    return [
        p._replace(quantity="descent_ratio", mean=change[p.label, p.step] / p.mean if p.mean else math.nan, low=math.nan, high=math.nan)
        for p in predicted
        if p.layer == "network" and (p.label, p.step) in change
    ]


def _held_out(label: str, group: Sequence[Run]) -> str:
    """Return the group's held-out split."""
    splits = sorted({m.split for run in group for m in held_out(run.metrics)})
    if len(splits) != 1:
        what = f"several: {', '.join(splits)}" if splits else "none"
        raise InputError(f"{label}: expected one held-out split in metrics.csv, found {what} ({group[0].path})")
    return splits[0]


def scores(runs: Sequence[Run]) -> list[Score]:
    """Return best and final results of each group.

    Raises:
        InputError: a group without a held-out split in its metrics (a run stopped before its first evaluation).

    """
    rows = []
    for label, group in group_runs(runs).items():
        split = _held_out(label, group)
        tests = [test for run in group if (test := [m for m in run.metrics if m.split == split])]
        trains = [train for run in group if (train := [m for m in run.metrics if m.split == TRAIN])]
        bests = [best_held_out(run.metrics) for run in group if held_out(run.metrics)]
        speeds = [row.images_per_s for run in group for row in run.timing]
        rows.append(
            Score(
                label, group[0].config.optimizer.lr, len(tests), split,
                *interval(map(score_of, bests))[:3], float(median(m.epoch for m in bests)),
                *interval(score_of(test[-1]) for test in tests)[:3],
                interval(train[-1].loss for train in trains).mean, interval(test[-1].loss for test in tests).mean,
                median(speeds) if speeds else math.nan, bests[0].score_name or ACCURACY,
            )
        )  # fmt: skip
    return rows
