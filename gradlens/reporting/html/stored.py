"""Stored results of analyses, read for the page: rows, and how the numbers were made.

Read with :func:`gradlens.training.run_directory.load_result`. A row that lacks a required value is left out, never guessed;
a run without a result, or with half of one, is named with the command that makes it; so is the command, where no run has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlens.reporting.html.parts import ReportContext, ReportSection
from gradlens.reporting.html.wording import in_words, listed
from gradlens.runtime.errors import InputError
from gradlens.runtime.terminal import shell_word
from gradlens.training.run_directory import Run, load_result

Result = Mapping[str, Any]


def stored(held: ReportContext, section: ReportSection, name: str, command: str) -> dict[Path, Result]:
    """Return a dict run directory -> what a command stored there; the section names what is missing or unreadable."""
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
        paths = _named(without, held.folder)
        if found or section.missing:
            section.missing.append(
                f"Not measured for {len(without)} of {len(held.runs)} runs: `{command.format(paths)}` measures the rest."
            )
        else:
            section.command = command.format(paths)
    return found


NAMED = 3  # runs whose paths are written out in a command


def _named(runs: Sequence[Run], folder: Path | None) -> str:
    """Return runs as a command takes them: their comparison folder, their paths, or for many runs a pattern."""
    if folder:
        return shell_word(folder)
    if len(runs) <= NAMED:
        return " ".join(shell_word(run.path) for run in runs)
    return " ".join(f"{shell_word(parent)}/*" for parent in dict.fromkeys(run.path.parent for run in runs))


def value(row: Mapping[str, Any], *names: str) -> float:
    """Return a stored number, by the names on the way to it; NaN where there is none (null, or missing)."""
    at: Any = row
    for name in names:
        at = at.get(name) if isinstance(at, Mapping) else None
    return float(at) if isinstance(at, int | float) and not isinstance(at, bool) else math.nan


def rows_of(result: Result, name: str, *needed: str) -> list[Mapping[str, Any]]:
    """Select a result's rows that hold all required values."""
    rows = result.get(name)
    return [row for row in rows if isinstance(row, Mapping) and all(key in row for key in needed)] if isinstance(rows, list) else []


def protocol(section: ReportSection, results: Iterable[Result]) -> None:
    """Add how the numbers were made, as stored beside them; runs that were measured differently are named."""
    facts: dict[str, list[str]] = {}
    for result in results:
        for name, how in _protocol_lines(result.get("protocol") or {}):
            if how not in facts.setdefault(name, []):
                facts[name].append(how)
    if facts:
        section.facts = [(name, how[0]) for name, how in facts.items() if len(how) == 1]
        if several := [name for name, how in facts.items() if len(how) > 1 and name not in OWN]:
            section.text.append(f"Not all were measured alike: {listed(several)} differ.")


OWN = ("weights", "label hash", "labels", "pictures", "updates", "seed", "read")  # what is each run's own in a protocol


def _protocol_lines(content: Any, path: str = "") -> list[tuple[str, str]]:
    """Return (name, in words) of everything in a nested protocol."""
    if isinstance(content, Mapping):
        return [pair for name, inner in content.items() for pair in _protocol_lines(inner, f"{path} {name}".strip().replace("_", " "))]
    if isinstance(content, list):
        content = ", ".join(map(in_words, content))
    return [(path, in_words(content))]


def last(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows of the last step among them."""
    end = max((value(row, "step") for row in rows if math.isfinite(value(row, "step"))), default=math.nan)
    return [row for row in rows if value(row, "step") == end or math.isnan(end)]


def result_of(run: Run, name: str) -> Result | None:
    """Return what a command stored in a run's directory; None where that is nothing, or cannot be read."""
    try:
        return load_result(run.path, name)
    except InputError:
        return None
