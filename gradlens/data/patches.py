"""Cut images into grids of overlapping patches, and arrange an encoder's outputs for the patches as maps on the grid.

Row i and column j of a map belong to the patch with upper left pixel (stride · i, stride · j). Images of height 1 are sequences: their
patches are consecutive along the width, and time replaces rows, so that a map of a sequence is [N, C, T, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.data.contrastive_views import GREY
from gradlens.runtime.batch_shard import draw_sharded
from gradlens.runtime.errors import InputError

SMALLEST = 4  # side of a patch by default


class Grid(NamedTuple):
    """A grid of overlapping patches."""

    patch: tuple[int, int]  # height and width in pixels
    stride: int  # pixels from one patch to the next
    rows: int  # number of rows (of a sequence: patches in time)
    columns: int  # number of columns (of a sequence: one)


def patch_side(height: int, width: int) -> int:
    """Return the default side: a quarter of the image's smaller side (of a sequence its length), at least 4 pixels."""
    side = width if height == 1 else min(height, width)
    return min(max(side // 4, SMALLEST), side)


def grid_of(height: int, width: int, patch: int | None = None, stride: int | None = None) -> Grid:
    """Compute the grid on images of a size; pixels after the last whole patch are in none.

    Args:
        height: height of the images; 1: sequences.
        width: width of the images.
        patch: side of a patch, in pixels; default: :func:`patch_side`.
        stride: pixels from one patch to the next; default: half a patch.

    Raises:
        InputError: patches larger than the image.

    """
    side = patch or patch_side(height, width)
    step = stride or max(1, side // 2)
    if side > (width if height == 1 else min(height, width)):
        raise InputError(f"patches of {side} pixels are larger than the images, which are {height}x{width} (HxW)")
    across = (width - side) // step + 1
    if height == 1:
        return Grid((1, side), step, across, 1)
    return Grid((side, side), step, (height - side) // step + 1, across)


def patches(x: Tensor, grid: Grid) -> Tensor:
    """Cut images [N, C, H, W] into patches [N · rows · columns, C, *patch]: an image's patches are consecutive, row by row."""
    (h, w), c = grid.patch, x.shape[1]
    cut = x.unfold(2, h, grid.stride).unfold(3, w, grid.stride)  # [N, C, rows, columns, h, w], a view
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, c, h, w).contiguous(memory_format=torch.channels_last)


def maps(h: Tensor, grid: Grid) -> Tensor:
    """Average a block's outputs for patches, [N · rows · columns, C, h, w] or [N · rows · columns, C], to maps [N, C, rows, columns]."""
    means = h.mean((2, 3)) if h.ndim == 4 else h
    return means.view(-1, grid.rows, grid.columns, h.shape[1]).permute(0, 3, 1, 2)


def cropped(images: Tensor, size: tuple[int, int], flip: bool, rng: torch.Generator | None) -> Tensor:
    """Crop windows at random positions, mirrored with probability 1/2; without ``rng`` the centre, not mirrored.

    Args:
        images: [N, C, H, W].
        size: height and width of the window, no larger than the images.
        flip: whether windows are mirrored left to right with probability 1/2.
        rng: generator of the draws.

    Returns:
        [N, C, *size].

    """
    n, _, height, width = images.shape
    room = height - size[0], width - size[1]
    if rng is None:
        y, x = room[0] // 2, room[1] // 2
        return images[:, :, y : y + size[0], x : x + size[1]]
    dy = draw_sharded(n, lambda m: torch.randint(room[0] + 1, (m, 1), generator=rng))
    dx = draw_sharded(n, lambda m: torch.randint(room[1] + 1, (m, 1), generator=rng))
    mirrored = draw_sharded(n, lambda m: torch.rand(m, 1, generator=rng)) < (0.5 if flip else 0.0)
    columns = torch.arange(size[1]).expand(n, -1)
    columns = torch.where(mirrored, columns.flip(1), columns) + dx
    rows = torch.arange(size[0]) + dy
    rows, columns = (i.to(images.device, non_blocking=True) for i in (rows, columns))
    batch = torch.arange(n, device=images.device)[:, None, None]
    return images[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def grey(x: Tensor) -> Tensor:
    """Convert images [N, 3, H, W] to grey: three equal channels of BT.601 luma; images with other channels do not change."""
    if x.shape[1] != 3:
        return x
    luma = torch.tensor(GREY, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    return (x * luma).sum(1, keepdim=True).expand_as(x)
