"""Whether something is a class below another, asked so that all supported versions of Python answer alike."""

from __future__ import annotations

from typing import Any, TypeGuard, TypeVar, get_origin

T = TypeVar("T")


def is_subclass(found: Any, base: type[T]) -> TypeGuard[type[T]]:
    """Say whether ``found`` is a class below ``base``; a generic alias (``list[int]``), which Python 3.10 takes for a class, is none."""
    return isinstance(found, type) and get_origin(found) is None and issubclass(found, base)
