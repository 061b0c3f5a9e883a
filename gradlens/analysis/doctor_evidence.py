"""A run as the doctor's checks read it, and the result of a check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

from gradlens.runtime.errors import InputError
from gradlens.training.context import RunContext
from gradlens.training.metrics import TRAIN, held_out
from gradlens.training.run_directory import Metric, Run

WRONG, WATCH = "wrong", "watch"
LAST_STEPS = 3  # recorded steps that "the end" is made of at least: a single batch is an accident


class MissingEvidence(Exception):
    """Why a check that concerns a run could not be made, in one clause."""


class Symptom(NamedTuple):
    """Finding of a check."""

    severity: str  # wrong, watch
    where: str  # a block, a layer, a split, or run
    step: int  # updates made when it showed
    value: float  # what was compared with ``limit``
    limit: float  # the threshold that was crossed
    evidence: str  # the numbers in words, with layers and steps


Series = list[tuple[int, float]]  # (updates made before, value), in order


@dataclass(frozen=True)
class RunView:
    """A run as the checks read it."""

    run: Run
    context: RunContext

    @cached_property
    def series(self) -> dict[tuple[str, str, str], Series]:
        """Group the recorded rows by (layer, kind, quantity), first layer first; what was measured later is left out."""
        found: dict[tuple[str, str, str], Series] = {}
        for row in self.run.gradients:
            found.setdefault((row.layer, row.kind, row.quantity), []).append((row.step, row.value))
        return found

    def of(self, kind: str, quantity: str) -> dict[str, Series]:
        """Return a dict layer -> series, bottom first."""
        return {layer: series for (layer, k, q), series in self.series.items() if (k, q) == (kind, quantity)}

    @cached_property
    def blocks(self) -> list[str]:
        """List the blocks that were measured, first to last."""
        return list(self.of("parameters", "norm"))

    def evaluated(self) -> list[Metric]:
        """Return the rows of the test or validation images, one an epoch, without the untrained network's."""
        rows = [m for m in held_out(self.run.metrics) if m.epoch > 0]
        if not rows:
            raise MissingEvidence("no epoch has been evaluated yet")
        return rows

    def epochs(self, split: str) -> list[Metric]:
        """Return the rows of a split, one an epoch, without the untrained network's."""
        return [m for m in self.run.metrics if m.split == split and m.epoch > 0]

    def need_gradients(self) -> None:
        """Raise MissingEvidence unless gradients were recorded at as many steps as "the end" needs, not of the untrained network only."""
        if not self.run.gradients:
            raise MissingEvidence("no gradients were recorded" + " (--record-every 0)" * (not self.run.config.record.every))
        need_steps(len({row.step for row in self.run.gradients}))

    def live(self) -> dict[str, Series]:
        """Return a dict block -> norms of its gradient, but for exact zeros: a stage or the rule leaves a block alone there."""
        nonzero = {
            block: [(s, v) for s, v in series if math.isfinite(v) and v > 0] for block, series in self.of("parameters", "norm").items()
        }
        return {block: series for block, series in nonzero.items() if series}

    @property
    def untrained(self) -> bool:
        """Return whether the run is the control of no epochs, in which nothing is learned."""
        return self.run.config.epochs == 0

    @property
    def synthetic(self) -> bool:
        """Return whether blocks' gradients come from synthesisers."""
        return "synth_explained_variance" in self.run.config.rule.method_quantities

    @property
    def depends_on(self) -> frozenset[str]:
        """Return what the rule's blocks depend on."""
        return self.run.config.rule.depends_on

    @cached_property
    def classes(self) -> int:
        """Return the number of classes of the run's data; two where one output says how likely one of them is."""
        try:
            return max(2, self.run.num_classes)
        except (InputError, IndexError) as error:
            raise MissingEvidence("the number of classes is unknown without a checkpoint") from error

    @property
    def guessing(self) -> float:
        """Compute the loss of the best prediction that is the same for every image, for C classes that are equally frequent.

        ce: ln C; bce: C · H(1/C), with H(p) in nats, and H(½) with one output; mse: ½ (1 − 1/C).
        """
        p = 1 / self.classes
        entropy = -p * math.log(p) - (1 - p) * math.log1p(-p)
        return {"ce": -math.log(p), "bce": self.run.num_classes * entropy, "mse": 0.5 * (1 - p)}[self.run.config.loss]

    def late(self, series: Series) -> Series:
        """Return the end of a series: what it has of the last epoch that recorded it, LATE values at least."""
        ends = sorted({m.step for m in self.run.metrics if m.split == TRAIN})  # the step equal to an end belongs to the epoch after it
        last = series[-1][0]
        begins = max((end for end in ends if end <= last), default=0)
        return max([p for p in series if p[0] >= begins], series[-LAST_STEPS:], key=len)

    def late_median(self, series: Series) -> tuple[Series, float]:
        """Return the end of a series, and the median of its finite values (NaN without any)."""
        end = self.late(series)
        return end, median(values(end) or [math.nan])


def need_steps(records: int, wanted: int = LAST_STEPS) -> None:
    """Raise MissingEvidence unless there are so many recorded steps."""
    if records < wanted:
        what = f"{records} record{'s' * (records != 1)}"
        raise MissingEvidence(f"too short to evaluate: {what}, expected {wanted} (a lower --record-every makes more)")


def values(series: Series) -> list[float]:
    """Return the finite values of a series."""
    return [value for _, value in series if math.isfinite(value)]


def step_range(series: Series) -> str:
    """Name the steps that a number was taken over."""
    return f"{len(series)} recorded steps, {series[0][0]} to {series[-1][0]}"


def graded(value: float, watch: float, wrong: float) -> tuple[str, float] | None:
    """Grade a number that is the worse the further it is from ``watch`` towards ``wrong``: (severity, the limit crossed), or None.

    A number that is not finite is wrong.

    >>> graded(2.0, 3.0, 10.0), graded(5.0, 3.0, 10.0), graded(-1.0, 0.0, -0.05)
    (None, ('watch', 3.0), ('wrong', -0.05))
    """
    sign = 1 if wrong > watch else -1
    if not math.isfinite(value) or sign * value >= sign * wrong:
        return WRONG, wrong
    return (WATCH, watch) if sign * value >= sign * watch else None
