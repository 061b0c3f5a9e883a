"""Compare any gradients with the true one, in any code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from gradlens.gradients.rows import Measurement, pair_rows
from gradlens.runtime.errors import InputError


def compare(model: nn.Module, loss: Tensor, my_gradients: Mapping[str, Tensor] | None = None) -> list[Measurement]:
    """How far your gradients are from the true one, in any code: rows per parameter.

    Args:
        model: any module.
        loss: the scalar the true gradient belongs to, with its graph (which is kept: you can still go backward).
        my_gradients: parameter name (a tied parameter's: any of its names) -> your gradient; default: what lies in ``.grad``. A
            missing one counts as zero.

    Returns:
        rows with the quantities of ``alignment.RECORDED``, ``step`` 0, a tied parameter's under its first name.

    Raises:
        InputError: a name that is no parameter of the model, two gradients for one parameter, a gradient of another shape, or a loss
            through reentrant gradient checkpointing.

    """
    names: dict[int, str] = {}  # parameter -> its first name
    first = {name: names.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise InputError("the model has no trainable parameters: there is no gradient to compare with")
    mine = {n: p.grad for n, p in params.items() if p.grad is not None} if my_gradients is None else _by_first_name(my_gradients, first)
    got = gradients_of(loss, list(params.values()))
    true = {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), got, strict=True)}
    return list(pair_rows(0, mine, true, "loss"))


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of a loss, without writing ``.grad``; its graph is kept.

    Raises:
        InputError: a loss through reentrant gradient checkpointing, which cannot do that.

    """
    refused = InputError(
        "the loss went through reentrant gradient checkpointing, which gives no gradient without writing .grad; "
        "set use_reentrant=False in torch.utils.checkpoint, or make the loss without checkpointing"
    )
    try:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise refused from error
    if any(g is None for g in found) and _has_checkpoint(loss.grad_fn):  # it may be the one thing that used a parameter
        raise refused
    return found


def _has_checkpoint(node: Node | None) -> bool:
    """Whether a graph has a segment that is computed again in a backward pass of its own."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        todo += [below for below, _ in node.next_functions]
    return False


def _by_first_name(gradients: Mapping[str, Tensor], first: Mapping[str, str]) -> dict[str, Tensor]:
    """Gradients under the first names of their parameters; a tied parameter has several.

    Raises:
        InputError: a name that is no parameter's, or two gradients for one parameter.

    """
    if strange := sorted(set(gradients) - set(first)):
        raise InputError(f"not trainable parameters of the model: {', '.join(strange)}; it has {', '.join(first) or 'none'}")
    found: dict[str, Tensor] = {}
    for name, g in gradients.items():
        if found.setdefault(first[name], g) is not g:
            raise InputError(f"{first[name]} and {name} are one parameter: give one gradient for both")
    return found
