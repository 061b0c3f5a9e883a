"""Describe the network that a learning rule is built for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradlens.gradients.items import ROWS, Items
from gradlens.gradients.losses import Loss


class NetworkInfo(NamedTuple):
    """The network that a rule is built for: the argument of its constructor.

    Attributes:
        blocks: the network's blocks, first to last; the last one is the output block. Do not store them: a module among a rule's
            attributes counts as the rule's own.
        shapes: shape of each block's output without the batch dimension: [C, H, W], [features], or of sequences [T, D] or [C, L].
        classes: number of classes C, the width of the network's output [N, *, C].
        head_width: width of the network's own output block, the default width of auxiliary heads.
        loss: the supervised loss, (z [N, *, C], y [N, *]) -> scalar: the sum over the given items, divided by their number in the global
            batch.
        seed: seed of the run; keys every random draw of a rule (``with seeded(net.seed, "purpose")``).
        names: the blocks' names, first to last; empty if they have none.
        image: shape of an example, of images (C, H, W), before ``Method.make_inputs``; empty if unknown.
        epochs: number of epochs of the run, for rules that divide it into stages.
        teacher: a trained network, normalised images [N, C, H, W] -> logits [N, C]; None unless the rule sets ``has_teacher``.
        features_last: for each block, whether its output is a sequence [T, D] with the features last; empty: none is.
        items: what an item of a batch is.
        terms: block before the output block -> the objective's term at its output, (z [N, *out], y [N, *]) -> scalar.

    """

    blocks: Sequence[nn.Module]
    shapes: Sequence[torch.Size]
    classes: int
    head_width: int
    loss: Loss
    seed: int
    names: Sequence[str] = ()
    image: Sequence[int] = ()
    epochs: int = 1
    teacher: Callable[[Tensor], Tensor] | None = None
    features_last: Sequence[bool] = ()
    items: Items = ROWS
    terms: Mapping[int, Loss] = {}

    def features(self, k: int) -> torch.Size:
        """Return the shape of an item's features at the output of block k, on which auxiliary networks and matrices act.

        Args:
            k: index of the block, 0 for the first.

        Returns:
            the whole output of a row, or its last dimension where the items are not rows (``items.per_item``).

        """
        return self.shapes[k][-1:] if self.items.per_item else self.shapes[k]

    def turned(self, k: int) -> bool:
        """Return whether the features of an item at block k are a sequence [T, D] with the features last.

        Args:
            k: index of the block, 0 for the first.

        Returns:
            False if the features are first, or if there are no sequences.

        """
        return bool(self.features_last) and self.features_last[k] and not self.items.per_item

    def sharing(self) -> tuple[str, str] | None:
        """Find two blocks that share a parameter, or are one module.

        Returns:
            the names of the two; None if no two blocks do.

        """
        owner: dict[nn.Parameter, int] = {}
        for k, block in enumerate(self.blocks):
            for p in block.parameters():
                if owner.setdefault(p, k) != k:
                    return self.name(owner[p]), self.name(k)
        return None

    def name(self, k: int) -> str:
        """Return the name of a block, for messages.

        Args:
            k: index of the block, 0 for the first.

        Returns:
            its own name, or "block k+1".

        """
        return self.names[k] if self.names else f"block {k + 1}"
