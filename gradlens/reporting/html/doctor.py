"""The section of the page on what the doctor found, and its part of the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlens.reporting.html.notices import Notice
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell
from gradlens.reporting.html.stored import Result, result_of, rows_of, stored
from gradlens.reporting.html.wording import listed
from gradlens.training.run_directory import Run


def _findings(held: ReportContext, results: Mapping[Path, Result]) -> list[tuple[str, Run, Mapping[str, Any]]]:
    """Return (label, run, finding) of every finding, the wrong ones first."""
    found = [
        (label, run, finding)
        for label, group in held.groups.items()
        for run in group
        for finding in rows_of(results.get(run.path, {}), "findings", "check", "severity")
    ]
    return sorted(found, key=lambda row: row[2]["severity"] != "wrong")


def section(held: ReportContext) -> ReportSection:
    """Return what `gradlens doctor` found."""
    shown = ReportSection("doctor", "What the doctor found")
    results = stored(held, shown, "doctor", "gradlens doctor {}")
    if not results:
        return shown
    found = _findings(held, results)
    ill = {run.path for _, run, _ in found}
    well = [
        label for label, group in held.groups.items() if any(r.path in results for r in group) and not any(r.path in ill for r in group)
    ]
    wrong = sum(finding["severity"] == "wrong" for *_, finding in found)
    shown.text.append(
        f"{len(results)} run{'s' * (len(results) != 1)} examined: {wrong or 'nothing'} wrong, {len(found) - wrong or 'nothing'} to watch."
        + (f" No finding in {listed(well)}." if well else "")
    )
    same: dict[tuple[str, Path, str, str], list[Mapping[str, Any]]] = {}
    for label, run, f in found:
        same.setdefault((label, run.path, str(f["severity"]), str(f["check"])), []).append(f)
    rows = []
    for (label, path, severity, check), mine in same.items():
        seed = next(run.config.seed for run in held.groups[label] if run.path == path)
        seen = "; ".join(str(f.get("evidence", "–")) for f in mine)
        words = [str(mine[0].get(key, "–")) for key in ("why", "threshold", "advice")]
        name = TableCell(f"{severity}: {check}", f"{severity != 'wrong'} {check}", words=True)
        rows.append([held.named(label), TableCell(str(seed), seed), name, *(TableCell(text, text, words=True) for text in (seen, *words))])
    if rows:
        shown.tables.append(Table("Findings", ["method", "seed", "finding", "found", "why it matters", "expected", "advice"], rows))
    unmade: dict[str, None] = {}
    for result in results.values():
        unmade |= dict.fromkeys(f"{name} ({why})" for name, why in (result.get("unmade") or {}).items())
    if unmade:
        shown.missing.append(f"Checks that could not be made for some runs: {'; '.join(unmade)}.")
    return shown


def wrong(held: ReportContext) -> list[Notice]:
    """Return the doctor's findings of severity wrong, for the verdict."""
    results = {run.path: result for run in held.runs if (result := result_of(run, "doctor"))}
    of: dict[str, dict[str, None]] = {}
    for label, _, finding in _findings(held, results):
        if finding["severity"] == "wrong":
            of.setdefault(str(finding["check"]), {})[label] = None
    text = "; ".join(f"{check} in {listed(labels)}" for check, labels in of.items())
    return [Notice(f"The doctor found something wrong: {text}.")] if text else []
