"""A folder of images as a data set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradlens.data.split import Source, Split
from gradlens.runtime.errors import InputError


def _decode(file: str) -> np.ndarray[Any, Any]:
    """One image file as uint8 [H, W] (grey) or [H, W, 3]."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode.startswith("I"):  # PIL would clip them to white
                raise ValueError("16-bit grey images are not read: convert them to 8 bits")
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except Exception as error:
        raise InputError(f"{file} is not a readable image: {error}") from error


def image_folder(root: Path) -> Source:
    """``root/train/<class>/*`` and ``root/test/<class>/*``, all images of one size; grey only if all are.

    Raises:
        InputError: no such layout, an empty class, a class that only one half has, an unreadable image, unequal sizes.

    """
    from torchvision.datasets import ImageFolder

    halves: list[list[tuple[str, int]]] = []
    names: list[list[str]] = []
    for half in ("train", "test"):
        if not (root / half).is_dir():
            raise InputError(f"{root} is no image folder: it has no {half}/ (wanted: train/<class>/ and test/<class>/ in it)")
        try:
            found = ImageFolder(str(root / half))
        except FileNotFoundError as error:  # torchvision names the empty classes, or says there are none
            raise InputError(f"{root / half}: {str(error).splitlines()[0]}") from error
        halves.append(found.samples)
        names.append(found.classes)
    if names[0] != names[1]:
        train_only, test_only = sorted(set(names[0]) - set(names[1])), sorted(set(names[1]) - set(names[0]))
        where = f"{', '.join(train_only)} missing from test" if train_only else f"{', '.join(test_only)} missing from train"
        raise InputError(f"{root}: train and test have different classes: {where}")
    with ThreadPoolExecutor() as pool:
        decoded = [list(pool.map(_decode, [file for file, _ in samples], chunksize=256)) for samples in halves]
    sizes = {(image.shape[0], image.shape[1]) for half in decoded for image in half}
    if len(sizes) > 1:
        first = halves[0][0][0], decoded[0][0].shape[:2]
        other = next(
            (file, image.shape[:2])
            for samples, half in zip(halves, decoded, strict=True)
            for (file, _), image in zip(samples, half, strict=True)
            if image.shape[:2] != first[1]
        )
        raise InputError(
            f"images of different sizes in {root}: {first[0]} is {first[1][0]}x{first[1][1]},"
            f" {other[0]} is {other[1][0]}x{other[1][1]}; all must have one size"
        )
    grey = all(image.ndim == 2 for half in decoded for image in half)
    splits = []
    for samples, arrays in zip(halves, decoded, strict=True):
        stacked = np.stack([i if grey or i.ndim == 3 else np.repeat(i[:, :, None], 3, 2) for i in arrays])
        x = torch.from_numpy(stacked)
        x = x[:, None] if grey else x.permute(0, 3, 1, 2).contiguous()
        splits.append(Split(x, torch.tensor([label for _, label in samples])))
    return splits[0], splits[1], tuple(names[0])
