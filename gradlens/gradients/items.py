"""Say what a batch consists of: its items (images, tokens, labelled nodes), how they are counted, permuted and halved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from gradlens.gradients.losses import NONE
from gradlens.runtime.batch_items import set_items
from gradlens.runtime.batch_shard import Shard, current_shard, global_count, shard_of
from gradlens.runtime.step_context import Context


class Half(NamedTuple):
    """One random half of a batch, which gets passes of its own."""

    x: Tensor  # [M, *] input of the network
    y: Tensor  # [M, *] targets
    context: Context  # what all blocks may read
    shard: Shard | None  # the part of the half that this rank has; None: all of it


class Items:
    """The items of a batch: by default the rows of x and y that have a target.

    A target of -1 (``losses.NONE``) is none: it has no loss and counts in no score, and what has no target is no item, but with
    ``all_are_items``.

    Attributes:
        per_item: False: an item is a row, its features at a block are all of the row [*out]. True: the features of an item are the *last*
            dimension of a block's output, [N, *, D], and all dimensions before it count items; heads, synthesisers and feedback matrices
            act on that dimension.
        records_reached: True: rows may have no error signal (nodes without a label), and the share that has one is recorded
            (``gradients.rows.REACHED``).
        has_edges: True: rows are nodes, and the batch's context has the edges between them.
        all_are_items: True: every row, with ``per_item`` every position, is an item whatever its target (an image without a label), so that
            the number of all ranks is known without asking them.
        context_changes: why each batch has a context of its own, a clause; "": all batches have the same, or none.

    """

    per_item: ClassVar[bool] = False
    records_reached: ClassVar[bool] = False
    has_edges: ClassVar[bool] = False
    all_are_items: ClassVar[bool] = False
    context_changes: ClassVar[str] = ""

    def count(self, y: Tensor) -> int:
        """Count the items of targets.

        Args:
            y: [N, *] targets of a batch, or of a part of it.

        Returns:
            by default those with a target. Of targets that are numbers, no classes, all have one, and the last dimension is one item's.

        """
        if y.is_floating_point():
            return y.shape[:-1].numel() if self.per_item else len(y)
        if self.all_are_items:
            return y.numel() if self.per_item else len(y)
        known = y != NONE
        return int((known if self.per_item or y.ndim == 1 else known.flatten(1).any(1)).sum())

    def make_known(self, y: Tensor) -> None:
        """Count the items of a batch's targets, here and on all ranks together; collective on a shared batch.

        Args:
            y: [N, *] targets of this rank's part.

        """
        here = self.count(y)
        set_items(y, here, global_count(here) if self.all_are_items else None)

    def hits(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Count correct predictions, without waiting for the device.

        Args:
            logits: [N, *, C].
            y: [N, *] classes.

        Returns:
            two scalars: correct predictions, and targets that are classes. Zero and zero where nothing is classified.

        """
        return (logits.argmax(-1) == y).sum(), (y >= 0).sum()

    def permutation(self, delta: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Draw which row of an error signal each row gets in its place, for the chance level.

        Args:
            delta: [R, *out] the error signal of a block on this rank; with some rules R is a multiple of the rows of y.
            y: [N, *] the targets.
            rng: on the CPU.

        Returns:
            [global R] row numbers of the whole batch, a permutation; by default of all rows: whole sequences, whose positions stay.

        """
        return torch.randperm(global_count(len(delta)), generator=rng)

    def halves(self, x: Tensor, y: Tensor, context: Context, rng: torch.Generator) -> Iterator[Half] | None:
        """Divide a batch into two random halves of its items.

        Args:
            x: [N, *] input of the network, this rank's part.
            y: [N, *] targets, this rank's part.
            context: what all blocks may read.
            rng: on the CPU; the same on all ranks.

        Returns:
            the two halves; by default of the rows, with the context as it is. None if there are fewer than four rows, or if a rank has
            fewer than two in one half; on all ranks.

        """
        if global_count(len(y)) < 4:
            return None
        deal = torch.randperm(global_count(len(y)), generator=rng)
        found = [self._half(half.sort().values, x, y, context) for half in (deal[: len(deal) // 2], deal[len(deal) // 2 :])]
        return iter([half for half in found if half is not None]) if None not in found else None

    @staticmethod
    def _half(rows: Tensor, x: Tensor, y: Tensor, context: Context) -> Half | None:
        here = current_shard()
        if here is None:
            return Half(x[rows.to(y.device)], y[rows.to(y.device)], context, None)
        parts = [shard_of(here.batch_size, rank, here.num_ranks) for rank in range(here.num_ranks)]
        counts = [int(((rows >= p.start) & (rows < p.stop)).sum()) for p in parts]
        if min(counts) < 2:
            return None
        start = sum(counts[: here.rank])
        mine = (rows[start : start + counts[here.rank]] - here.start).to(y.device)
        return Half(x[mine], y[mine], context, Shard(start, start + len(mine), len(rows), here.rank, here.num_ranks))


class Rows(Items):
    """Every row is an item: an image."""

    all_are_items = True


ROWS = Rows()
