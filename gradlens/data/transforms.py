"""Convert uint8 images to network input: batched crops and flips, normalisation. All draws are keyed by (seed, step)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradlens.data.split import Data
from gradlens.runtime.batch_shard import draw_sharded
from gradlens.runtime.errors import unknown
from gradlens.runtime.rng import generator

NORMALIZATIONS = ("pm1", "gaussian", "none")


def crop_and_flip(images: Tensor, seed: int, step: int, pad: int = 4) -> Tensor:
    """Apply a random horizontal flip and a random crop of the original size after padding with ``pad`` black pixels, in one gather.

    Args:
        images: [N, C, H, W] uint8.
        seed: the run's seed.
        step: the update of the batch.
        pad: black pixels on each side.

    Returns:
        [N, C, H, W] uint8.

    """
    n, _, height, width = images.shape
    rng = generator(seed, "augment", step)
    dy, dx = draw_sharded(n, lambda m: torch.randint(2 * pad + 1, (2, m, 1), generator=rng), dim=1)
    flip = draw_sharded(n, lambda m: torch.rand(m, 1, generator=rng)) < 0.5
    rows = torch.arange(height) + dy  # [N, H] rows of the padded image
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(flip, columns.flip(1), columns) + dx  # [N, W]
    if images.is_cuda:  # pinned, the copy does not wait
        rows, columns = rows.pin_memory(), columns.pin_memory()
    rows, columns = (i.to(images.device, non_blocking=True) for i in (rows, columns))
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    batch = torch.arange(n, device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def input_of(kind: str, data: Data, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the :func:`normalizer` of a data set, on a device; it uses all training images, with or without a label."""
    images = data.everything.images if kind == "gaussian" else data.train.images[:1]
    return normalizer(kind, images, device)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and deviation [C] of each channel of uint8 images [N, C, H, W], as shares of 255, in float64, from value counts."""
    found = []
    for channel in range(images.shape[1]):
        counts = torch.zeros(256, dtype=torch.float64)
        for part in torch.split(images[:, channel], 4096):  # type: ignore[no-untyped-call]  # a part at a time: bincount wants 64-bit numbers
            counts += torch.bincount(part.flatten().cpu().long(), minlength=256)
        values, n = torch.arange(256, dtype=torch.float64) / 255, counts.sum()
        mean = (counts * values).sum() / n
        variance = (counts * (values - mean).square()).sum() / (n - 1)
        found.append((mean, variance.sqrt().clamp_min(1 / 255)))
    means, deviations = zip(*found, strict=True)
    return torch.stack(means), torch.stack(deviations)


def normalizer(kind: str, images: Tensor, device: torch.device | None = None) -> Callable[[Tensor], Tensor]:
    """Return the map from images of 0 … 255, [N, C, H, W] uint8 or float, to float32, channels last in memory.

    Args:
        kind: ``pm1`` to [-1, +1]; ``gaussian`` to zero mean and unit variance per channel of ``images``; ``none`` to [0, 1].
        images: the training images [N, C, H, W] uint8.
        device: where the batches will be; default: where ``images`` are.

    """
    c = images.shape[1]
    if kind == "pm1":
        mean, std = torch.full((c,), 0.5), torch.full((c,), 0.5)
    elif kind == "none":
        mean, std = torch.zeros(c), torch.ones(c)
    elif kind == "gaussian":
        mean, std = (v.float() for v in _moments(images))
    else:
        raise unknown("normalization", kind, NORMALIZATIONS)
    scale = (1 / (255 * std)).reshape(1, c, 1, 1).to(device or images.device)
    shift = (-mean / std).reshape(1, c, 1, 1).to(device or images.device)

    def normalize(batch: Tensor) -> Tensor:
        return (batch * scale + shift).contiguous(memory_format=torch.channels_last)

    return normalize
