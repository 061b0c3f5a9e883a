"""Make augmented views of images for contrastive rules: batched on the device, draws keyed by (seed, step), for the global batch.

Crop-resize and flip are one bilinear resampling. Brightness, contrast, saturation, hue and grey are each linear in an image's colours
(hue: a rotation of the chroma plane of YIQ), so that together they are one 3×3 matrix and an offset an image: they cost one small
product, and nothing is clipped between them, only after the last. SimCLR's own code clips after each.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from gradlens.runtime.batch_shard import draw_sharded
from gradlens.runtime.rng import generator

GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in torchvision and PIL
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


class ViewOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of views; the defaults are SimCLR's for CIFAR-10 (Chen et al. 2020, arXiv 2002.05709, appendix B.9)."""

    crop: bool = Field(True, description="random crop of area min_area to 1 and aspect 3/4 to 4/3, resized to the image")
    min_area: float = Field(0.08, gt=0, le=1, description="smallest share of the image that a crop covers")
    flip: bool = Field(True, description="left-right flip with probability 1/2")
    jitter: float = Field(0.5, ge=0, le=1.25, description="strength of the colour jitter, applied to 8 of 10 views; 0: none")
    grey: float = Field(0.2, ge=0, le=1, description="share of the views converted to grey")
    blur: float = Field(0.0, ge=0, le=1, description="share of the views that are blurred, sigma 0.1 to 2")


class Draws:
    """Random numbers of one batch of views, drawn on the CPU for the global batch and copied to the images' device."""

    def __init__(self, n: int, device: torch.device, rng: torch.Generator) -> None:
        self.n, self.device, self.rng = n, device, rng

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw [n] uniform numbers from low to high."""
        u = draw_sharded(self.n, lambda n: torch.rand(n, generator=self.rng))
        return (low + (high - low) * u).to(self.device, non_blocking=True)

    def chance(self, p: float) -> Tensor:
        """Draw [n] bool, true with probability p."""
        return self.uniform() < p

    def order(self, k: int) -> list[int]:
        """Draw a random order of k operations, one for the batch."""
        return [int(i) for i in torch.randperm(k, generator=self.rng)]


def windows(n: int, options: ViewOptions, draw: Draws, size: tuple[int, int]) -> Tensor:
    """Draw affine maps [n, 2, 3] from a view's pixels to its window of the image, in ``affine_grid``'s coordinates of -1 … 1.

    A window covers a share a ~ U[min_area, 1] of the image at an aspect ratio exp U[log 3/4, log 4/3]; a side longer than the image's
    is clamped to it (torchvision draws again instead). Flipped views have their columns reversed.
    """
    h, w = torch.ones(n, device=draw.device), torch.ones(n, device=draw.device)
    if options.crop:
        area = draw.uniform(options.min_area, 1.0) * size[0] * size[1]
        ratio = draw.uniform(math.log(3 / 4), math.log(4 / 3)).exp()
        h = ((area / ratio).sqrt() / size[0]).clamp(max=1)
        w = ((area * ratio).sqrt() / size[1]).clamp(max=1)
    y, x = (draw.uniform(-1, 1) * (1 - side) for side in (h, w))  # the window's centre
    sign = torch.where(draw.chance(0.5), -1.0, 1.0) if options.flip else torch.ones(n, device=draw.device)
    none = torch.zeros(n, device=draw.device)
    return torch.stack([torch.stack([w * sign, none, x], 1), torch.stack([none, h, y], 1)], 1)


def _middles(n: int, device: torch.device) -> Tensor:
    """Return the centres of n pixels along -1 … 1."""
    return (2 * torch.arange(n, device=device) + 1) / n - 1


def hue_rotation(turn: Tensor) -> Tensor:
    """Make rotations of the chroma plane of YIQ by ``turn`` [n] of a full turn, as matrices [n, 3, 3] on RGB; greys do not change."""
    to = torch.tensor(TO_YIQ, dtype=torch.float64)
    back = torch.linalg.inv(to).to(turn.device, turn.dtype)
    cos, sin = (2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()
    spin = torch.zeros(len(turn), 3, 3, device=turn.device, dtype=turn.dtype)
    spin[:, 0, 0], spin[:, 1, 1], spin[:, 2, 2], spin[:, 1, 2], spin[:, 2, 1] = 1, cos, cos, -sin, sin
    rotated: Tensor = back @ spin @ to.to(turn.device, turn.dtype)
    return rotated


def colours(n: int, options: ViewOptions, draw: Draws) -> tuple[Tensor, Tensor]:
    """Draw the colour change of each view: colour v [3] -> A v + B mu, with mu the view's own mean colour before it.

    Jittered views (8 of 10) are changed in brightness, contrast (against their mean grey) and saturation by factors of 1 ± 0.8 s and in
    hue by ± 0.2 s of a turn, in an order drawn for the batch; then a share ``grey`` of the views is converted to grey.

    Returns:
        A and B, [n, 3, 3] each.

    """
    eye, luma = torch.eye(3, device=draw.device), torch.tensor(GREY, device=draw.device)
    a, b = eye.expand(n, 3, 3), torch.zeros(n, 3, 3, device=draw.device)
    s = options.jitter
    if s:
        jittered = draw.chance(0.8)
        bright, contrast, saturate = (torch.where(jittered, draw.uniform(max(0.0, 1 - 0.8 * s), 1 + 0.8 * s), 1.0) for _ in range(3))
        turn = torch.where(jittered, draw.uniform(-0.2 * s, 0.2 * s), 0.0)
        greyed = saturate[:, None, None] * eye + (1 - saturate)[:, None, None] * luma
        for which in draw.order(4):
            if which == 0:
                a, b = bright[:, None, None] * a, bright[:, None, None] * b
            elif which == 1:  # the mean colour is now (A + B) mu
                towards = (1 - contrast)[:, None, None] * (luma @ (a + b))[:, None, :]
                a, b = contrast[:, None, None] * a, contrast[:, None, None] * b + towards
            else:
                change = greyed if which == 2 else hue_rotation(turn)
                a, b = change @ a, change @ b
    if options.grey:
        change = torch.where(draw.chance(options.grey)[:, None, None], luma.expand(3, 3), eye)
        a, b = change @ a, change @ b
    return a, b


def blurred(images: Tensor, share: float, draw: Draws) -> Tensor:
    """Convolve a share of the images [n, C, H, W] with Gaussians of sigma U[0.1, 2], kernel H // 10, odd, 3 at least."""
    n, c, h, _ = images.shape
    half = max(1, h // 20)
    sigma = torch.where(draw.chance(share), draw.uniform(0.1, 2.0), 1e-3)
    at = torch.arange(-half, half + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (at / sigma[:, None]).square(), 1).to(images.dtype).repeat_interleave(c, 0)  # [n C, k]
    planes = F.pad(images.reshape(1, n * c, *images.shape[2:]), (half,) * 4, mode="replicate")
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=n * c)
    return F.conv2d(planes, kernel[:, None, None, :], groups=n * c).reshape(images.shape)


def views(images: Tensor, options: ViewOptions, seed: int, step: int, of_each: int = 2) -> Tensor:
    """Make random views of each image, in the batch's order.

    Args:
        images: [N, C, H, W] of 0 … 255, uint8 or float; C is 1 or 3.
        options: options of the views.
        seed: the run's seed.
        step: the update of the batch.
        of_each: number of views per image.

    Returns:
        [N of_each, C, H, W] float32 of 0 … 255: the views of an image are neighbours.

    """
    n = len(images) * of_each
    c, h, w = images.shape[1:]
    draw = Draws(n, images.device, generator(seed, "views", step))
    out = images.float().repeat_interleave(of_each, 0).contiguous()
    if options.crop or options.flip:
        at = windows(n, options, draw, (h, w))
        columns = at[:, 0, 0, None] * _middles(w, at.device) + at[:, 0, 2, None]  # [n, W]: the maps do not rotate, so a row has one y
        rows = at[:, 1, 1, None] * _middles(h, at.device) + at[:, 1, 2, None]
        grid = torch.stack([columns[:, None, :].expand(n, h, w), rows[:, :, None].expand(n, h, w)], 3)
        out = F.grid_sample(out, grid, padding_mode="border", align_corners=False)
    if options.jitter or options.grey:
        a, b = colours(n, options, draw)
        colour = out.expand(-1, 3, -1, -1).flatten(2)
        mean = colour.mean(2, keepdim=True)
        out = torch.baddbmm(b @ mean, a, colour).clamp(0, 255).view(n, 3, h, w)[:, :c]
    if options.blur:
        out = blurred(out, options.blur, draw)
    return out
