"""Train one block after the other, each with an auxiliary head, and freeze it (sequential layerwise learning)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, outputs
from gradlens.gradients.method import Signal, Update
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import LocalLosses, even
from gradlens.models.heads import head
from gradlens.models.layouts import on_items
from gradlens.runtime.errors import InputError


class GreedyOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of greedy."""

    stage_epochs: int | None = Field(None, ge=1, description="epochs of a stage; default: the run's epochs, divided by the stages")
    hidden: Literal[1, 2, 3] = Field(1, description="k hidden layers: the trained block is the first, the head has k - 1 more")
    ensemble: bool = Field(False, description="predict with sum_j w_j z_j over the heads trained so far, w_j = 2^j / sum 2^j")


class Greedy(LocalLosses):
    """In stage j delta_j = d l_j/d h_j with l_j = loss(a_j(h_j), y), every other block is frozen; stage j+1 trains block j+1.

    Belilovsky, Eickenberg & Oyallon 2019 (arXiv 1812.11446). Frozen blocks and heads are in eval mode, blocks after the stage's
    are not run, and the stage's head predicts. The last two blocks are one unit, whose head is the network's own. A stage
    lasts ``stage_epochs``, the last one to the end of the run; learning rate and schedule are the run's and do not restart.
    """

    summary = "blocks are trained one after the other"
    other_names = ("layerwise", "sequential", "greedy layerwise", "sequential greedy")
    Options: ClassVar[type[BaseModel]] = GreedyOptions
    method_quantities: ClassVar[Mapping[str, str]] = {"stage": "the unit in training, counted from 1; recorded at the block that predicts"}
    in_stages = True

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        if both := net.sharing():
            raise InputError(f"greedy trains one block and freezes the others: {' and '.join(both)} share parameters; set another model")
        lasting = [options.stage_epochs] * self.units if options.stage_epochs else even(max(net.epochs, self.units), self.units)
        self.last_epochs = list(accumulate(lasting))  # last epoch of each stage
        self._enter(0)

    def _enter(self, stage: int) -> None:
        self.stage = stage  # the unit in training; its first block has the same index
        self.output_block = stage if stage < self.units - 1 else self.num_blocks - 1

    def validate_epochs(self, epochs: int) -> str | None:
        """Reject a run too short for its last stage: an auxiliary head would predict, and the output block would not be trained."""
        needed = self.last_epochs[-2] + 1 if self.units > 1 else 1
        if 0 < epochs < needed:
            return f"greedy has {self.units} stages here and its last one begins in epoch {needed}; --epochs {epochs} ends before that"
        return None

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build a head: more 3×3 convolutions, average to 2×2, BatchNorm, Linear; on flat activations hidden layers of ``head_width``."""
        shape = net.features(k)
        kind = "cnn" if len(shape) == 3 else "mlp"
        made = head(kind, shape, net.classes, net.head_width, self.options.hidden - 1, pooled=False)
        return on_items(made, net.items.per_item)

    def start(self, epoch: int, step: int) -> None:
        """Enter the epoch's stage."""
        self._enter(min(bisect_left(self.last_epochs, epoch), self.units - 1))

    @property
    def objective(self) -> str:
        """Name the loss at the end of the stage's network."""
        return f"stage {self.stage + 1} loss"

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run the chain up to the end of the stage, frozen blocks in eval mode."""
        for k, block in enumerate(blocks[: self.output_block + 1]):
            block.train(k >= self.stage)
        for name, module in self.heads.items():
            module.train(int(name) == self.stage)
        return super().forward(blocks, x, y)

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Return no error signal for blocks before the stage; for the stage's unit that of dgl."""
        return Signal(None) if k < self.stage else super().signal(k, passes, received)

    def locking_reason(self) -> str | None:
        """Return that stages are sequential."""
        return "it trains one block after the other: there is no work to do in parallel"

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Compute the logits [N, *, C] of the stage's head, or of all heads up to it, each with twice the weight of the previous one."""
        answers: list[Tensor] = []
        for k, h in enumerate(outputs(blocks[: self.output_block + 1], x)):
            if str(k) in self.heads and (self.options.ensemble or k == self.output_block):
                answers.append(self.heads[str(k)](h))
            if k == self.num_blocks - 1:
                answers.append(h)
        weights = [2**j / (2 ** len(answers) - 1) for j in range(len(answers))]
        return torch.stack([w * z for w, z in zip(weights, answers, strict=True)]).sum(0)

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Return ``stage``, at the block that predicts."""
        return {"stage": torch.tensor(self.stage + 1.0)} if update.k == self.output_block else {}

    def get_extra_state(self) -> Tensor:
        """Return the stage for the checkpoint: it determines the head that predicts when no step is run."""
        return torch.tensor(self.stage)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the stage of a checkpoint."""
        self._enter(int(state))
