"""The pictures of what some runs have learned, drawn from the results that commands stored in them; nothing is computed or trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradlens.reporting.aggregate import runs_title
from gradlens.reporting.analysis_report import save_figures
from gradlens.reporting.registry import REPORTS
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import Run, load_result


def draw_learned(
    runs: Sequence[Run], folder: Path, *, formats: Sequence[str] = ("png",), width: float | None = None
) -> tuple[list[Path], dict[str, str]]:
    """Draw what the runs hold, each kind from those runs that hold it.

    Args:
        runs: several methods, several seeds each.
        folder: made if it is not there.
        formats: of png, svg, pdf.
        width: of each figure in inches; default: its own.

    Returns:
        the files of the first format, and kind -> why it was not drawn.

    Raises:
        InputError: the folder cannot be written.

    """
    drawn: list[Path] = []
    skipped: dict[str, str] = {}
    for name, figures in ((name, report.figures) for name, report in REPORTS.items() if report.figures):
        found = [(run, result) for run in runs if (result := load_result(run.path, name)) is not None]
        if not found:
            continue
        holders, results = [run for run, _ in found], [result for _, result in found]
        try:
            drawn += save_figures(figures(holders, results, runs_title(holders)), folder, formats=formats, width=width)
        except InputError as error:
            skipped[name] = str(error)
    return drawn, skipped
