"""Backpropagation over ranks, by PyTorch's own pipeline schedules: what these rules compete with.

A batch is cut into microbatches that follow each other through the ranks and back (GPipe: all forward, then all backward; 1F1B: in turns,
which keeps fewer of them in memory). Gradients are those of the batch's mean loss; BatchNorm normalises over each microbatch. Torch's
engine writes ``.grad`` itself. No truth is recorded: the gradient used is the true one by construction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from gradlens.runtime.errors import InputError
from gradlens.training.parallel.stage import Stage
from gradlens.training.state import TrainState
from gradlens.training.step import Outcome

SCHEDULES: dict[str, Any] = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}


def bubble(ranks: int, microbatches: int) -> float:
    """The share of a pipeline's time in which a rank has nothing to do, with equal stages and free links (Huang et al. 2019, §2.3)."""
    return (ranks - 1) / (microbatches + ranks - 1)


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


class Pipeline(Stage):
    """Plain backprop on this rank's blocks, microbatch by microbatch."""

    def __init__(self, state: TrainState) -> None:
        config, images = state.config, len(state.train)
        if config.stale:
            raise InputError("--stale: a pipeline's gradients are exact; it waits")
        for n in {config.batch_size, images % config.batch_size} - {0, 1}:
            if n % config.microbatches:
                raise InputError(
                    f"{n} images do not divide into {config.microbatches} microbatches of one size: choose --microbatches, or --batch-size"
                    f" and --limit, so that whole and last batches ({images} images by {config.batch_size}) do"
                )
        if config.schedule == "1f1b" and config.microbatches < config.ranks:
            raise InputError(
                f"--schedule 1f1b keeps {config.ranks} ranks busy with --microbatches {config.ranks} or more, not {config.microbatches}"
            )
        super().__init__(state)
        self.schedules: dict[int, Any] = {}  # torch's stages know one size of batch

    def _schedule(self, images: int) -> Any:
        if images not in self.schedules:
            rank, ranks, t = self.world.rank, self.world.num_ranks, self.state
            stage = PipelineStage(_StageModule(*self.blocks), rank, ranks, t.device)
            self.schedules[images] = SCHEDULES[t.config.schedule](stage, t.config.microbatches, loss_fn=self.method.loss)
        return self.schedules[images]

    def step(self, step: int, stop: bool, save: bool) -> tuple[Outcome, bool, bool]:
        """One batch through all ranks and back, and this rank's update."""
        t = self.state
        t.prepare_step(step)
        x, y = t.batch(step)
        t.optimizer.zero_grad(set_to_none=True)
        loss, hits, answered, images = *(torch.zeros((), device=t.device) for _ in range(3)), 0
        schedule = self._schedule(len(y))
        with torch.autocast(t.device.type, torch.bfloat16, enabled=t.config.precision == "bf16"):
            if self.world.rank == 0:
                schedule.step(x)
            elif self.world.rank < self.world.num_ranks - 1:
                schedule.step()
            else:
                losses: list[Tensor] = []
                z = schedule.step(target=y, losses=losses)
                loss, images = torch.stack([value.detach() for value in losses]).mean(), len(y)
                hits, answered = (z.argmax(1) == y).sum(), (y >= 0).sum()
        t.optimizer.step()
        return Outcome(loss, hits, images, answered, []), *self.world.any_stop_or_save(stop, save)

    def bytes_sent(self) -> int:
        """Not counted: torch's engine sends."""
        return 0
