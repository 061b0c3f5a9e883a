"""Name what runs count and compare: items (images, tokens, labelled nodes) and examples (images, sequences, nodes)."""

from __future__ import annotations

from collections.abc import Iterable

from gradlens.tasks.registry import TASKS
from gradlens.training.run_directory import Run


def items_of(runs: Iterable[Run]) -> str:
    """Return the name of the items of runs, which losses are means over: "tokens"; of several tasks "items"."""
    return f"{_item(runs)}s"


def an_item(runs: Iterable[Run]) -> str:
    """Return the name of one of them, with its article: "an image"."""
    item = _item(runs)
    return f"a{'n' * (item[0] in 'aeiou')} {item}"


def _item(runs: Iterable[Run]) -> str:
    names = {TASKS[run.config.task].item for run in runs}
    return names.pop() if len(names) == 1 else "item"


def example_of(runs: Iterable[Run]) -> str:
    """Return the name of an example of runs, a row of a batch: "sequence"; of several tasks "example"."""
    names = {TASKS[run.config.task].example for run in runs}
    return names.pop() if len(names) == 1 else "example"
