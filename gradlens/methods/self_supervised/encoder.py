"""Rules that learn from images alone: what they share. A rule says what becomes of an image and which loss a window of blocks descends.

The network's own top is neither run nor trained: the encoder is all blocks below it, and the objective is read off a head of the rule's
own. "True" is the end-to-end gradient of the loss at the topmost of these heads, whose value was computed once: neither negatives nor
masks are drawn again for it. A rule of one window is end-to-end; the same loss in smaller windows is its local twin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, chain, cut
from gradlens.gradients.method import NetworkInfo
from gradlens.methods.local.windows import LocalLosses, Window, split
from gradlens.runtime.errors import InputError


def modules_of(net: NetworkInfo, modules: int | Sequence[int] | None) -> list[Window]:
    """The encoder's blocks in disjoint modules: so many, or of these sizes; None: every block by itself."""
    units = len(net.blocks) - 1
    return split([1] * units if modules is None else modules, net, with_top=False, option="modules")


class SelfSupervised(LocalLosses):
    """delta_k = Σ over the windows w that hold block k of d l_w/d h_k, l_w without labels; the top is not trained."""

    depends_on = frozenset({"input"})
    trains_top = False
    classifies = False
    unlabelled = True
    named: ClassVar[str] = "loss"  # the objective, in a word
    local: ClassVar[bool] = False  # True: trained in modules of blocks (option ``modules``), each with a head and a loss of its own

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        if len(net.blocks) < 2:
            raise InputError("a rule without labels needs a block below the top: this network has none")
        self.step = 0  # names the draws of a step
        super().__init__(net, options)
        self.num_probe_points = self.num_blocks - 1

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """The modules, or one window from end to end."""
        return modules_of(net, self.options.modules) if self.local else [Window(0, len(net.blocks) - 2)]

    @property
    def objective(self) -> str:
        """The objective at the end of the encoder."""
        return f"{self.named} at the top of the encoder"

    def start(self, epoch: int, step: int) -> None:
        """Draws inside a step are named by it."""
        self.step = step

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The chain of the encoder's blocks."""
        return chain(blocks[:-1], self.prepare_input(x), y, self.run)

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """The outputs [N, *out] of the encoder's blocks."""
        return super().features(blocks[:-1], x)

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """No answer: there is no trained classifier."""
        raise TypeError(f"{type(self).__name__} is trained without labels and gives no answers")

    def evaluate_objective(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """The loss at the end of the encoder; evaluation draws its negatives as a first step does."""
        h = self.prepare_input(x)
        for block in blocks[:-1]:
            h = block(h)
        step, self.step = self.step, -1
        try:
            return self.local_loss(self.output_block, cut(self.output_block, blocks[self.output_block], x, y, h, x)).loss
        finally:
            self.step = step


def stacked(x: Tensor, of_each: int) -> Tensor:
    """[N V, *] -> [N, V, *]: what belongs to one image in one row, so that a part of a batch is a part of its images."""
    return x.view(-1, of_each, *x.shape[1:])
