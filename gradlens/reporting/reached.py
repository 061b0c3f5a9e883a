"""The share of rows (nodes) that each rule's error signal reaches at each block, beside that of backprop: the table of graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradlens.reporting.aggregate import FinalValue, final_values
from gradlens.reporting.numbers import NONE, mean_cell
from gradlens.reporting.task_words import example_of
from gradlens.runtime.tables import Table
from gradlens.tasks.registry import TASKS

if TYPE_CHECKING:  # imports torch
    from gradlens.training.run_directory import Run

COLUMNS = {"reached": "", "true_reached": "by backprop"}  # quantity -> what its column's name adds to the block's


def reached_values(runs: Sequence[Run]) -> dict[tuple[str, str, str], FinalValue]:
    """Return the shares at the end of training.

    Args:
        runs: several methods, several seeds each; those of tasks that record no shares have none.

    Returns:
        (label, block, quantity) -> mean over the last recorded epoch, then over seeds; blocks bottom first.

    """
    some = [run for run in runs if TASKS[run.config.task].records_reached]
    return {(v.label, v.layer, q): v for q in COLUMNS for v in (final_values(some, q, "activation") if some else ())}


def reached_title(runs: Sequence[Run]) -> str:
    """Say what is tabulated of runs of one task or of several."""
    rows = example_of(run for run in runs if TASKS[run.config.task].records_reached)
    return f"{rows}s that have an error signal at the output of each block, and how many backprop reaches (%)"


def reached_columns(blocks: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (block, quantity, name) of each column."""
    return [(block, quantity, f"{block} {added}".strip()) for block in blocks for quantity, added in COLUMNS.items()]


def reached_table(runs: Sequence[Run]) -> Table | None:
    """Tabulate the shares, a row a label, two columns a block; None where nothing is recorded."""
    found = reached_values(runs)
    if not found:
        return None
    columns = reached_columns(list(dict.fromkeys(block for _, block, _ in found)))
    table = Table(reached_title(runs))
    table.add_column("method")
    for _, _, name in columns:
        table.add_column(name, "%")
    for label in dict.fromkeys(label for label, _, _ in found):
        cells = [found.get((label, block, quantity)) for block, quantity, _ in columns]
        table.add_row(label, *(mean_cell(v.mean, v.low, 1, 100) if v else NONE for v in cells))
    return table
