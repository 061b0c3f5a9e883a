"""How activations lie in memory: features, maps [C, H, W], and sequences, whose features come first ([C, L]) or last ([T, D])."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gradlens.runtime.errors import InputError


def space_of(shape: Sequence[int]) -> int:
    """Dimensions of space of activations [N, *shape]: 0 of features, 1 of sequences, 2 of maps.

    Raises:
        InputError: none or more than two of them.

    """
    if not 1 <= len(shape) <= 3:
        gives = f"[N, {', '.join(map(str, shape))}]" if len(shape) else "[N]"
        raise InputError(
            f"a block gives {gives}: this rule's networks on blocks read features [N, D], sequences [N, T, D] or maps [N, C, H, W]"
        )
    return len(shape) - 1


def features_last(block: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a block's output [N, *shape] is a sequence whose features come last, [T, D], as attention and linear layers give them.

    Its last layer of a known kind says so: after a Conv1d or BatchNorm1d of as many channels they come first, [C, L].
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
    """The shape with its features first."""
    return (*shape[::-1],) if last else (*shape,)


class Turn(nn.Module):
    """[N, T, D] -> [N, D, T]."""

    def forward(self, h: Tensor) -> Tensor:
        """Features from last to first, or back."""
        return h.transpose(1, 2)
