"""One step of any rule: passes, the rule's gradients in ``.grad``, the optimiser's step. It knows no method by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gradlens.gradients.backward import Received, backward
from gradlens.gradients.block_pass import Pass
from gradlens.gradients.descent import Descent
from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.method import Method, Step, Update
from gradlens.gradients.rows import Measurement, rank_rows, step_rows
from gradlens.gradients.true_gradient import all_reduce_update, preserve_buffers_and_rng, true_gradients
from gradlens.runtime.batch_shard import GradientReducer, all_reduce_sum, current_shard, global_count, rank_rng_words
from gradlens.runtime.rng import key, seed_global
from gradlens.training.batches import Batches
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config


class Outcome(NamedTuple):
    """What one update reports, on the device and of all ranks together: reading it is the caller's choice."""

    loss: Tensor  # scalar: the rule's loss at the block that answers
    hits: Tensor  # scalar: right answers among ``answered``
    images: int  # what the loss is the mean over; 0: the block that answers was not trained
    answered: Tensor  # scalar: images that were answered and whose label is known; 0 for rules that give no answers
    rows: list[Measurement]  # empty on steps that are not recorded


class Recording(NamedTuple):
    """What is measured of a recorded update."""

    step: int  # updates made before it
    diagnose: bool = False  # the sparser rows of ``diagnostics`` too, beside those of the true gradient


def recording(config: Config, step: int) -> Recording | None:
    """What a config wants measured of an update; None: nothing."""
    every, diagnose_every = config.record.every, config.record.diagnose_every
    if not every or step % every:
        return None
    return Recording(step, bool(diagnose_every) and step // every % diagnose_every == 0)


def begin_step(method: Method, seed: int, epoch: int, step: int) -> None:
    """Make ready for an update's draws: torch's global stream (dropout and the like) is seeded for it, and the rule starts it.

    Args:
        method: the rule.
        seed: the config's.
        epoch: the update's, from 1.
        step: updates made before it.

    """
    seed_global(key(seed, "step", *rank_rng_words(step)))
    method.start(epoch, step)


def _write_grad(p: Tensor, grad: Tensor) -> None:
    """Write (or, for a parameter that two blocks share, add) a gradient, in the parameter's own memory layout.

    The fused optimisers walk parameter and gradient side by side in memory and do not look at strides.
    """
    if p.grad is not None:
        grad = p.grad + grad
    p.grad = grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


def _stored_passes(passes: Iterator[Pass], stored: list[Pass]) -> Iterator[Pass]:
    """The passes as they are made, kept for the truth: a recorded step runs in the same order as any other."""
    for p in passes:
        stored.append(p)
        yield p


class BlockRange(Protocol):
    """The blocks that a process runs in one step, and the messages it receives from other ranks."""

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The passes of one step, lazily."""

    def receiver(self) -> Callable[[], Received] | None:
        """What gives the message of the rank above; None where there is none."""

    def on_update(self, u: Update) -> None:
        """Take a block's update as soon as it is made."""

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Gradients of the rule's own modules from messages of earlier batches."""

    def record_rows(self, record: Recording, network: ModelAndMethod, step: Step) -> tuple[list[Measurement], Descent | None]:
        """The rows of a recorded step, and on a diagnosed one the descent test to be asked after the optimiser's step."""


class UpdateProbe(Protocol):
    """What is shown every update of a training as it is made, and changes nothing of it."""

    @property
    def blocks(self) -> Mapping[str, Any]:
        """What it has read so far, by block."""

    def on_update(self, step: int, update: Update) -> None:
        """A block's update."""

    def take_rows(self) -> tuple[Sequence[Any], Mapping[str, bytes]]:
        """The rows and the blocks' streams since it was last asked, to be written."""

    def regret(self, run_dir: Path) -> list[dict[str, Any]]:
        """What is to be stored of a finished run."""

    def state(self) -> dict[str, Any]:
        """Plain tensors and numbers, for a checkpoint."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""


class Stage(Protocol):
    """The blocks that this process trains, and how it makes an update of them."""

    @property
    def flush_every(self) -> int | None:
        """Updates after which what they report is read; None: only where ranks meet."""

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """One update of this process's blocks; what it reports, and whether the run is to be stopped or saved after it, as all ranks agree.

        Args:
            step: updates made before this one.
            record: what is measured of it; None: nothing.
            interrupted: whether this process was asked to stop.
            save: whether this process finds that it is time to save.

        """

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """Finish what is under way, share what each rank has alone, and put together what the ranks report of each step."""

    def share_buffers(self) -> None:
        """Before an evaluation: give all ranks the same buffers (BatchNorm's running statistics)."""

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state as one process has it, put together on all ranks."""

    def keep_owned_state(self) -> None:
        """Forget the optimiser's state of parameters that other ranks train."""


@dataclass(frozen=True)
class AllBlocks:
    """All blocks, in one process or on a part of the batch."""

    by_rank: bool = False  # rows of this rank's own gradient on recorded steps of a shared batch
    watched: Callable[[Update], None] | None = None  # shown each block's update as it is made

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """As the rule makes them."""
        return method.forward(blocks, x, y)

    def receiver(self) -> None:
        """No rank is above."""

    def on_update(self, u: Update) -> None:
        """Show it to who asked."""
        if self.watched is not None:
            self.watched(u)

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Nothing comes late."""
        return {}

    def record_rows(self, record: Recording, network: ModelAndMethod, step: Step) -> tuple[list[Measurement], Descent | None]:
        """The rows of a recorded step; on a diagnosed one the sparse rows too."""
        (number, diagnose), names, method, here = record, network.block_names(), network.method, current_shard()
        truth = true_gradients(method, step, keep=diagnose)
        mine = {k: u.grad.params for k, u in step.updates.items()}
        step = step._replace(updates={k: all_reduce_update(u) for k, u in step.updates.items()})
        rows = step_rows(number, names, method, step, truth)
        if self.by_rank and here is not None:
            rows += rank_rows(number, here.rank, names, mine, truth)
        if not diagnose:
            return rows, None
        rows += sparse_rows(number, names, method, step, truth)
        return rows, Descent(number, names, method, step, truth)


ALL_BLOCKS = AllBlocks()


def _gradients(
    network: ModelAndMethod, x: Tensor, y: Tensor, keep: bool, blocks: BlockRange
) -> tuple[Outcome, list[Pass], dict[int, Update]]:
    """Run the passes and write the rule's gradients: what they report (of this rank), and where ``keep`` all passes and updates."""
    model, method = network
    loss, hits, answered = (torch.zeros((), device=x.device) for _ in range(3))
    images = 0
    kept: dict[int, Update] = {}
    stored: list[Pass] = []
    sums = GradientReducer(_write_grad)
    passes = blocks.passes(method, list(model), x, y)
    if keep:
        passes = _stored_passes(passes, stored)
    for u in backward(method, passes, keep=keep, receive=blocks.receiver()):
        params = dict(u.p.block.named_parameters())
        for name, grad in u.grad.params.items():
            sums.add(params[name], grad)
        for name, grad in u.aux_grads.items():
            sums.add(method.get_parameter(name), grad)
        if u.signal.loss is not None and u.k == method.output_block:  # never a mixture of heads' losses
            loss, images = u.signal.loss, global_count(len(u.p.y))
        if u.signal.logits is not None and u.k == method.output_block:
            hits, answered = (u.signal.logits.argmax(1) == u.p.y).sum(), (u.p.y >= 0).sum()
        if keep:
            kept[u.k] = u
        blocks.on_update(u)
        del u  # a block's tensors must not outlive its turn
    for name, grad in blocks.delayed_gradients().items():
        sums.add(method.get_parameter(name), grad)
    sums.finish()
    return Outcome(loss, hits, images, answered, []), stored, kept


def training_step(
    network: ModelAndMethod,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    record: Recording | None = None,
    bf16: bool = False,
    blocks: BlockRange = ALL_BLOCKS,
) -> Outcome:
    """One step of any rule: passes, the rule's gradients, and one optimiser step. On a shared batch all ranks make it together.

    Args:
        network: with its rule.
        optimizer: over both.
        x: [N, C, H, W] network input.
        y: [N] labels.
        record: what is measured of it; None: nothing.
        bf16: compute the passes in bfloat16 (weights and sums stay float32).
        blocks: those that this process runs; it is shown every update.

    """
    rows: list[Measurement] = []
    descent: Descent | None = None
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        made, stored, kept = _gradients(network, x, y, record is not None, blocks)
        if record is not None:
            with preserve_buffers_and_rng([network.model]):  # a checkpointed block runs again in each backward pass, its BatchNorm too
                rows, descent = blocks.record_rows(record, network, Step(list(network.model), x, y, stored, kept))
    stored.clear()  # measured and done with, before the optimiser makes its state
    kept.clear()
    optimizer.step()
    if descent is not None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):  # a new one: it caches what it casts, the old weights too
            rows += descent.rows()
    if current_shard() is not None:
        loss, hits, answered = all_reduce_sum(torch.stack([made.loss.double(), made.hits.double(), made.answered.double()])).unbind()
        made = made._replace(loss=loss, hits=hits, answered=answered)
    return made._replace(rows=rows)


@dataclass
class WholeNetwork:
    """All blocks in this process."""

    config: Config
    network: ModelAndMethod
    optimizer: torch.optim.Optimizer
    batches: Batches
    probe: UpdateProbe | None = None  # shown every update

    @property
    def flush_every(self) -> int:
        """Updates after which what they report is read: at once on the CPU; waiting for an accelerator costs."""
        return 1 if self.batches.device.type == "cpu" else 20

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """One update of all blocks."""
        blocks = AllBlocks(self.config.parallel.record_ranks, partial(self.probe.on_update, step) if self.probe else None)
        x, y = self.batches.batch(step)
        outcome = training_step(self.network, self.optimizer, x, y, record, self.config.precision == "bf16", blocks)
        return outcome, interrupted(), save

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """What is reported is complete."""
        return list(pending)

    def share_buffers(self) -> None:
        """No other rank has any."""

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's own state."""
        return self.optimizer.state_dict()

    def keep_owned_state(self) -> None:
        """All parameters are trained here."""
