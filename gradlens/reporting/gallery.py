"""All figures of some runs: of their training and of the results that analyses stored. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gradlens.reporting.aggregate import runs_title
from gradlens.reporting.analysis_report import save_figures
from gradlens.reporting.registry import REPORTS
from gradlens.reporting.training_figures import figure_set
from gradlens.runtime.csv_tables import write_csv
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import Run, load_result
from gradlens.training.run_groups import label_settings

KEY = "labels.csv"  # every setting of every label, beside the figures


class Drawn(NamedTuple):
    """Figures drawn of some runs."""

    names: list[str]  # of the figures, without an ending
    skipped: dict[str, str]  # name -> why there is no such figure


def draw_experiment(
    runs: Sequence[Run],
    folder: Path,
    learned: bool,
    formats: Sequence[str] = ("png",),
    width: float | None = None,
    layers: Sequence[str] = (),
) -> Drawn:
    """Draw the training of runs of one experiment, and what each of their labels stands for as a table.

    Args:
        runs: several methods, several seeds each, on the same data and network.
        folder: made if it is not there.
        learned: draw what analyses have stored in the runs too.
        formats: of png, svg, pdf.
        width: of each figure in inches; default: its own.
        layers: patterns of layers' names; none: all.

    Raises:
        InputError: the same run twice, nothing to draw, or the folder cannot be written.

    """
    figures = figure_set(runs, layers)
    save_figures(figures.drawn, folder, formats=formats, width=width)
    write_csv(folder / KEY, label_settings(runs))
    names, skipped = list(figures.drawn), dict(figures.skipped)
    if learned:
        drawn, missing = draw_learned(runs, folder, formats=formats, width=width)
        names += [path.stem for path in drawn]
        skipped |= missing
    return Drawn(names, skipped)


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
