"""Checkpoints of a run in training: what they hold, when they are due, and how a run goes back to one."""

from __future__ import annotations

import time
from typing import Any

from gradlens.runtime.errors import InputError
from gradlens.training.run_writer import Writer
from gradlens.training.state import Position, TrainState

CHECKPOINT_SECONDS = 60.0  # between checkpoints within an epoch; when they are written does not change what is computed


class Checkpointer:
    """Saves a run in training to its directory, and restores it from there.

    Args:
        state: the run; on several ranks each has its own, and all must save and restore together.
        writer: of the run directory; None: nothing is written here.

    """

    def __init__(self, state: TrainState, writer: Writer | None = None) -> None:
        self.run, self.writer = state, writer
        self.saved_at = time.monotonic()

    def contents(self) -> dict[str, Any]:
        """All that is needed to go on bit-identically; plain tensors and numbers. Collective: call on every rank."""
        run = self.run
        return {
            "model": run.network.model.state_dict(),
            "method": run.network.method.state_dict(),
            "optimizer": run.stage.optimizer_state(),
            "step": run.position.step,
            "position": run.position._asdict(),
            "tables": self.writer.mark() if self.writer else {},
            **({"probe": run.probe.state()} if run.probe else {}),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to a checkpoint, tables included.

        Raises:
            InputError: it is another run's, or the tables are shorter than they were then.

        """
        run, misfit = self.run, "the checkpoint does not fit this config"
        with run.batches.sharded(0):  # a rule that keeps batches takes this rank's part of them
            run.network.load(saved, misfit)
        try:
            run.optimizer.load_state_dict(saved["optimizer"])
            run.stage.keep_owned_state()
            run.position, tables = Position(**saved["position"]), dict(saved["tables"])
            if run.probe:
                run.probe.restore(saved["probe"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{misfit}: {str(error).splitlines()[0]}") from error
        run.saved = run.position.step
        if self.writer:
            self.writer.rewind(tables)

    def due(self) -> bool:
        """Whether it is time for a checkpoint within an epoch."""
        return time.monotonic() - self.saved_at > CHECKPOINT_SECONDS and self.run.network.method.saved_within_epochs

    def save(self) -> None:
        """Write the checkpoint. Collective: call on every rank."""
        if self.writer or not self.run.ranks.is_single_process:
            contents = self.contents()
            if self.writer:
                self.writer.save(contents)
            self.run.saved = self.run.position.step
        self.saved_at = time.monotonic()

    def snapshot(self) -> None:
        """Keep the weights as they are now."""
        network, step = self.run.network, self.run.position.step
        if self.writer:
            weights = {"model": network.model.state_dict(), "method": network.method.state_dict(), "step": step}
            self.writer.save(weights, f"snapshots/step-{step:08d}.pt")

    def saved_note(self) -> str:
        """What is safe of the run, in words for a message that ends it."""
        return f"; what was saved after {self.run.saved} updates is in {self.writer.path}" if self.writer else ""


def snapshot_steps(total: int, keep: int) -> set[int]:
    """The updates after which weights are kept: ``keep`` of them, evenly spread, the last one included."""
    return {round(i * total / keep) for i in range(1, keep + 1)} if keep and total else set()
