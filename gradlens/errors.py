"""The one exception that means "what you gave cannot be used"."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


class InputError(ValueError):
    """Input that cannot be used, said in one sentence. The command line prints it and exits with status 2."""

    trace = ""  # where a user's own code raised: the traceback of their frames, printed above the sentence


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a list: every known name is listed, the nearest first.

    >>> str(unknown("method", "dlg", ["bp", "dgl", "dni"]))
    "unknown method 'dlg'; known, nearest first: dgl, dni, bp"
    """
    near = sorted(known, key=lambda k: -SequenceMatcher(None, name.lower(), k.lower()).ratio())
    return InputError(f"unknown {what} {name!r}; known, nearest first: {', '.join(near) or 'none'}")
