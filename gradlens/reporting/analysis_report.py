"""Reports of an analysis's stored results: printed tables, figures, a section of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from gradlens.reporting.html.parts import ReportContext, ReportSection
from gradlens.reporting.style import WRITERS, save_figure
from gradlens.runtime.tables import Table
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import group_runs

Results = Sequence[Mapping[str, Any]]  # one a run, in the order of the runs, as its json file holds it
Figures = Mapping[str, tuple[Figure, Sequence[Any]]]  # name of the files -> the figure and the rows it shows


def _no_tables(_runs: Sequence[Run], _results: Results) -> Iterable[Table]:
    return ()


class AnalysisReport(NamedTuple):
    """What is made of the results of an analysis; ``reporting/registry.py`` holds one for each."""

    tables: Callable[[Sequence[Run], Results], Iterable[Table]] = _no_tables  # printed by its command
    figures: Callable[[Sequence[Run], Results, str], Figures] | None = (
        None  # under a title; an InputError gives the reason if there is none
    )
    section: Callable[[ReportContext], ReportSection | None] | None = None  # of the page of `gradlens report`


def results_by_label(runs: Sequence[Run], results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """Return a dict label -> the results of its seeds, in the order of the runs."""
    found = {run.path: result for run, result in zip(runs, results, strict=True)}
    return {label: [found[run.path] for run in group] for label, group in group_runs(runs).items()}


def save_figures(figures: Figures, folder: Path, *, formats: Sequence[str] = ("png",), width: float | None = None) -> list[Path]:
    """Write figures, each in some formats and as csv, and remove what is there of them in other formats: it would not show this csv.

    Returns:
        the files of the first format.

    Raises:
        InputError: the folder cannot be written.

    """
    files = [save_figure(figure, rows, folder, name, formats=formats, width=width)[0] for name, (figure, rows) in figures.items()]
    for file in files:
        for ending in WRITERS.keys() - set(formats):
            file.with_name(f"{file.name.removesuffix(file.suffix)}.{ending}").unlink(missing_ok=True)
    return files
