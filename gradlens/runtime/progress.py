"""What long work reports while it goes on, and to whom nothing is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Watch = Callable[[str, dict[str, Any]], None]  # of a training: what happened, and its numbers
Progress = Callable[[int, int, str], None]  # of work that is counted: (done, in all, what comes next)


def no_progress(*_: object) -> None:
    """Take what is reported, and show nothing: a ``Watch`` and a ``Progress``."""
