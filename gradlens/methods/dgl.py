"""Decoupled greedy learning: every block learns from a classifier of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.heads import head
from gradlens.method import Method, Net, Signal, top_signal
from gradlens.passes import Pass
from gradlens.seeding import seeded


class HeadOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of rules with auxiliary heads."""

    head: Literal["linear", "mlp", "mlp-sr", "cnn"] = Field("mlp", description="kind of auxiliary classifier")
    layers: int = Field(1, ge=1, le=3, description="hidden layers of the head (a linear head has none)")
    width: int | None = Field(None, ge=1, description="width of the head's hidden layers; default: as the model's own top")
    pooled: bool = Field(False, description="average the activations to 2x2 before a linear or mlp head")


class DGL(Method):
    """delta_k = d l_k/d h_k with l_k = loss(a_k(h_k), y), nothing sent below; the last block and the top are one unit.

    Belilovsky, Eickenberg & Oyallon 2020 (arXiv 1901.08164), algorithm 1; what Laskin et al. 2020 call greedy local.
    """

    Options = HeadOptions
    reads = frozenset({"labels"})

    def __init__(self, net: Net, options: Any) -> None:
        super().__init__(net, options)
        with seeded(net.seed, "heads"):
            self.heads = nn.ModuleList(
                head(options.head, shape, net.classes, options.width or net.head_width, options.layers, options.pooled)
                for shape in net.shapes[: self.depth - 2]
            )

    def needs_above(self, k: int) -> bool:
        """Only the last block under the top, which learns with it, waits."""
        return k == self.depth - 2

    def signal(self, k: int, passes: Mapping[int, Pass], above: tuple[Tensor, ...]) -> Signal:
        """The slope of block k's own head; the top's true gradient for the last unit."""
        if k == self.depth - 1:
            return top_signal(self.loss, passes[k])
        if k == self.depth - 2:
            return Signal(above[0])
        p = passes[k]
        loss = self.loss(self.heads[k](p.z), p.y)
        names, params = zip(*self.heads[k].named_parameters(prefix=f"heads.{k}"), strict=True)
        delta, *own = torch.autograd.grad(loss, [p.z, *params])
        return Signal(delta, own=dict(zip(names, own, strict=True)), loss=loss.detach())
