"""Name what runs count and compare: items (images, tokens, labelled nodes) and examples (images, sequences, nodes)."""

from __future__ import annotations

from collections.abc import Iterable

from gradlens.tasks.registry import TASKS
from gradlens.training.run_directory import Run


def items_of(runs: Iterable[Run]) -> str:
    """Return the name of the items of runs, which losses are means over: "tokens"; of several tasks "items"."""
    return f"{item_of(runs)}s"


def item_of(runs: Iterable[Run]) -> str:
    """Return the name of one of them."""
    names = {TASKS[run.config.task].item for run in runs}
    return names.pop() if len(names) == 1 else "item"


def example_of(runs: Iterable[Run]) -> str:
    """Return the name of an example of runs, a row of a batch: "sequence"; of several tasks "example"."""
    names = {TASKS[run.config.task].example for run in runs}
    return names.pop() if len(names) == 1 else "example"
