"""What may have gone wrong in a run, read from its directory: one small check for each way of failing, thresholds with their reasons.

A finding is *wrong* where the run does not do what its rule is meant to do, and something to *watch* where it may be meant so. A check
that lacks what it needs says why; one that does not concern the rule (bp has no synthesiser) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from gradlens.activations import collect, networks
from gradlens.data import SHAPES
from gradlens.errors import InputError
from gradlens.feedback import Switched
from gradlens.gradients_layer_names import is_norm
from gradlens.local import LocalLosses
from gradlens.methods import METHODS
from gradlens.run import Metric, Run
from gradlens.runtime_progress import Progress, no_progress
from gradlens.similarity import effective_rank, spectrum
from gradlens.training_context import Place, data_of
from gradlens.training_metrics import TRAIN, TRAIN_EVAL
from gradlens.training_step import batches_per_epoch

WRONG, WATCH = "wrong", "watch"
RESULT = "doctor"  # the name it is stored under in a run directory

# ------------------------------------------------------------------------------------------------------ the thresholds

LATE = 3  # recorded steps that "the end" is made of at least: a single batch is an accident
CHANCE_ERRORS = 3.0  # standard errors above 1/C that an accuracy may lie and still be chance: one guessing run in 700 lies higher
DEAD_SHARE = 0.97  # of the loss of guessing: live heads stood at 0.81 or below within an epoch of 6,000 images, dead ones at 1.00
SYNTH_WATCH = 0.0  # explained variance of a synthesiser: at 0 the batch's mean gradient would do as well
SYNTH_WRONG = -0.05  # … and here worse: synthesisers at zero scattered by 0.01 about it from seed to seed
SYNTH_BAND = 10.0  # norm ratio of a block told by a synthesiser, either way: the documents' own dni, at 14 to 320, learned by its top alone
DRIFT_WATCH = 3.0  # feedback / weights, farther from 1 than at first: through four such layers a message is 81 times off; fa came to 2.2
DRIFT_WRONG = 10.0  # … and 10,000 times; fa at ten times a good learning rate came to 6 and still learned
SPREAD_WATCH = 100.0  # longest / shortest gradient of a run's blocks: of 18 rules on CIFAR-10 all but fa stayed below 30
SPREAD_WRONG = 1e4  # fa came to 1,800 and still learned, its optimiser (Adam) making up for it; twelve sigmoid layers come to 4e9
GROWTH_WATCH = 100.0  # a block's gradient at the end over the one at first: of 18 rules on CIFAR-10 none grew more than 8 times
GROWTH_WRONG = 1e4
RANK_WRONG = 1.5  # effective rank of a block's activations: one direction holds nearly everything
RANK_WATCH = 3.0  # ten classes in two directions; trained or not, BasicCNN's blocks stood at 5.7 and above (8 channels), on CIFAR-10 197
ROUNDING = 1e-5  # of the largest activation: rows of float32 that differ by less are equal
STALE_WATCH = 1.0  # age of what a unit reads, in buffer lengths: about 1 where the unit below gives a batch every second round
STALE_WRONG = 3.0  # … about every sixth; a unit slowed three times cost 5 to 8 points
STARVED_SHARE = 0.5  # of the recorded rounds in which a unit had a turn
SPIKE_WIDTH = 7  # recorded losses that the median before a spike is taken of
SPIKE_DEVIATIONS = 6.0  # of the noise, a robust standard deviation
SPIKE_MATERIAL = 0.1  # … and this share of the loss of guessing, for near zero every loss jumps by factors
SPIKE_EPOCH = 1.5  # an epoch's loss over those of the epochs beside it
SPIKE_RECORDS = 10  # recorded losses below which nothing is called a spike
OVERFIT_WATCH = 1.1  # test loss over its best, with the training loss still falling
OVERFIT_WRONG = 1.5  # bp on 6,000 images of CIFAR-10 came to 1.2 in five epochs
OVERFIT_GAP = 0.2  # … and training accuracy ahead by 20 points: a test loss that rises alone is only overconfidence
IMAGES = 400  # for the activations' rank
PURE_NOISE = 0.9  # share of random labels from which chance on the test images is what one should see


class Unmade(Exception):
    """Why a check that concerns a run could not be made, in one clause."""


class Symptom(NamedTuple):
    """What a check saw."""

    severity: str  # wrong, watch
    where: str  # a block, a layer, a split, or run
    step: int  # updates made when it showed
    value: float  # what was compared with ``limit``
    limit: float  # the threshold that was crossed
    evidence: str  # the numbers in words, with layers and steps


class Finding(NamedTuple):
    """A symptom with what its check wanted and advises."""

    check: str  # a check's name
    severity: str
    where: str
    step: int
    value: float
    limit: float
    evidence: str
    threshold: str  # in words
    advice: str  # one sentence


class Diagnosis(NamedTuple):
    """What :func:`examine` found out about one run."""

    findings: list[Finding]  # the wrong ones first
    made: list[str]  # checks that were made
    unmade: dict[str, str]  # check -> why it could not be made
    not_applicable: list[str]  # checks that do not concern this rule

    @property
    def wrong(self) -> bool:
        """Whether anything is wrong; things to watch do not count."""
        return any(finding.severity == WRONG for finding in self.findings)


Series = list[tuple[int, float]]  # (updates made before, value), in order


@dataclass(frozen=True)
class Seen:
    """A run as the checks look at it."""

    run: Run
    place: Place

    @cached_property
    def series(self) -> dict[tuple[str, str, str], Series]:
        """(layer, kind, quantity) -> what was recorded of it, bottom layer first; what was measured later is left out."""
        found: dict[tuple[str, str, str], Series] = {}
        for row in self.run.gradients:
            found.setdefault((row.layer, row.kind, row.quantity), []).append((row.step, row.value))
        return found

    def of(self, kind: str, quantity: str) -> dict[str, Series]:
        """layer -> series, bottom first."""
        return {layer: series for (layer, k, q), series in self.series.items() if (k, q) == (kind, quantity)}

    @cached_property
    def blocks(self) -> list[str]:
        """The blocks that were measured, bottom first."""
        return list(self.of("parameters", "norm"))

    def evaluated(self) -> list[Metric]:
        """The rows of the test or validation images, one an epoch, without the untrained network's."""
        rows = [m for m in self.run.metrics if m.split not in (TRAIN, TRAIN_EVAL) and m.epoch > 0]
        if not rows:
            raise Unmade("no epoch has been evaluated yet")
        return rows

    def epochs(self, split: str) -> list[Metric]:
        """The rows of a split, one an epoch, without the untrained network's."""
        return [m for m in self.run.metrics if m.split == split and m.epoch > 0]

    def need_gradients(self) -> None:
        """A check of gradients needs some."""
        if not self.run.gradients:
            raise Unmade("no gradients were recorded" + " (--record-every 0)" * (not self.run.config.record_every))

    def live(self) -> dict[str, Series]:
        """block -> norms of the gradient it was told, but for exact zeros: a stage or the rule leaves a block alone there."""
        told = {block: [(s, v) for s, v in series if math.isfinite(v) and v > 0] for block, series in self.of("parameters", "norm").items()}
        return {block: series for block, series in told.items() if series}

    @property
    def untrained(self) -> bool:
        """The control of no epochs: nothing was to be learned."""
        return self.run.config.epochs == 0

    @property
    def synthetic(self) -> bool:
        """Whether blocks are told what synthesisers say."""
        return "synth_explained_variance" in METHODS[self.run.config.method].own_quantities

    @property
    def reads(self) -> frozenset[str]:
        """What the rule's blocks hear."""
        return METHODS[self.run.config.method].reads

    @cached_property
    def classes(self) -> int:
        """Number of classes: known of named data sets, elsewhere the width of the network's answer."""
        if self.run.config.data in SHAPES:
            return SHAPES[self.run.config.data][1]
        try:
            return len([w for w in self.run.checkpoint()["model"].values() if w.ndim == 2][-1])
        except (InputError, IndexError) as error:
            raise Unmade("the number of classes is not known without a checkpoint") from error

    @property
    def guessing(self) -> float:
        """The loss of the best answer that is the same for every image, of C classes that are equally frequent.

        ce: ln C; bce: C · H(1/C), with H(p) in nats; mse: ½ (1 − 1/C).
        """
        p = 1 / self.classes
        entropy = -p * math.log(p) - (1 - p) * math.log1p(-p) if p < 1 else 0.0
        return {"ce": -math.log(p), "bce": self.classes * entropy, "mse": 0.5 * (1 - p)}[self.run.config.loss]

    def late(self, series: Series) -> Series:
        """The end of a series: what it has of the last epoch that recorded it, LATE values at least."""
        ends = sorted({m.step for m in self.run.metrics if m.split == TRAIN})  # the step equal to an end belongs to the epoch after it
        last = series[-1][0]
        begins = max((end for end in ends if end <= last), default=0)
        return max([p for p in series if p[0] >= begins], series[-LATE:], key=len)


def values(series: Series) -> list[float]:
    """The finite values of a series."""
    return [value for _, value in series if math.isfinite(value)]


def span(series: Series) -> str:
    """In words, what a number was taken over."""
    return f"{len(series)} recorded steps, {series[0][0]} to {series[-1][0]}"


def graded(value: float, watch: float, wrong: float) -> tuple[str, float] | None:
    """(severity, the limit crossed) of a number that is the worse the further it lies from ``watch`` towards ``wrong``; None if it is well.

    A number that is not finite is wrong.

    >>> graded(2.0, 3.0, 10.0), graded(5.0, 3.0, 10.0), graded(-1.0, 0.0, -0.05)
    (None, ('watch', 3.0), ('wrong', -0.05))
    """
    sign = 1 if wrong > watch else -1
    if not math.isfinite(value) or sign * value >= sign * wrong:
        return WRONG, wrong
    return (WATCH, watch) if sign * value >= sign * watch else None


# ---------------------------------------------------------------------------------------------------------- the checks


def unfinished(seen: Seen) -> list[Symptom]:
    """The run reached its last update."""
    config = seen.run.config
    if seen.run.finished:
        return []
    total = config.epochs * batches_per_epoch(seen.run.info["images"][TRAIN], config.batch_size)
    total = total if config.steps is None else min(total, config.steps)
    done = max((m.step for m in seen.run.metrics), default=0)
    return [Symptom(WATCH, "run", done, done, total, f"{done} of {total} updates at its last evaluation, and no summary.json")]


def not_finite(seen: Seen) -> list[Symptom]:
    """Losses and norms are numbers. (A cosine is NaN where a gradient is exactly zero: that is another check's.)"""
    rows = [(m.split, "loss", m.step, m.loss) for m in seen.run.metrics]
    sized = ("norm", "true_norm", "loss", "measured_change", "predicted_change")
    rows += [(row.layer, row.quantity, row.step, row.value) for row in seen.run.gradients if row.quantity in sized]
    bad = [row for row in rows if not math.isfinite(row[3])]
    if not bad:
        return []
    where, quantity, step, value = min(bad, key=lambda row: row[2])
    text = f"{quantity} of {where} is {value} at step {step}, the first of {len(bad)} such rows"
    return [Symptom(WRONG, where, step, len(bad), 0, text)]


def at_chance(seen: Seen) -> list[Symptom] | None:
    """The network answers better than guessing."""
    if seen.untrained or seen.run.config.label_noise >= PURE_NOISE:
        return None
    last, p = seen.evaluated()[-1], 1 / seen.classes
    if not math.isfinite(last.accuracy):
        return None  # a rule without labels
    limit = p + CHANCE_ERRORS * math.sqrt(p * (1 - p) / seen.run.info["images"][last.split])
    if last.accuracy > limit:
        return []
    text = f"{last.split} accuracy is {last.accuracy:.1%} after epoch {last.epoch}; guessing among {seen.classes} classes gives {p:.1%}"
    return [Symptom(WRONG, last.split, last.step, last.accuracy, limit, text)]


def dead_head(seen: Seen) -> list[Symptom] | None:
    """Every local loss has fallen, and where it is the plain loss of a classifier, below that of guessing."""
    rule = METHODS[seen.run.config.method]
    if not issubclass(rule, LocalLosses) or seen.untrained or seen.run.config.label_noise:  # random labels are learned late
        return None
    seen.need_gradients()
    plain = rule.local_loss is LocalLosses.local_loss  # predsim's and infopro's are sums of several losses
    found = []
    for block, series in seen.of("rule", "loss").items():
        end, first = fmean(values(seen.late(series)) or [math.nan]), series[0][1]
        limit = DEAD_SHARE * seen.guessing if plain else first
        if block == seen.blocks[-1] or end < limit or len(series) < LATE:  # the top has no head; a loss before training says nothing
            continue
        against = f"guessing gives {seen.guessing:.3g}" if plain else f"it began at {first:.3g}"
        text = f"the local loss of {block} is {end:.3g} at the end ({span(seen.late(series))}); {against}"
        found.append(Symptom(WRONG, block, series[-1][0], end, limit, text))
    return found


def silent(seen: Seen) -> list[Symptom] | None:
    """No layer that the rule trains is told a gradient of exactly zero all the time."""
    if seen.untrained:
        return None
    seen.need_gradients()
    method = seen.run.config.method
    found = []
    for layer, series in seen.of("weight", "norm").items():
        # a stage of greedy and a turn of dgl-async come to a block at some steps only: one of them must be there
        end = series if method == "greedy" or "buffer" in seen.reads else seen.late(series)
        if is_norm(layer) or any(v != 0 for _, v in end):
            continue
        if method == "shallow" and layer.partition(".")[0] != seen.blocks[-1]:
            continue  # that is the rule
        text = f"the gradient {layer} was told is exactly zero at every one of {len(end)} recorded steps, {end[0][0]} to {end[-1][0]}"
        found.append(Symptom(WRONG, layer, end[-1][0], 0, 0, text))
    return found


def lagging(seen: Seen) -> list[Symptom] | None:
    """Synthesisers explain some of the gradient they predict."""
    if not seen.synthetic or seen.untrained:
        return None
    seen.need_gradients()
    found = []
    for block, series in seen.of("rule", "synth_explained_variance").items():
        end = seen.late(series)
        explained = median(values(end) or [math.nan])
        if grade := graded(explained, SYNTH_WATCH, SYNTH_WRONG):
            text = f"the synthesiser of {block} explains {explained:.3g} of the variance of its target ({span(end)})"
            found.append(Symptom(grade[0], block, end[-1][0], explained, grade[1], text))
    return found


def out_of_scale(seen: Seen) -> list[Symptom] | None:
    """What a synthesiser tells its block has the size of the true gradient, within a factor."""
    if not seen.synthetic or seen.untrained:
        return None
    seen.need_gradients()
    found = []
    for block in seen.of("rule", "synth_explained_variance"):
        end = seen.late(seen.series[block, "parameters", "norm_ratio"])
        ratio = median(values(end) or [math.nan])
        if not 1 / SYNTH_BAND <= ratio <= SYNTH_BAND:
            text = f"the gradient of {block} is {ratio:.3g} times as long as the true one ({span(end)})"
            found.append(Symptom(WRONG, block, end[-1][0], ratio, SYNTH_BAND if ratio > 1 else 1 / SYNTH_BAND, text))
    return found


def feedback_drift(seen: Seen) -> list[Symptom] | None:
    """Feedback keeps its size relative to the weights it stands for."""
    if not issubclass(METHODS[seen.run.config.method], Switched):
        return None
    seen.need_gradients()
    kind, of = ("feedback_jacobian", "the mean Jacobian") if "error" in seen.reads else ("feedback_transpose", "the weights")
    compared = seen.of(kind, "norm_ratio")
    if not compared:
        raise Unmade("feedback was compared with weights at no step (--diagnose-every)")
    found = []
    for layer, series in compared.items():
        (began, first), (ended, last) = series[0], series[-1]
        before, after = (max(ratio, 1 / ratio) if ratio > 0 else math.inf for ratio in (first, last))
        if grade := graded(after / before, DRIFT_WATCH, DRIFT_WRONG):  # dfa's begins too long by any factor; farther is what counts
            text = f"the feedback of {layer} was {first:.3g} times as long as {of} at step {began} and is {last:.3g} times at step {ended}"
            found.append(Symptom(grade[0], layer, ended, after / before, grade[1], text))
    return found


def vanishing(seen: Seen) -> list[Symptom] | None:
    """No block's gradient is shorter than another's by orders of magnitude."""
    if seen.untrained:
        return None
    seen.need_gradients()
    sizes = {block: median(values(seen.late(live))) for block, live in seen.live().items()}
    if len(sizes) < 2:
        return []
    low, high = min(sizes, key=lambda b: sizes[b]), max(sizes, key=lambda b: sizes[b])
    spread = sizes[high] / sizes[low]
    if not (grade := graded(spread, SPREAD_WATCH, SPREAD_WRONG)):
        return []
    text = f"the gradient of {low} is {sizes[low]:.3g} long and that of {high} {sizes[high]:.3g}, {spread:.3g} times as much"
    return [Symptom(grade[0], low, seen.live()[low][-1][0], spread, grade[1], f"{text} (medians over the end)")]


def exploding(seen: Seen) -> list[Symptom] | None:
    """No block's gradient grows by orders of magnitude."""
    if seen.untrained:
        return None
    seen.need_gradients()
    found = []
    for block, live in seen.live().items():
        began, ended = median(values(live[:LATE])), median(values(seen.late(live)))
        if grade := graded(ended / began, GROWTH_WATCH, GROWTH_WRONG):
            text = f"the gradient of {block} was {began:.3g} long ({span(live[:LATE])}) and is {ended:.3g} ({span(seen.late(live))})"
            found.append(Symptom(grade[0], block, live[-1][0], ended / began, grade[1], text))
    return found


def rank(x: Tensor) -> float:
    """:func:`effective_rank` of features x [N, d], centred; 0 where all rows are equal but for rounding."""
    spread = (x - x.mean(0)).abs().max()
    return effective_rank(spectrum(x)) if spread > ROUNDING * x.abs().max() else 0.0


def collapse(seen: Seen) -> list[Symptom]:
    """Every block below the top tells images apart in more than one direction."""
    run = seen.run
    try:
        data = data_of(run.config, seen.place)
        (frozen,) = networks(run, seen.place)
    except InputError as error:
        raise Unmade(f"it needs the checkpoint and the images, and {error}") from error
    if data.fingerprint() != run.info.get("data_fingerprint"):
        raise Unmade(f"the images of {run.config.data} are not the ones it was trained on")
    images = data.test.images
    chosen = images[torch.linspace(0, len(images) - 1, min(IMAGES, len(images))).round().long()]  # folders are sorted by class
    try:
        activations = collect(frozen, chosen.to(seen.place.device), blocks=frozen.names[:-1])  # the top gives as many as there are classes
    except InputError as error:  # numbers that are not finite, the block named
        return [Symptom(WRONG, "run", frozen.step, math.nan, RANK_WRONG, str(error))]
    found = []
    for block, x in activations.items():
        spread = rank(x)
        if grade := graded(spread, RANK_WATCH, RANK_WRONG):
            text = f"the activations of {block} have an effective rank of {spread:.3g} ({len(x)} images, {frozen.step} updates)"
            found.append(Symptom(grade[0], block, frozen.step, spread, grade[1], text))
    return found


def stale_replay(seen: Seen) -> list[Symptom] | None:
    """Units that read buffers get batches that are not long out of date, and have their turn often."""
    if "staleness" not in METHODS[seen.run.config.method].own_quantities or seen.untrained:
        return None
    seen.need_gradients()
    size, rounds = seen.run.config.options["buffer"], len({row.step for row in seen.run.gradients})
    found = []
    for block, series in seen.of("rule", "staleness").items():
        end = seen.late(series)
        age = median(values(end))
        if grade := graded(age / size, STALE_WATCH, STALE_WRONG):
            text = f"what {block} reads is {age:g} rounds old ({span(end)}), with buffers of {size} batches"
            found.append(Symptom(grade[0], block, end[-1][0], age / size, grade[1], text))
        if len(series) < STARVED_SHARE * rounds:
            text = f"{block} had a turn in {len(series)} of {rounds} recorded rounds"
            found.append(Symptom(WATCH, block, series[-1][0], len(series) / rounds, STARVED_SHARE, text))
    return found


def jumps(series: Series, material: float) -> Iterator[tuple[int, float, float]]:
    """(place, value, baseline) of the values that stand out above the median of those before them, only the peak of neighbours.

    Out means by ``material`` and by SPIKE_DEVIATIONS of the noise, which is the scaled median absolute deviation of the changes from one
    value to the next, over √2: a falling trend is no noise.
    """
    before = [[v for _, v in series[max(0, i - SPIKE_WIDTH) : i]] for i in range(len(series))]
    residual = [v - median(b) if len(b) >= LATE else math.nan for (_, v), b in zip(series, before, strict=True)]
    changes = [b - a for (_, a), (_, b) in pairwise(series)]
    middle = median(changes)
    noise = 1.4826 * median(abs(change - middle) for change in changes) / math.sqrt(2)
    limit = max(material, SPIKE_DEVIATIONS * noise)
    for i, r in enumerate(residual):
        beside = [residual[j] for j in (i - 1, i + 1) if 0 <= j < len(residual) and math.isfinite(residual[j])]
        plateau = i > 0 and residual[i - 1] == r  # told once, where it begins
        if r > limit and not plateau and all(r >= other for other in beside):
            yield i, series[i][1], median(before[i])


def _moved(seen: Seen, step: int) -> str:
    """Which layer's gradient jumped most at a step, against the median of the steps before it."""
    factors = {}
    for layer, series in seen.of("weight", "norm").items():
        before = [v for s, v in series if s < step and math.isfinite(v)][-SPIKE_WIDTH:]
        here = [v for s, v in series if s == step]
        if here and before and median(before) > 0 and math.isfinite(here[0]) and not is_norm(layer):
            factors[layer] = here[0] / median(before)
    if not factors:
        return "no layer's gradient is known there"
    layer = max(factors, key=lambda name: factors[name])
    return f"most moved: {layer}, whose gradient was {factors[layer]:.3g} times its usual length"


def spikes(seen: Seen) -> list[Symptom] | None:
    """The loss does not jump up: from epoch to epoch, and from recorded step to recorded step at the block that answers."""
    if seen.untrained:
        return None
    material = SPIKE_MATERIAL * seen.guessing
    found = [s for split in (TRAIN, seen.evaluated()[-1].split) for s in _epoch_spikes(split, seen.epochs(split), material)]
    top = seen.blocks[-1] if seen.blocks else ""
    series = [p for p in seen.series.get((top, "rule", "loss"), []) if math.isfinite(p[1])]
    if len(series) < SPIKE_RECORDS:
        if found:
            return found
        raise Unmade(f"{len(series)} recorded losses are too few to tell a spike from noise (wanted {SPIKE_RECORDS})")
    for i, value, baseline in jumps(series, material):
        text = f"the loss is {value:.3g} at step {series[i][0]}, the median before it {baseline:.3g}; {_moved(seen, series[i][0])}"
        found.append(Symptom(WATCH, top, series[i][0], value - baseline, material, text))
    return found


def _epoch_spikes(split: str, rows: Sequence[Metric], material: float) -> Iterator[Symptom]:
    """Epochs whose loss stands above both neighbours, and a training loss that ends far above its best; rows without epoch 0."""

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


def overfitting(seen: Seen) -> list[Symptom] | None:
    """The test loss does not rise from its best while the training loss falls."""
    if seen.untrained or seen.run.config.label_noise >= PURE_NOISE:
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


class Check(NamedTuple):
    """One way of failing."""

    name: str
    look: Callable[[Seen], list[Symptom] | None]  # None: it does not concern this rule
    threshold: str  # what is wanted, in words
    advice: str


CHECKS: tuple[Check, ...] = (
    Check(
        "unfinished",
        unfinished,
        "all updates made",
        "If it is not running any more, --resume goes on with it; if its loss became infinite, a lower --lr is what helps.",
    ),
    Check(
        "not finite",
        not_finite,
        "no loss or norm NaN or infinite",
        "Lower --lr or warm up (--warmup), and look for the layer whose norm went first.",
    ),
    Check(
        "at chance",
        at_chance,
        f"accuracy above 1/classes by more than {CHANCE_ERRORS:g} standard errors",
        "Try another --lr and more --epochs; if the training accuracy is high, the labels or the test images are not what they should be.",
    ),
    Check(
        "dead local head",
        dead_head,
        f"a local loss below {DEAD_SHARE:g} of that of guessing (of several terms: below its first value), mean over the last epoch",
        "This head teaches its block nothing: see whether it is trained at all, then try another --lr or kind of head.",
    ),
    Check(
        "silent layer",
        silent,
        "not exactly zero at every recorded step of the last epoch",
        "Nothing reaches this layer: a dead activation above it (a lower --lr keeps them alive), a head of zeros, or a rule that skips it.",
    ),
    Check(
        "lagging synthesiser",
        lagging,
        f"explained variance above {SYNTH_WATCH:g} (wrong from {SYNTH_WRONG:g}), median over the last epoch",
        "Its target moves faster than it learns: more epochs, a lower --lr, or cdni, whose synthesisers read the label.",
    ),
    Check(
        "synthesiser out of scale",
        out_of_scale,
        f"norm ratio within a factor of {SYNTH_BAND:g}, median over the last epoch",
        "--set target=sum --set zero_bias=true keep a synthesiser's target at a size that its optimiser can reach.",
    ),
    Check(
        "feedback drift",
        feedback_drift,
        f"norm ratio less than {DRIFT_WATCH:g} times farther from 1 than at first (wrong from {DRIFT_WRONG:g})",
        "The weights outgrow the feedback, or die away: --weight-decay, a lower --lr, or kp, whose feedback follows the weights.",
    ),
    Check(
        "vanishing block",
        vanishing,
        f"blocks' gradients less than {SPREAD_WATCH:g} times apart (wrong from {SPREAD_WRONG:g}), medians over the last epoch",
        "It learns only as far as its optimiser rescales (Adam does, SGD does not): relu, normalisation, or a rule with local losses.",
    ),
    Check(
        "exploding block",
        exploding,
        f"a block's gradient less than {GROWTH_WATCH:g} times what it was at first (wrong from {GROWTH_WRONG:g})",
        "A lower --lr, --weight-decay or a network with normalisation keeps weights from growing without end.",
    ),
    Check(
        "collapsed features",
        collapse,
        f"effective rank of a block's activations {RANK_WATCH:g} or more (wrong below {RANK_WRONG:g}) on {IMAGES} held-out images",
        "This block tells images apart in one direction only: a lower --lr, normalisation, or less pull from its local loss.",
    ),
    Check(
        "stale replay",
        stale_replay,
        f"batches younger than {STALE_WATCH:g} buffer length (wrong from {STALE_WRONG:g}), a turn in {STARVED_SHARE:.0%} of rounds",
        "Make the slow unit faster (slowdown), or keep fewer batches (buffer) and read each less often (reuse).",
    ),
    Check(
        "loss spike",
        spikes,
        f"an epoch's loss below {SPIKE_EPOCH:g} times its neighbours', a recorded one within {SPIKE_DEVIATIONS:g} deviations of the "
        f"median of the {SPIKE_WIDTH} before it, or nearer than {SPIKE_MATERIAL:g} of the loss of guessing",
        "A lower --lr, or --warmup where it happens early; look at what moved before blaming the data.",
    ),
    Check(
        "overfitting",
        overfitting,
        f"test loss below {OVERFIT_WATCH:g} times its best (wrong from {OVERFIT_WRONG:g} and {100 * OVERFIT_GAP:g} points of accuracy)",
        "More images, --augment, --weight-decay, or fewer epochs: the best epoch is the one to quote.",
    ),
)


def examine(run: Run, place: Place | None = None, progress: Progress = no_progress) -> Diagnosis:
    """Make every check on a run, finished or not.

    Args:
        run: from ``gradlens.load``.
        place: where its images are and what computes on them; default: the CPU, data in the default folder.
        progress: called with (done, in all, what comes next).

    """
    seen = Seen(run, place or Place())
    findings: list[Finding] = []
    made: list[str] = []
    foreign: list[str] = []
    unmade: dict[str, str] = {}
    for i, check in enumerate(CHECKS):
        progress(i, len(CHECKS), check.name)
        try:
            found = check.look(seen)
        except Unmade as why:
            unmade[check.name] = str(why)
            continue
        (foreign if found is None else made).append(check.name)
        findings += [Finding(check.name, *symptom, check.threshold, check.advice) for symptom in found or []]
    return Diagnosis(sorted(findings, key=lambda f: f.severity != WRONG), made, unmade, foreign)


def report(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis as JSON knows it."""
    return {"wrong": diagnosis.wrong, **diagnosis._asdict(), "findings": [finding._asdict() for finding in diagnosis.findings]}


def verdict(diagnosis: Diagnosis) -> str:
    """One line: how much is wrong, how much to watch, how many checks were made, and why others could not be."""
    wrong, watch = (sum(f.severity == severity for f in diagnosis.findings) for severity in (WRONG, WATCH))
    text = f"{wrong or 'nothing'} wrong" + f", {watch} to watch" * bool(watch) + f": {len(diagnosis.made)} checks"
    why = "; ".join(f"{name}: {why}" for name, why in diagnosis.unmade.items())
    return text + (f", {len(diagnosis.unmade)} could not be made ({why})" if why else "")


def table(title: str, diagnosis: Diagnosis) -> Table:
    """The findings of one run, the wrong ones first: what was seen and what was wanted, and the advice; the title gives the verdict."""
    drawn = Table(title=f"{title}: {verdict(diagnosis)}", title_justify="left", show_lines=True)
    for column in ("", "check", "seen", "wanted", "advice"):
        drawn.add_column(column)
    for severity, check in dict.fromkeys((f.severity, f.check) for f in diagnosis.findings):
        mine = [f for f in diagnosis.findings if (f.severity, f.check) == (severity, check)]
        seen = "\n".join(f.evidence for f in mine)
        drawn.add_row(severity.upper() if severity == WRONG else severity, check, seen, mine[0].threshold, mine[0].advice)
    return drawn
