"""Distinguish the layouts of activations: features, maps [C, H, W], and sequences with features first ([C, L]) or last ([T, D])."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gradlens.runtime.errors import InputError


def space_of(shape: Sequence[int]) -> int:
    """Return the dimensions of space of activations [N, *shape]: 0 for features, 1 for sequences, 2 for maps.

    Raises:
        InputError: no dimension, or more than two of space.

    """
    if not 1 <= len(shape) <= 3:
        gives = f"[N, {', '.join(map(str, shape))}]" if len(shape) else "[N]"
        raise InputError(
            f"a block's output is {gives}: auxiliary networks of this rule need features [N, D], sequences [N, T, D] or maps [N, C, H, W]"
        )
    return len(shape) - 1


def features_last(block: nn.Module, shape: Sequence[int]) -> bool:
    """Return whether a block's output [N, *shape] is a sequence with the features last, [T, D], as of attention and linear layers.

    Its last layer of a known kind decides: after a Conv1d or BatchNorm1d of as many channels the features are first, [C, L].
    """
    if len(shape) != 2:
        return False
    for m in reversed(list(block.modules())):
        if isinstance(m, nn.Conv1d | nn.ConvTranspose1d) and m.out_channels == shape[0]:
            return False
        if isinstance(m, nn.BatchNorm1d | nn.InstanceNorm1d) and m.num_features == shape[0]:
            return False
        if isinstance(m, nn.Linear) and m.out_features == shape[1]:
            return True
        if isinstance(m, nn.LayerNorm) and m.normalized_shape[-1] == shape[1]:
            return True
    return True


def channels_first(shape: Sequence[int], last: bool) -> tuple[int, ...]:
    """Return the shape with the features first."""
    return (*shape[::-1],) if last else (*shape,)


class PerItem(nn.Module):
    """Apply a module of rows to the last dimension: [N, *, D] -> [N · *, D] -> [N, *, out].

    Args:
        rows: maps [M, D] and what else it is given, [M, *], to [M, out].

    """

    def __init__(self, rows: nn.Module) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, h: Tensor, *more: Tensor | None) -> Tensor:
        """Map h [N, *, D] to [N, *, out]."""
        out: Tensor = self.rows(h.flatten(0, -2), *(t if t is None else t.flatten(0, -2) for t in more))
        return out.reshape(*h.shape[:-1], -1)


def on_items(rows: nn.Module, per_item: bool) -> nn.Module:
    """Let a module of rows act on the last dimension if a network's items are not rows; else return it as it is."""
    return PerItem(rows) if per_item else rows


class Turn(nn.Module):
    """Transpose [N, T, D] to [N, D, T]."""

    def forward(self, h: Tensor) -> Tensor:
        """Move features from last to first, or back."""
        return h.transpose(1, 2)
