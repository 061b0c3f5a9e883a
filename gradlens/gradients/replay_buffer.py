"""Batches that lie before a block until it reads them, for rules that depend on ``replay_buffer``."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from torch import Tensor

from gradlens.runtime.batch_shard import Shard, current_shard


@dataclass
class Stored:
    """A batch in a buffer."""

    h: Tensor  # [N, *out] leaf: what a unit gave, without its graph
    y: Tensor  # [N] the labels that travel with it
    written: int  # the round
    uses: int = 0
    shard: Shard | None = None  # whose part of a batch this is


class Buffer:
    """The last ``size`` batches that a unit gave, oldest first; when full, writing drops the oldest."""

    def __init__(self, size: int) -> None:
        self.batches: deque[Stored] = deque(maxlen=size)

    def write(self, h: Tensor, y: Tensor, written: int) -> None:
        """Add a batch that nobody has read yet; h [N, *out] is a leaf, y [N]."""
        self.batches.append(Stored(h, y, written, shard=current_shard()))

    def sample(self, limit: int) -> Stored | None:
        """Priority-LIFO: of the batches read least often the newest, which counts as read; None if all were read ``limit`` times."""
        chosen = min(reversed(self.batches), key=lambda batch: batch.uses, default=None)
        if chosen is None or chosen.uses >= limit:
            return None
        chosen.uses += 1
        return chosen
