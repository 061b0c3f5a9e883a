"""Layer parallelism: each rank trains its own blocks while the next ranks work on the batches before.

A rank receives the output of the previous rank's last block, runs its blocks, sends its own last output as soon as it exists, and updates
its blocks. Rules that receive nothing from above never wait for anything else: their run is that of one process, bit for bit, in the time
of the slowest rank. Rules that learn from a message (the target of a synthesiser, the error) either wait for it (exact: again the run of
one process) or take the one of an earlier batch (``stale``; how many batches earlier is in the rows).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradlens.gradients.backward import Received
from gradlens.gradients.block_pass import Grad, Pass, chain, outputs, pull_back_chain
from gradlens.gradients.method import Method, Signal, Step, Update
from gradlens.gradients.rows import Measurement, step_rows
from gradlens.gradients.true_gradient import Truth, preserve_buffers_and_rng
from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.p2p import Inbox, Outbox
from gradlens.runtime.rng import key, seed_global
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.parallel.stage import DOWN, ERROR, TRUTH, UP, LayerStage
from gradlens.training.state import TrainState
from gradlens.training.step import Outcome, Recording, training_step

STALE_BATCHES = 1  # batches by which a stale message of the next rank is delayed
SAVE, STOP = 1, 2  # rank 0's control word: what to do after a batch; sent with it


class PendingBatch(NamedTuple):
    """A batch that went through this rank's blocks and waits for the next rank's message."""

    step: int
    x: Tensor  # [N, *in] input of this rank's first block
    y: Tensor
    record: Recording | None


def waits_for_above(method: Method) -> bool:
    """Return whether blocks learn from messages of later blocks on another rank."""
    return bool(method.depends_on & {"delayed_message", "output_error"})


def check_layers(config: Config, method: Method) -> None:
    """Refuse rules and settings whose blocks cannot work on several batches at once.

    Raises:
        InputError: they cannot; the message gives the reason.

    """
    if why := method.locking_reason():
        raise InputError(f"--parallel layers: {config.method} cannot work on several batches at once: {why}")
    if not config.parallel.stale:
        return
    if not waits_for_above(method):
        raise InputError(f"--stale: {config.method} waits for no backward message: leave it out")
    parted = [k for k in range(method.output_block) if method.can_split_after(k)]
    if "output_error" not in method.depends_on and not all(method.supports_delayed_target(k) for k in parted):
        raise InputError(f"--stale: {config.method} with these options trains blocks by the backward message, and must wait for it")


class LayerParallel(LayerStage):
    """Rules whose blocks get their error signal from themselves or from a message of the next rank. The arguments are LayerStage's."""

    def __init__(self, state: TrainState, ranges: Sequence[range], number: int) -> None:
        super().__init__(state, ranges, number)
        method, ranks, device = self.method, self.ranks, self.batches.device
        rank, last = ranks.rank, ranks.num_ranks - 1
        error = "output_error" in method.depends_on
        messages = waits_for_above(method) and not error
        self.late_error, self.late_message = self.config.parallel.stale and error, self.config.parallel.stale and not error
        self.delay = (last - rank if self.late_error else STALE_BATCHES if self.late_message else 0) if rank < last else 0
        self.below = Inbox(ranks, rank - 1, *self.channel(UP), device) if rank else None
        self.above = Outbox(ranks, rank + 1, *self.channel(UP)) if rank < last else None
        self.down = Outbox(ranks, rank - 1, *self.channel(DOWN)) if rank and messages else None
        self.message = Inbox(ranks, rank + 1, *self.channel(DOWN), device) if rank < last and messages else None
        self.broadcast = [Outbox(ranks, to, *self.channel(ERROR)) for to in range(last)] if error and rank == last else []
        self.error = Inbox(ranks, last, *self.channel(ERROR), device) if error and rank < last else None
        self.truth_down = Outbox(ranks, rank - 1, *self.channel(TRUTH)) if rank else None
        self.truth_above = Inbox(ranks, rank + 1, *self.channel(TRUTH), device) if rank < last else None
        self.control, self.fresh = 0, True
        self.queue: deque[PendingBatch] = deque()  # batches whose error has not arrived
        self.unlearned: deque[tuple[Pass, Signal | None]] = deque()  # ... whose message has not arrived

    # ------------------------------------------------------------------------------------------------------- one step

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """Update this rank's blocks; stop and save by the control word that rank 0 sends with the batch."""
        stop = interrupted()
        if self.config.parallel.stale:  # batches in flight are not saved: such runs resume from the end of an epoch
            if stop:
                raise Stopped("interrupted: a run with delayed messages resumes from the end of its last epoch", INTERRUPTED)
            save = False
        x, y = self.begin(step, record, SAVE * save + STOP * stop)
        outcome = self._update(x, y)
        return outcome, bool(self.control & STOP), bool(self.control & SAVE)

    def _update(self, x: Tensor, y: Tensor) -> Outcome:
        bf16 = self.config.precision == "bf16"
        return training_step(self.network, self.optimizer, x, y, self.record, bf16, blocks=self)

    def begin(self, step: int, record: Recording | None, control: int) -> tuple[Tensor, Tensor]:
        """Receive the input of this rank's first block, [N, *in], and the targets; ``control`` is used on rank 0 only."""
        batches = self.batches
        if self.below is None:
            x, y = batches.batch(step)
            x = self.method.prepare_input(x)
        else:
            images = batches.size(step)
            x, y, number = self.below.take(images)
            self.method.items.make_known(y)
            control = int(number)
            x.requires_grad_()
            batches.provide_context(step)
            if step + 1 < batches.total and not control & STOP:
                self.below.expect(batches.size(step + 1))
        self.control, self.fresh = control, True
        self.begun = PendingBatch(step, x, y, record)
        self.finishes: PendingBatch | None = self.begun
        if self.late_error and self.delay:
            self.queue.append(self.begun)
            self.finishes = self.queue.popleft() if len(self.queue) > self.delay else None
        return x, y

    @property
    def record(self) -> Recording | None:
        """Return the measurements of the batch whose blocks are updated in this step; None: none."""
        return self.finishes.record if self.finishes else None

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Make the passes of this rank's blocks; send the last block's output to the next rank as soon as it exists."""
        if self.late_error and self.delay:
            if self.fresh:
                self._send_through(self.begun)
            if self.finishes is not None:
                yield from self._again(self.finishes)
            return
        if not self.fresh:
            return
        for p in chain(self.blocks, x, y, method.run_block, self.mine.start, self._image()):
            self._passed(p)
            yield p
            del p

    def _image(self) -> Tensor | None:
        """Make the network's input, for rules that read it; made here, since sending it costs more."""
        if self.below is None or "image" not in self.method.depends_on:
            return None
        return self.method.prepare_input(self.batches.batch(self.begun.step)[0])

    def _passed(self, p: Pass) -> None:
        if self.above is not None and p.k == self.mine.stop - 1:
            self.above.send(self.batches.size(self.begun.step), [p.z, p.y, torch.tensor([self.control])])
        if p.k == self.method.output_block:
            for outbox in self.broadcast:
                outbox.send(self.batches.size(self.begun.step), [p.z, p.y])

    @torch.no_grad()
    def _send_through(self, begun: PendingBatch) -> None:
        """Run the blocks for the next ranks; their own gradients are computed when the error arrives."""
        h = begun.x
        for out in outputs(self.blocks, h):
            h = out
        assert self.above is not None
        self.above.send(self.batches.size(begun.step), [h, begun.y, torch.tensor([self.control])])

    def _again(self, begun: PendingBatch) -> Iterator[Pass]:
        """Make the passes of an earlier batch anew with the present weights: the update in between invalidated its graph."""
        seed_global(key(self.config.seed, "step", begun.step))
        with preserve_buffers_and_rng(self.blocks):
            passes = list(chain(self.blocks, begun.x, begun.y, self.method.run_block, self.mine.start))
        while passes:
            yield passes.pop(0)

    def receiver(self) -> Callable[[], Received] | None:
        """Return the function that receives a message from the next rank; None: none is sent."""
        return None if self.error is None and self.message is None else self._receive

    def _learns_last(self) -> bool:
        """Return whether blocks are updated, and messages sent, before waiting for the next rank's: only own modules learn from it.

        Measured steps wait at once: their rows hold the message.
        """
        return self.late_message or (self.record is None and self.method.supports_delayed_target(self.mine.stop - 1))

    def _receive(self) -> Received:
        """Receive the next rank's message for the batch that is being finished."""
        assert self.finishes is not None
        images = self.batches.size(self.finishes.step)
        if self.error is not None:
            z, y = self.error.take(images)
            self.method.items.make_known(y)
            top = self.method.num_blocks - 1
            return Received(passes={top: Pass(top, nn.Identity(), z, y, z, z.requires_grad_())})
        if self.message is None or self._learns_last():
            return Received(delayed=True)
        return Received(tuple(self.message.take(images)))

    def on_update(self, u: Update) -> None:
        """Send the backward message to the previous rank."""
        if self.down is not None and u.k == self.mine.start:
            self.down.send(self.batches.size(self.begun.step), list(u.grad.below))
        if self.message is not None and u.k == self.mine.stop - 1 and self._learns_last():
            p = u.p._replace(h=u.p.h.detach(), block=nn.Identity())
            self.unlearned.append((p, None if self.delay else u.signal))  # of the present weights, if nothing is delayed

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Return gradients of the rule's own modules at this rank's last block from the message of an earlier batch, which has arrived."""
        if self.message is None or len(self.unlearned) <= (self.delay if self.fresh else 0):
            return {}
        p, signal = self.unlearned.popleft()
        above = tuple(self.message.take(len(p.y)))
        if signal is None:
            with preserve_buffers_and_rng([self.method]):  # the statistics of that batch are included already
                signal = self.method.signal(p.k, {p.k: p}, ())
        return self.method.learn(p.k, p, signal, Grad(None, {}, ()), above)

    def finish_pending(self) -> list[tuple[int, Outcome]]:
        """Return the batches that still wait for the next rank's message."""
        return [(self.begun.step, self._finish_one()) for _ in range(len(self.queue) + len(self.unlearned))]

    def _finish_one(self) -> Outcome:
        """Finish the oldest waiting batch without starting a new one: none must wait when ranks synchronise."""
        x, y = self.begun.x, self.begun.y
        self.fresh, self.finishes = False, self.queue.popleft() if self.queue else None
        return self._update(x, y)

    # ------------------------------------------------------------------------------------------------------ the truth

    def record_rows(self, record: Recording, network: ModelAndMethod, step: Step) -> tuple[list[Measurement], None]:
        """Measure the rows of this rank's blocks: the true gradient is passed from rank to rank, each of which waits for it.

        Args:
            record: only its step is used: diagnosing needs extra passes through all ranks.
            network: with its rule.
            step: this rank's passes (graphs kept) and updates.

        """
        number, passes = record.step, sorted(step.passes, key=lambda p: p.k)
        images = self.batches.size(number)
        if self.truth_above is not None:
            (delta,) = self.truth_above.take(images)
            loss = torch.zeros(())
        else:
            signal = step.updates[self.method.output_block].signal
            assert signal.delta is not None
            assert signal.loss is not None
            delta, loss = signal.delta, signal.loss
        grads = pull_back_chain(passes, {passes[-1].k: delta}, further=self.truth_down is not None)
        if self.truth_down is not None:
            self.truth_down.send(images, list(grads[0].below))
        where = "same passes" if not self.late_error else "each rank's own passes of the batch"
        truth = Truth(grads, passes, loss, {}, f"{self.method.objective}, {where}")
        here = step._replace(updates={k - self.mine.start: u for k, u in step.updates.items()})
        rows = step_rows(number, self.names[self.mine.start : self.mine.stop], self.method, here, truth)
        if self.delay:
            highest = self.names[self.mine.stop - 1]
            late = self.names[self.mine.start : self.mine.stop] if self.late_error else [highest]
            rows += [Measurement(number, name, "rule", "delay", float(self.delay), truth.reference) for name in late]
        return rows, None

    def bytes_sent(self) -> int:
        """Count the bytes that this rank has sent up, down and as errors so far, without the true gradient on recorded steps."""
        return sum(box.bytes for box in (self.above, self.down, *self.broadcast) if box is not None)
