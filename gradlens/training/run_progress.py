"""Progress of runs: finished ones, and how far the others were trained; those are listed beside results, never ranked among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from gradlens.runtime.errors import InputError

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run

R = TypeVar("R", bound="Run")


class Progress(NamedTuple):
    """How far a run was trained."""

    finished: bool
    updates: int  # that its last weights have had: of the checkpoint, or by its tables where there is none
    total: int | None  # it is trained for; None where that is unknown (a run without a stored number of images)

    def __str__(self) -> str:
        if self.finished:
            return "finished"
        return f"{self.updates} of {self.total} updates" if self.total is not None else f"{self.updates} updates"


def run_progress(run: Run) -> Progress:
    """Return whether a run is finished, and how many of its updates were made; of an unfinished run its checkpoint is read."""
    by_tables = max([m.step for m in run.metrics] + [row.step + 1 for row in run.gradients], default=0)
    if run.finished:
        return Progress(True, int(run.summary.get("updates", by_tables)), int(run.summary.get("updates", by_tables)))
    try:
        updates = int(run.checkpoint()["step"])
    except (InputError, KeyError):
        updates = by_tables
    total = _total(run)
    return Progress(False, updates, None if total is not None and total < updates else total)


def _total(run: Run) -> int | None:
    """Return the updates that an unfinished run is to make; None where it is not stored how many images they go over."""
    stored, config = run.info.get("images") or {}, run.config
    if "train" not in stored or "unlabelled" in stored or config.data.labels is not None:
        return config.steps
    from gradlens.training.batches import updates_per_epoch

    total = config.epochs * updates_per_epoch(int(stored["train"]), config)
    return total if config.steps is None else min(total, config.steps)


def split_finished(runs: Sequence[R]) -> tuple[list[R], list[R]]:
    """Return the finished runs, and the others: of those no result may be ranked or averaged with that of a finished run."""
    return [run for run in runs if run.finished], [run for run in runs if not run.finished]


def unfinished_text(runs: Sequence[Run]) -> str:
    """Return a sentence that lists the unfinished ones among some runs with how far each came; empty where all are finished."""
    _, others = split_finished(runs)
    return f"not finished, so not ranked: {', '.join(f'{run.path.name} ({run_progress(run)})' for run in others)}" if others else ""


def recorded_only_untrained(run: Run) -> bool:
    """Return whether the only gradients that a trained run recorded are of its first update, that of the untrained network.

    This happens if the run has fewer updates than ``--record-every``: its cosines are no evidence about the end of training.
    """
    steps = {row.step for row in (*run.gradients, *run.measured)}
    return bool(run.gradients) and steps == {0} and any(m.step > 0 for m in run.metrics)
