"""The learning rate of a grid that does best on held-out training images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.progress import Watch
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext
from gradlens.training.runs.check import check, with_smaller_batch
from gradlens.training.runs.train_run import train_or_reuse

BARE = {
    "record_every": 0,
    "keep_checkpoints": 0,
    "evaluate_train": False,
    "online_probe": False,
}  # what a trial measures and keeps: nothing


def choose_lr(config: Config, grid: Sequence[float], share: float, context: RunContext, watch_for: Callable[[Config], Watch]) -> float:
    """The learning rate of ``grid`` with the highest final accuracy on a validation split held out of the training images.

    Args:
        config: the settings to choose for; its test images are not looked at.
        grid: learning rates.
        share: of the training images to hold out.
        context: where the trial runs go.
        watch_for: the progress display of a config.

    Raises:
        InputError: a learning rate that is none (nothing has been trained then), or none that the loss survives.

    """
    trials = [make_config(**{**config.as_dict(), **BARE, "lr": lr, "validation": share}) for lr in grid]
    trials = [with_smaller_batch(trial, context) for trial in trials]  # of what is held out nothing is learned
    for trial in trials[:1]:  # the others differ in their learning rate alone
        check(trial, context)
    scores = {trial.optimizer.lr: _validation_score(trial, context, watch_for) for trial in trials}
    if max(scores.values()) == -math.inf:
        raise InputError(f"{config.method}: the loss survives none of the learning rates {', '.join(f'{lr:g}' for lr in grid)}")
    return max(scores, key=lambda lr: (scores[lr], -lr))


def _validation_score(trial: Config, context: RunContext, watch_for: Callable[[Config], Watch]) -> float:
    """A trial's final accuracy, or minus its loss for rules that give no answers; -inf where the loss did not survive the learning rate."""
    try:
        (run,) = train_or_reuse([trial], context, watch_for)
    except Stopped as stopped:
        if stopped.status == INTERRUPTED:
            raise
        return -math.inf
    ends = run.summary["validation"]
    if not trial.rule.classifies:
        return -math.inf if ends["final_loss"] is None else -float(ends["final_loss"])
    return -math.inf if ends["final_accuracy"] is None else float(ends["final_accuracy"])
