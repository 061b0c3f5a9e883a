"""What long work reports while it goes on, and to whom nothing is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

Watch = Callable[[str, dict[str, Any]], None]  # of a training: what happened, and its numbers
Progress = Callable[[int, int, str], None]  # of work that is counted: (done, in all, what comes next)


def no_progress(*_: object) -> None:
    """Take what is reported, and show nothing: a ``Watch`` and a ``Progress``."""


_reading: ContextVar[Progress] = ContextVar("reading", default=no_progress)


@contextmanager
def shows_reading(progress: Progress) -> Iterator[None]:
    """Show the reading of images, wherever in the block it happens: data are read when they are first asked for."""
    token = _reading.set(progress)
    try:
        yield
    finally:
        _reading.reset(token)


def reading_progress() -> Progress:
    """Who is told how far the reading of images is."""
    return _reading.get()


@cache
def notice(text: str) -> None:
    """Say one line on stderr, once in a process; of several ranks the first says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"gradlens: {text}", file=sys.stderr, flush=True)
