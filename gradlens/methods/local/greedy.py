"""Sequential layerwise learning: one block after the other is trained with a head of its own and frozen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.method import Signal, Update
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import LocalLosses, even
from gradlens.models.heads import head
from gradlens.runtime.errors import InputError


class GreedyOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of greedy."""

    stage_epochs: int | None = Field(None, ge=1, description="epochs of a stage; default: the run's, divided by the stages")
    hidden: Literal[1, 2, 3] = Field(1, description="k hidden layers: the trained block is the first, k - 1 extra ones are the head's")
    ensemble: bool = Field(False, description="answer with sum_j w_j z_j over the heads trained so far, w_j = 2^j / sum 2^j")


class Greedy(LocalLosses):
    """In stage j delta_j = d l_j/d h_j with l_j = loss(a_j(h_j), y), every other block is frozen; then block j+1 has its turn.

    Belilovsky, Eickenberg & Oyallon 2019 (arXiv 1812.11446). Frozen blocks and heads are in eval mode, blocks above the stage
    are not run, and the stage's head answers. The last block and the top are one unit, whose head is the network's own. A stage
    lasts ``stage_epochs``, the last one to the run's end; learning rate and schedule are the run's and do not begin anew.
    """

    summary = "blocks are trained one after the other"
    other_names = ("layerwise", "sequential", "greedy layerwise", "sequential greedy")
    Options: ClassVar[type[BaseModel]] = GreedyOptions
    method_quantities: ClassVar[Mapping[str, str]] = {"stage": "which unit is being trained, 1 at the bottom; at the block that answers"}
    in_stages = True

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        if both := net.sharing():
            raise InputError(f"greedy trains one block after the other and lets the others be: {' and '.join(both)} share parameters")
        lasting = [options.stage_epochs] * self.units if options.stage_epochs else even(max(net.epochs, self.units), self.units)
        self.last_epochs = list(accumulate(lasting))  # of each stage
        self._enter(0)

    def _enter(self, stage: int) -> None:
        self.stage = stage  # the unit in training; its first block has the same number
        self.output_block = stage if stage < self.units - 1 else self.num_blocks - 1

    def validate_epochs(self, epochs: int) -> str | None:
        """A run too short for its last stage would answer with a head of its own and leave the top as it was."""
        needed = self.last_epochs[-2] + 1 if self.units > 1 else 1
        if 0 < epochs < needed:
            return f"greedy has {self.units} stages here and would reach its last one in epoch {needed}; --epochs {epochs} ends before that"
        return None

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Further 3×3 convolutions, average to 2×2, BatchNorm, Linear; on flat activations hidden layers as wide as the top's."""
        shape = net.shapes[k]
        kind = "cnn" if len(shape) == 3 else "mlp"
        return head(kind, shape, net.classes, net.head_width, self.options.hidden - 1, pooled=False)

    def start(self, epoch: int, step: int) -> None:
        """The stage is a function of the epoch."""
        self._enter(min(bisect_left(self.last_epochs, epoch), self.units - 1))

    @property
    def objective(self) -> str:
        """The loss at the stage's end, of the net that ends there."""
        return f"stage {self.stage + 1} loss"

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The chain up to the stage's end, what is frozen in eval mode."""
        for k, block in enumerate(blocks[: self.output_block + 1]):
            block.train(k >= self.stage)
        for name, module in self.heads.items():
            module.train(int(name) == self.stage)
        return super().forward(blocks, x, y)

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Nothing below the stage; the stage's unit as in dgl."""
        return Signal(None) if k < self.stage else super().signal(k, passes, received)

    def locking_reason(self) -> str | None:
        """Its stages follow each other."""
        return "it trains one block after the other: there is nothing to do at the same time"

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """The answer [N, C] of the stage's head, or of all heads up to it, each weighing twice the one below."""
        answers: list[Tensor] = []
        for k, block in enumerate(blocks[: self.output_block + 1]):
            x = block(x)
            if str(k) in self.heads and (self.options.ensemble or k == self.output_block):
                answers.append(self.heads[str(k)](x))
        if self.output_block == self.num_blocks - 1:
            answers.append(x)
        weights = [2**j / (2 ** len(answers) - 1) for j in range(len(answers))]
        return torch.stack([w * z for w, z in zip(weights, answers, strict=True)]).sum(0)

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """``stage``, at the block that answers."""
        return {"stage": torch.tensor(self.stage + 1.0)} if update.k == self.output_block else {}

    def get_extra_state(self) -> Tensor:
        """The stage, for the checkpoint: which head answers must be known where no step is run."""
        return torch.tensor(self.stage)

    def set_extra_state(self, state: Tensor) -> None:
        """The stage of a checkpoint."""
        self._enter(int(state))
