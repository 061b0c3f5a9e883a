"""One step of any rule, and the evaluation of a split. The only writer of ``.grad``; it knows no method by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gradlens.data.split import Split
from gradlens.gradients.backward import Received, backward
from gradlens.gradients.block_pass import Pass
from gradlens.gradients.descent import Descent
from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method, Step, Update
from gradlens.gradients.rows import Measurement, rank_rows, step_rows
from gradlens.gradients.true_gradient import all_reduce_update, preserve_buffers_and_rng, true_gradients
from gradlens.runtime.batch_shard import GradientReducer, all_reduce_sum, current_shard, global_count
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config


class Outcome(NamedTuple):
    """What one update reports, on the device and of all ranks together: reading it is the caller's choice."""

    loss: Tensor  # scalar: the rule's loss at the block that answers
    hits: Tensor  # scalar: right answers among ``answered``
    images: int  # what the loss is the mean over; 0: the block that answers was not trained
    answered: Tensor  # scalar: images that were answered and whose label is known; 0 for rules that give no answers
    rows: list[Measurement]  # empty on steps that are not recorded


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
    """Which of the network's blocks this process runs, and what it hears of the others."""

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The passes of one step, lazily."""

    def receiver(self) -> Callable[[], Received] | None:
        """What gives the message of the rank above; None where there is none."""

    def send_down(self, u: Update) -> None:
        """A block has been told its gradient."""

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Gradients of the rule's own modules from messages of earlier batches."""

    def record_rows(
        self, number: int, pair: ModelAndMethod, step: Step, diagnose: bool, by_rank: bool
    ) -> tuple[list[Measurement], Descent | None]:
        """The rows of a recorded step, and on a diagnosed one the descent test to be asked after the optimiser's step."""


class StageLike(Protocol):
    """This rank's blocks of a network that is spread over several, and its part in every step of a training."""

    ranges: list[range]  # the blocks of each rank

    def step(self, step: int, stop: bool, save: bool) -> tuple[Outcome, bool, bool]:
        """One update of this rank's blocks; what it reports, and whether the run is to be stopped or saved after this batch."""

    def finish_pending(self) -> Sequence[tuple[int, Outcome]]:
        """Finish what is under way before ranks meet; what steps of it reported."""

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """Finish what is under way, share the weights, and put together what the ranks report of each step."""

    def bytes_sent(self) -> int:
        """Bytes that this rank has sent for training so far."""

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state as one process has it, put together on all ranks."""

    def keep_owned_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the optimiser's state of parameters that other ranks train."""


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


class AllBlocks:
    """All blocks, in one process or on a part of the batch."""

    def passes(self, method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """As the rule makes them."""
        return method.forward(blocks, x, y)

    def receiver(self) -> None:
        """Nobody is above."""

    def send_down(self, u: Update) -> None:
        """Nobody is below."""

    def delayed_gradients(self) -> Mapping[str, Tensor]:
        """Nothing comes late."""
        return {}

    def record_rows(
        self, number: int, pair: ModelAndMethod, step: Step, diagnose: bool, by_rank: bool
    ) -> tuple[list[Measurement], Descent | None]:
        """The rows of a recorded step; on a diagnosed one the sparse rows too."""
        names, method, here = pair.block_names(), pair.method, current_shard()
        truth = true_gradients(method, step, keep=diagnose)
        mine = {k: u.grad.params for k, u in step.updates.items()}
        step = step._replace(updates={k: all_reduce_update(u) for k, u in step.updates.items()})
        rows = step_rows(number, names, method, step, truth)
        if by_rank and here is not None:
            rows += rank_rows(number, here.rank, names, mine, truth)
        if not diagnose:
            return rows, None
        rows += sparse_rows(number, names, method, step, truth)
        return rows, Descent(number, names, method, step, truth)


ALL_BLOCKS = AllBlocks()


def _gradients(
    pair: ModelAndMethod, x: Tensor, y: Tensor, keep: bool, on_update: Callable[[Update], None] | None, blocks: BlockRange
) -> tuple[Outcome, list[Pass], dict[int, Update]]:
    """Run the passes and write the rule's gradients: what they report (of this rank), and where ``keep`` all passes and updates."""
    model, method = pair
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
        blocks.send_down(u)
        if on_update is not None:
            on_update(u)
        del u  # a block's tensors must not outlive its turn
    for name, grad in blocks.delayed_gradients().items():
        sums.add(method.get_parameter(name), grad)
    sums.finish()
    return Outcome(loss, hits, images, answered, []), stored, kept


def training_step(
    pair: ModelAndMethod,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    record: int | None = None,
    bf16: bool = False,
    diagnose: bool = False,
    on_update: Callable[[Update], None] | None = None,
    by_rank: bool = False,
    blocks: BlockRange = ALL_BLOCKS,
) -> Outcome:
    """One step of any rule: passes, the rule's gradients, and one optimiser step. On a shared batch all ranks make it together.

    Args:
        pair: network and rule.
        optimizer: over both.
        x: [N, C, H, W] network input.
        y: [N] labels.
        record: the step's number if the truth is to be measured on it.
        bf16: compute the passes in bfloat16 (weights and sums stay float32).
        diagnose: on a recorded step, add the sparser rows of ``diagnostics``.
        on_update: called with each block's update as it is made.
        by_rank: on a recorded step of a shared batch, add rows of this rank's own gradient.
        blocks: those that this process runs.

    """
    rows: list[Measurement] = []
    descent: Descent | None = None
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        made, stored, kept = _gradients(pair, x, y, record is not None, on_update, blocks)
        if record is not None:
            with preserve_buffers_and_rng([pair.model]):  # a checkpointed block runs again in each backward pass, its BatchNorm too
                rows, descent = blocks.record_rows(record, pair, Step(list(pair.model), x, y, stored, kept), diagnose, by_rank)
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


@torch.no_grad()
def evaluate(
    pair: ModelAndMethod, split: Split, to_input: Callable[[Tensor], Tensor], config: Config, world: ProcessGroup = SINGLE_PROCESS
) -> tuple[float, float]:
    """(loss, accuracy) of a split in eval mode, NaN for rules that give no answers; the modes are put back, nothing else changes.

    Of several ranks with the same weights each evaluates every n-th batch; all get the same numbers, those of one process to the bit.
    """
    model, method = pair
    found: list[Tensor] = []  # of each batch: loss × images, right answers
    images = 0
    device = split.labels.device
    nothing = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    with eval_mode(model, method):
        for i in range(0, len(split), config.batch_size):
            batch, labels = split.images[i : i + config.batch_size], split.labels[i : i + config.batch_size]
            if i and method.least_batch > 1 and len(labels) < config.batch_size:
                continue  # the rest at the end: an objective over a smaller batch is another one
            images += len(labels)
            if i // config.batch_size % world.num_ranks != world.rank:
                found.append(nothing)
                continue
            x, y = method.make_inputs(batch, labels, -1 - i, to_input)
            hits = nothing[1]
            with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                if method.classifies:
                    z = method.predict(list(model), x)
                    hits = (z.argmax(1) == y).sum()
                    loss = LOSSES[config.loss](z, y)
                else:
                    loss = method.evaluate_objective(list(model), x, y)
            found.append(torch.stack([(loss * len(labels)).to(nothing), hits.to(nothing)]))
    losses, right = world.all_reduce_sum(torch.stack(found)).cpu().sum(0).tolist()
    return losses / images, right / images if method.classifies else math.nan


def batches_per_epoch(images: int, batch_size: int) -> int:
    """Updates in one epoch; a last batch of a single image is left out, since batch statistics of one image are none."""
    whole, rest = divmod(images, batch_size)
    return whole + (rest > 1 or whole == 0)
