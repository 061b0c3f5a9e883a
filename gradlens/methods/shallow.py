"""Train the output block only, on blocks that stay as initialised: a control for every table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, ends_of_parts
from gradlens.gradients.method import Method, Signal, top_signal
from gradlens.gradients.network_info import NetworkInfo
from gradlens.runtime.errors import InputError


class Shallow(Method):
    """delta_K = dL/dh_K at the output block K, nothing else is trained: the other blocks are frozen in eval mode (parameters and buffers).

    In a network of parts the last block of each part is trained, by the objective's term there.

    A control that any rule must beat; Launay et al. 2020 (arXiv 2006.12878) call it shallow. BatchNorm normalises with its initial
    running statistics: those of --init-from, or mean 0 and variance 1.
    """

    summary = "only the output block is trained: a control"
    other_names = ("frozen", "random features")
    top_only = True

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.trained = frozenset(ends_of_parts(net.blocks))
        top = {p for k in self.trained for p in net.blocks[k].parameters()}
        below_top = ((k, block) for k, block in enumerate(net.blocks) if k not in self.trained)
        if below := next((net.name(k) for k, block in below_top if top & set(block.parameters())), None):
            raise InputError(f"shallow freezes all blocks but the output block: {below} shares parameters with it; set another model")

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run the plain chain with every block that is not trained in eval mode."""
        for k, block in enumerate(blocks):
            if k not in self.trained:
                block.eval()
        return super().forward(blocks, x, y)

    def locking_reason(self) -> str | None:
        """Return that only one block is trained."""
        return "it trains the output block only: there is no work to do in parallel"

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Return the true gradient at the output block, zeros at the end of another part, which has a term; no signal at the others."""
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k], send=False)
        return Signal(torch.zeros_like(passes[k].h) if k in self.trained else None)
