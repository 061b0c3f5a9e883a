"""Compare any gradients with the true one, in any code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gradlens.gradients.rows import Measurement, pair_rows
from gradlens.runtime.errors import InputError


def compare(model: nn.Module, loss: Tensor, my_gradients: Mapping[str, Tensor] | None = None) -> list[Measurement]:
    """How far your gradients are from the true one, in any code: rows per parameter.

    Args:
        model: any module.
        loss: the scalar the true gradient belongs to, with its graph (which is kept: you can still go backward).
        my_gradients: parameter name -> your gradient; default: what lies in ``.grad``. A missing one counts as zero.

    Returns:
        rows with the quantities of ``alignment.RECORDED``, ``step`` 0.

    Raises:
        InputError: a name that is no parameter of the model, or a gradient of another shape.

    """
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    mine = {n: p.grad for n, p in params.items() if p.grad is not None} if my_gradients is None else dict(my_gradients)
    if strange := sorted(set(mine) - set(params)):
        raise InputError(f"not trainable parameters of the model: {', '.join(strange)}; it has {', '.join(params) or 'none'}")
    if not params:
        raise InputError("the model has no trainable parameters: there is no gradient to compare with")
    got = torch.autograd.grad(loss, list(params.values()), retain_graph=True, allow_unused=True)
    true = {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), got, strict=True)}
    return list(pair_rows(0, mine, true, "loss"))
