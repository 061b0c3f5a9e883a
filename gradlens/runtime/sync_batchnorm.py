"""Compute BatchNorm over the whole of a batch that several ranks share. Torch's own SyncBatchNorm runs on GPUs only."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradlens.runtime.batch_shard import all_reduce_sum, current_shard, global_count


class _Synchronised(_BatchNorm):
    """BatchNorm with mean and variance over all ranks' images in training on a shared batch; else plain BatchNorm."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [N, C, *] to [N, C, *]; its backward pass is a collective: call it on every rank."""
        if not self.training or current_shard() is None:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        over, each = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        n = global_count(x.numel() // x.shape[1])
        mean = all_reduce_sum(x.sum(over)) / n
        centred = x - mean.view(each)
        variance = all_reduce_sum(centred.square().sum(over)) / n
        self._run(mean.detach(), variance.detach() * n / max(1, n - 1))
        out = centred * (variance + self.eps).rsqrt().view(each)
        if self.weight is not None:
            out = out * self.weight.view(each)
        if self.bias is not None:
            out = out + self.bias.view(each)
        return out.to(input.dtype)

    @torch.no_grad()
    def _run(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics like BatchNorm."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def synchronise(*modules: nn.Module) -> None:
    """Make every BatchNorm layer in these modules use the whole of a shared batch; names, parameters and buffers do not change."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and not isinstance(layer, _Synchronised):
                layer.__class__ = _synchronised(type(layer))  # type: ignore[assignment,arg-type]


@cache
def _synchronised(kind: type[Any]) -> type[Any]:
    return type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {})
