"""Asynchronous greedy learning on ranks: no rank waits for another, each trains on batches of its queue.

A thread receives what the previous rank sends and keeps the last M batches, of which a step draws one as the rule does in one process
(``methods/local/dgl_async.py``); when the queue is full the oldest is dropped. A rank waits only when each batch it has was read
``replay_reads`` times. Blocks of one rank read each other's fresh output. Such a run is not reproducible: how far ranks run apart is up to
the machines, and stands in the rows as ``staleness``. No truth is recorded: blocks work on different batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, chain
from gradlens.gradients.method import Method, Step, Update
from gradlens.gradients.replay_buffer import Buffer, Stored
from gradlens.gradients.rows import Measurement, compute_method_quantities
from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.p2p import Inbox, Outbox
from gradlens.tasks.registry import TASKS
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.parallel.stage import UP, LayerStage
from gradlens.training.state import TrainState
from gradlens.training.step import Outcome, Recording, training_step

REFERENCE = "no truth: ranks work on different batches"


def check_queues(config: Config, method: Method, images: int) -> None:
    """Refuse settings under which batches cannot be read in any order.

    Raises:
        InputError: what keeps them from it.

    """
    if config.parallel.stale:
        raise InputError(f"--stale: {config.method} never waits for a message, and its queues are always stale: leave it out")
    if why := method.locking_reason():
        raise InputError(f"--parallel layers: {config.method}: {why}")
    if not TASKS[config.task].one_batch and (rest := images % config.batch_size) > 1:
        raise InputError(
            f"{config.method} on ranks reads batches in any order, so that all must be of one size: {images} images by"
            f" --batch-size {config.batch_size} leave {rest}; --limit can be a multiple of it"
        )


class AsyncQueues(LayerStage):
    """This rank's units, the queue below them and the way to the one above. The arguments are LayerStage's."""

    def __init__(self, state: TrainState, ranges: Sequence[range], number: int) -> None:
        super().__init__(state, ranges, number)
        rank, last = self.ranks.rank, self.ranks.num_ranks - 1
        self.above = Outbox(self.ranks, rank + 1, *self.channel(UP)) if rank < last else None
        self.limit = self.method.replay_reads
        self.buffer = Buffer(self.method.replay_size)
        self.arrived = threading.Condition()
        self.newest = 0  # the last batch that has come
        self.failed: BaseException | None = None
        self.below = Inbox(self.ranks, rank - 1, *self.channel(UP), self.batches.device) if rank else None
        self.receiver_thread: threading.Thread | None = None

    def _receive(self, inbox: Inbox, first: int) -> None:
        """Receive every batch of the previous rank, from one update on, until it ends."""
        try:
            for step in range(first, self.batches.total):
                h, y = inbox.take(self.batches.size(step))
                with self.arrived:
                    self.buffer.write(h.requires_grad_(), y, step)
                    self.newest = step
                    self.arrived.notify()
        except BaseException as error:  # noqa: BLE001 - reported where the training waits
            with self.arrived:
                self.failed = error
                self.arrived.notify()

    def _read(self) -> Stored:
        with self.arrived:
            while (stored := self.buffer.sample(self.limit)) is None:
                if self.failed is not None:
                    raise RuntimeError(f"Connection lost: {self.failed}") from self.failed
                self.arrived.wait(1.0)
            return stored

    # ------------------------------------------------------------------------------------------------------- one step

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """Update this rank's units on a batch from the queue; saved at the end of an epoch only, when all ranks synchronise."""
        if interrupted():
            raise Stopped("interrupted: queues are not saved, and the run resumes from the end of its last epoch", INTERRUPTED)
        self.staleness = 0
        if self.below is None:
            x, y = self.batches.batch(step)
        else:
            if self.receiver_thread is None:
                self.receiver_thread = threading.Thread(target=self._receive, args=(self.below, step), daemon=True, name="queue")
                self.receiver_thread.start()
            stored = self._read()
            self.batches.provide_context(step)
            x, y = stored.h, stored.y
            self.method.items.make_known(y)
            self.staleness = self.newest - stored.written
        outcome = training_step(self.network, self.optimizer, x, y, record, self.config.precision == "bf16", blocks=self)
        return outcome, False, False

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Make the passes of this rank's units; send the last one's output to the next rank."""
        for p in chain(self.blocks, x, y, method.run_block, self.mine.start):
            if self.above is not None and p.k == self.mine.stop - 1:
                self.above.send(len(y), [p.z, p.y])
            yield p
            del p

    def receiver(self) -> None:
        """Receive no backward message."""

    def on_update(self, u: Update) -> None:
        """Send no backward message."""

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Return no gradients: no message is delayed."""
        return {}

    def record_rows(self, record: Recording, network: ModelAndMethod, step: Step) -> tuple[list[Measurement], None]:
        """Measure the rule's own rows: losses, and how many newer batches than the one read had arrived by then."""
        rows = []
        for k in sorted(step.updates):
            name = self.names[k]
            found: dict[str, Any] = compute_method_quantities(self.method, step.updates[k])
            rows += [Measurement(record.step, name, "rule", quantity, value, REFERENCE) for quantity, value in found.items()]
        lowest = self.names[self.mine.start]
        rows.append(Measurement(record.step, lowest, "rule", "staleness", float(self.staleness), REFERENCE))
        return rows, None

    def finish_pending(self) -> list[tuple[int, Outcome]]:
        """Wait until the next rank has received all that was sent to it."""
        if self.above is not None:
            self.above.empty()
        return []

    def bytes_sent(self) -> int:
        """Count the bytes sent to the next rank."""
        return self.above.bytes if self.above else 0
