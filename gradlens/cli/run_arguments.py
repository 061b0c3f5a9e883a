"""Shared by commands that read runs: the argument, the folder of figures, and the notices on several runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gradlens.runtime.terminal import say, shell_command
from gradlens.training.comparison import FIGURES, Comparison, home_of, read_comparison, runs_of, write_comparison

if TYPE_CHECKING:
    from gradlens.cli.output import Drawing
    from gradlens.training.run_directory import Run

IN_COMPARISON = "[figures/ in the comparison folder, else a folder of its own in figures/]"
_home: ContextVar[Comparison | None] = ContextVar("home", default=None)  # what was named on the command line of this process
_typed: ContextVar[tuple[Path, ...]] = ContextVar("typed", default=())  # the paths there


def command_typed() -> str:
    """Return the command line of this process, to be pasted."""
    return shell_command("gradlens", *sys.argv[1:])


def notice(text: str) -> None:
    """Print a notice on what was read, on stderr."""
    say(f"gradlens: {text}", aside=True)


def notice_reused(run: Run) -> None:
    """Report that a finished run is not trained again."""
    notice(f"{run.config.method}{f' seed {run.config.seed}' * bool(run.config.seed)}: finished, read from {run.path}")


def _runs_meant(paths: list[Path]) -> list[Path]:
    """Return the run directories that typed paths stand for: :func:`gradlens.training.comparison.runs_of`."""
    runs = runs_of(paths, notice)
    _home.set(home_of(paths))
    _typed.set(tuple(map(Path, paths)))
    return runs


def runs_given(help_: str) -> Any:
    """Return the argument of commands that read runs: they get run directories, whatever stands for these was typed."""
    # a callback without annotations: typer tests whether `list[Path]` is a class, which raises a TypeError in Python 3.10
    return typer.Argument(metavar="RUN_OR_COMPARISON...", callback=lambda paths: _runs_meant(paths), help=help_)


def home() -> Comparison | None:
    """Return the one comparison, study or folder of runs that was named on the command line."""
    return _home.get()


def paths_typed() -> tuple[Path, ...]:
    """Return the paths of runs and comparisons on the command line."""
    return _typed.get()


def figure_folder(runs: Sequence[Run], out: Path | None, overwrite: bool, drawing: Drawing | None = None) -> Path:
    """Return where the figures of runs go, which is free for them; those of a selection get a folder of their own.

    Raises:
        InputError: it holds something else.

    """
    from gradlens.reporting.figure_folder import Selection, default_folder, must_be_replaceable

    compared, selection = home(), drawing.selection() if drawing else Selection()
    whole = compared.path / FIGURES if compared and compared.made_by else default_folder([run.config for run in runs])
    folder = out or selection.beside(whole)
    must_be_replaceable(folder, [run.path for run in runs], overwrite, selection=selection)
    return folder


def list_figures(folder: Path, pictures: Sequence[Path]) -> None:
    """List figures that were drawn into a comparison's own folder in its ``comparison.json``, beside those that are still there."""
    compared = home()
    if compared is None or not compared.made_by or folder.resolve() != (compared.path / FIGURES).resolve():
        return
    before = read_comparison(compared.path)
    there = [path for path in before.figure_paths if path.is_file()]
    write_comparison(replace(before, figure_paths=tuple(dict.fromkeys([*there, *pictures]))))
