"""Store batches before a block until it uses them, for rules that depend on ``replay_buffer``."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from torch import Tensor

from gradlens.runtime.batch_shard import Shard, current_shard


@dataclass
class Stored:
    """A batch in a buffer."""

    h: Tensor  # [N, *out] leaf: output of a unit, without its graph
    y: Tensor  # [N] its labels
    written: int  # the round in which it was written
    uses: int = 0
    shard: Shard | None = None  # the part of a global batch that this is


class Buffer:
    """The last ``size`` output batches of a unit, oldest first; when full, writing drops the oldest."""

    def __init__(self, size: int) -> None:
        self.batches: deque[Stored] = deque(maxlen=size)

    def write(self, h: Tensor, y: Tensor, written: int) -> None:
        """Add a batch with no uses; h [N, *out] is a leaf, y [N]."""
        self.batches.append(Stored(h, y, written, shard=current_shard()))

    def sample(self, limit: int) -> Stored | None:
        """Take the newest of the least-used batches (priority LIFO) and count the use; None if all have ``limit`` uses."""
        chosen = min(reversed(self.batches), key=lambda batch: batch.uses, default=None)
        if chosen is None or chosen.uses >= limit:
            return None
        chosen.uses += 1
        return chosen
