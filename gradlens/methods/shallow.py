"""Train the output block only, on blocks that stay as initialised: a control for every table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, ends_of_parts
from gradlens.gradients.method import Method, Signal, top_signal
from gradlens.gradients.network_info import NetworkInfo
from gradlens.models.feedback_point import exact_features
from gradlens.runtime.errors import InputError


class ShallowOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of shallow."""

    statistics: Literal["initial", "batch"] = Field(
        "initial",
        description="what BatchNorm in frozen blocks normalises with: its initial statistics, or each batch's",
        json_schema_extra={"since": "0.2.0"},
    )


class Shallow(Method):
    """delta_K = dL/dh_K at the output block K, nothing else is trained: the other blocks are frozen in eval mode (parameters and buffers).

    In a network of parts the last block of each part is trained, by the objective's term there.

    A control that any rule must beat; Launay et al. 2020 (arXiv 2006.12878) call it shallow. BatchNorm normalises with its initial
    running statistics, those of --init-from, or mean 0 and variance 1; with ``statistics=batch`` with each batch's, which its running
    statistics follow. What the output block reads itself of another block's features (``exact_from``) is trained with it.
    """

    summary = "only the output block is trained: a control"
    other_names = ("frozen", "random features")
    top_only = True
    Options: ClassVar[type[BaseModel]] = ShallowOptions

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.exact = exact_features(net.blocks[:-1])
        self.trained = frozenset(ends_of_parts(net.blocks))
        top = {p for k in self.trained for p in net.blocks[k].parameters()}
        below_top = ((k, block) for k, block in enumerate(net.blocks) if k not in self.trained)
        if below := next((net.name(k) for k, block in below_top if top & set(block.parameters())), None):
            raise InputError(f"shallow freezes all blocks but the output block: {below} shares parameters with it; set another model")

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run the plain chain with every block that is not trained in eval mode."""
        for module in (m for k, block in enumerate(blocks) if k not in self.trained for m in block.modules()):
            module.training = self.options.statistics == "batch" and isinstance(module, nn.modules.batchnorm._BatchNorm)
        return super().forward(blocks, x, y)

    def needs_above(self, k: int) -> bool:
        """Return whether blocks wait for what the output block sends to those that it reads itself."""
        return bool(self.exact) and k < self.output_block

    def locking_reason(self) -> str | None:
        """Return that only one block is trained."""
        return "it trains the output block only: there is no work to do in parallel"

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Return the true gradient at the output block and at the features that it reads itself, no error signal at the others.

        At the end of another part the signal is zero, to which the step adds the gradient of the term there.
        """
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k], send=bool(self.exact))
        if k in self.trained:
            return Signal(torch.zeros_like(passes[k].h))
        if k not in self.exact:
            return Signal(None)
        (delta,) = received
        return Signal(torch.cat([torch.zeros_like(delta[:, : self.exact[k]]), delta[:, self.exact[k] :]], 1))
