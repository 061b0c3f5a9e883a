"""Outputs of named layers of any module for some inputs, as one float tensor a layer with the inputs along its first axis."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gradlens.gradients.layer_choice import refuse_text
from gradlens.gradients.lens import Lens
from gradlens.runtime.errors import InputError

_PLACE = re.compile(r"(#\d+)?(\[[^\]]*\])*$")  # behind a path: which call of the module, which tensor of what it gave


def layer_names(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """List requested layers; default: the direct children, of lists of modules (never called themselves) their entries, else the module.

    Raises:
        InputError: an empty list, or a text instead of a list.

    """
    if layers is None:
        return _children(model) or [""]
    refuse_text(layers)
    if not layers:
        raise InputError("layers is an empty list: name a layer, or set None for the module's children")
    return list(layers)


def _children(model: nn.Module) -> list[str]:
    found = []
    for name, child in model.named_children():
        holds_layers = isinstance(child, nn.ModuleList | nn.ModuleDict)
        found += [f"{name}.{inner}" for inner in _children(child)] if holds_layers else [name]
    return found


class LayerOutputs:
    """Inputs [N, *in] -> each layer's output [N, *out], in float32 or float64, read in one forward pass.

    Which axis of an output counts the inputs ([N, T, D], [T, N, D], ...) is found once, by a forward pass of a few inputs more or less.
    [N] is one feature; integers, truth values and lower precisions are numbers as they are, a complex number is two.

    Args:
        model: any module.
        layers: dotted paths as in ``model.named_modules()``, see :func:`layer_names`; ``""`` is the module itself. Of a module called
            several times this is the first call, ``path#1`` the second. A tensor in a container is ``lstm[0]``, ``encoder[hidden]``.
        to_input: from what is given here to what the model reads.

    Raises:
        InputError: a path that is no module of the model (the message lists the known ones).

    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None, to_input: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self.model, self.to_input, self.names = model, to_input, layer_names(model, layers)
        known = {name for name, _ in model.named_modules(remove_duplicate=False)}
        paths = [name if name in known else _PLACE.sub("", name) for name in self.names]
        self._paths = list(dict.fromkeys(paths))
        Lens(model, self._paths)  # unknown paths are found here
        self._axes: dict[str, int] = {}

    def __call__(self, inputs: Tensor) -> Iterator[Tensor]:
        """Yield each layer's output, in the order in which they were named.

        Raises:
            InputError: a forward pass that fails; a layer (named) that was not called or gave no tensor, several tensors, or one
                without an axis for the inputs.

        """
        outputs, n = self._outputs(inputs), len(inputs)
        if not self._axes:
            others = inputs[:2] if n > 2 else torch.cat([inputs, inputs[:1]])
            fewer = self._outputs(others)
            self._axes = {name: _axis(name, h.shape, n, fewer[name].shape, len(others)) for name, h in outputs.items()}
        for name, h in outputs.items():
            axis = self._axes[name]
            if h.ndim <= axis or h.shape[axis] != n:
                raise InputError(f"{_layer_text(name)} gives {list(h.shape)} for {n} inputs: axis {axis} should count them")
            h = h.movedim(axis, 0)
            yield h[:, None] if h.ndim == 1 else h

    def _outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return what each layer gives, axes as they come."""
        x = self.to_input(inputs)
        with Lens(self.model, self._paths) as lens:
            try:
                self.model(x)
            except InputError:
                raise
            except Exception as error:
                what = f"{list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else f"of type {type(x).__name__}"
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise InputError(f"the model's forward pass fails on inputs {what}: {reason}") from error
            return {name: _numbers(name, _named(name, lens.activations)) for name in self.names}


def _layer_text(name: str) -> str:
    return name or "the model itself"


def _named(name: str, outputs: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor of that name, or the only one in the container of that name."""
    inside = [name] if name in outputs else [label for label in outputs if label.startswith(f"{name}[")]
    if len(inside) > 1:
        raise InputError(f"{_layer_text(name)} gives {len(inside)} tensors: name one of them, {', '.join(inside)}")
    if not inside:
        raise InputError(f"{_layer_text(name)} was not called in this model's forward pass, or gave no tensor: name layers that give one")
    return outputs[inside[0]]


def _numbers(name: str, h: Tensor) -> Tensor:
    """Return a plain tensor of float32 or float64."""
    if h.is_nested:
        raise InputError(
            f"{_layer_text(name)} gives sequences of different lengths (a nested tensor), which have no one number of features"
        )
    h = h.dequantize() if h.is_quantized else h
    h = h if h.layout == torch.strided else h.to_dense()
    h = torch.view_as_real(h.resolve_conj()) if h.is_complex() else h
    return h if h.dtype in (torch.float32, torch.float64) else h.float()


def _axis(name: str, shape: Sequence[int], n: int, other: Sequence[int], m: int) -> int:
    """Return the axis that counts the inputs: it was n long for n of them and m for m, and no other axis changed."""
    changed = [axis for axis, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b]
    if len(shape) != len(other) or len(changed) != 1 or (shape[changed[0]], other[changed[0]]) != (n, m):
        shapes = f"{_layer_text(name)} gives {list(shape)} for {n} inputs and {list(other)} for {m}"
        raise InputError(f"{shapes}: one axis must count the inputs and the others must not depend on them")
    return changed[0]
