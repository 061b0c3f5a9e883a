"""Backpropagation over ranks by PyTorch's own pipeline schedules: the baseline for layer-parallel rules.

A batch is cut into microbatches that follow each other through the ranks and back (GPipe: all forward, then all backward; 1F1B: in turns,
which keeps fewer of them in memory). Gradients are those of the batch's mean loss; BatchNorm normalises over each microbatch. Torch's
engine writes ``.grad`` itself. No truth is recorded: the gradient used is the true one by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from gradlens.runtime.batch_items import item_count
from gradlens.training.parallel.stage import LayerStage
from gradlens.training.state import TrainState
from gradlens.training.step import Outcome, Recording

SCHEDULES: dict[str, Any] = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}


class _Laid(torch.autograd.Function):
    """The identity; forward and backward as one piece of memory in the order of its dimensions, which is what torch's engine can send."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous().view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g.contiguous()


class _StageModule(nn.Sequential):
    """Neighbouring blocks, with what goes in and out laid for sending."""

    def forward(self, input: Tensor) -> Tensor:
        h: Tensor = super().forward(_Laid.apply(input))  # type: ignore[no-untyped-call]
        out: Tensor = _Laid.apply(h)  # type: ignore[no-untyped-call]
        return out


class Pipeline(LayerStage):
    """Plain backprop on this rank's blocks, microbatch by microbatch. The arguments are LayerStage's."""

    def __init__(self, state: TrainState, ranges: Sequence[range], number: int) -> None:
        super().__init__(state, ranges, number)
        self.schedules: dict[int, Any] = {}  # torch's stages support one size of batch
        self.items = 0  # of the batch

    def _schedule(self, images: int) -> Any:
        if images not in self.schedules:
            stage = PipelineStage(_StageModule(*self.blocks), self.ranks.rank, self.ranks.num_ranks, self.batches.device)
            self.schedules[images] = SCHEDULES[self.config.parallel.schedule](stage, self.config.parallel.microbatches, loss_fn=self._share)
        return self.schedules[images]

    def _share(self, z: Tensor, y: Tensor) -> Tensor:
        """Return a micro-batch's part of the batch's loss; torch's engine takes the mean over micro-batches."""
        self.method.items.make_known(y)
        return self.method.loss(z, y) * (item_count(y).here * self.config.parallel.microbatches / self.items)

    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """Pass one batch through all ranks and back, and make this rank's update."""
        stop, device = interrupted(), self.batches.device
        x, y = self.batches.batch(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss, hits, answered, items = *(torch.zeros((), device=device) for _ in range(3)), 0
        schedule, self.items = self._schedule(len(y)), self.method.items.count(y)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            if self.ranks.rank == 0:
                schedule.step(x)
            elif self.ranks.rank < self.ranks.num_ranks - 1:
                schedule.step()
            else:
                losses: list[Tensor] = []
                z = schedule.step(target=y, losses=losses)
                loss, items = torch.stack([value.detach() for value in losses]).mean(), self.items
                hits, answered = self.method.items.hits(z, y)
        self.optimizer.step()
        return Outcome(loss, hits, items, answered, []), *self.ranks.any_stop_or_save(stop, save)

    def bytes_sent(self) -> int:
        """Return 0: torch's engine sends, which is not counted."""
        return 0
