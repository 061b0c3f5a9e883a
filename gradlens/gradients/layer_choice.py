"""Choose modules of a model: by dotted path, or by default its layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.utils import parametrize

from gradlens.runtime.errors import InputError, kind_of, unknown

_HOLDS_WEIGHTS = ("parametrizations", "_packed_params", "_all_weight_values")  # children that torch computes or keeps a layer's weights in
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def choose_layers(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """Return path -> module, in the order of ``layers`` or of the model.

    Args:
        model: any module.
        layers: dotted paths as in ``model.get_submodule``, a shared module's second name too; default: :func:`default_layers`.

    Raises:
        InputError: no module, or a path that is no module of the model (the known ones are listed).

    """
    must_be_module(model)
    if layers is None:
        return default_layers(model)
    refuse_text(layers)
    known = dict(model.named_modules(remove_duplicate=False))
    for name in layers:
        if name not in known:
            raise unknown("layer", name, [n for n in known if n])
    return {name: known[name] for name in layers}


def must_be_module(model: object) -> None:
    """Reject what is no network.

    Raises:
        InputError: it is no ``torch.nn.Module``.

    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {kind_of(model)}; give the model first")


def refuse_text(layers: Sequence[str]) -> None:
    """Reject a string instead of a list of paths: each of its letters would be a path.

    Raises:
        InputError: a string.

    """
    if isinstance(layers, str):
        raise InputError(f"layers: must be a list of paths, got the string {layers!r}; set [{layers!r}]")


def default_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module without layers inside or with its own weights; of a model without children the model itself, ``""``.

    Attention, whose projections are never called, counts as one layer; so does a layer whose weight is parametrised (weight and spectral
    normalisation) or quantised. Lists of modules and parameters, which are never called, are left out.
    """
    inside = {id(part) for module in model.modules() for part in _weight_holders(module)}
    found = {name: module for name, module in model.named_modules() if name and id(module) not in inside and _is_layer(module)}
    return found or {"": model}


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, _NEVER_CALLED):
        return False
    holders = {id(part) for part in _weight_holders(module)}
    childless = all(id(child) in holders for child in module.children())
    return childless or any(p is not None for p in module._parameters.values()) or parametrize.is_parametrized(module)


def _weight_holders(module: nn.Module) -> list[nn.Module]:
    """Return the modules in a layer that only hold or compute its weights, at any depth."""
    if isinstance(module, nn.MultiheadAttention):
        tops = list(module.children())
    else:
        tops = [child for name, child in module.named_children() if name in _HOLDS_WEIGHTS]
    return [part for top in tops for part in top.modules()]
