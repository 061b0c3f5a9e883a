"""The doctor's checks of how a run went: finished, finite, better than guessing, features, loss spikes, overfitting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from gradlens.analysis.activations import FORWARD_BATCH, collect_activations, load_snapshots
from gradlens.analysis.doctor_evidence import LAST_STEPS, WATCH, WRONG, MissingEvidence, RunView, Series, Symptom, graded, need_steps
from gradlens.analysis.representation_similarity import effective_rank, spectrum
from gradlens.gradients.layer_names import is_norm
from gradlens.gradients.losses import NONE
from gradlens.runtime.errors import InputError
from gradlens.runtime.step_context import step_context
from gradlens.tasks.registry import TASKS
from gradlens.training.batches import updates_per_epoch
from gradlens.training.metrics import TRAIN
from gradlens.training.run_directory import Metric

CHANCE_ERRORS = 3.0  # standard errors above the most frequent class's share that are still chance: one guessing run in 700 lies higher
RANK_WRONG = 1.5  # effective rank of a block's activations: one direction holds nearly everything
RANK_WATCH = 3.0  # ten classes in two directions; trained or not, BasicCNN's blocks stood at 5.7 and above (8 channels), on CIFAR-10 197
ROUNDING = 1e-5  # of the largest activation: rows of float32 that differ by less are equal
SPIKE_WIDTH = 7  # recorded losses that the median before a spike is taken of
SPIKE_DEVIATIONS = 6.0  # of the noise, a robust standard deviation
SPIKE_MATERIAL = 0.1  # … and this share of the loss of guessing, for near zero every loss jumps by factors
SPIKE_EPOCH = 1.5  # an epoch's loss over those of the epochs beside it
SPIKE_RECORDS = 8  # recorded losses below which nothing is called a spike: of 8 losses of pure noise 1.6 % have one by chance, of 10 1.5 %
CHANCE_UPDATES = 50  # updates below which an accuracy at chance is no failure: on digits fa, which learns late, left it after 20
OVERFIT_WATCH = 1.1  # test loss over its best, with the training loss still falling
OVERFIT_WRONG = 1.5  # bp on 6,000 images of CIFAR-10 came to 1.2 in five epochs
OVERFIT_GAP = 0.2  # … and training accuracy ahead by 20 points: a test loss that rises alone is only overconfidence
IMAGES = 400  # for the activations' rank
PURE_NOISE = 0.9  # share of random labels from which chance accuracy on the test images is expected


def unfinished(seen: RunView) -> list[Symptom]:
    """Check that the run reached its last update."""
    config = seen.run.config
    if seen.run.finished:
        return []
    total = config.epochs * updates_per_epoch(seen.run.info["images"][TRAIN], config)
    total = total if config.steps is None else min(total, config.steps)
    done = max((m.step for m in seen.run.metrics), default=0)
    return [Symptom(WATCH, "run", done, done, total, f"{done} of {total} updates at its last evaluation, and no summary.json")]


def not_finite(seen: RunView) -> list[Symptom]:
    """Check that losses and norms are numbers. (A cosine is NaN where a gradient is exactly zero: that is another check's.)"""
    rows = [(m.split, "loss", m.step, m.loss) for m in seen.run.metrics]
    sized = ("norm", "true_norm", "loss", "measured_change", "predicted_change")
    rows += [(row.layer, row.quantity, row.step, row.value) for row in seen.run.gradients if row.quantity in sized]
    bad = [row for row in rows if not math.isfinite(row[3])]
    if not bad:
        return []
    where, quantity, step, value = min(bad, key=lambda row: row[2])
    text = f"{quantity} of {where} is {value} at step {step}, the first of {len(bad)} such rows"
    return [Symptom(WRONG, where, step, len(bad), 0, text)]


def at_chance(seen: RunView) -> list[Symptom] | None:
    """Check that the network predicts better than guessing."""
    if seen.untrained or seen.run.config.data.label_noise >= PURE_NOISE:
        return None
    if TASKS[seen.run.config.task].score_name not in ("accuracy", "perplexity"):
        return None  # a score of ranks or distances: the most frequent class may be the best prediction
    last = seen.evaluated()[-1]
    if not math.isfinite(last.accuracy):
        return None  # a rule without labels
    p, items = _most_frequent(seen, last.split)
    limit = p + CHANCE_ERRORS * math.sqrt(p * (1 - p) / items)
    if last.accuracy > limit:
        return []
    if last.step < CHANCE_UPDATES:
        raise MissingEvidence(f"too short to evaluate: {last.step} update{'s' * (last.step != 1)}, expected {CHANCE_UPDATES}")
    text = f"{last.split} accuracy is {last.accuracy:.1%} after epoch {last.epoch}; guessing, one class for all, gives {p:.1%}"
    return [Symptom(WRONG, last.split, last.step, last.accuracy, limit, text)]


def _most_frequent(seen: RunView, split: str) -> tuple[float, int]:
    """Return the share of the most frequent class among the items of a split, and their number; without the data 1/C and the examples."""
    try:
        data = seen.run.data(context=seen.context)
    except InputError:
        return 1 / seen.classes, seen.run.info["images"][split]
    y = (data.test if split == data.test_name or data.selection is None else data.selection).y
    known = y[y != NONE]
    return float(known.bincount().max()) / len(known), len(known)


def effective_rank_of_rows(x: Tensor) -> float:
    """Return the effective rank of features x [N, d], centred; 0 where all rows are equal but for rounding."""
    spread = (x - x.mean(0)).abs().max()
    return effective_rank(spectrum(x)) if spread > ROUNDING * x.abs().max() else 0.0


def collapse(seen: RunView) -> list[Symptom]:
    """Check that the activations of every block below the output block vary in more than one direction."""
    run = seen.run
    try:
        data = run.data(context=seen.context)
        (frozen,) = load_snapshots(run, seen.context)
    except InputError as error:
        raise MissingEvidence(f"it needs the checkpoint and the images, and {error}") from error
    chosen = torch.linspace(0, len(data.test) - 1, min(IMAGES, len(data.test))).round().long()  # folders are sorted by class
    task, test = TASKS[run.config.task], data.test if TASKS[run.config.task].one_batch else data.test.take(chosen)
    made = task.batch(test.to(seen.context.device), -1, run.config)
    try:
        with step_context(made.context):
            activations = collect_activations(  # the output block gives as many as there are classes
                frozen, made.x, blocks=frozen.names[:-1], batch=len(made.x) if task.one_batch else FORWARD_BATCH, rows=task.per_item
            )
    except InputError as error:  # numbers that are not finite, the block named
        return [Symptom(WRONG, "run", frozen.step, math.nan, RANK_WRONG, str(error))]
    found = []
    for block, x in activations.items():
        spread = effective_rank_of_rows(x)
        if grade := graded(spread, RANK_WATCH, RANK_WRONG):
            text = f"the activations of {block} have an effective rank of {spread:.3g} ({len(x)} {task.item}s, {frozen.step} updates)"
            found.append(Symptom(grade[0], block, frozen.step, spread, grade[1], text))
    return found


def jumps(series: Series, material: float) -> Iterator[tuple[int, float, float]]:
    """Yield (place, value, baseline) of values far above the median of those before them, only the peak of neighbours.

    Out means by ``material`` and by SPIKE_DEVIATIONS of the noise, which is the scaled median absolute deviation of the changes from one
    value to the next, over √2: a falling trend is no noise.
    """
    before = [[v for _, v in series[max(0, i - SPIKE_WIDTH) : i]] for i in range(len(series))]
    residual = [v - median(b) if len(b) >= LAST_STEPS else math.nan for (_, v), b in zip(series, before, strict=True)]
    changes = [b - a for (_, a), (_, b) in pairwise(series)]
    middle = median(changes)
    noise = 1.4826 * median(abs(change - middle) for change in changes) / math.sqrt(2)
    limit = max(material, SPIKE_DEVIATIONS * noise)
    for i, r in enumerate(residual):
        beside = [residual[j] for j in (i - 1, i + 1) if 0 <= j < len(residual) and math.isfinite(residual[j])]
        plateau = i > 0 and residual[i - 1] == r  # reported once, where it begins
        if r > limit and not plateau and all(r >= other for other in beside):
            yield i, series[i][1], median(before[i])


def _moved(seen: RunView, step: int) -> str:
    """Return which layer's gradient jumped most at a step, against the median of the steps before it."""
    factors = {}
    for layer, series in seen.of("weight", "norm").items():
        before = [v for s, v in series if s < step and math.isfinite(v)][-SPIKE_WIDTH:]
        here = [v for s, v in series if s == step]
        if here and before and median(before) > 0 and math.isfinite(here[0]) and not is_norm(layer):
            factors[layer] = here[0] / median(before)
    if not factors:
        return "no layer's gradient can be compared there"
    layer = max(factors, key=lambda name: factors[name])
    return f"largest change: {layer}, its gradient was {factors[layer]:.3g} times its usual length"


def spikes(seen: RunView) -> list[Symptom] | None:
    """Check that the loss does not jump up: from epoch to epoch, and from recorded step to recorded step at the output block."""
    if seen.untrained:
        return None
    material = SPIKE_MATERIAL * seen.guessing
    found = [s for split in (TRAIN, seen.evaluated()[-1].split) for s in _epoch_spikes(split, seen.epochs(split), material)]
    top = seen.blocks[-1] if seen.blocks else ""
    series = [p for p in seen.series.get((top, "rule", "loss"), []) if math.isfinite(p[1])]
    if len(series) < SPIKE_RECORDS:
        if found:
            return found
        need_steps(len(series), SPIKE_RECORDS)
    for i, value, baseline in jumps(series, material):
        text = f"the loss is {value:.3g} at step {series[i][0]}, the median before it {baseline:.3g}; {_moved(seen, series[i][0])}"
        found.append(Symptom(WATCH, top, series[i][0], value - baseline, material, text))
    return found


def _epoch_spikes(split: str, rows: Sequence[Metric], material: float) -> Iterator[Symptom]:
    """Find epochs with a loss far above both neighbours, and a training loss that ends far above its best; rows without epoch 0."""

    def high(m: Metric, base: float) -> bool:
        return m.loss > SPIKE_EPOCH * base and m.loss - base > material

    for before, here, after in zip(rows, rows[1:], rows[2:], strict=False):
        base = max(before.loss, after.loss)
        if high(here, base):
            text = f"the {split} loss is {here.loss:.3g} in epoch {here.epoch}, between {before.loss:.3g} and {after.loss:.3g}"
            yield Symptom(WATCH, split, here.step, here.loss / base, SPIKE_EPOCH, text)
    best = min(rows, key=lambda m: m.loss)
    if split == TRAIN and high(rows[-1], best.loss):
        text = f"the training loss ends at {rows[-1].loss:.3g} in epoch {rows[-1].epoch} and was {best.loss:.3g} in epoch {best.epoch}"
        yield Symptom(WRONG, split, rows[-1].step, rows[-1].loss / best.loss, SPIKE_EPOCH, text)


def overfitting(seen: RunView) -> list[Symptom] | None:
    """Check that the test loss does not rise from its best while the training loss falls."""
    if seen.untrained or seen.run.config.data.label_noise >= PURE_NOISE:
        return None
    test = seen.evaluated()
    train = {m.epoch: m for m in seen.epochs(TRAIN)}
    best, last = min(test, key=lambda m: (not math.isfinite(m.loss), m.loss)), test[-1]
    then, now = train[best.epoch], train[last.epoch]
    rise, gap = last.loss / best.loss if best.loss else math.nan, now.accuracy - last.accuracy
    if not rise >= OVERFIT_WATCH or now.loss >= then.loss:
        return []
    wrong = rise >= OVERFIT_WRONG and gap >= OVERFIT_GAP
    text = (
        f"the {last.split} loss rose from {best.loss:.3g} (epoch {best.epoch}) to {last.loss:.3g} (epoch {last.epoch}) while the training "
        f"loss fell from {then.loss:.3g} to {now.loss:.3g}; accuracy {now.accuracy:.1%} in training, {last.accuracy:.1%} in {last.split}"
    )
    return [Symptom(WRONG if wrong else WATCH, last.split, last.step, rise, OVERFIT_WRONG if wrong else OVERFIT_WATCH, text)]
