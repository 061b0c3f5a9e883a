"""Numbers of the page over seeds: gathered by label and place, drawn as lines, put into a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.reporting.html.charts import compact
from gradlens.reporting.html.parts import ReportContext, Table, TableCell, mean_cell
from gradlens.reporting.html.stored import Result
from gradlens.reporting.numbers import DASH
from gradlens.reporting.statistics import Interval, interval

Cells = dict[tuple[str, Any], list[float]]  # (label, block or step or other place) -> one value a seed


def gathered(held: ReportContext, results: Mapping[Path, Result], values: Any) -> Cells:
    """Return what ``values(run, result)`` yields as (place, number), by label and place, one number a seed."""
    found: Cells = {}
    for label, group in held.groups.items():
        for run in group:
            if run.path in results:
                for place, v in values(run, results[run.path]):
                    found.setdefault((label, place), []).append(v)
    return found


def _line(label: str | None, x: Sequence[Any], cells: Sequence[Interval], **more: Any) -> dict[str, Any]:
    line: dict[str, Any] = {"label": label, "x": list(x), "y": [compact(c.mean) for c in cells], **more}
    if any(math.isfinite(c.low) for c in cells):
        line["low"], line["high"] = [compact(c.low) for c in cells], [compact(c.high) for c in cells]
    return line


def lines_of(held: ReportContext, cells: Cells, **more: Any) -> list[dict[str, Any]]:
    """Return a line a label over the places that it has, in the order in which they came."""
    drawn = []
    for label in held.groups:
        x = [place for name, place in cells if name == label]
        if x:
            drawn.append(_line(label, x, [interval(cells[label, place]) for place in x], **more))
    return drawn


def control_line(cells: Cells, name: str, dash: str = "dot") -> list[dict[str, Any]]:
    """Return one line over all runs, in no method's colour: a control."""
    at: dict[Any, list[float]] = {}
    for (_, place), values in cells.items():
        at.setdefault(place, []).extend(v for v in values if math.isfinite(v))
    x = [place for place, values in at.items() if values]
    return [{"label": None, "name": name, "x": x, "y": [compact(float(np.mean(at[p]))) for p in x], "dash": dash}] if x else []


def block_cells_table(held: ReportContext, caption: str, columns: Mapping[str, tuple[Cells, int, int]], note: str = "") -> Table:
    """Return a row for each label and block; ``columns``: name -> (numbers, digits, scale)."""
    order = list(dict.fromkeys(block for cells, *_ in columns.values() for _, block in cells))
    rows = []
    for label in held.groups:
        for k, block in enumerate(order):
            own = [(cells.get((label, block)), digits, scale) for cells, digits, scale in columns.values()]
            if any(values for values, *_ in own):
                numbers = [mean_cell(interval(values), digits, scale) if values else TableCell(DASH) for values, digits, scale in own]
                rows.append([held.named(label), TableCell(block, f"{k:04d}"), *numbers])
    return Table(caption, ["method", "block", *columns], rows, note)
