"""Unfinished runs among others: they are listed with how far they came, never ranked and never in a mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


def split_finished(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs to be compared, and the unfinished ones; where none is finished, all are looked at as far as they came."""
    finished = [run for run in runs if run.finished]
    return finished or list(runs), [run for run in runs if not run.finished]


def progress_text(run: Run) -> str:
    """How far a run came.

    >>> progress_text(made("dgl", finished=False))  # doctest: +SKIP
    'dgl seed 0: 30 updates, epoch 2 of 2 (runs/dgl-s0)'
    """
    epoch = run.metrics[-1].epoch if run.metrics else 0
    how_far = f"{run.updates} update{'s' * (run.updates != 1)}, epoch {epoch} of {run.config.epochs}"
    return f"{run.config.method} seed {run.config.seed}: {how_far} ({run.path})"


def unfinished_lines(runs: Sequence[Run]) -> list[str]:
    """A line for each unfinished run under a heading; nothing where all are finished."""
    _, unfinished = split_finished(runs)
    if not unfinished:
        return []
    return ["not finished, and so neither ranked nor in any mean:", *(f"  {progress_text(run)}" for run in unfinished)]
