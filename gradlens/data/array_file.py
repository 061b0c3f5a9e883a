"""Read and write a data set as one ``.npz`` file of uint8 arrays, so that images are decoded only once."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gradlens.data.channel_order import LAYOUTS, channel_order
from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import is_file, unreadable

if TYPE_CHECKING:
    from gradlens.data.split import Source

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
CHANNELS = (1, 3)
SETTLE = "add an array layout='NCHW' or layout='NHWC' to the file"


def _images(array: Any, layout: str | None, what: str) -> Tensor:
    """Convert [N, H, W], [N, H, W, C] or [N, C, H, W] to uint8 [N, C, H, W]; C is 1 or 3."""
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or not array.size:
        raise InputError(f"{what} must be uint8 images [N, H, W, C], [N, C, H, W] or [N, H, W], got {array.dtype} {list(array.shape)}")
    if array.ndim == 3:
        return torch.from_numpy(np.ascontiguousarray(array[:, None]))
    if layout is None:
        layout = channel_order(array.shape, what, SETTLE, CHANNELS)
    elif array.shape[layout.index("C")] not in CHANNELS:
        raise InputError(f"{what} must have 1 or 3 channels, got the shape {list(array.shape)} as {layout}")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2) if layout == "NHWC" else array))


def read_arrays(path: Path, wanted: Collection[str], others: Collection[str] = ()) -> dict[str, Any]:
    """Read arrays of an ``.npz`` file by name; nothing in it is executed.

    Args:
        path: the file.
        wanted: names of arrays that it must have.
        others: names of arrays that it may have.

    Raises:
        InputError: there is no such file, it cannot be read, is no ``.npz``, or lacks an array.

    """
    if not is_file(path):
        raise InputError(f"{path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [key for key in wanted if key not in file]:
                raise InputError(f"{path} lacks the array{'s' * (len(missing) > 1)} {', '.join(missing)} (wanted: {', '.join(wanted)})")
            return {key: file[key] for key in (*wanted, *others) if key in file}
    except InputError:
        raise
    except OSError as error:
        if error.errno:
            raise unreadable(path, error) from error
        raise _no_array_file(path) from error
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:  # numpy's own message suggests unsafe loading
        raise _no_array_file(path) from error


def _layout(file: Any, path: Path) -> str | None:
    """Return the file's ``layout``, if it has one."""
    layout = str(file["layout"]) if "layout" in file else None
    if layout not in (None, *LAYOUTS):
        raise InputError(f"{path}: layout is {layout!r}; wanted NCHW or NHWC")
    return layout


def _labels(array: Any, images: int, what: str) -> Tensor:
    """Convert labels to int64 [N], one for each image; -1 if unknown."""
    if array.dtype.kind not in "iu" or array.shape != (images,):
        raise InputError(f"{what} must be {images} whole numbers, one for each image, got {array.dtype} {list(array.shape)}")
    if len(array) and int(array.min()) < -1:
        raise InputError(f"{what} holds {int(array.min())}: labels count from 0, and -1 marks an image without one")
    return torch.from_numpy(array.astype(np.int64))


def _no_array_file(path: Path) -> InputError:
    return InputError(f"{path} is not an .npz file of arrays that can be read (np.savez writes one)")


def read_array_file(path: Path) -> Source:
    """Read ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` and, if present, ``classes`` (names).

    Args:
        path: an ``.npz`` file. Images are uint8 [N, H, W, C], [N, C, H, W] or [N, H, W]; labels are whole numbers from 0. If
            both orders are possible, as in [N, 3, 8, 3], ``layout`` must be ``NCHW`` or ``NHWC``.

    Raises:
        InputError: no such arrays, other types or shapes, or a file that is no ``.npz``; nothing in it is executed.

    """
    from gradlens.data.split import Split

    arrays = read_arrays(path, KEYS, ("classes", "layout"))
    names = arrays["classes"].tolist() if "classes" in arrays else None
    layout = _layout(arrays, path)
    halves = []
    for half in ("train", "test"):
        images = _images(arrays[f"{half}_images"], layout, f"{path}: {half}_images")
        halves.append(Split(images, _labels(arrays[f"{half}_labels"], len(images), f"{path}: {half}_labels")))
    if halves[0].images.shape[1:] != halves[1].images.shape[1:]:
        ours, theirs = (list(half.images.shape[1:]) for half in halves)
        raise InputError(f"{path}: training images of {ours}, test images of {theirs}; both must have one shape")
    most = int(max(half.labels.max() for half in halves))
    classes = tuple(str(name) for name in names) if isinstance(names, list) else tuple(str(c) for c in range(most + 1))
    if most >= len(classes):
        raise InputError(f"{path}: label {most}, but classes names only {len(classes)}")
    return halves[0], halves[1], classes


def write_array_file(path: Path, source: Source, **extra: str) -> None:
    """Write a data set for :func:`read_array_file`, under a temporary name first; ``extra`` strings are stored with it."""
    train, test, classes = source
    halves = zip(KEYS, (train.images, train.labels, test.images, test.labels), strict=True)
    arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in halves}
    arrays |= {"classes": np.array(classes), "layout": "NCHW", **extra}
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)
