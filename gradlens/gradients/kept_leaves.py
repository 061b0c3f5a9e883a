"""Find leaves that a layer returns and that existed before its call. A leaf has no sequence number, unlike a node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import CO_VARARGS, CO_VARKEYWORDS, getattr_static, getclosurevars, getmro, isfunction
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from gradlens.gradients.output_tensors import tensors_inside

GIVEN_AGAIN = "it returned the same tensor without graph in several calls, so the gradient read at the first includes its other uses"
_OF_A_MODULE = frozenset(vars(nn.Module()))


@dataclass
class _First:
    """The first return of a leaf."""

    time: int
    hooks: list[tuple[object, str, RemovableHandle]] = field(default_factory=list)  # (layer whose result it was taken for, label, hook)


class KeptLeaves:
    """The leaves that layers returned so far, and those that they could reach before.

    Args:
        layers: recorded layers that may hold tensors other than parameters and buffers.

    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._first = WeakTensorKeyDictionary()
        for module in layers:
            for t in _within_reach(module):
                self._first[t] = _First(-1)  # type: ignore[no-untyped-call]

    def was_there(self, leaf: Tensor, time: int) -> bool:
        """Return whether the leaf existed before a call that began at ``time``."""
        first = self._first.get(leaf)  # type: ignore[no-untyped-call]
        return first is not None and first.time < time

    def give(self, leaf: Tensor, time: int, *hook: Any) -> None:
        """Store that a layer returns a leaf.

        Args:
            leaf: the returned tensor.
            time: current time.
            hook: layer, label, and the hook on the leaf, if it is taken for the layer's own result.

        """
        first: _First = self._first.setdefault(leaf, _First(time))  # type: ignore[no-untyped-call]
        if hook:
            first.hooks.append(hook)  # type: ignore[arg-type]

    def withdraw(self, leaf: Tensor, layer: object) -> list[str]:
        """Remove a layer's hooks on a leaf that it kept and returns again; return their labels."""
        first: _First = self._first[leaf]  # type: ignore[no-untyped-call]
        mine = [entry for entry in first.hooks if entry[0] is layer]
        first.hooks = [entry for entry in first.hooks if entry[0] is not layer]
        for _, _, hook in mine:
            hook.remove()
        return [label for _, label, _ in mine]


def is_plain(module: nn.Module) -> bool:
    """Return whether a module is one of torch's layers with one argument: these return no stored tensor but parameters and buffers."""
    forward = getattr_static(type(module), "forward", None)
    code = getattr(forward, "__code__", None)
    if code is None or "forward" in vars(module) or module._modules or not str(forward.__module__).startswith("torch.nn.modules."):
        return False
    return code.co_argcount == 2 and not code.co_kwonlyargcount and not code.co_flags & (CO_VARARGS | CO_VARKEYWORDS)


def _within_reach(module: nn.Module) -> Iterator[Tensor]:
    """Yield leaves with gradients in a module's attributes and class, and in closures and globals of its functions."""
    own = [value for name, value in vars(module).items() if name not in _OF_A_MODULE]
    of_class = [value for kind in getmro(type(module)) if kind.__module__.partition(".")[0] != "torch" for value in vars(kind).values()]
    places: list[Any] = [own, of_class]
    for function in filter(isfunction, (*own, *of_class, *module._forward_hooks.values())):
        places.append([function.__defaults__, function.__kwdefaults__])
        with suppress(ValueError):  # a variable that is not bound yet
            named = getclosurevars(function)
            places += [list(named.nonlocals.values()), list(named.globals.values())]
    with suppress(Exception):  # a user's container may not be iterable
        yield from (t for t in tensors_inside(places, deep=5) if t.requires_grad and t.is_leaf)
