"""Reject names that a rule's attributes had in version 0.1.0: they would be ignored."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from gradlens.runtime import old_names
from gradlens.runtime.errors import InputError


class RefusesOldNames(nn.Module):
    """A module that rejects a rule's old names and names the new ones."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Reject a rule that overrides methods by their old names."""
        super().__init_subclass__(**kwargs)
        if old := [name for name in old_names.METHOD if hasattr(cls, name)]:
            text = "; ".join(old_names.renamed(name, old_names.METHOD[name], cls.__name__) for name in old)
            reads = getattr(cls, "reads", ())
            words = [word for word in sorted(old_names.DEPENDENCIES) if isinstance(reads, Collection) and word in reads]
            more = f", and {', '.join(words)} in it {', '.join(old_names.DEPENDENCIES[word] for word in words)}" if words else ""
            raise InputError(text + more)

    def __getattr__(self, name: str) -> Any:
        """Name the new name of an attribute in the error for its old one."""
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name in old_names.METHOD:
                raise AttributeError(old_names.renamed(name, old_names.METHOD[name], type(self).__name__)) from None
            raise error from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Reject the numbers that were called ``top``, ``depth`` and ``readable``."""
        if name in ("top", "depth", "readable") and isinstance(value, int):
            raise AttributeError(old_names.renamed(name, old_names.METHOD[name], type(self).__name__))
        super().__setattr__(name, value)
