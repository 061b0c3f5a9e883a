"""Losses ``(z, y) -> scalar``: sums over the batch divided by its size, so that shards of a batch simply add up."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def _one_hot(z: Tensor, y: Tensor) -> Tensor:
    return F.one_hot(y, z.shape[1]).to(z.dtype)


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Softmax cross-entropy of logits z [N, C] and class indices y [N], in nats per image."""
    return F.cross_entropy(_wide(z), y, reduction="sum") / len(y)


def squared_error(z: Tensor, y: Tensor) -> Tensor:
    """½ ‖z − one_hot(y)‖² per image, z [N, C] (the ½ makes the error signal z − one_hot(y))."""
    z = _wide(z)
    return 0.5 * (z - _one_hot(z, y)).square().sum() / len(y)


def binary_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Sum over classes of sigmoid cross-entropy of logits z [N, C] with one_hot(y), in nats per image."""
    z = _wide(z)
    return F.binary_cross_entropy_with_logits(z, _one_hot(z, y), reduction="sum") / len(y)


def _wide(z: Tensor) -> Tensor:
    """Losses are computed in float32 at least: bf16 logits have eight bits."""
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of two views (Chen et al. 2020, eq. 1), in nats: the mean over all 2N views.

    l(i, j) = −log exp(s_ij / τ) / Σ_{k ≠ i} exp(s_ik / τ), s the cosine similarity, (i, j) the views of one image. (The authors' code
    reports the sum of its two halves' means: twice this.)

    Args:
        z: [2N, D], the two views of an image next to each other; any length.
        temperature: τ.

    """
    z = F.normalize(_wide(z), dim=1)
    with torch.autocast(z.device.type, enabled=False):
        scores = z @ z.T / temperature
    scores = scores.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    other = torch.arange(len(z), device=z.device) ^ 1
    return F.cross_entropy(scores, other, reduction="sum") / len(z)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "mse": squared_error, "bce": binary_cross_entropy}


def slope(loss: Loss, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss's value and its gradient with respect to the leaf ``z``: (scalar, [N, C]), both without graph."""
    value = loss(z, y)
    (delta,) = torch.autograd.grad(value, z)
    return value.detach(), delta
