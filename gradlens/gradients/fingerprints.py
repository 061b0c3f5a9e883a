"""Fingerprints of tensors: sixteen numbers that nearly equal tensors share nearly and others do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from gradlens.gradients.count_sketch import CountSketch

SIZE = 16  # numbers of a fingerprint
_BUCKETS = 4096  # of the sketch that is folded to them


class Fingerprint:
    """A fingerprint of a tensor, whatever its name, to which parts may be added in order."""

    def __init__(self) -> None:
        self._sketch = CountSketch("fingerprint", _BUCKETS)
        self._entries = 0

    def add(self, part: Tensor) -> None:
        """Add the next part."""
        self._sketch.add(part, self._entries)
        self._entries += part.numel()

    def numbers(self) -> list[float]:
        """Return the fingerprint: the sketch in 16 buckets."""
        return [float(number) for number in self._sketch.buckets.reshape(-1, SIZE).sum(0)]


def fingerprint(value: Tensor) -> list[float]:
    """Return the fingerprint of a whole tensor."""
    made = Fingerprint()
    made.add(value)
    return made.numbers()


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Estimate ‖x − y‖ / max(‖x‖, ‖y‖) of two tensors from their fingerprints; exactly 0 for equal ones."""
    apart = math.hypot(*(p - q for p, q in zip(a, b, strict=True)))
    return apart / (max(math.hypot(*a), math.hypot(*b)) or 1.0)
