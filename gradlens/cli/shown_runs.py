"""How commands show several runs: the table with what must be known of it, the figures, and where a comparison lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradlens.cli.output import Drawing, Output
from gradlens.runtime.terminal import shell_command
from gradlens.training.comparison import FIGURES, RUNS, SEARCHES, write_comparison

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run
    from gradlens.training.runs.comparison_runs import ComparedRuns


def print_runs(runs: Sequence[Run], output: Output, rates: bool = False, said: Sequence[str] = ()) -> None:
    """Print the comparison of finished runs, and below it what must be known of it: other settings, unfinished runs.

    Args:
        runs: several methods, several seeds each.
        output: of the command.
        rates: with a column of learning rates.
        said: sentences to be printed under the table.

    """
    from gradlens.reporting import console
    from gradlens.reporting.unfinished import unfinished_lines

    finished = [run for run in runs if run.finished]
    if finished:
        output.tables([console.comparison_table(finished, rates=rates)])
    unlike = console.unlike_settings(finished) if finished else []
    output.notice("\n".join([*said, *unlike, *unfinished_lines(runs)]))


def write_figures(runs: Sequence[Run], out: Path, output: Output, drawing: Drawing) -> list[Path]:
    """Draw what the finished runs hold into a folder, say which files to open, and give the pictures' paths."""
    from gradlens.reporting.figure_folder import note_runs
    from gradlens.reporting.style import save_figure
    from gradlens.reporting.training_figures import figure_set
    from gradlens.reporting.unfinished import split_finished

    figures = figure_set(split_finished(runs)[0], drawing.layers)
    note_runs(out, [run.path for run in runs])
    paths = [
        save_figure(figure, rows, out, name, formats=drawing.formats, width=drawing.width)[0]
        for name, (figure, rows) in figures.drawn.items()
    ]
    for name, why in figures.skipped.items():
        output.notice(f"no figure {name}: {why}")
    output.notice(f"figures ({', '.join(drawing.formats)}, csv): {', '.join(figures.drawn)}")
    first = [name for name in ("cosine_heat_map", "cosine_over_training", "test_accuracy") if name in figures.drawn]
    output.notice(f"open {', '.join(shell_command(out / f'{name}.{drawing.formats[0]}') for name in first or figures.drawn)}")
    return paths


def show_comparison(made: ComparedRuns, draws: Path, output: Output, drawing: Drawing) -> None:
    """Print the table of a comparison, draw its figures, and say where everything lies and what to type next."""
    folder, outside = made.comparison.path, [run for run in made.runs if not run.path.is_relative_to(made.comparison.path)]
    print_runs(made.runs, output, bool(made.comparison.learning_rates), made.said)
    figures = write_figures(made.runs, draws, output, drawing)
    write_comparison(replace(made.comparison, figure_paths=tuple(figures)))
    inside, searches = len(made.runs) - len(outside), len(made.comparison.search_paths)
    holds = [f"{RUNS}/ ({inside})"] * bool(inside) + [f"{SEARCHES}/ ({searches})"] * bool(searches)
    holds += [f"{FIGURES}/"] * (draws == folder / FIGURES)
    output.notice(f"comparison: {folder}: {', '.join([*holds, 'comparison.json'])}")
    output.notice("\n".join(f"run: {run.path}" for run in outside))
    output.notice(f"next: {shell_command('gradlens', 'report', folder)}")
