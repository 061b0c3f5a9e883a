"""Describe the network that a learning rule is built for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradlens.gradients.losses import Loss


class NetworkInfo(NamedTuple):
    """The network that a rule is built for: the argument of its constructor.

    Attributes:
        blocks: the network's blocks, first to last; the last one is the output block. Do not store them: a module among a rule's
            attributes counts as the rule's own.
        shapes: shape of each block's output without the batch dimension: [C, H, W], [features], or of sequences [T, D] or [C, L].
        classes: number of classes C, the width of the network's output [N, C].
        head_width: width of the network's own output block, the default width of auxiliary heads.
        loss: the supervised loss, (z [N, C], y [N]) -> scalar: the sum over the given images, divided by the global batch size.
        seed: seed of the run; keys every random draw of a rule (``with seeded(net.seed, "purpose")``).
        names: the blocks' names, first to last; empty if they have none.
        image: (C, H, W) of the images, before ``Method.make_inputs``; empty if unknown.
        epochs: number of epochs of the run, for rules that divide it into stages.
        teacher: a trained network, normalised images [N, C, H, W] -> logits [N, C]; None unless the rule sets ``has_teacher``.
        features_last: for each block, whether its output is a sequence [T, D] with the features last; empty: none is.

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

    def turned(self, k: int) -> bool:
        """Return whether the output of block k is a sequence [T, D] with the features last.

        Args:
            k: index of the block, 0 for the first.

        Returns:
            False if the features are first, or if there are no sequences.

        """
        return bool(self.features_last) and self.features_last[k]

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
