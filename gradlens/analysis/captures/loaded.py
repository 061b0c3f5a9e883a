"""Captured steps as they are compared: the files of all ranks as one, tensors and count sketches as vectors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlens.gradients.capture_file import CaptureFile
from gradlens.runtime.errors import InputError


def layer_of(label: str) -> str:
    """Return the path of the layer that a label belongs to.

    >>> layer_of("encoder.lstm#1[hidden]"), layer_of("head")
    ('encoder.lstm', 'head')
    """
    return re.split(r"[#\[]", label, maxsplit=1)[0]


class LoadedCapture:
    """One captured step, of one process or of several ranks.

    Args:
        path: the file; of several ranks the name without ``.rank0``.

    Attributes:
        path: as given.
        files: one per rank.

    Raises:
        InputError: a file that cannot be read or is no capture, or ranks of different steps or with some missing.

    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        paths = _of_ranks(self.path)
        self.files = [CaptureFile(one) for one in paths]
        ranks = [file.header.get("rank") for file in self.files]
        wanted = self.files[0].header.get("ranks")
        if len(self.files) > 1 and (ranks != list(range(len(ranks))) or wanted != len(ranks)):
            raise InputError(f"{self.path}: found files of {len(ranks)} ranks, the step had {wanted}; put all of them into one folder")

    @cached_property
    def header(self) -> dict[str, Any]:
        """Return the header of the first rank."""
        return self.files[0].header

    @cached_property
    def keys(self) -> dict[str, None]:
        """Return the keys of all tensors, in the order of the header."""
        return {key: None for file in self.files for key in file.header["tensors"]}

    @property
    def sketch(self) -> tuple[int, int] | None:
        """Size and seed of the sketches; None: whole tensors."""
        made = self.header.get("sketch")
        return (int(made["size"]), int(made["seed"])) if isinstance(made, dict) else None

    def facts(self, key: str) -> list[dict[str, Any]]:
        """Return the header's entry for a tensor, of each rank that has it."""
        return [file.header["tensors"][key] for file in self.files if key in file.header["tensors"]]

    def dtype(self, key: str) -> torch.dtype:
        """Return the type that a tensor had when it was computed."""
        found: torch.dtype = getattr(torch, self.facts(key)[0]["dtype"])
        return found

    def nonfinite(self, key: str) -> int:
        """Return the number of entries that are not finite."""
        return sum(int(fact["nonfinite"]) for fact in self.facts(key))

    def norm(self, key: str) -> float:
        """Return the norm of the finite entries."""
        return math.hypot(*(float(fact["norm"]) for fact in self.facts(key)))

    def rows(self, key: str) -> list[int]:
        """Return the rows of each micro-batch; empty if there was one."""
        return [] if len(self.files) > 1 else list(self.facts(key)[0].get("rows", []))

    def tensor(self, key: str, like: Sequence[int] | None = None) -> Tensor:
        """Return a whole tensor, or its sketch.

        Args:
            key: of the tensor.
            like: shape of the tensor that it is compared with: says how ranks' parts are put together.

        """
        parts = [(file.tensor(key), file.header["tensors"][key]) for file in self.files if key in file.header["tensors"]]
        if len(parts) == 1 and "offset" not in parts[0][1]:
            return parts[0][0]
        if self.sketch is not None:
            return _added(parts)
        if "offset" in parts[0][1]:
            return _assembled(parts)
        return _put_together([tensor for tensor, _ in parts], key.startswith("parameter/"), like)

    def ranks_differ(self, key: str) -> bool:
        """Return whether ranks that each have the whole of a parameter's gradient have different ones."""
        if len(self.files) == 1 or "offset" in self.facts(key)[0]:
            return False
        first, *others = (file.tensor(key) for file in self.files)
        return not all(torch.equal(first, other) for other in others)


def _of_ranks(path: Path) -> list[Path]:
    """Return the file, or those of the ranks beside the name."""
    if path.exists():
        return [path]
    pattern = re.compile(rf"{re.escape(path.stem)}\.rank(\d+){re.escape(path.suffix)}")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    found = sorted((int(match[1]), one) for one in beside if (match := pattern.fullmatch(one.name)))
    return [one for _, one in found] or [path]


def _added(parts: list[tuple[Tensor, dict[str, Any]]]) -> Tensor:
    """Add sketches of parts; of a tensor that every rank has whole the first is taken."""
    if all(fact.get("whole", fact["shape"]) == fact["shape"] for _, fact in parts):
        return parts[0][0]
    return torch.stack([tensor for tensor, _ in parts]).sum(0)


def _assembled(parts: list[tuple[Tensor, dict[str, Any]]]) -> Tensor:
    """Put the ranks' parts of a sharded tensor where they belong in it."""
    whole = parts[0][0].new_zeros(parts[0][1]["whole"])
    for tensor, fact in parts:
        place = tuple(slice(start, start + length) for start, length in zip(fact["offset"], tensor.shape, strict=True))
        whole[place] = tensor
    return whole


def _put_together(parts: list[Tensor], same: bool, like: Sequence[int] | None) -> Tensor:
    """Put ranks' tensors together: the first, if each has the whole; else along the dimension in which they add up to ``like``."""
    first = parts[0]
    if same or (like is not None and list(first.shape) == list(like)):
        return first
    for d in range(first.ndim):
        total = sum(part.shape[d] for part in parts)
        rest = {(*part.shape[:d], *part.shape[d + 1 :]) for part in parts}
        if len(rest) == 1 and (like is None or [*first.shape[:d], total, *first.shape[d + 1 :]] == list(like)):
            return torch.cat(parts, d)
    return torch.cat([part.reshape(-1) for part in parts])
