"""Sketch long vectors: K sums of signed entries, in which the products of two vectors can be read approximately.

A count sketch (Charikar, Chen and Farach-Colton 2002): entry i of a vector is multiplied by a sign and added to one of K buckets. Both
follow from the vector's name, the entry's *global* index i and a seed, so that the sketches of parts of a tensor add up to that of the
whole. With q, r = divmod(i, K), ``mix`` the last three steps of splitmix64 and G its increment 0x9E3779B97F4A7C15, all modulo 2⁶⁴::

    k      = blake2b(f"{seed}/{name}", 8 bytes, big-endian)
    bucket = (r + mix(k + G·(2q+1)) mod K) mod K
    sign   = −1 if bit 31 of a·b is set, else +1, with b = mix(k + G·(2q+2)) | 1 and a = mix(seed + G·(r+1))

so that K entries in a row never share a bucket: it takes K additions in a row, and no table of indices.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_G = np.uint64(0x9E3779B97F4A7C15)
_ROWS = 16  # blocks of K entries that are signed at a time: they stay in cache


def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=8)
def _columns(size: int, seed: int) -> npt.NDArray[np.uint32]:
    """Compute ``a`` of each place in a block."""
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.uint32] = _mix(np.uint64(seed) + _G * np.arange(1, size + 1, dtype=np.uint64)).astype(np.uint32)
        return found


@lru_cache(maxsize=4096)
def _key(name: str, seed: int) -> Any:
    return np.uint64(int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big"))


def _blocks(key: Any, first: int, count: int, size: int) -> tuple[list[int], npt.NDArray[np.uint32]]:
    """Compute shift and ``b`` of some blocks."""
    with np.errstate(over="ignore"):
        q = np.arange(first, first + count, dtype=np.uint64) * np.uint64(2)
        shifts = _mix(key + _G * (q + np.uint64(1))) % np.uint64(size)
        return shifts.tolist(), (_mix(key + _G * (q + np.uint64(2))) | np.uint64(1)).astype(np.uint32)


class CountSketch:
    """The sketch of one named vector, to which parts of the vector are added.

    Args:
        name: of the vector; only sketches of one name, size and seed can be compared.
        size: K, the number of buckets.
        seed: of the hash.

    Attributes:
        buckets: the sketch [K], float64.

    """

    def __init__(self, name: str, size: int, seed: int = 0) -> None:
        self.buckets: npt.NDArray[np.float64] = np.zeros(size)
        self._key, self._seed = _key(name, seed), seed

    def add(self, part: Tensor, start: int = 0) -> None:
        """Add consecutive entries.

        Args:
            part: entries of any shape, in order; complex ones count as pairs, entries that are not finite as zeros.
            start: the global index of the first.

        """
        x, size = _plain_numbers(part), len(self.buckets)
        before = start % size
        if before or len(x) % size:  # whole blocks only
            padded = np.zeros(-(-(before + len(x)) // size) * size, x.dtype)
            padded[before : before + len(x)] = x
            x = padded
        first, rows, a = start // size, x.reshape(-1, size), _columns(size, self._seed)
        shifts, b = _blocks(self._key, first, len(rows), size)
        word, high = (np.uint32, 0) if x.dtype == np.float32 else (np.uint64, 32)
        for top in range(0, len(rows), _ROWS):
            chunk = rows[top : top + _ROWS]
            bits = (a * b[top : top + _ROWS, None]) & np.uint32(0x80000000)
            flipped = (chunk.view(word) ^ (bits if not high else bits.astype(word) << word(high))).view(x.dtype)
            total: Any = np.zeros(size, x.dtype)
            for row, shift in zip(flipped, shifts[top : top + _ROWS], strict=True):
                total[shift:] += row[: size - shift]
                total[:shift] += row[size - shift :]
            self.buckets += total

    def add_at(self, part: Tensor, index: npt.NDArray[np.int64]) -> None:
        """Add entries at any global indices, one by one: for parts of a tensor that are not consecutive.

        Args:
            part: entries of any shape, real.
            index: the global index of each [number of entries].

        """
        x, size = _plain_numbers(part), len(self.buckets)
        q, r = np.divmod(index.astype(np.uint64), np.uint64(size))
        blocks, place = np.unique(q, return_inverse=True)
        with np.errstate(over="ignore"):
            shifts = _mix(self._key + _G * (blocks * np.uint64(2) + np.uint64(1))) % np.uint64(size)
            b = (_mix(self._key + _G * (blocks * np.uint64(2) + np.uint64(2))) | np.uint64(1)).astype(np.uint32)
        negative = (_columns(size, self._seed)[r] * b[place]) >> np.uint32(31)
        np.add.at(self.buckets, (r + shifts[place]) % np.uint64(size), np.where(negative, -x, x))


def _plain_numbers(part: Tensor) -> npt.NDArray[Any]:
    """Convert entries to a flat array of float32, or of float64 where they are that or whole numbers."""
    v = part.detach()
    v = torch.view_as_real(v.resolve_conj()) if v.is_complex() else v
    wide = v.dtype == torch.float64 or not v.is_floating_point()
    v = v.cpu().to(torch.float64 if wide else torch.float32).reshape(-1)
    x = v.numpy()
    return x if np.isfinite(np.dot(x, x)) else np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
