"""The training examples in the order of a config: a batch by the number of its update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradlens.data.split import Data, Split
from gradlens.gradients.method import Method
from gradlens.models.zoo import INPUT
from gradlens.runtime.batch_shard import Shard, shard_of, sharded
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.runtime.rng import generator
from gradlens.runtime.step_context import set_context, step_context
from gradlens.tasks.registry import TASKS
from gradlens.tasks.task import Batch, Task
from gradlens.training.config import Config


def batches_per_epoch(examples: int, batch_size: int) -> int:
    """Count the updates of one epoch; a last batch of a single example is left out, since one image has no batch statistics."""
    whole, rest = divmod(examples, batch_size)
    return whole + (rest > 1 or whole == 0)


def updates_per_epoch(examples: int, config: Config) -> int:
    """Count the updates of one epoch of a config: its batches, or one where the task's examples are one batch."""
    return 1 if TASKS[config.task].one_batch else batches_per_epoch(examples, config.batch_size)


def first_batch(config: Config, data: Data, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make the input and targets of the first examples, on a device, and set their context: a batch to measure costs on."""
    task, examples = TASKS[config.task], data.train.to(device)
    chosen = examples if task.one_batch else examples.take(torch.arange(min(config.batch_size, len(examples)), device=device))
    made = task.batch(chosen, 0, config)
    set_context(made.context)
    task.make_known(made.y)
    return made.x, made.y


@dataclass
class Batches:
    """Training batches of a config; each batch is a pure function of config and update."""

    config: Config
    examples: Split  # on the device
    method: Method  # makes inputs and targets of a task's batch
    to_input: Callable[[Tensor], Tensor]  # x of a task's batch (uint8 images [N, C, H, W]) -> the network's input
    ranks: ProcessGroup = SINGLE_PROCESS  # that share the run
    _order: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), repr=False)  # (epoch, its examples), of the epoch read last

    @property
    def device(self) -> torch.device:
        """Return the device of the examples."""
        return self.examples.y.device

    @property
    def task(self) -> Task:
        """Return the config's task."""
        return TASKS[self.config.task]

    @property
    def per_epoch(self) -> int:
        """Return the number of updates in an epoch."""
        return updates_per_epoch(len(self.examples), self.config)

    @property
    def total(self) -> int:
        """Return the number of updates of the whole run."""
        total = self.config.epochs * self.per_epoch
        return total if self.config.steps is None else min(total, self.config.steps)

    def size(self, step: int) -> int:
        """Count the examples in an update's batch, of all ranks together."""
        if self.task.one_batch:
            return len(self.examples)
        return min(self.config.batch_size, len(self.examples) - step % self.per_epoch * self.config.batch_size)

    def shard(self, step: int) -> Shard | None:
        """Return the part of an update's batch that this rank works on; None: all of it."""
        if self.config.parallel.mode != "data" or self.ranks.is_single_process:
            return None
        return shard_of(self.size(step), self.ranks.rank, self.ranks.num_ranks)

    @contextmanager
    def sharded(self, step: int) -> Iterator[None]:
        """Set the batch shard: inside, tensors of n rows are this rank's part of a batch (see :mod:`gradlens.runtime.batch_shard`).

        The context of the batch that :meth:`batch` makes inside stays up to the end.
        """
        with sharded(self.shard(step)), step_context():
            yield

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Make the input [N, *] and targets [N, *] of an update, or this rank's part of them; count its items and set its context.

        Inside :meth:`sharded`; where the batch is shared a collective.
        """
        made = self._made(step)
        set_context(made.context)
        x, y = self.method.make_inputs(made.x, made.y, step, self.to_input)
        self.task.make_known(y)
        return x, y

    def provide_context(self, step: int) -> None:
        """Set the context of an update's batch, on a rank that is sent what its blocks read."""
        if self.task.reads != INPUT:
            set_context(self._made(step).context)

    def _made(self, step: int) -> Batch:
        """Make an update's batch, or this rank's part of it, as the task does."""
        if self.task.one_batch:  # all examples, in their order
            return self.task.batch(self.examples, step, self.config)
        epoch, i = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            order = torch.randperm(len(self.examples), generator=generator(self.config.seed, "order", epoch))
            self._order = epoch, order.to(self.device)
        chosen, shard = self._order[1][i * self.config.batch_size : (i + 1) * self.config.batch_size], self.shard(step)
        if shard is not None:
            chosen = chosen[shard.start : shard.stop]
        return self.task.batch(self.examples.take(chosen), step, self.config)
