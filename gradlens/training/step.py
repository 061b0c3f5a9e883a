"""One step of any learning rule: passes, the rule's gradients in ``.grad``, the optimiser's step. It refers to no method by name."""

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
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.batch_shard import GradientReducer, all_reduce_sum, current_shard, rank_rng_words
from gradlens.runtime.rng import key, seed_global
from gradlens.training.batches import Batches
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config


class Outcome(NamedTuple):
    """Outcome of one update, on the device and of all ranks together; reading it (which may wait for the device) is left to the caller."""

    loss: Tensor  # scalar: the objective, the sum of its terms; of local losses that of the output block alone
    hits: Tensor  # scalar: correct predictions among ``answered``
    items: int  # images, tokens, … that the loss is the mean over; 0: the output block was not trained
    answered: Tensor  # scalar: items with a class and a prediction; 0 for rules that make no predictions
    rows: list[Measurement]  # empty on steps that are not recorded


class Recording(NamedTuple):
    """Measurements to make of a recorded update."""

    step: int  # updates made before it
    diagnose: bool = False  # the sparser rows of ``diagnostics`` too, beside those of the true gradient


def recording(config: Config, step: int) -> Recording | None:
    """Return the measurements that a config sets for an update; None: none."""
    every, diagnose_every = config.record.every, config.record.diagnose_every
    if not every or step % every:
        return None
    return Recording(step, bool(diagnose_every) and step // every % diagnose_every == 0)


def begin_step(method: Method, seed: int, epoch: int, step: int) -> None:
    """Prepare an update: seed torch's global random stream (dropout and the like) and start the rule's step.

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

    The fused optimisers traverse parameter and gradient side by side in memory and ignore strides.
    """
    if p.grad is not None:
        grad = p.grad + grad
    p.grad = grad if grad.stride() == p.stride() else torch.empty_like(p).copy_(grad)


def _stored_passes(passes: Iterator[Pass], stored: list[Pass]) -> Iterator[Pass]:
    """Yield the passes and keep them for the true gradient: a recorded step runs in the same order as any other."""
    for p in passes:
        stored.append(p)
        yield p


class BlockRange(Protocol):
    """The blocks that a process runs in one step, and the messages it receives from other ranks."""

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Make the passes of one step, lazily."""

    def receiver(self) -> Callable[[], Received] | None:
        """Return the function that receives from the next rank; None for the last rank."""

    def on_update(self, u: Update) -> None:
        """Process a block's update as soon as it is made."""

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Return gradients of the rule's own modules from messages of earlier batches."""

    def record_rows(self, record: Recording, network: ModelAndMethod, step: Step) -> tuple[list[Measurement], Descent | None]:
        """Measure a recorded step: its rows, and on a diagnosed one the descent test to evaluate after the optimiser's step."""


class UpdateProbe(Protocol):
    """Observer of every update of a training; it must not change anything of it."""

    @property
    def blocks(self) -> Mapping[str, Any]:
        """Return the state per block so far."""

    def on_update(self, step: int, update: Update) -> None:
        """Observe a block's update."""

    def take_rows(self) -> tuple[Sequence[Any], Mapping[str, bytes]]:
        """Return the rows and the blocks' streams since the last call, to be written."""

    def regret(self, run_dir: Path) -> list[dict[str, Any]]:
        """Compute what is stored of a finished run."""

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, in plain tensors and numbers."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""


class Stage(Protocol):
    """Blocks that this process trains, and how it updates them."""

    @property
    def flush_every(self) -> int | None:
        """Return how many updates are made between reads of their outcomes; None: only where ranks synchronise."""

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """Update this process's blocks; return the outcome, and whether to stop or save the run after it (the same on all ranks).

        Args:
            step: updates made before this one.
            record: measurements to make; None: none.
            interrupted: whether this process received a signal to stop.
            save: whether this process finds that it is time to save.

        """

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """Finish batches in flight, exchange what each rank has alone, and combine the ranks' outcomes of each step."""

    def share_buffers(self) -> None:
        """Broadcast buffers (BatchNorm's running statistics) before an evaluation."""

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's state as in a single process, gathered from all ranks."""

    def keep_owned_state(self) -> None:
        """Drop the optimiser's state of parameters that other ranks train."""


@dataclass(frozen=True)
class AllBlocks:
    """All blocks, in a single process or on this rank's part of the batch."""

    by_rank: bool = False  # rows of this rank's own gradient on recorded steps of a shared batch
    watched: Callable[[Update], None] | None = None  # called with each block's update

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Make the passes as the rule does."""
        return method.forward(blocks, x, y)

    def receiver(self) -> None:
        """Return None: this range contains the output block, which receives nothing."""

    def on_update(self, u: Update) -> None:
        """Pass the update to the observer, if there is one."""
        if self.watched is not None:
            self.watched(u)

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Return no gradients: no message is delayed."""
        return {}

    def record_rows(self, record: Recording, network: ModelAndMethod, step: Step) -> tuple[list[Measurement], Descent | None]:
        """Measure the rows of a recorded step; on a diagnosed one the sparse rows too."""
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
    """Run the passes and write the rule's gradients; return this rank's outcome, and with ``keep`` all passes and updates."""
    model, method = network
    loss, hits, answered = (torch.zeros((), device=x.device) for _ in range(3))
    items = 0
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
            loss, items = loss + u.signal.loss if method.terms else u.signal.loss, global_items(u.p.y)
        if u.term is not None:
            loss = loss + u.term
        if u.signal.logits is not None and u.k == method.output_block:
            hits, answered = method.items.hits(u.signal.logits, u.p.y)
        if keep:
            kept[u.k] = u
        blocks.on_update(u)
        del u  # free a block's tensors before the next block's backward
    for name, grad in blocks.delayed_gradients().items():
        sums.add(method.get_parameter(name), grad)
    sums.finish()
    return Outcome(loss, hits, items, answered, []), stored, kept


def training_step(
    network: ModelAndMethod,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    record: Recording | None = None,
    bf16: bool = False,
    blocks: BlockRange = ALL_BLOCKS,
) -> Outcome:
    """Make one step of any rule: passes, the rule's gradients, one optimiser step. Collective on a shared batch.

    Args:
        network: with its rule.
        optimizer: over both.
        x: [N, *] network input.
        y: [N, *] targets.
        record: measurements to make; None: none.
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
    stored.clear()  # freed after measuring, before the optimiser makes its state
    kept.clear()
    optimizer.step()
    if descent is not None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):  # a new context: autocast caches cast weights, the old ones too
            rows += descent.rows()
    if current_shard() is not None:
        loss, hits, answered = all_reduce_sum(torch.stack([made.loss.double(), made.hits.double(), made.answered.double()])).unbind()
        made = made._replace(loss=loss, hits=hits, answered=answered)
    return made._replace(rows=rows)


@dataclass
class WholeNetwork:
    """Stage that trains all blocks in this process."""

    config: Config
    network: ModelAndMethod
    optimizer: torch.optim.Optimizer
    batches: Batches
    probe: UpdateProbe | None = None  # called with every update

    @property
    def flush_every(self) -> int:
        """Return how many updates are made between reads of their outcomes: 1 on the CPU; more on an accelerator, where each read waits."""
        return 1 if self.batches.device.type == "cpu" else 20

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """Update all blocks."""
        blocks = AllBlocks(self.config.parallel.record_ranks, partial(self.probe.on_update, step) if self.probe else None)
        x, y = self.batches.batch(step)
        outcome = training_step(self.network, self.optimizer, x, y, record, self.config.precision == "bf16", blocks)
        return outcome, interrupted(), save

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """Return the outcomes unchanged: they are complete."""
        return list(pending)

    def share_buffers(self) -> None:
        """Do nothing: there is no other rank."""

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's own state."""
        return self.optimizer.state_dict()

    def keep_owned_state(self) -> None:
        """Do nothing: all parameters are trained here."""
