"""Render rays through a volume of colours and densities, and choose the depths at which it is sampled (Mildenhall et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

BEYOND = 1e10  # length of a ray's last interval


def intervals(depths: Tensor) -> Tensor:
    """Return the lengths [N, S] of the intervals that begin at depths [N, S]; the last one has no end."""
    return torch.cat([depths.diff(dim=1), torch.full_like(depths[:, :1], BEYOND)], 1)


def weights(density: Tensor, lengths: Tensor) -> Tensor:
    """Compute how much each sample adds to its ray's colour: w_i = a_i Π_{j<i} (1 − a_j), a_i = 1 − exp(−relu(density_i) · length_i).

    Mildenhall et al. 2020 (arXiv 2003.08934, eq. 3); their code adds 1e-10 to each factor, and so does this.

    Args:
        density: [N, S] before the relu.
        lengths: [N, S] of the intervals, in units of the ray's own length.

    Returns:
        [N, S].

    """
    alpha = 1 - torch.exp(-torch.relu(density) * lengths)
    through = torch.cumprod(1 - alpha[:, :-1] + 1e-10, 1)
    return alpha * torch.cat([torch.ones_like(through[:, :1]), through], 1)


def render(raw: Tensor, lengths: Tensor, background: Tensor) -> Tensor:
    """Compute the colour of rays: Σ w_i sigmoid(rgb_i) + (1 − Σ w_i) · background.

    Args:
        raw: [N, S, 4] colours before the sigmoid and densities before the relu.
        lengths: [N, S] of the intervals.
        background: [N] or scalar, its brightness, 0 to 1.

    Returns:
        [N, 3].

    """
    w = weights(raw[..., 3], lengths)
    colours = (w[..., None] * raw[..., :3].sigmoid()).sum(1)
    return colours + ((1 - w.sum(1)) * background)[:, None]


def stratified(near: float, far: float, samples: int, draws: Tensor | None = None) -> Tensor:
    """Choose depths from near to far, in equal steps; with draws one in each of the intervals around them.

    Args:
        near, far: the first and last depth.
        samples: S.
        draws: [N, S] uniform on [0, 1).

    Returns:
        [N, S], or [1, S] without draws.

    """
    even = torch.linspace(near, far, samples)[None]
    if draws is None:
        return even
    even, middles = even.to(draws), (0.5 * (even[:, 1:] + even[:, :-1])).to(draws)
    lower, upper = torch.cat([even[:, :1], middles], 1), torch.cat([middles, even[:, -1:]], 1)
    return lower + (upper - lower) * draws


def by_weights(depths: Tensor, w: Tensor, draws: Tensor) -> Tensor:
    """Choose more depths where a ray's weights are: the inverse of their cumulative distribution, constant between samples' middles.

    As in the code of Mildenhall et al. 2020: 1e-5 is added to each of the inner weights, the first and last sample's do not count.

    Args:
        depths: [N, S] in order.
        w: [N, S] of the samples, from :func:`weights`.
        draws: [N, F] on [0, 1].

    Returns:
        [N, F].

    """
    middles = 0.5 * (depths[:, 1:] + depths[:, :-1])
    shares = w[:, 1:-1] + 1e-5
    shares = shares / shares.sum(1, keepdim=True)
    below = torch.cat([torch.zeros_like(shares[:, :1]), shares.cumsum(1)], 1)
    above = torch.searchsorted(below, draws.contiguous(), right=True).clamp(max=below.shape[1] - 1)
    under = (above - 1).clamp(min=0)
    start, end = below.gather(1, under), below.gather(1, above)
    width = torch.where(end - start < 1e-5, torch.ones_like(end), end - start)
    left, right = middles.gather(1, under), middles.gather(1, above)
    return left + (draws - start) / width * (right - left)
