"""What long work reports while it goes on, and to whom nothing is shown."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradlens.runtime.terminal import say

Watch = Callable[[str, dict[str, Any]], None]  # of a training: what happened, and its numbers
Progress = Callable[[int, int, str], None]  # of work that is counted: (done, in all, what comes next)

MOMENT = 2.0  # seconds for which images are read without a word
READING_SECONDS = 5.0  # between the first two lines on the reading of images; then twice as long each time, up to
LONGEST_SECONDS = 60.0


def no_progress(*_: object) -> None:
    """Take what is reported, and show nothing: a ``Watch`` and a ``Progress``."""


class Reading:
    """Lines on stderr while images are read, where that takes more than a moment: before and between live displays too."""

    def __init__(self) -> None:
        self.done = 0
        self.began = self.due = 0.0
        self.pause = READING_SECONDS

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take how far a reading is; one that is less far than before is another one."""
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
    """Show the reading of images, wherever in the block it happens: data are read when they are first asked for."""
    token = _reading.set(progress)
    try:
        yield
    finally:
        _reading.reset(token)


def reading_progress() -> Progress:
    """What the progress of reading images is reported to: where nothing was chosen, lines for a person who can see them."""
    return _reading.get() or (Reading() if _is_watched() else no_progress)


def _is_watched() -> bool:
    """Whether stderr is a terminal or a notebook's, and of several ranks the first's."""
    if os.environ.get("RANK", "0") != "0":
        return False
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())
