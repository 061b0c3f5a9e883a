"""Mark where a rule may replace the gradient by its feedback: places inside a block, and the end of a block but for some features.

A block may have an attribute ``exact_from``: from this feature of its output [N, n] on, the output block reads it itself (``reads_blocks``)
and nothing else does. Rules that give feedback at the ends of blocks leave these features their true gradient, which passes no block in
between; rules that train the output block alone train with it what gives these features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Feedback = Callable[[Tensor], Tensor | None]


class _Replaced(torch.autograd.Function):
    """The identity; its backward pass returns the feedback, or the gradient itself where there is none."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, feedback: Feedback) -> Tensor:
        ctx.feedback = feedback
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        given = ctx.feedback(g)
        return g if given is None else given, None


class FeedbackPoint(nn.Module):
    """The identity on [N, *, features], for a network to put where a rule may give feedback inside a block.

    Without a rule that uses it, it is nothing at all; with one it is an identity in the graph, whose backward pass gives the feedback while
    the rule is active. So the true gradient is computed on the same graph, which is not cut here.

    Args:
        features: size of the last dimension.
        of_embedding: whether it is the output of an embedding, where feedback is an option of its own.

    """

    key: str = ""  # by which a rule knows the place; set by the rule, and kept by copies
    feedback: Feedback | None = None  # gradient -> what replaces it, None: nothing does; set by a rule while the block runs

    def __init__(self, features: int, of_embedding: bool = False) -> None:
        super().__init__()
        self.features, self.of_embedding = features, of_embedding

    def forward(self, h: Tensor) -> Tensor:
        """Return h [N, *, features]."""
        if self.feedback is None:
            return h
        out: Tensor = _Replaced.apply(h, self.feedback)  # type: ignore[no-untyped-call]
        return out


def feedback_points(block: nn.Module) -> dict[str, FeedbackPoint]:
    """Return the feedback points inside a block by their path within it, in the order of its modules."""
    return {path: m for path, m in block.named_modules() if isinstance(m, FeedbackPoint)}


def exact_features(blocks: Iterable[nn.Module]) -> dict[int, int]:
    """Return by block, for those that have some, the first of the features that only the output block reads (``exact_from``)."""
    return {k: first for k, block in enumerate(blocks) if (first := getattr(block, "exact_from", None)) is not None}
