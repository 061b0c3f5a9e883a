"""The one exception that means "what you gave cannot be used"."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import Any


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


INTERRUPTED = 130  # exit status of a run that was stopped from outside, as of a shell's Ctrl-C


class Stopped(Exception):
    """A run that ended before its time, for a reason that is no wrong input; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Failsafe:
    """Calls that may fail without harm: the first failure is one line on stderr, and nothing is called any more after it.

    Args:
        what: fails, in a word or two.

    """

    def __init__(self, what: str) -> None:
        self.what, self.works = what, True

    def __call__(self, call: Callable[[], Any]) -> None:
        """Make a call, unless an earlier one failed."""
        if not self.works:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a logger looks on; whatever goes wrong in it, days of training are not lost to it
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Say so, and stop."""
        if self.works:
            self.works = False
            said = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"gradlens: {self.what} failed and is off from here on; the training goes on ({said})", file=sys.stderr)
