"""Search of a grid for the learning rate with the best accuracy on held-out training images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.progress import Watch
from gradlens.training.comparison import ChosenRate
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.metrics import sign_of
from gradlens.training.run_directory import Run
from gradlens.training.runs.check import check, images_learned_from, with_smaller_batch
from gradlens.training.runs.train_run import train_or_reuse

BARE = {
    "record_every": 0,
    "keep_checkpoints": 0,
    "evaluate_train": False,
    "online_probe": False,
}  # what a trial measures and keeps: nothing


class LrSearch(NamedTuple):
    """A search for a learning rate."""

    lr: float  # the best
    runs: list[Run]  # of the trials that did not end before their time

    def rate(self, grid: Sequence[float]) -> ChosenRate:
        """Return what a comparison keeps of it."""
        return ChosenRate(self.lr, tuple(grid), len(set(grid)) > 1 and self.lr in (min(grid), max(grid)))


def choose_lr(config: Config, grid: Sequence[float], share: float, context: RunContext, watch_for: Callable[[Config], Watch]) -> float:
    """Return the learning rate that :func:`search_lr` finds best."""
    return search_lr(config, grid, share, context, watch_for).lr


def search_lr(
    config: Config,
    grid: Sequence[float],
    share: float,
    context: RunContext,
    watch_for: Callable[[Config], Watch],
    elsewhere: Sequence[Path] = (),
) -> LrSearch:
    """Find the learning rate of ``grid`` with the best final score on a validation split held out of the training images.

    Args:
        config: the settings to choose for; its test images are not used.
        grid: learning rates.
        share: of the training images to hold out.
        context: where the trial runs go.
        watch_for: the progress display of a config.
        elsewhere: other folders of runs, in which finished trials are looked for too.

    Raises:
        InputError: a learning rate is invalid (nothing has been trained then), or the loss diverged at all of them.

    """
    trials = [make_config(**{**config.as_dict(), **BARE, "lr": lr, "validation": share}) for lr in grid]
    known = config.batch_size >= images_learned_from(config, load_data(config, context))  # that batches hold all images there are
    trials = [with_smaller_batch(trial, context, quiet=known) for trial in trials]  # of what is held out nothing is learned
    for trial in trials[:1]:  # the others differ in their learning rate alone
        check(trial, context)
    runs = {trial.optimizer.lr: _trial_run(trial, context, watch_for, elsewhere) for trial in trials}
    scores = {lr: _validation_score(run) for lr, run in runs.items()}
    if max(scores.values()) == -math.inf:
        raise InputError(f"{config.method}: the loss diverged at every learning rate: {', '.join(f'{lr:g}' for lr in grid)}")
    return LrSearch(max(scores, key=lambda lr: (scores[lr], -lr)), [run for run in runs.values() if run is not None])


def _trial_run(trial: Config, context: RunContext, watch_for: Callable[[Config], Watch], elsewhere: Sequence[Path]) -> Run | None:
    """Train a trial's run; None if the loss diverged."""
    try:
        (run,) = train_or_reuse([trial], context, watch_for, elsewhere=elsewhere)
    except Stopped as stopped:
        if stopped.status == INTERRUPTED:
            raise
        return None
    return run


def _validation_score(run: Run | None) -> float:
    """Return a trial's final score, higher is better, or minus its loss for rules without predictions; -inf if the loss diverged."""
    if run is None:
        return -math.inf
    ends = run.summary["validation"]
    if not run.config.rule.classifies:
        return -math.inf if ends["final_loss"] is None else -float(ends["final_loss"])
    if (name := ends.get("score")) is not None:  # another than the accuracy
        return -math.inf if ends["final_score"] is None else sign_of(name) * float(ends["final_score"])
    return -math.inf if ends["final_accuracy"] is None else float(ends["final_accuracy"])


def rates_beyond(rate: ChosenRate) -> list[float]:
    """Return two learning rates beyond the end of the grid at which the best one lies, as far from each other as those before it.

    >>> rates_beyond(ChosenRate(1e-3, (1e-4, 3e-4, 1e-3), True)), rates_beyond(ChosenRate(0.01, (0.01, 0.011), True))
    ([0.003, 0.01], [0.008, 0.009])
    """
    first, second = sorted(set(rate.grid), key=lambda lr: abs(math.log(lr / rate.lr)))[:2]
    beyond = [first * (first / second) ** n for n in (1, 2)]
    rounded = [float(f"{lr:.1g}") for lr in beyond]
    return sorted(rounded if len({first, *rounded}) == 3 else [float(f"{lr:.2g}") for lr in beyond])
