"""Names that a rule's attributes had in version 0.1.0: nothing would call or read them, so they are refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from gradlens.runtime import old_names
from gradlens.runtime.errors import InputError


class RefusesOldNames(nn.Module):
    """A module that answers a rule's old names with the new ones, in one sentence."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a rule that overrides methods by their old names."""
        super().__init_subclass__(**kwargs)
        if old := [name for name in old_names.METHOD if hasattr(cls, name)]:
            said = "; ".join(old_names.renamed(name, old_names.METHOD[name], cls.__name__) for name in old)
            reads = getattr(cls, "reads", ())
            words = [word for word in sorted(old_names.DEPENDENCIES) if isinstance(reads, Collection) and word in reads]
            more = f", and {', '.join(words)} in it {', '.join(old_names.DEPENDENCIES[word] for word in words)}" if words else ""
            raise InputError(said + more)

    def __getattr__(self, name: str) -> Any:
        """Answer an attribute's old name with the new one."""
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name in old_names.METHOD:
                raise AttributeError(old_names.renamed(name, old_names.METHOD[name], type(self).__name__)) from None
            raise error from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse the numbers that were called ``top``, ``depth`` and ``readable``."""
        if name in ("top", "depth", "readable") and isinstance(value, int):
            raise AttributeError(old_names.renamed(name, old_names.METHOD[name], type(self).__name__))
        super().__setattr__(name, value)
