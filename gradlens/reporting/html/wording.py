"""Numbers and settings in words, for the page's sentences and tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def listed(names: Iterable[str]) -> str:
    """Join names as in a sentence.

    >>> listed(["bp", "dgl", "dni"])
    'bp, dgl and dni'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def in_words(value: Any) -> str:
    """Return a setting as it is shown."""
    return {None: "none", False: "no", True: "yes"}[value] if value is None or isinstance(value, bool) else str(value)
