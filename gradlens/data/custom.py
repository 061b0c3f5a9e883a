"""Load data sets from a user's own file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlens.data.channel_order import channel_order
from gradlens.data.split import Source, Split
from gradlens.runtime.errors import InputError, kind_of
from gradlens.runtime.user_code import blamed, file_and_name, function_in

SETTLE = "return a gradlens.Split, whose images are [N, C, H, W]; images.permute(0, 3, 1, 2) converts [N, H, W, C]"


def _split(half: str, given: Any, where: str) -> Split:
    """Check one half of a user's data set and convert it."""
    images, labels = (given.images, given.labels) if isinstance(given, Split) else _pair(half, given, where)
    x, y = (_tensor(t, f"{where}: {what} of the {half} half") for t, what in ((images, "images"), (labels, "labels")))
    if x.dtype != torch.uint8:
        raise InputError(f"{where}: images of the {half} half are {_dtype(x)}: wanted uint8, 0 to 255; --normalize scales them")
    if x.ndim != 4 or not x.numel():
        got = "x".join(map(str, x.shape))
        raise InputError(f"{where}: images of the {half} half are {got}: wanted [N, C, H, W], one image or more")
    if not isinstance(given, Split) and channel_order(x.shape, f"{where}: images of the {half} half", SETTLE) == "NHWC":
        x = x.permute(0, 3, 1, 2)
    if y.ndim != 1 or len(y) != len(x):
        raise InputError(f"{where}: labels of the {half} half are {'x'.join(map(str, y.shape))} for {len(x)} images: wanted [N]")
    if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
        raise InputError(f"{where}: labels of the {half} half are {_dtype(y)}: wanted whole numbers")
    return Split(x.contiguous(), y.long())


def _pair(half: str, given: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"{where}: the {half} half is {kind_of(given)}: wanted (images, labels) or a gradlens.Split")
    return given[0], given[1]


def _tensor(given: Any, what: str) -> Tensor:
    if not isinstance(given, Tensor | np.ndarray | list):
        raise InputError(f"{what} are {kind_of(given)}: wanted a tensor")
    try:
        return torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} are no tensor: {next(iter(str(error).splitlines()), '')}") from error


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def data_set(text: str) -> Source:
    """Load a user's data set: ``build()`` of a file returns ((images, labels), (images, labels), class names), training and test.

    Images are uint8 [N, C, H, W] or [N, H, W, 3], labels [N] 0 … C−1 (−1 in the training half: unknown); a half may be a ``Split``,
    whose images are [N, C, H, W]. For others :func:`gradlens.data.channel_order.channel_order` infers the order.

    Raises:
        InputError: it cannot be imported, raises, or returns something else.

    """
    path, name = file_and_name("data", text)
    where = f"{path}:{name}"
    build = function_in(path, name, "that gives a data set")
    with blamed(f"{where} raised"):
        given = build()
    if not isinstance(given, tuple | list) or len(given) != 3:
        size = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        what = "None" if given is None else kind_of(given)
        raise InputError(f"{where} gives {what}{size}: wanted ((images, labels), (images, labels), class names), training and test")
    train, test = _split("training", given[0], where), _split("test", given[1], where)
    if train.images.shape[1:] != test.images.shape[1:]:
        a, b = ("x".join(map(str, half.images.shape[1:])) for half in (train, test))
        raise InputError(f"{where}: training images are {a}, test images {b} (CxHxW): all must have one shape")
    if isinstance(given[2], str) or not isinstance(given[2], Sequence) or not len(given[2]):
        raise InputError(f"{where}: class names are {given[2]!r}: wanted a list of names")
    names = tuple(str(c) for c in given[2])
    for half, split, lowest in (("training", train, -1), ("test", test, 0)):
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < lowest or high >= len(names):
            wrong = low if low < lowest else high
            raise InputError(
                f"{where}: the {half} half has the label {wrong}: with {len(names)} class names labels are 0 to {len(names) - 1}"
            )
    if not (train.labels >= 0).any():
        raise InputError(f"{where}: no training image has a label")
    return train, test, names
