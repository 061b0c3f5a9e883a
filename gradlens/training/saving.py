"""Checkpoints of a run in training: what they hold, when one is due, writing and restoring them."""

from __future__ import annotations

import time
from typing import Any

from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import edited
from gradlens.training.run_writer import Writer
from gradlens.training.state import NO_BEST, Best, Position, TrainState

CHECKPOINT_SECONDS = 60.0  # between checkpoints within an epoch; the time of writing does not change what is computed


def checkpoint_of(state: TrainState, writer: Writer | None = None) -> dict[str, Any]:
    """Collect all that is needed to resume bit-identically, in plain tensors and numbers. Collective: call on every rank.

    Args:
        state: the run.
        writer: of the run directory; the present lengths of its tables are stored. None: no table is written here.

    """
    return {
        "model": state.network.model.state_dict(),
        "method": state.network.method.state_dict(),
        "optimizer": state.stage.optimizer_state(),
        "step": state.position.step,
        "position": state.position._asdict(),
        "tables": writer.mark() if writer else {},
        **({"probe": state.probe.state()} if state.probe else {}),
        **({"best": state.best._asdict()} if state.config.early_stopping is not None else {}),
        **({"config_digest": writer.config.digest()} if writer else {}),
    }


def save_run(state: TrainState, writer: Writer | None) -> None:
    """Write the checkpoint of a run, on the rank that has a writer. Collective: call on every rank.

    Raises:
        InputError: the run directory cannot be written any more.

    """
    if writer or not state.ranks.is_single_process:
        contents = checkpoint_of(state, writer)
        if writer:
            writer.save(contents)
        state.saved = state.position.step
    state.saved_at = time.monotonic()


def restore_run(state: TrainState, writer: Writer | None, saved: dict[str, Any]) -> None:
    """Restore a checkpoint, tables included. Each rank restores by itself.

    Raises:
        InputError: the checkpoint is another run's, or the tables are shorter than when it was written.

    """
    if writer and (text := edited(writer.path, writer.config, saved)):
        raise InputError(f"{text}; undo the change, or --overwrite starts over")
    misfit = "the checkpoint does not fit this config"
    with state.batches.sharded(0):  # a rule that keeps batches loads this rank's part of them
        state.network.load(saved, misfit)
    try:
        state.optimizer.load_state_dict(saved["optimizer"])
        state.stage.keep_owned_state()
        state.position, tables = Position(**saved["position"]), dict(saved["tables"])
        state.best = Best(**saved["best"]) if state.config.early_stopping is not None else NO_BEST
        if state.probe:
            state.probe.restore(saved["probe"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{misfit}: {str(error).splitlines()[0]}") from error
    state.saved, state.saved_at = state.position.step, time.monotonic()
    if writer:
        writer.rewind(tables)


def is_due(state: TrainState) -> bool:
    """Return whether a checkpoint within an epoch is due."""
    return time.monotonic() - state.saved_at > CHECKPOINT_SECONDS and state.network.method.saved_within_epochs


def save_snapshot(state: TrainState, writer: Writer | None) -> None:
    """Save a snapshot of the present weights."""
    if writer:
        network, step = state.network, state.position.step
        weights = {"model": network.model.state_dict(), "method": network.method.state_dict(), "step": step}
        writer.save(weights, f"snapshots/step-{step:08d}.pt")


def saved_note(state: TrainState, writer: Writer | None) -> str:
    """State what a stopped run has saved, for the message that ends it; empty before the first update, when nothing is kept."""
    return f"; what was saved after {state.saved} updates is in {writer.path}" if writer and state.position.step else ""


def snapshot_steps(total: int, keep: int) -> set[int]:
    """Return the updates after which weights are kept: ``keep`` of them, evenly spread, the last one included."""
    return {round(i * total / keep) for i in range(1, keep + 1)} if keep and total else set()
