"""Exact multiply-adds of running code, backward passes included.

Counted are matrix products and convolutions, by their dense definition: a product with a padding zero counts as any other.
Not counted is work that is linear in a tensor's entries: normalisation, activations, pooling, the optimiser, measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def _convolution_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
    **_: Any,
) -> int:
    """Count the operations of the requested ones of a convolution's input and weight gradients: each costs as much as the forward pass.

    Torch's own formula leaves the groups out of the weight gradient and so counts it ``groups`` times.
    """
    positions = (x if transposed else grad_out).shape[2:]
    return 2 * (output_mask[0] + output_mask[1]) * len(x) * prod(positions) * weight.numel()


FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums the formulas of all operators that run; ``FlopCounterMode`` itself raises on ``autograd.grad`` to a leaf input."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0  # two a multiply-add

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = FORMULAS.get(func.overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # in inference mode an operator made of others arrives whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def count(f: Callable[..., object], *args: Any) -> int:
    """Count the multiply-adds of ``f(*args)``, which is run.

    Code that torch.compile has compiled cannot be counted: count what it was compiled from.

    Args:
        f: any code; ``backward()`` and ``autograd.grad`` inside it count.
        args: its arguments.

    """
    counting = _Counting()
    with counting:
        f(*args)
    return counting.flops // 2
