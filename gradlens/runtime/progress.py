"""Report the progress of long work, on live displays, on stderr or not at all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradlens.runtime.terminal import say

Watch = Callable[[str, dict[str, Any]], None]  # callback of a training: (event, its numbers)
Progress = Callable[[int, int, str], None]  # callback of counted work: (done, total, what comes next)

MOMENT = 2.0  # seconds of reading images before the first line
READING_SECONDS = 5.0  # between the first two lines on reading images; then twice as long each time, up to
LONGEST_SECONDS = 60.0


def no_progress(*_: object) -> None:
    """Do nothing: a no-op ``Watch`` and ``Progress`` callback."""


class Reading:
    """Progress lines on stderr while images are read, if that takes more than ``MOMENT`` seconds; also around live displays."""

    def __init__(self) -> None:
        self.done = 0
        self.began = self.due = 0.0
        self.pause = READING_SECONDS

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report progress; a lower count than before starts a new reading."""
        now = time.monotonic()
        if not 0 < self.done < done:
            self.began, self.due, self.pause = now, now + MOMENT, READING_SECONDS
        self.done = done
        if now < self.due:
            return
        seconds = now - self.began
        left = f"about {seconds * (total - done) / done:,.0f} s left" if done < total else f"{seconds:,.0f} s"
        say(f"gradlens: reading {what}: {done:,} of {total:,} images, {left}", aside=True)
        self.due, self.pause = now + self.pause, min(2 * self.pause, LONGEST_SECONDS)


_reading: ContextVar[Progress | None] = ContextVar("reading", default=None)


@contextmanager
def shows_reading(progress: Progress) -> Iterator[None]:
    """Report the reading of images inside the context to ``progress``: data are read on first use."""
    token = _reading.set(progress)
    try:
        yield
    finally:
        _reading.reset(token)


def reading_progress() -> Progress:
    """Return the callback for reading images: the chosen one, else lines on an interactive stderr."""
    return _reading.get() or (Reading() if _is_watched() else no_progress)


def _is_watched() -> bool:
    """Return whether stderr is a terminal or a notebook's, and of several ranks the first's."""
    if os.environ.get("RANK", "0") != "0":
        return False
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())
