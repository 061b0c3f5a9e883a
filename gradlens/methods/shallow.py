"""The control that every table needs: blocks as they were initialised under a trained top."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.method import Method, Signal, top_signal
from gradlens.gradients.network_info import NetworkInfo
from gradlens.runtime.errors import InputError


class Shallow(Method):
    """delta_top = dL/dh_top, nothing else is trained: the blocks below stay as they were, in eval mode (parameters and buffers).

    What any rule must beat; Launay et al. 2020 (arXiv 2006.12878) call it shallow. BatchNorm normalises with the running
    statistics it began with: those of --init-from, or mean 0 and variance 1.
    """

    summary = "only the top is trained: a control"
    other_names = ("frozen", "random features")
    top_only = True

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        top = set(net.blocks[-1].parameters())
        if below := next((net.name(k) for k, block in enumerate(net.blocks[:-1]) if top & set(block.parameters())), None):
            raise InputError(f"shallow trains the top and leaves the blocks below it as they were: {below} shares parameters with the top")

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The chain, every block but the top in eval mode."""
        for block in blocks[:-1]:
            block.eval()
        return super().forward(blocks, x, y)

    def locking_reason(self) -> str | None:
        """One block is trained."""
        return "it trains the top alone: there is nothing to do at the same time"

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """The true gradient at the top, nothing below."""
        return top_signal(self.loss, passes[k], send=False) if k == self.num_blocks - 1 else Signal(None)
