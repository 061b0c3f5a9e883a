"""Data parallelism: each rank has all blocks and a part of the batch, and gradients are all-reduced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.distributed as dist

from gradlens.gradients.rows import Measurement
from gradlens.training.step import Outcome, Recording, WholeNetwork


@dataclass
class DataParallel(WholeNetwork):
    """All blocks on this rank's part of each batch."""

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """Make one update with the other ranks; whether to stop or save is exchanged when outcomes are read."""
        outcome, stop, save = super().step(step, record, interrupted, save)
        last = (step + 1) % self.batches.per_epoch == 0 or step + 1 == self.batches.total
        if not last and (step + 1) % self.flush_every:
            return outcome, False, False
        return outcome, *self.batches.ranks.any_stop_or_save(stop, save)

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """Gather each rank's rows of its own gradient; everything else is the same on all ranks."""
        return [(step, outcome._replace(rows=self._rows_of_all_ranks(outcome.rows))) for step, outcome in pending]

    def _rows_of_all_ranks(self, rows: list[Measurement]) -> list[Measurement]:
        if not (rows and self.config.parallel.record_ranks):
            return rows
        mine = f"rank{self.batches.ranks.rank}"
        own = self.batches.ranks.all_gather_object([row for row in rows if row.kind == mine])
        return [row for row in rows if row.kind != mine] + [row for theirs in own for row in theirs]

    def share_buffers(self) -> None:
        """Broadcast rank 0's buffers, unless ranks normalise over the whole batch and have the same anyway."""
        if self.config.parallel.sync_batchnorm:
            return
        for module in self.network:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)
