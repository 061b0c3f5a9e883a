"""Find every tensor in a layer's output, in any container, and replace tensors in a copy of the container.

Outputs are not changed: a container with a replaced tensor is copied, with its type and attributes.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Set
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

DEEPEST = 8  # levels of nested containers that are searched
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, array, torch.dtype, torch.device, torch.Generator)
_NO_DATA = (nn.Module, type, FunctionType, MethodType, BuiltinFunctionType, ModuleType, partial)  # have attributes, but are not results


class OutputTensors:
    """Search of one output for tensors.

    Args:
        read: (place, tensor) -> the tensor to return, the same one or another; a place is ``""``, ``"[0]"``, ``"[hidden][1]"``.
        shared: whether a container is also referenced elsewhere, so that a copy would be a different object.

    """

    def __init__(self, read: Callable[[str, Tensor], Tensor], shared: Callable[[Any], bool]) -> None:
        self._read, self._shared = read, shared
        self.found = 0  # number of tensors
        self.opaque: list[str] = []  # types of objects that were not searched
        self.unreplaced: dict[str, str] = {}  # place of a tensor that could not be replaced -> why

    def replaced(self, value: Any, place: str = "", above: tuple[int, ...] = ()) -> Any:
        """Return the output with the tensors from ``read``: the same object if none changed."""
        if isinstance(value, Tensor):
            self.found += 1
            return self._read(place, value)
        if isinstance(value, _PLAIN) or id(value) in above or len(above) == DEEPEST:
            return value
        parts, build = _parts(value)
        if build is None:
            self.opaque.append(type(value).__name__)
            return value
        inner = {key: self.replaced(part, f"{place}[{text}]", (*above, id(value))) for text, key, part in _named(parts)}
        changed = {key: inner[key] for key, part in parts if inner[key] is not part}
        if not changed:
            return value
        why = self._why_not(value)
        if why is None:
            try:
                twin = build(value, changed)
            except Exception as error:  # noqa: BLE001 - a user's class may not be copyable: report it, do not break its forward pass
                why = f"its {type(value).__name__} cannot be copied ({type(error).__name__}: {error})"
            else:
                if type(twin) is type(value):
                    return twin
                why = f"a copy of its {type(value).__name__} is a {type(twin).__name__}"
        self.unreplaced |= dict.fromkeys((f"{place}[{text}]" for text, key, _ in _named(parts) if key in changed), why)
        return value

    def _why_not(self, value: Any) -> str | None:
        if not isinstance(value, tuple) and self._shared(value):
            return f"it returns a {type(value).__name__} that is also referenced elsewhere"
        return None


Parts = list[tuple[Any, Any]]  # (key, part)
Build = Callable[[Any, dict[Any, Any]], Any]  # (container, key -> new part) -> a copy with the new parts


def _named(parts: Parts) -> Iterator[tuple[str, Any, Any]]:
    """Yield (text of the key, key, part); keys with the same text (0 and "0") are quoted."""
    texts = [str(key) for key, _ in parts]
    alike = len(set(texts)) < len(texts)
    for text, (key, part) in zip(texts, parts, strict=True):
        yield (repr(key) if alike else text), key, part


def _parts(value: Any) -> tuple[Parts, Build | None]:
    """Return a container's parts and the function that copies it with other parts; None: no container that is searched."""
    if isinstance(value, Mapping):
        return list(value.items()), _set_items
    if isinstance(value, tuple):
        return list(enumerate(value)), _new_tuple
    if isinstance(value, MutableSequence):
        return list(enumerate(value)), _set_items
    if isinstance(value, Set):
        return [], None
    attributes = _attributes(value)
    return list(attributes.items()), _set_attributes if attributes else None


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object with results: a dataclass, a namespace, a distribution, a user's own class."""
    kind = type(value)
    home = kind.__module__
    of_torch = home.partition(".")[0] == "torch" and not home.startswith("torch.distributions")
    if isinstance(value, _NO_DATA) or of_torch:
        return {}
    slots = (name for base in kind.__mro__ for name in _slots(base))
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _slots(kind: type) -> tuple[str, ...]:
    names = kind.__dict__.get("__slots__", ())
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(name for name in names if not name.startswith("__"))


def _set_items(value: Any, new: dict[Any, Any]) -> Any:
    twin = copy.copy(value)
    for key, part in new.items():
        twin[key] = part
    return twin


def _new_tuple(value: tuple[Any, ...], new: dict[int, Any]) -> Any:
    parts = [new.get(i, part) for i, part in enumerate(value)]
    if hasattr(type(value), "n_sequence_fields"):  # torch.return_types.max: made from one sequence only
        return type(value)(parts)
    twin = tuple.__new__(type(value), parts)  # a named tuple may override its constructor
    getattr(twin, "__dict__", {}).update(getattr(value, "__dict__", {}))
    return twin


def _set_attributes(value: Any, new: dict[str, Any]) -> Any:
    twin = copy.copy(value)
    for name, part in new.items():
        object.__setattr__(twin, name, part)  # frozen dataclasses too
    return twin


def is_inside(others: Any, container: Any, deep: int = 4) -> bool:
    """Return whether the same container object is among ``others``, or inside them."""
    if others is container:
        return True
    parts = others.values() if isinstance(others, dict) else others if isinstance(others, list | tuple) else ()
    return deep > 0 and any(is_inside(part, container, deep - 1) for part in parts)


def tensors_inside(value: Any, deep: int = 4) -> Iterator[Tensor]:
    """Yield the tensors in nested containers; each container is searched once."""
    seen: dict[int, Any] = {}
    level: list[Any] = [value]
    for _ in range(deep):
        below: list[Any] = []
        for container in level:
            if id(container) in seen or isinstance(container, _PLAIN):
                continue
            seen[id(container)] = container
            for _, part in _parts(container)[0]:
                if isinstance(part, Tensor):
                    yield part
                else:
                    below.append(part)
        level = below
