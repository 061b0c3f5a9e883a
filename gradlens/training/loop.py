"""The training loop: updates, with evaluations, checkpoints and tables between them. It refers to no method by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from gradlens.runtime.errors import INTERRUPTED, Stopped
from gradlens.runtime.interrupts import interruptible
from gradlens.runtime.process_group import stop_on_lost_rank
from gradlens.runtime.progress import Watch, no_progress
from gradlens.runtime.rng import forked
from gradlens.training.early_stopping import keep_if_best, stops_early, take_best_at_end
from gradlens.training.run_log import RunLog
from gradlens.training.run_writer import Writer
from gradlens.training.saving import is_due, save_run, save_snapshot, saved_note, snapshot_steps
from gradlens.training.state import TrainState, set_lr
from gradlens.training.step import Outcome, begin_step, recording


def make_update(
    state: TrainState, step: int, interrupted: Callable[[], bool] = lambda: False, save: bool = False
) -> tuple[Outcome, bool, bool]:
    """Update this process's blocks: see :class:`gradlens.training.step.Stage`. Here, and only here, a batch is divided among ranks."""
    config = state.config
    with state.batches.sharded(step):
        set_lr(state, step)
        begin_step(state.network.method, config.seed, step // state.batches.per_epoch + 1, step)
        return state.stage.step(step, recording(config, step), interrupted, save)


def fit(state: TrainState, writer: Writer | None = None, watch: Watch = no_progress) -> dict[str, Any]:
    """Train a run to its end and return the summary.

    Args:
        state: the run, begun or restored; on several ranks each trains its own.
        writer: of the run directory; None: nothing is written here.
        watch: called with each event.

    Raises:
        Stopped: Ctrl-C (saved, status 130), or a loss that is not finite (what was saved before is kept, status 1).
        InputError: the run directory cannot be written any more.

    """
    log, total = RunLog(state, writer, watch), state.batches.total
    snapshots = snapshot_steps(total, state.config.record.keep_checkpoints)
    pending: list[tuple[int, Outcome]] = []  # updates whose outcomes are not read yet
    with interruptible() as interrupted, forked(), _lost_rank(state, writer):
        if not state.position.begun:
            log.evaluation(0)
            keep_if_best(state, 0)
            save_run(state, writer)
        for step in () if stops_early(state) else range(state.position.step, total):
            began, epoch = time.perf_counter(), step // state.batches.per_epoch + 1
            made, stop, save = make_update(state, step, interrupted, is_due(state))
            pending.append((step, made))
            state.position = state.position._replace(step=step + 1)
            last, keep = step + 1 in (epoch * state.batches.per_epoch, total), step + 1 in snapshots
            if last or stop or save or keep or len(pending) == state.stage.flush_every:
                log.outcomes(state.stage.synchronize(pending), epoch)
                pending.clear()
            state.position = state.position._replace(seconds=state.position.seconds + time.perf_counter() - began)
            log.step(epoch)
            if last:
                log.end_of_epoch(epoch)
                keep_if_best(state, epoch)
                take_best_at_end(state)
            if keep:
                save_snapshot(state, writer)
            if last or stop or save:
                save_run(state, writer)
            if stop and step + 1 < total:
                saved = "; saved" if writer or not state.ranks.is_single_process else ""
                raise Stopped(f"interrupted after {step + 1} of {total} updates{saved}", INTERRUPTED)
            if stops_early(state):
                break
        summary = log.summary()
        stopped, _ = state.ranks.any_stop_or_save(interrupted(), False)
        if stopped:  # in the last step or evaluation: this run is finished, but no other must begin
            raise Stopped("interrupted; this run was at its end and is finished", INTERRUPTED)
    return summary


def _lost_rank(state: TrainState, writer: Writer | None) -> Any:
    """Return a context that reports the loss of another rank in one sentence; in a single process, a null context."""
    if state.ranks.is_single_process:
        return nullcontext()
    return stop_on_lost_rank(lambda: state.position.step, lambda: saved_note(state, writer))
