"""Compare any gradients with the true gradient, in any code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gradlens.gradients.layer_choice import must_be_module
from gradlens.gradients.layer_names import named, parameter_kind
from gradlens.gradients.measurements import Measurements
from gradlens.gradients.rows import pair_rows
from gradlens.runtime.autograd_graph import is_reentrant
from gradlens.runtime.errors import InputError, kind_of

_REFUSED = {  # a part of torch's message -> its cause, and what to set
    "use_reentrant": "was computed with reentrant gradient checkpointing, which gives no gradient without writing .grad; "
    "set use_reentrant=False in torch.utils.checkpoint, or compute the loss without checkpointing",
    "donated buffer": "was computed by a compiled model, whose graph allows only one backward pass; "
    "set torch._functorch.config.donated_buffer = False before compiling, or compute the loss with the model that is not compiled",
    "through the graph a second time": "has no graph any more, a backward pass freed it; set retain_graph=True there, or compare before it",
}


def compare(model: nn.Module, loss: Tensor, my_gradients: Mapping[str, Tensor] | None = None) -> Measurements:
    """Measure how far your gradients are from the true gradient of ``loss``, per parameter.

    Args:
        model: any module.
        loss: the scalar whose gradient is the true one, with its graph (which is kept: you can still call backward).
        my_gradients: parameter name (for a tied parameter any of its names) -> your gradient, of its shape; default: the ``.grad``
            fields. Parameters without one have no rows; a warning lists them. Another lists layers that no gradient of the loss
            reaches (their true gradient is zero).

    Returns:
        rows with the quantities of ``alignment.RECORDED``, ``step`` 0, a tied parameter under its first name: a list with
        ``.table()`` (a row per parameter) and ``.frame()`` (pandas).

    Raises:
        InputError: no module, a name that is no parameter of the model, what is no gradient, two gradients for one parameter, a gradient
            of another shape, or a loss that :func:`gradients_of` rejects.

    """
    must_be_module(model)
    _must_be_loss(loss)
    if my_gradients is not None:
        _must_be_gradients(my_gradients)
    names: dict[int, str] = {}  # parameter -> its first name
    first = {name: names.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise InputError("the model has no trainable parameters: there is no gradient to compare with")
    mine = {n: p.grad for n, p in params.items() if p.grad is not None} if my_gradients is None else _by_first_name(my_gradients, first)
    got = gradients_of(loss, list(params.values()))
    true = {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), got, strict=True)}
    if my_gradients is None:  # a parameter that the loss does not use has none, and a true one of zero: they agree
        mine |= {name: true[name] for name, g in zip(params, got, strict=True) if g is None and name not in mine}
    if unused := [name for name, g in zip(params, got, strict=True) if g is None]:
        _warn_of_unused(unused, list(params))
    if missing := [name for name in params if name not in mine]:
        _warn_of_missing(missing, my_gradients is None)
    return Measurements(pair_rows(0, mine, {name: t for name, t in true.items() if name in mine}, "loss"))


def _warn_of_unused(unused: Sequence[str], trained: Sequence[str]) -> None:
    """Warn of parameters that the loss does not depend on, by layer where it depends on none of the layer's."""
    used = {parameter_kind(name)[0] for name in set(trained).difference(unused)}
    layers = dict.fromkeys(name if (layer := parameter_kind(name)[0]) in used else named(layer) for name in unused)
    why = "their true gradient is zero; look for .detach(), torch.no_grad(), or a layer that the loss does not use"
    warnings.warn(f"compare: no gradient of the loss reaches {_listed(list(layers))}: {why}", stacklevel=3)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + f" and {len(names) - 8} more" * (len(names) > 8)


def _warn_of_missing(missing: Sequence[str], in_grad: bool) -> None:
    """Warn of parameters without a gradient, which are not compared."""
    why = "their .grad is None: call backward() before" if in_grad else "give zeros where that is what is meant"
    warnings.warn(f"compare: no gradient given for {_listed(missing)}; not compared ({why})", stacklevel=3)


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Compute the gradients of a loss without writing ``.grad``; its graph is kept.

    Args:
        loss: a scalar with its graph.
        parameters: leaves of that graph.

    Returns:
        a gradient of each parameter's shape; None if the loss does not depend on it.

    Raises:
        InputError: a loss that is no real number with a graph, or whose graph does not allow a backward pass that keeps it (reentrant
            checkpointing, a compiled model's buffers).

    """
    _must_be_loss(loss)
    try:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        why = next((why for part, why in _REFUSED.items() if part in str(error)), None)
        if why is None:
            raise
        raise InputError(f"the loss {why}") from error
    if any(g is None for g in found) and is_reentrant(loss):  # a checkpointed segment may be the only use of a parameter
        raise InputError(f"the loss {_REFUSED['use_reentrant']}")
    return found


def _must_be_loss(loss: object) -> None:
    """Reject what has no gradient.

    Raises:
        InputError: it is no tensor of one real number, or has no graph.

    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        got = f"shape {list(loss.shape)} of {loss.dtype}" if isinstance(loss, Tensor) else kind_of(loss)
        raise InputError(f"the loss must be a tensor of one real number, got {got}; take its mean() or sum()")
    if not loss.requires_grad:
        raise InputError("the loss has no graph (detached, under torch.no_grad(), or not from the parameters); compute it with a graph")


def _must_be_gradients(given: object) -> None:
    """Reject what maps no names to tensors.

    Raises:
        InputError: it is no mapping, or one of something else.

    """
    wanted = "my_gradients must map names of parameters to tensors"
    if not isinstance(given, Mapping):
        raise InputError(f"{wanted}, got {kind_of(given)}; set {{name: gradient}}")
    for name, gradient in given.items():
        if not isinstance(name, str) or not isinstance(gradient, Tensor):
            raise InputError(f"{wanted}, got {kind_of(gradient)} for {name!r}; set {{name: gradient}}")


def _by_first_name(gradients: Mapping[str, Tensor], first: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename gradients to the first names of their parameters; a tied parameter has several.

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
