"""What a capture keeps of a step's tensors: the tensors themselves, or count sketches of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlens.gradients.count_sketch import CountSketch


class Shard:
    """The part of a tensor that this rank has.

    Args:
        value: any tensor; of a ``DTensor`` its local part.

    Attributes:
        local: the part [*shape].
        whole: shape of the whole tensor.
        offset: where the part begins in it.

    """

    def __init__(self, value: Tensor) -> None:
        self.local, self.whole, self.offset = value.detach(), tuple(value.shape), (0,) * value.ndim
        if hasattr(value, "placements"):
            from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

            of: Any = value
            if any(placement.is_partial() for placement in of.placements):  # a sum over ranks that is not made yet
                of = of.redistribute(placements=[_replicated(p) for p in of.placements])
            _, self.offset = compute_local_shape_and_global_offset(of.shape, of.device_mesh, of.placements)
            self.local = of.to_local().detach()

    @property
    def is_whole(self) -> bool:
        """Return whether this rank has all of it."""
        return tuple(self.local.shape) == self.whole

    def index(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the global index of each entry of the part."""
        found = np.zeros((), np.int64)
        for size, start, length in zip(self.whole, self.offset, self.local.shape, strict=True):
            found = found[..., None] * size + np.arange(start, start + length)
        return found.reshape(-1)


def _replicated(placement: Any) -> Any:
    from torch.distributed.tensor import Replicate

    return Replicate() if placement.is_partial() else placement


class Series:
    """One tensor of a step: a part for each micro-batch, concatenated along the first dimension.

    Args:
        key: of the tensor in the file.
        size: buckets of its sketch; None: the tensor itself is kept.
        seed: of the sketch.
        share: rank and number of ranks that have equal parts of each micro-batch.

    """

    def __init__(self, key: str, size: int | None, seed: int = 0, share: tuple[int, int] = (0, 1)) -> None:
        self._rank, self._ranks = share
        self._sketch = None if size is None else CountSketch(key, size, seed)
        self._parts: dict[int, Tensor] = {}  # micro-batch -> what is kept of it; none in a sketch
        self._rows: dict[int, int] = {}  # micro-batch -> rows
        self._starts: dict[int, int] = {}  # micro-batch -> global index of its first entry
        self._entries, self._squares, self._nonfinite, self._added_twice = 0, 0.0, 0, False
        self._shape: tuple[int, ...] = ()  # of the first part
        self._dtype: torch.dtype | None = None
        self._shard: Shard | None = None

    def add(self, micro: int, part: Tensor, divisor: float = 1.0) -> None:
        """Add a part, or add it to what is there of the same micro-batch.

        Args:
            micro: number of the micro-batch.
            part: the tensor [rows, …]; it is copied.
            divisor: what it is divided by.

        """
        if hasattr(part, "placements"):
            self._shard = Shard(part)
            part = self._shard.local
        part = part.detach()
        self._dtype = self._dtype or part.dtype
        part = part / divisor if divisor != 1 else part
        if micro not in self._rows:
            self._rows[micro], self._starts[micro] = len(part) if part.ndim else 1, self._entries + self._rank * part.numel()
            self._entries += part.numel() * self._ranks
            self._shape = self._shape or tuple(part.shape)
        else:
            self._added_twice = True
        if self._sketch is None:
            there = self._parts.get(micro)
            copied = part.to("cpu", copy=True, memory_format=torch.contiguous_format)
            self._parts[micro] = copied if there is None else there + copied
            return
        self._count(part)
        if self._shard is not None and not self._shard.is_whole:
            self._sketch.add_at(part, self._shard.index())
        else:
            self._sketch.add(part, self._starts[micro])

    def _count(self, part: Tensor) -> None:
        """Add to the norm and the number of entries that are not finite."""
        norm, wrong = finite_norm(part)
        self._squares += norm**2
        self._nonfinite += wrong

    def stored(self) -> tuple[Tensor, dict[str, Any]]:
        """Return what is written to the file, and the header's entry for it."""
        fact: dict[str, Any] = {"dtype": str(self._dtype).removeprefix("torch.")}
        if self._shard is not None:
            fact |= {"whole": list(self._shard.whole), "offset": list(self._shard.offset)}
        if len(self._rows) > 1:
            fact["rows"] = list(self._rows.values())
        if self._sketch is not None:
            norm = float(np.linalg.norm(self._sketch.buckets)) if self._added_twice else math.sqrt(self._squares)
            shape = [sum(self._rows.values()), *self._shape[1:]] if self._shape or len(self._rows) > 1 else []
            if self._ranks > 1 and shape:
                fact["whole"] = [shape[0] * self._ranks, *shape[1:]]
            return torch.from_numpy(self._sketch.buckets), {**fact, "shape": shape, "norm": norm, "nonfinite": self._nonfinite}
        whole = _joined(list(self._parts.values()))
        norm, wrong = finite_norm(whole)
        return whole, {**fact, "shape": list(whole.shape), "norm": norm, "nonfinite": wrong}


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenate along the first dimension; numbers become a vector, parts of other shapes are flattened."""
    if len(parts) == 1:
        return parts[0]
    if not parts[0].ndim:
        return torch.stack(parts)
    if len({part.shape[1:] for part in parts}) > 1:
        parts = [part.reshape(-1) for part in parts]
    return torch.cat(parts)


def finite_norm(v: Tensor) -> tuple[float, int]:
    """Return the norm of a tensor's finite entries and the number of the others."""
    if not (v.is_floating_point() or v.is_complex()):
        v = v.double()
    if not v.numel():
        return 0.0, 0
    if v.dtype == torch.float32 and v.is_contiguous():
        norm = math.sqrt(max(0.0, float(v.detach().reshape(-1) @ v.detach().reshape(-1))))
        if 1e-15 < norm < 1e15:  # its square neither vanished nor overflowed
            return norm, 0
    norm = float(torch.linalg.vector_norm(v.detach(), dtype=torch.complex128 if v.is_complex() else torch.float64))
    if math.isfinite(norm):
        return norm, 0
    finite = v[v.isfinite()]
    return float(torch.linalg.vector_norm(finite, dtype=torch.float64)) if finite.numel() else 0.0, v.numel() - finite.numel()
