"""Know how many items (images, tokens, labelled nodes) the targets of a batch hold, on this rank and on all together.

The number is made known once, when the batch is made, and summed over ranks once; losses divide by it. It belongs to the tensor of the
targets, which travels with what a block reads: of delayed, replayed and halved batches each has its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gradlens.runtime.batch_shard import current_shard
from gradlens.runtime.step_context import in_step


class ItemCount(NamedTuple):
    """Number of items."""

    here: int  # of this rank's part
    total: int  # of all ranks together


_known = WeakTensorKeyDictionary()


def set_items(y: Tensor, here: int, total: int | None = None) -> None:
    """Make the number of items of targets known. Without ``total`` a collective on a shared batch: call it on every rank.

    Args:
        y: [N, *] the targets of this rank's part.
        here: their items.
        total: items of all ranks' parts, if that is known.

    """
    if total is None:
        total = here
        if current_shard() is not None:
            summed = torch.tensor(here, device=y.device)
            dist.all_reduce(summed)
            total = int(summed)
    _known[y] = ItemCount(here, total)  # type: ignore[no-untyped-call]


def item_count(y: Tensor) -> ItemCount:
    """Return the number of items of targets y [N, *], as made known. A copy of targets is another tensor, whose number is unknown.

    Outside of steps, where losses are called on a user's own targets, it is that of the classes among them (a class of -1 is none), or of
    the rows.

    Raises:
        RuntimeError: the number of a step's targets was not made known.

    """
    found: ItemCount | None = _known.get(y)  # type: ignore[no-untyped-call]
    if found is not None:
        return found
    if in_step() or current_shard() is not None:
        raise RuntimeError(f"targets [{', '.join(map(str, y.shape))}] of a step have an unknown number of items: call Items.make_known")
    here = len(y) if y.is_floating_point() else int((y >= 0).sum())
    return ItemCount(here, here)


def global_items(y: Tensor) -> int:
    """Return the number of items in the global batch: what a loss, a sum over this rank's items, is divided by."""
    return item_count(y).total
