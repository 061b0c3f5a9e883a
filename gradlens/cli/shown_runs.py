"""Output of commands for several runs: the table with its notices, the figures, and the path of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradlens.cli.output import Drawing, Output
from gradlens.runtime.terminal import shell_command, shell_word
from gradlens.training.comparison import FIGURES, RUNS, SEARCHES, rates_chosen, write_comparison

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run
    from gradlens.training.runs.comparison_runs import ComparedRuns


def print_runs(runs: Sequence[Run], output: Output, rates: bool = False, notices: Sequence[str] = ()) -> None:
    """Print the comparison of finished runs, and below it the notices: other settings, unfinished runs.

    Args:
        runs: several methods, several seeds each.
        output: of the command.
        rates: with a column of learning rates, also where all are equal and none lies in a comparison that chose it.
        notices: sentences to be printed under the table.

    """
    from gradlens.reporting import console
    from gradlens.training.run_progress import split_finished, unfinished_text

    finished, _ = split_finished(runs)
    if finished:
        output.tables(console.comparison_tables(finished, rates=rates or rates_chosen(run.path for run in runs)))
    output.notice("\n".join([*notices, *console.unlike_settings(finished)] if finished else notices))
    output.notice(unfinished_text(runs))


def write_figures(runs: Sequence[Run], out: Path, output: Output, drawing: Drawing, *, learned: bool = False) -> list[Path]:
    """Draw what runs hold into a folder, of several experiments each into a folder of its own in it, and print which files to open.

    Args:
        runs: several methods, several seeds each; unfinished ones are drawn only where no run is finished.
        out: the folder.
        output: prints them.
        drawing: formats, width, layers, and of which methods the runs are.
        learned: draw what analyses have stored in the runs too, and list unfinished runs.

    Returns:
        the pictures, in the first of the formats.

    """
    from gradlens.reporting.figure_folder import note_runs
    from gradlens.reporting.gallery import draw_experiment
    from gradlens.training.run_groups import experiments
    from gradlens.training.run_progress import split_finished, unfinished_text

    finished, others = split_finished(runs)
    parts = experiments(finished or others)
    note_runs(out, [run.path for run in runs], drawing.selection())
    pictures: list[Path] = []
    opened: list[Path] = []
    for part in parts:
        folder = out / part.name if len(parts) > 1 else out
        drawn = draw_experiment(part.runs, folder, learned, drawing.formats, drawing.width, drawing.layers)
        where = f"{part.heading}: " if len(parts) > 1 else ""
        for name, why in drawn.skipped.items():
            output.notice(f"{where}no figure {name}: {why}")
        output.notice(f"{where}{', '.join(drawn.names)}")
        first = [name for name in ("cosine_heat_map", "cosine_over_training", "test_perplexity", "test_accuracy") if name in drawn.names]
        pictures += [folder / f"{name}.{drawing.formats[0]}" for name in drawn.names]
        opened += [folder / f"{name}.{drawing.formats[0]}" for name in (first or drawn.names)[: 3 if len(parts) == 1 else 1]]
    if learned:
        output.notice(unfinished_text(runs))
    inside = f": {', '.join(part.name for part in parts)}" if len(parts) > 1 else ""
    output.notice(f"figures ({', '.join(drawing.formats)}, csv) in {shell_word(out)}{inside}")
    output.notice(f"open {', '.join(map(shell_command, opened))}")
    return pictures


def show_comparison(made: ComparedRuns, draws: Path, output: Output, drawing: Drawing, rates: bool = False) -> None:
    """Print the table of a comparison, draw its figures, and print all paths and the next commands.

    ``rates``: with learning rates, also where none was chosen now and all are equal.
    """
    folder, outside = made.comparison.path, [run for run in made.runs if not run.path.is_relative_to(made.comparison.path)]
    print_runs(made.runs, output, bool(made.comparison.learning_rates) or rates, made.notices)
    figures = write_figures(made.runs, draws, output, drawing)
    write_comparison(replace(made.comparison, figure_paths=tuple(figures)))
    inside, searches = len(made.runs) - len(outside), len(made.comparison.search_paths)
    holds = [f"{RUNS}/ ({inside})"] * bool(inside) + [f"{SEARCHES}/ ({searches})"] * bool(searches)
    holds += [f"{FIGURES}/"] * (draws == folder / FIGURES)
    output.notice(f"comparison: {folder}: {', '.join([*holds, 'comparison.json'])}")
    output.notice("\n".join(f"run: {run.path}" for run in outside))
    output.notice(f"next: {shell_command('gradlens', 'report', folder)}")
