"""The commands that analyse finished runs: one for each analysis of the registry, and those that are no analysis."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from gradlens.analysis.of_runs.interface import Analysis, AnalysisWithTraining, Result
from gradlens.analysis.of_runs.registry import ANALYSES
from gradlens.cli.options import data_given, default_help, with_flags
from gradlens.cli.output import FigureFormat, Output, TableFormat, figure_formats
from gradlens.cli.run_arguments import IN_COMPARISON, figure_folder, home, list_figures, notice, notice_reused, runs_given
from gradlens.cli.settings import DATASETS, RULES_READ
from gradlens.runtime.terminal import say, shell_command

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run

learned = typer.Typer()


def _aside(text: str) -> None:
    say(text, aside=True)


def _shown(
    analysis: Analysis, runs: Sequence[Run], results: Sequence[Result], folder: Path, form: str, figure_format: Sequence[str] | None
) -> None:
    """Print the tables of an analysis, draw its figures into a folder, and print all paths."""
    from gradlens.reporting.aggregate import runs_title
    from gradlens.reporting.analysis_report import save_figures
    from gradlens.reporting.console import with_heading
    from gradlens.reporting.figure_folder import note_runs
    from gradlens.reporting.registry import REPORTS
    from gradlens.training.run_groups import Experiment, experiments

    report, output, formats, files = REPORTS[analysis.name], Output(form), figure_formats(figure_format), list[Path]()
    result_of = {run.path: result for run, result in zip(runs, results, strict=True)}
    # a comparison of networks is across experiments, whatever else is printed of one
    parts = [Experiment("", "", list(runs))] if analysis.comparison else experiments(runs)
    tables = []
    for part in parts:
        mine = [result_of[run.path] for run in part.runs]
        tables += with_heading(report.tables(part.runs, mine), part.heading if len(parts) > 1 else "")
        if report.figures:
            inside = folder / part.name if len(parts) > 1 else folder
            files += save_figures(report.figures(part.runs, mine, runs_title(part.runs)), inside, formats=formats)
    if report.figures:
        note_runs(folder, [run.path for run in runs])
        list_figures(folder, files)
    output.tables(tables)
    for i, run in enumerate(runs):
        stored = [analysis.name, *([analysis.comparison] if analysis.comparison and not i else [])]
        output.notice(f"run: {run.path} ({', '.join(f'{name}.json' for name in stored)})")
    if files:
        output.notice(f"figures ({', '.join(formats)}, csv): {', '.join(map(str, files))}")


def _parameter(name: str, type_: Any, info: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, info])


def _printed() -> list[inspect.Parameter]:
    """Return the flags of what a command prints and draws."""
    return [
        inspect.Parameter("form", inspect.Parameter.KEYWORD_ONLY, default="text", annotation=TableFormat),
        inspect.Parameter("figure_format", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=FigureFormat),
    ]


def _flag(field: dataclasses.Field[Any], type_: Any, full: Any) -> inspect.Parameter:
    """Make a field's flag, see :func:`gradlens.analysis.of_runs.interface.option`; ``full``: its value under --full, None: the same."""
    name = field.metadata["flag"] or field.name.replace("_", "-")
    forms = f"--{name}/--no-{name}" if field.default is True else f"--{name}"
    repeatable = field.default == ()
    if full not in (None, field.default):
        text = f"{field.metadata['help']} (default {field.default}, with --full {full})"
        return _parameter(field.name, type_ | None, typer.Option(forms, help=text, min=field.metadata["least"], show_default=False), None)
    info = typer.Option(forms, help=field.metadata["help"], min=field.metadata["least"])
    return _parameter(field.name, list[str] | None if repeatable else type_, info, None if repeatable else field.default)


def _register(
    analysis: Analysis, command: Callable[..., None], parameters: Sequence[inspect.Parameter], *shared: str, **rules: Any
) -> None:
    """Add a function to the commands, with parameters of its own and flags that commands share (all, or those named).

    ``rules`` is what :func:`gradlens.cli.options.with_flags` takes by name.
    """
    command.__doc__ = analysis.help
    command.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    learned.command(analysis.command)(with_flags(*shared, **rules)(command))


def add_command(analysis: Analysis) -> None:
    """Make the command of an analysis: run directories, the flags of its options, and where the figures go."""

    def command(
        *,
        run_dirs: list[Path],
        out: Path | None,
        data: str | None,
        form: str,
        figure_format: list[str] | None,
        given: dict[str, Any],
        full: bool = False,
        **typed: Any,
    ) -> None:
        from gradlens.cli.progress import Display
        from gradlens.training.context import set_up_process
        from gradlens.training.run_directory import load_run

        quiet, context = given.pop("quiet", False), set_up_process(given)
        runs = [load_run(path, data) for path in run_dirs]
        folder = figure_folder(runs, out, typed["overwrite"] if "overwrite" in fields else typed.pop("overwrite"))
        values = {name: tuple(v or ()) if fields[name].default == () else v for name, v in typed.items()}
        values = {name: v for name, v in values.items() if v is not None}
        options = dataclasses.replace(analysis.full if full else analysis.Options(), **values)
        with Display(quiet, len(runs)) as display:
            results = analysis.analyse(runs, context, options, display.count, _aside)
        _shown(analysis, runs, results, folder, form, figure_format)

    fields = {field.name: field for field in dataclasses.fields(analysis.Options) if field.metadata}
    types = get_type_hints(analysis.Options)
    flags = [_flag(field, types[name], getattr(analysis.full, name, None)) for name, field in fields.items()]
    if analysis.full is not None:
        flags.append(
            _parameter(
                "full", bool, typer.Option("--full", help="settings for numbers to report, instead of a quick look: takes minutes"), False
            )
        )
    if "overwrite" not in fields:
        flags.append(_parameter("overwrite", bool, typer.Option("--overwrite", help="draw into a folder that holds other files"), False))
    out = _parameter("out", Path | None, typer.Option("--out", help=f"{analysis.drawn} {IN_COMPARISON}"), None)
    data = _parameter("data", str | None, data_given(), None)
    of = f" of {' or '.join(RULES_READ[analysis.command])}" if analysis.command in RULES_READ else ""
    own = [_parameter("run_dirs", list[Path], runs_given(analysis.argument + of)), *flags, out, data, *_printed()]
    _register(analysis, command, own, "device", "threads", "data-dir", "download", "no-cache", "quiet")


def add_command_with_training(analysis: AnalysisWithTraining) -> None:
    """Make the command of an analysis of runs that are trained for it: rules or run directories, and all settings of a training."""

    def command(
        *, what: list[str] | None, figures_to: Path | None, form: str, figure_format: list[str] | None, given: dict[str, Any]
    ) -> None:
        from gradlens.cli.progress import Display
        from gradlens.reporting.figure_folder import default_folder, must_be_replaceable
        from gradlens.runtime.errors import InputError
        from gradlens.training.comparison import runs_of
        from gradlens.training.config_builder import configs_of, methods_and_runs
        from gradlens.training.context import set_up_process
        from gradlens.training.run_directory import load_run
        from gradlens.training.run_files import must_be_writable
        from gradlens.training.runs.check import with_smaller_batch
        from gradlens.training.runs.train_run import train_or_reuse

        quiet, context = given.pop("quiet", False), set_up_process(given)
        if context.name:
            raise InputError(f"--run-name names one run; {analysis.command} makes several: --out names their folder")
        methods, paths = methods_and_runs(what or analysis.default_methods())
        moved = None if given.get("data") in DATASETS else given.get("data")
        read = [load_run(path, moved) for path in runs_of(paths, notice)]
        analysis.check_required(read)
        smaller, settings = partial(with_smaller_batch, context=context), analysis.settings(given)
        groups = configs_of(methods, settings, context, with_default_batch=smaller) if methods else []
        configs = [config for group in groups for config in group]
        for config in configs:
            analysis.check_config(config, context)
        known = [run.config for run in read]
        folder = figures_to or context.out / default_folder([*known, *configs])
        if figures_to:
            drawn = [*(run.path for run in read), *(context.path_of(config) for config in configs if config not in known)]
            must_be_replaceable(folder, drawn, context.overwrite, "--figures")
        must_be_writable(folder / f"{analysis.name}.png")
        missing = [config for config in configs if config not in known]
        with Display(quiet, len(missing)) as display:
            runs = read + train_or_reuse(
                missing,
                context,
                lambda c: display.watch_run(f"{c.method} seed {c.seed}", c),
                reused=notice_reused,
            )
            results = analysis.analyse(runs, context, watch=display.count, notify=_aside)
        _shown(analysis, runs, results, folder, form, figure_format)

    named = _parameter(
        "what", list[str] | None, typer.Argument(metavar="[METHOD_OR_RUN_OR_COMPARISON]...", help=default_help(analysis.command)), None
    )
    out = _parameter(
        "figures_to", Path | None, typer.Option("--figures", help=f"{analysis.drawn} [a folder of its own in OUT/figures/]"), None
    )
    _register(analysis, command, [named, out, *_printed()], rules="what", or_runs=True)


for _analysis in ANALYSES.values():
    if isinstance(_analysis, AnalysisWithTraining):
        add_command_with_training(_analysis)
    else:
        add_command(_analysis)


@learned.command("report")
def report(
    run_dirs: Annotated[list[Path], runs_given("run directories, of one method or several, or a comparison folder")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the page [report.html in the comparison folder, else in this one]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an existing file; a page of the same runs is always replaced")
    ] = False,
) -> None:
    """Write one self-contained page of all that runs hold: a verdict first, then curves, cosines, costs, settings and what was measured."""
    from gradlens.reporting.html.page import write_page
    from gradlens.training.run_directory import load_run

    compared = home()
    page = out or (compared.path if compared and compared.made_by else Path()) / "report.html"
    path, *others = write_page([load_run(run_dir) for run_dir in run_dirs], page, overwrite, compared.path if compared else None)
    if others:
        say(f"a page of each experiment: {shell_command(*others)}")
    say(f"open {shell_command(path)} ({max(path.stat().st_size, 1e5) / 1e6:.1f} MB; it works offline)")


@learned.command()
@with_flags("device", "threads", "data-dir", "download", "no-cache", "quiet")
def doctor(
    run_dirs: Annotated[list[Path], runs_given("run directories, finished or not")],
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON, for scripts")] = False,
    data: Annotated[str | None, data_given()] = None,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """Diagnose what went wrong in runs: dead heads, lagging synthesisers, drift, collapse, spikes…; exit status 1 if anything did."""
    import json

    from gradlens.analysis.doctor import RESULT, diagnosis_json, examine
    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.training.context import set_up_process
    from gradlens.training.run_directory import load_run, plain, save_result

    quiet, context = given.pop("quiet", False), set_up_process(given)
    runs = [load_run(path, data) for path in run_dirs]
    with Display(quiet, len(runs)) as display:
        found = [examine(run, context, display.count(run.path.name)) for run in runs]
    for run, diagnosis in zip(runs, found, strict=True):
        save_result(run.path, RESULT, diagnosis_json(diagnosis))
    if as_json:
        say(json.dumps([plain({"run": str(run.path), **diagnosis_json(d)}) for run, d in zip(runs, found, strict=True)], indent=1))
    else:
        output = Output(form)
        tables = [console.diagnosis_table(str(run.path), diagnosis) for run, diagnosis in zip(runs, found, strict=True)]
        healthy = [table for table in tables if not table.rows]
        if form not in ("text", "json"):  # a table of nothing but names of columns looks like one that went wrong
            for table, diagnosis in zip(tables, found, strict=True):
                if not table.rows:
                    table.add_row("all", "nothing wrong", f"{len(diagnosis.made)} checks, {len(diagnosis.unmade)} could not be made")
        output.tables(table for table in tables if table.rows or form != "text")
        output.notice("\n".join(table.title for table in healthy))
        output.notice("\n".join(f"run: {run.path} ({RESULT}.json)" for run in runs))
    raise typer.Exit(int(any(diagnosis.wrong for diagnosis in found)))


@learned.command()
@with_flags("quiet")
def tensorboard(
    run_dirs: Annotated[list[Path], runs_given("run directories, finished or not")],
    out: Annotated[Path, typer.Option("--out", help="the log folder: a folder of each run's name is made in it")] = Path("tensorboard"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="write anew what is there")] = False,
    *,
    given: dict[str, Any],
) -> None:
    """Write runs for TensorBoard: every curve, and the first layer's filters; one event file a run (extra tensorboard)."""
    from gradlens.cli.progress import Display
    from gradlens.training import tensorboard as loggers
    from gradlens.training.run_directory import load_run

    runs = [load_run(path) for path in run_dirs]
    loggers.check_export(runs, out, overwrite)
    with Display(given.get("quiet", False)) as display:
        show = display.count("tensorboard")
        for i, run in enumerate(runs):
            show(i, len(runs), run.path.name)
            say(f"wrote {loggers.export(run, out)}")
    say(f"next: {shell_command('tensorboard', '--logdir', out)}")
