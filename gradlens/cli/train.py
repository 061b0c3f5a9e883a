"""The commands that train, compare and measure; ``main.py`` registers them. A thin shell."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradlens.cli.early_checks import check_quantities, numbers_of
from gradlens.cli.options import data_given, default_help, with_flags
from gradlens.cli.output import Drawing, FigureFormat, Output, TableFormat, figure_formats, words_of
from gradlens.cli.run_arguments import (
    IN_COMPARISON,
    command_typed,
    figure_folder,
    home,
    list_figures,
    notice,
    notice_reused,
    paths_typed,
    runs_given,
)  # fmt: skip
from gradlens.cli.shown_runs import print_runs, show_comparison, write_figures
from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.terminal import say, shell_command, write_out
from gradlens.runtime.torchrun_environment import is_launched

if TYPE_CHECKING:
    from gradlens.training.config import Config
    from gradlens.training.context import RunContext

trained = typer.Typer()


@trained.command()
@with_flags(rules="method", needed=True)
def train(
    method: Annotated[
        str | None, typer.Argument(help="a rule of `gradlens list methods`, or FILE.py:Class; default: the --config file's")
    ] = None,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """Train one METHOD, recording how far its gradient is from the true one."""
    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.training.config_builder import configs_of, method_of
    from gradlens.training.context import set_up_process
    from gradlens.training.run_files import is_finished, is_run
    from gradlens.training.runs.check import with_smaller_batch
    from gradlens.training.runs.train_run import placed, prepare, train_or_reuse, train_run

    quiet, context = given.pop("quiet", False), set_up_process(given)
    if is_launched():
        _train_together(method, given, context, quiet, Output(form))
        return
    (configs,) = configs_of([method or method_of(given)], given, context, with_default_batch=partial(with_smaller_batch, context=context))
    if context.name and len(configs) > 1:
        raise InputError("--run-name names one run; with --seeds each run gets its own name")
    if len(configs) == 1:
        context = placed(configs[0], context)
    state, trained_now = prepare(configs[0], context) if len(configs) == 1 else None, set[int]()  # their seeds
    with Display(quiet, len(configs)) as display:

        def watch_for(config: Config) -> Any:
            if state is None or context.overwrite or not is_finished(context.path_of(config)):
                trained_now.add(config.seed)
            return display.watch_run(config.method if len(configs) == 1 else f"{config.method} seed {config.seed}", config)

        # of several seeds some may be finished, others not begun
        try:
            runs = [train_run(configs[0], context, watch_for(configs[0]), state)] if state else train_or_reuse(configs, context, watch_for)
        except KeyboardInterrupt as stop:
            if state and is_run(context.path_of(configs[0])):
                raise Stopped("stopped at once", INTERRUPTED) from stop
            raise
    output = Output(form)
    output.tables([console.results_table(runs)])
    output.notice("\n".join(f"run: {run.path}" for run in runs))
    if before := [str(run.path) for run in runs if run.config.seed not in trained_now]:
        output.notice(f"finished before, nothing was trained: {', '.join(before)} (--overwrite trains anew)")
    paths = [run.path for run in runs]
    drawn = configs[0].epochs > 0  # of no update there are no curves
    following: list[str | Path] = ["figures", *paths] if drawn else ["show", paths[0]]
    if any(console.diverged(run) for run in runs):
        following = ["doctor", *paths]  # why, and what to try
    output.notice(f"next: {shell_command('gradlens', *following)}")


def _train_together(method: str | None, given: dict[str, Any], context: RunContext, quiet: bool, output: Output) -> None:
    """Train this process's part in a run that torchrun has started on several ranks."""
    from dataclasses import replace

    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.runtime.process_group import join
    from gradlens.training.config_builder import configs_of, method_of
    from gradlens.training.runs.train_run import train_run

    ranks = join(context.device)
    (configs,) = ranks.fail_together(lambda: configs_of([method or method_of(given)], given, context, (ranks.num_ranks, "data")))
    if len(configs) > 1:
        raise InputError("--seeds: several ranks share one run; `gradlens sweep` makes many")
    (config,) = configs
    with Display(quiet or not ranks.is_main) as display:
        run = train_run(config, replace(context, ranks=ranks), display.watch_run(config.method, config))
    if ranks.is_main:
        output.tables([console.results_table([run])])
        output.notice(f"run: {run.path}")


@trained.command("compare-gradients")
@with_flags(rules="what", or_runs=True)
def compare_gradients(
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD_OR_RUN_OR_COMPARISON]...", help=default_help("compare-gradients"))
    ] = None,
    lr_grid: Annotated[
        str | None,
        typer.Option(
            "--lr-grid",
            callback=numbers_of("--lr-grid"),
            help="learning rates, comma-separated; each method's is chosen on held-out images, first seed",
        ),
    ] = None,
    figures_to: Annotated[Path | None, typer.Option("--figures", help="folder of the figures [OUT/figures]")] = None,
    form: TableFormat = "text",
    figure_format: FigureFormat = None,
    *,
    given: dict[str, Any],
) -> None:
    """Train methods (or read runs) into one folder and print, layer by layer, how far each one's gradient is from the true one."""
    from gradlens.cli.progress import Display
    from gradlens.methods import DEFAULT_COMPARISON
    from gradlens.reporting.figure_folder import must_be_replaceable
    from gradlens.training.comparison import FIGURES, is_comparison, rates_chosen, read_comparison, runs_of
    from gradlens.training.config_builder import configs_of, methods_and_runs
    from gradlens.training.context import set_up_process
    from gradlens.training.run_directory import load_run
    from gradlens.training.run_files import must_be_writable
    from gradlens.training.runs.check import with_smaller_batch
    from gradlens.training.runs.comparison_runs import RequestedComparison, compare_runs, known_places, must_be_free
    from gradlens.training.typed_flags import parse_numbers

    out, draws = given.pop("out", None), Drawing(figure_formats(figure_format))
    quiet, context, output = given.pop("quiet", False), set_up_process(given), Output(form)
    if context.name:
        raise InputError("--run-name names one run; compare-gradients makes several: --out names their folder")
    methods, paths = methods_and_runs(what or DEFAULT_COMPARISON)
    read = [load_run(path) for path in runs_of(paths, notice)]
    grid = parse_numbers("--lr-grid", lr_grid) if lr_grid is not None else []
    smaller = partial(with_smaller_batch, context=context)
    groups = configs_of(methods, given, context, with_default_batch=smaller) if methods else []
    request = RequestedComparison(groups, read, grid if methods else [], command_typed())
    folder = out or request.folder()
    must_be_free(folder, request, context.overwrite)
    must_be_writable(folder / "comparison.json")
    if figures_to:
        before = read_comparison(folder).run_paths if is_comparison(folder) else ()
        must_be_replaceable(figures_to, before, context.overwrite, "--figures")
    with Display(quiet, len(request.groups) * len(grid) + sum(len(group) for group in request.groups)) as display:

        def watch_for(config: Config) -> Any:
            extra = f" seed {config.seed}" if len(request.groups[0]) > 1 else ""
            return display.watch_run(config.method + extra + (f" lr {config.optimizer.lr:g}" if grid else ""), config)

        made = compare_runs(request, folder, context, watch_for, notice_reused, [] if out else known_places(folder))
    show_comparison(made, figures_to or folder / FIGURES, output, draws, rates_chosen(map(Path, paths)))
    if made.failures:
        raise Stopped(f"{len(made.failures)} of {len(made.comparison.run_paths)} runs ended before their time: {'; '.join(made.failures)}")


@trained.command()
@with_flags("device", "threads", "data-dir", "download", "no-cache", "quiet")
def measure(
    run_dirs: Annotated[list[Path], runs_given("run directories, or a comparison folder")],
    quantity: Annotated[list[str], typer.Option("--quantity", help="a quantity of `gradlens list quantities`; repeatable")],
    data: Annotated[str | None, data_given()] = None,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """Add quantities to runs, from their snapshots (--keep-checkpoints), or from the checkpoint where one kept none."""
    for run_dir in run_dirs:
        check_quantities(run_dir, quantity)
    from gradlens.cli.progress import Display
    from gradlens.gradients.measurements import measurement_table
    from gradlens.training.context import set_up_process
    from gradlens.training.run_directory import load_run
    from gradlens.training.runs.remeasure import measure_run

    quiet, context = given.pop("quiet", False), set_up_process(given)
    runs, names, output = [load_run(path, data) for path in run_dirs], tuple(dict.fromkeys(quantity)), Output(form)
    with Display(quiet, len(runs)) as display:
        found = [measure_run(run, names, context, display.count(f"measure {run.path.name}")) for run in runs]
    title = f"{', '.join(quantity)}, before the last update measured"
    output.tables([measurement_table(rows, f"{run.path}: {title}") for run, rows in zip(runs, found, strict=True)])
    for run, rows in zip(runs, found, strict=True):
        steps = sorted({row.step for row in rows})
        at = f"{len(steps)} step{'s' * (len(steps) != 1)} ({', '.join(map(str, steps))})"
        output.notice(f"{len(rows)} row{'s' * (len(rows) != 1)} at {at} in {run.path / 'measured.csv'}")


@trained.command()
def figures(
    run_dirs: Annotated[list[Path], runs_given("run directories, of one method or several, or a comparison folder")],
    out: Annotated[Path | None, typer.Option("--out", help=f"folder of the figures {IN_COMPARISON}; of a selection one beside it")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="draw into a folder that holds other things")] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "--figure-format", callback=figure_formats, help="png, svg, pdf; several with commas [png]"),
    ] = None,
    layers: Annotated[list[str] | None, typer.Option("--layers", help="only these, as 'block1.*,top.out' [all]")] = None,
    methods: Annotated[list[str] | None, typer.Option("--methods", help="only runs of these, as bp,dgl [all]")] = None,
    width: Annotated[float | None, typer.Option("--width", min=2, max=40, help="inches, of each figure; letters stay 8 pt or more")] = None,
) -> None:
    """Draw curves, cosines, the method x layer heat map, and what probe, memorize, filters and the like have stored; a csv with each."""
    from gradlens.reporting.training_figures import of_methods
    from gradlens.training.run_directory import load_run

    runs = of_methods([load_run(path) for path in run_dirs], words_of(methods))
    drawing = Drawing(figure_formats(formats), width, words_of(layers), words_of(methods))
    folder = figure_folder(runs, out, overwrite, drawing)
    list_figures(folder, write_figures(runs, folder, Output(), drawing, learned=True))


@trained.command()
@with_flags("set", "task", "quiet", rules="method")
def check(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="FILE.py:Class, a rule of your own, or a shipped one")],
    verbose: Annotated[bool, typer.Option("--verbose", help="for each check, what it requires, and why it was skipped")] = False,
    *,
    given: dict[str, Any],
) -> None:
    """Check what every rule must satisfy, on small networks (of --task) in float64; exit status 1 if a check fails."""
    from gradlens.cli.progress import Display
    from gradlens.methods import METHODS
    from gradlens.training.checks import method_checks, trial
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import RunContext, set_up_process
    from gradlens.training.user_references import known_as

    set_up_process({"threads": 1})  # on tensors as small as these several only wait for each other
    quiet, name = given.pop("quiet", False), known_as("method", method)
    taught = {"teacher": "a function"} if name in METHODS and METHODS[name].has_teacher else {}
    ((config,),) = configs_of([method], {**given, **taught}, RunContext())
    rule, networks = config.rule, trial.networks_of(config.task)
    with Display(quiet) as display:
        findings = list(method_checks.run_method_checks(rule, rule.Options(**config.options), display.count("check"), networks))
    if verbose or not any(f.failed for f in findings):
        say(f"{rule.__name__} on {', '.join(networks)}, float64:")
    say("\n".join((method_checks.result_lines if verbose else method_checks.summary_lines)(findings)))
    if any(f.failed for f in findings) or not any(f.applicable for f in findings):
        raise typer.Exit(1)


@trained.command()
def show(run_dirs: Annotated[list[Path], runs_given("a run directory, or a comparison folder")], form: TableFormat = "text") -> None:
    """Print how far a run came, its settings, and its gradients' final distance from the truth; of several runs the table.

    With --format json all facts of a run.
    """
    import json

    from gradlens.reporting import console
    from gradlens.reporting.run_summary import run_lines, run_summary
    from gradlens.training.comparison import rates_chosen
    from gradlens.training.run_directory import load_run, plain

    runs, output = [load_run(path) for path in run_dirs], Output(form)

    if len(runs) > 1:
        compared = home()
        if compared and compared.command:
            output.notice(f"{compared.path}: `{compared.command}`, gradlens {compared.version}")
        print_runs(runs, output, rates_chosen(paths_typed()))
        output.notice("\n".join(f"run: {run.path}" for run in runs))
        return
    (run,) = runs
    if form == "json":
        write_out(json.dumps(plain(run_summary(run)), indent=1, ensure_ascii=False) + "\n")
        return
    output.notice("\n".join(run_lines(run)))
    if run.metrics:
        output.tables(console.comparison_tables([run]))
    output.notice("files: " + ", ".join(sorted(p.name for p in run.path.iterdir() if not p.name.startswith("."))))
