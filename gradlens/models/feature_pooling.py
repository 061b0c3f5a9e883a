"""Reduce activations of any depth to a limited number of features: average over space, or project by fixed random signs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt, prod

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.runtime.rng import generator

BUDGET = 2048  # features of a block at most


def side(shape: Sequence[int], budget: int) -> int:
    """Return the side of the square that activations [C, H, W] are averaged to: the largest with C · side² ≤ budget, 1 at least."""
    return max(1, min(shape[1], shape[2], isqrt(budget // shape[0])))


def pooled(h: Tensor, budget: int = BUDGET) -> Tensor:
    """Reduce activations [N, *out] to [N, d] with d ≤ budget, the same way at every depth.

    [N, C, H, W] is averaged over space to the largest square with C · s² ≤ budget features, then flattened. Features above
    the budget (wide layers without space) are projected by a fixed random matrix of signs, ±1/√budget (Achlioptas 2003):
    inner products are preserved on average.
    """
    if h.ndim == 4:
        h = F.adaptive_avg_pool2d(h, side(h.shape[1:], budget))
    h = h.flatten(1)
    size = h.shape[1]
    if size <= budget:
        return h
    return h @ _signs(size, budget).to(h.device, h.dtype)


@lru_cache(maxsize=2)
def _signs(size: int, budget: int) -> Tensor:
    """Draw the matrix [size, budget] of ±budget^-1/2, always the same; cached for all batches."""
    drawn = torch.randint(2, (size, budget), generator=generator(0, "projection", size, budget), dtype=torch.int8)
    signs: Tensor = (2 * drawn - 1).float() / budget**0.5
    return signs


def described(shape: Sequence[int], budget: int) -> str:
    """Describe how :func:`pooled` reduces activations of a shape (without the batch)."""
    if len(shape) == 3 and shape[0] * side(shape, budget) ** 2 <= budget:
        s = side(shape, budget)
        how = "as it is" if (s, s) == tuple(shape[1:]) else f"averaged to {shape[0]}x{s}x{s}"
        return f"{'x'.join(map(str, shape))} {how}"
    return f"{'x'.join(map(str, shape))}" + (" as it is" if prod(shape) <= budget else f" projected to {budget}")
