"""The command that runs a study; ``main.py`` registers it. A thin shell."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradlens.cli.early_checks import check_study
from gradlens.cli.output import Drawing, FigureFormat, Output, TableFormat, figure_formats
from gradlens.cli.run_arguments import command_typed
from gradlens.cli.shown_runs import write_figures
from gradlens.runtime.terminal import rich_console, shell_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradlens.training.sweep.study import StudyPoint
    from gradlens.training.sweep.workers import State

studied = typer.Typer()


@studied.command()
def sweep(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="methods, seeds, [settings] and [grid]")],
    out: Annotated[Path, typer.Option("--out", help="folder of the run directories and of the study's tables")],
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="runs at a time, in processes [cores / threads]")] = None,
    address: Annotated[str | None, typer.Option("--address", help="a Ray cluster: auto, HOST:PORT, or local (extra `ray`)")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress display")] = False,
    figure_format: FigureFormat = None,
    form: TableFormat = "text",
) -> None:
    """Train every point of a STUDY that is not finished, and compare: means, intervals, paired differences from its baseline, figures."""
    import os

    check_study(study_file)
    from gradlens.reporting.study_summary import merged_rows, study_table, summary_lines
    from gradlens.runtime.csv_tables import write_csv
    from gradlens.runtime.errors import Stopped
    from gradlens.training.comparison import FIGURES, write_comparison
    from gradlens.training.context import set_up_process
    from gradlens.training.run_directory import load_run, save_result
    from gradlens.training.run_files import must_be_writable
    from gradlens.training.runs.check import with_smaller_batch
    from gradlens.training.sweep import study as studies
    from gradlens.training.sweep.study_comparison import must_be_this_study, study_comparison
    from gradlens.training.sweep.study_file import place_settings
    from gradlens.training.sweep.workers import must_be_possible, run_local, run_on_ray

    drawing = Drawing(figure_formats(figure_format))
    study = studies.read_study(study_file)
    flags = {"threads": 1, "device": "cpu", **place_settings(study)}
    context = set_up_process({**{name.replace("-", "_"): value for name, value in flags.items()}, "out": out})
    must_be_writable(out)
    points = studies.study_points(study, context, partial(with_smaller_batch, context=context))
    must_be_this_study(out, points)
    must_be_possible(points, context)
    write_comparison(study_comparison(study, points, out, command_typed()))
    began = time.monotonic()
    with Board(points, out, quiet) as board:
        if address is None:
            at_once = jobs or max(1, (os.cpu_count() or 1) // int(flags["threads"]))
            states = run_local(points, context, flags, at_once, board.show)
        else:
            states = run_on_ray(points, context, int(flags["threads"]), address, board.show)
    comparison = study_comparison(study, points, out, command_typed(), all(s.what == "finished" for s in states.values()))
    write_comparison(comparison)
    finished = [(point, load_run(out / point.name)) for point in points if states[point.name].what == "finished"]
    about = {"study": study._asdict(), "runs": {name: s._asdict() for name, s in states.items()}, "seconds": time.monotonic() - began}
    save_result(out, "study", about)
    if finished:
        write_csv(out / "rows.csv", merged_rows(finished))
        lines = summary_lines(study, finished)
        write_csv(out / "summary.csv", lines)
        output = Output(form)
        output.tables([study_table(lines, study.baseline)])
        output.notice(f"{len(finished)} of {len(points)} runs finished; {out / 'rows.csv'}, {out / 'summary.csv'}, {out / 'study.json'}")
        pictures = write_figures([run for _, run in finished], out / FIGURES, output, drawing)
        write_comparison(replace(comparison, figure_paths=tuple(pictures)))
        output.notice(f"next: {shell_command('gradlens', 'report', out)}")
    if failed := {name: s for name, s in states.items() if s.what == "failed"}:
        name, state = next(iter(failed.items()))
        raise Stopped(f"{len(failed)} of {len(points)} runs failed; {name}: {state.why}")


class Board:
    """The states of a study's runs: a live table on a terminal, a line now and then elsewhere, on stderr."""

    def __init__(self, points: Sequence[StudyPoint], out: Path, quiet: bool) -> None:
        from rich.live import Live

        self.points, self.out, self.quiet = points, out, quiet
        self.console = rich_console(stderr=True)
        self.live = None if quiet or not self.console.is_terminal else Live(console=self.console, refresh_per_second=2)
        self.printed_at, self.last = 0.0, ""

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, states: Mapping[str, State]) -> None:
        """Show where the runs are."""
        if self.quiet or (time.monotonic() - self.printed_at < 0.5 and not all(s.what in ("finished", "failed") for s in states.values())):
            return
        self.printed_at = time.monotonic()
        if self.live:
            self.live.update(self._table(states))
            return
        counts = {what: sum(s.what == what for s in states.values()) for what in ("finished", "running", "waiting", "failed")}
        line = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        if line != self.last:
            self.last = line
            print(f"sweep: {line} of {len(states)} runs", file=self.console.file, flush=True)

    def _table(self, states: Mapping[str, State]) -> Any:
        from rich.table import Table

        from gradlens.reporting.study_summary import grid_text
        from gradlens.training.sweep.workers import progress_of

        shown = Table(box=None, pad_edge=False)
        for column in ("method", "grid", "seed", "state", "epoch", "held-out"):
            shown.add_column(column)
        order = {"running": 0, "failed": 1, "waiting": 2, "finished": 3}
        for point in sorted(self.points, key=lambda p: order[states[p.name].what])[: max(5, self.console.height - 4)]:
            c, state = point.config, states[point.name]
            epoch, answer = progress_of(point, self.out)
            words = state.what + (f", try {state.tries}" if state.tries > 1 else "")
            shown.add_row(c.method, grid_text(point.grid), str(c.seed), words, f"{epoch}/{c.epochs}", answer)
        return shown
