"""What commands about finished runs have stored, read for the page: rows, lines and tables over seeds, how the numbers were made.

Read with :func:`gradlens.training.run_directory.load_result`. A row that lacks what is asked of it is left out, never guessed;
a run without a result, or with half of one, is named with the command that makes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.reporting.aggregate import Interval, interval
from gradlens.reporting.html.charts import compact
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell, mean_cell
from gradlens.reporting.html.wording import in_words, listed
from gradlens.runtime.errors import InputError
from gradlens.runtime.terminal import shell_word
from gradlens.training.run_directory import Run, load_result

Result = Mapping[str, Any]


def stored(held: ReportContext, section: ReportSection, name: str, command: str) -> dict[Path, Result]:
    """run directory -> what a command stored there; what is missing or unreadable is said in the section."""
    found: dict[Path, Result] = {}
    without = []
    for run in held.runs:
        try:
            result = load_result(run.path, name)
        except InputError as error:
            section.missing.append(f"Left out: {error}.")
            continue
        if result is None:
            without.append(run)
        else:
            found[run.path] = result
    if without:
        paths = " ".join(shell_word(run.path) for run in without[:2]) + (" …" if len(without) > 2 else "")
        whose = "" if not found else f" for {len(without)} of {len(held.runs)} runs"
        section.missing.append(f"Not measured{whose}: `{command.format(paths)}` does.")
    return found


def value(row: Mapping[str, Any], *names: str) -> float:
    """A stored number, by the names on the way to it; NaN where there is none (null, or missing)."""
    at: Any = row
    for name in names:
        at = at.get(name) if isinstance(at, Mapping) else None
    return float(at) if isinstance(at, int | float) and not isinstance(at, bool) else math.nan


def rows_of(result: Result, name: str, *needed: str) -> list[Mapping[str, Any]]:
    """A result's rows that hold all that is asked of them."""
    rows = result.get(name)
    return [row for row in rows if isinstance(row, Mapping) and all(key in row for key in needed)] if isinstance(rows, list) else []


def protocol(section: ReportSection, results: Iterable[Result]) -> None:
    """How the numbers were made, as stored beside them; where runs were measured differently, that is said."""
    said: dict[str, list[str]] = {}
    for result in results:
        for name, how in _flat(result.get("protocol") or {}):
            if how not in said.setdefault(name, []):
                said[name].append(how)
    if said:
        section.facts = [(name, how[0]) for name, how in said.items() if len(how) == 1]
        if several := [name for name, how in said.items() if len(how) > 1 and name not in OWN]:
            section.text.append(f"Not all were measured alike: {listed(several)} differ.")


OWN = ("weights", "label hash", "labels", "pictures", "updates", "seed", "read")  # what is each run's own in a protocol


def _flat(content: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping):
        return [pair for name, inner in content.items() for pair in _flat(inner, f"{path} {name}".strip().replace("_", " "))]
    if isinstance(content, list):
        content = ", ".join(map(in_words, content))
    return [(path, in_words(content))]


Cells = dict[tuple[str, Any], list[float]]  # (label, block or step or other place) -> one value a seed


def gathered(held: ReportContext, results: Mapping[Path, Result], values: Any) -> Cells:
    """What ``values(run, result)`` yields as (place, number), by label and place, one number a seed."""
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
    """A line a label over the places that it has, in the order in which they came."""
    drawn = []
    for label in held.groups:
        x = [place for name, place in cells if name == label]
        if x:
            drawn.append(_line(label, x, [interval(cells[label, place]) for place in x], **more))
    return drawn


def pooled(cells: Cells, name: str, dash: str = "dot") -> list[dict[str, Any]]:
    """One line over all runs, in no method's colour: a control."""
    at: dict[Any, list[float]] = {}
    for (_, place), values in cells.items():
        at.setdefault(place, []).extend(v for v in values if math.isfinite(v))
    x = [place for place, values in at.items() if values]
    return [{"label": None, "name": name, "x": x, "y": [compact(float(np.mean(at[p]))) for p in x], "dash": dash}] if x else []


def block_cells_table(held: ReportContext, caption: str, columns: Mapping[str, tuple[Cells, int, int]], note: str = "") -> Table:
    """A row for each label and block; ``columns``: name -> (numbers, digits, scale)."""
    order = list(dict.fromkeys(block for cells, *_ in columns.values() for _, block in cells))
    rows = []
    for label in held.groups:
        for k, block in enumerate(order):
            own = [(cells.get((label, block)), digits, scale) for cells, digits, scale in columns.values()]
            if any(values for values, *_ in own):
                numbers = [mean_cell(interval(values), digits, scale) if values else TableCell("–") for values, digits, scale in own]
                rows.append([held.named(label), TableCell(block, f"{k:04d}"), *numbers])
    return Table(caption, ["method", "block", *columns], rows, note)


def last(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of the last step among them."""
    end = max((value(row, "step") for row in rows if math.isfinite(value(row, "step"))), default=math.nan)
    return [row for row in rows if value(row, "step") == end or math.isnan(end)]


def result_of(run: Run, name: str) -> Result | None:
    """What a command stored in a run's directory; None where that is nothing, or cannot be read."""
    try:
        return load_result(run.path, name)
    except InputError:
        return None
