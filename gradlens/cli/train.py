"""The commands that train, compare and measure; ``main.py`` takes them in. A thin shell, like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradlens.cli.early_checks import check_quantities, numbers_of
from gradlens.cli.options import OF_AN_UPDATE, data_given, default_help, run_given, runs_given, with_flags
from gradlens.cli.output import Drawing, FigureFormat, Output, TableFormat, figure_formats, words_of
from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.terminal import say, shell_command, shell_word, write_out
from gradlens.runtime.text_files import encode
from gradlens.runtime.torchrun_environment import is_launched

if TYPE_CHECKING:
    from gradlens.training.config import Config
    from gradlens.training.context import RunContext
    from gradlens.training.run_directory import Run

trained = typer.Typer()
ROUNDS = {False: 3, True: 7}  # of `bench`: in a first look, and with --full


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
            return display.watch(config.method if len(configs) == 1 else f"{config.method} seed {config.seed}", config.epochs)

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
    following: list[str | Path] = ["figures", *paths, "--out", "figures"] if drawn else ["show", paths[0]]
    output.notice(f"next: {shell_command('gradlens', *following)}")


def _train_together(method: str | None, given: dict[str, Any], context: RunContext, quiet: bool, output: Output) -> None:
    """This process's part in a run that torchrun has started on several ranks."""
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
        run = train_run(config, replace(context, ranks=ranks), display.watch(config.method, config.epochs))
    if ranks.is_main:
        output.tables([console.results_table([run])])
        output.notice(f"run: {run.path}")


@trained.command("compare-gradients")
@with_flags(rules="what", or_runs=True)
def compare_gradients(
    what: Annotated[list[str] | None, typer.Argument(metavar="[METHOD_OR_RUN_DIR]...", help=default_help("compare-gradients"))] = None,
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
    """Train methods (or read runs) and print, layer by layer, how far each one's gradient is from the true one."""
    from gradlens.cli.progress import Display
    from gradlens.methods import DEFAULT_COMPARISON
    from gradlens.reporting import console
    from gradlens.training.config_builder import configs_of, methods_and_runs
    from gradlens.training.context import set_up_process
    from gradlens.training.run_directory import load_run
    from gradlens.training.run_files import must_be_writable
    from gradlens.training.runs.check import with_smaller_batch
    from gradlens.training.runs.train_run import train_or_reuse
    from gradlens.training.typed_flags import parse_numbers

    quiet, context, output = given.pop("quiet", False), set_up_process(given), Output(form)
    if context.name:
        raise InputError("--run-name names one run; compare-gradients makes several: --out names their folder")
    methods, paths = methods_and_runs(what or DEFAULT_COMPARISON)
    read = [load_run(path) for path in paths]
    grid = parse_numbers("--lr-grid", lr_grid) if lr_grid is not None else []
    smaller = partial(with_smaller_batch, context=context)
    groups = configs_of(methods, given, context, with_default_batch=smaller) if methods else []
    trials = len(groups) * len(grid)
    must_be_writable(figures_to or context.out / "figures")
    with Display(quiet, trials + sum(len(group) for group in groups)) as display:

        def watch_for(config: Config) -> Any:
            extra = f" seed {config.seed}" if len(groups) and len(groups[0]) > 1 else ""
            return display.watch(config.method + extra + (f" lr {config.optimizer.lr:g}" if grid else ""), config.epochs)

        if grid:
            groups = [_with_best_lr(group, grid, context, watch_for, output) for group in groups]
        known = [run.config for run in read]
        runs = read + train_or_reuse([config for group in groups for config in group if config not in known], context, watch_for)
    output.tables(console.comparison_tables(runs))
    output.notice("\n".join(f"run: {run.path}" for run in runs))
    _write_figures(runs, figures_to or context.out / "figures", output, Drawing(figure_formats(figure_format)))


@trained.command()
@with_flags("device", "threads", "data-dir", "download", "no-cache", "quiet")
def measure(
    run_dir: Annotated[Path, run_given()],
    quantity: Annotated[list[str], typer.Option("--quantity", help="a quantity of `gradlens list quantities`; repeatable")],
    data: Annotated[str | None, data_given()] = None,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """Add quantities to a run, from its snapshots (--keep-checkpoints), or from its checkpoint where it kept none."""
    check_quantities(run_dir, quantity)
    from gradlens.cli.progress import Display
    from gradlens.gradients.measurements import measurement_table
    from gradlens.training.context import set_up_process
    from gradlens.training.run_directory import load_run
    from gradlens.training.runs.remeasure import measure_run

    quiet, context = given.pop("quiet", False), set_up_process(given)
    with Display(quiet) as display:
        rows = measure_run(load_run(run_dir, data), tuple(dict.fromkeys(quantity)), context, display.count("measure"))
    steps = sorted({row.step for row in rows})
    output = Output(form)
    output.tables([measurement_table(rows, f"{run_dir}: {', '.join(quantity)}, before the last update measured")])
    output.notice(f"{len(rows)} rows at {len(steps)} steps ({', '.join(map(str, steps))}) in {run_dir / 'measured.csv'}")


@trained.command()
def figures(
    run_dirs: Annotated[list[Path], runs_given("run directories, of one method or several")],
    out: Annotated[Path, typer.Option("--out", help="folder of the figures")] = Path("figures"),
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
    drawing = Drawing(figure_formats(formats), width, words_of(layers))
    _write_figures(runs, out, Output(), drawing, learned=True)


@trained.command()
@with_flags("set", "quiet", rules="method")
def check(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="FILE.py:Class, a rule of your own, or a shipped one")],
    verbose: Annotated[bool, typer.Option("--verbose", help="say of each check what it wants, and why it was not asked")] = False,
    *,
    given: dict[str, Any],
) -> None:
    """Check what every rule must satisfy, on small networks in float64; exit status 1 if a check fails."""
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
    rule = config.rule
    with Display(quiet) as display:
        findings = list(method_checks.run_method_checks(rule, rule.Options(**config.options), display.count("check")))
    if verbose or not any(f.failed for f in findings):
        say(f"{rule.__name__} on {', '.join(trial.NETWORKS)}, float64:")
    say("\n".join((method_checks.result_lines if verbose else method_checks.summary_lines)(findings)))
    if any(f.failed for f in findings) or not any(f.applicable for f in findings):
        raise typer.Exit(1)


@trained.command("list")
@with_flags("threads", "quiet")
def list_(
    what: Annotated[str, typer.Argument(metavar="methods|models|data|quantities", help="what to list")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="only these; of a method everything there is to say")
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="methods: measure each one's locking and cost card here and now")] = False,
    full: Annotated[bool, typer.Option("--full", help="with --long: three rounds of measuring instead of one")] = False,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """Say what there is: methods (of a NAME its equation, options, paper and locks), models, data sets, quantities."""
    from gradlens.cli.listing import check_long, details, listing, must_be_listed

    output = Output(form)
    if long or full:
        check_long(what)
        must_be_listed(what, names or ())
        _cards(names, given, full, output)
    elif names and what == "methods":
        output.tables(list(details(names)))
    else:
        output.tables([listing(what, names or (), form)])


def _cards(names: Sequence[str] | None, given: dict[str, Any], full: bool, output: Output) -> None:
    """Measure and print what rules cost: those named, or all that need no teacher."""
    from gradlens.cli.progress import Display
    from gradlens.reporting.benchmarks import cards_table
    from gradlens.training.context import set_up_process
    from gradlens.training.cost.method_cards import CARDED, FULL_ROUNDS, ROUNDS, cards

    for name in names or ():
        if name not in CARDED:
            raise InputError(f"--long: {name} cannot be measured by itself: it learns from a trained network (--teacher RUN_DIR)")
    quiet, context, rounds = given.pop("quiet", False), set_up_process(given), FULL_ROUNDS if full else ROUNDS
    with Display(quiet) as display:
        found = cards(context.device, display.count("measuring"), names or CARDED, rounds)
    output.tables([cards_table(found, rounds)])


@trained.command()
def show(run_dir: Annotated[Path, run_given()], form: TableFormat = "text") -> None:
    """Print how far a run came, its settings, and its gradients' final distance from the truth; with --format json all that is known."""
    import json

    from gradlens.reporting import console
    from gradlens.reporting.run_summary import run_lines, run_summary
    from gradlens.training.run_directory import load_run, plain

    run, output = load_run(run_dir), Output(form)
    if form == "json":
        write_out(json.dumps(plain(run_summary(run)), indent=1, ensure_ascii=False) + "\n")
        return
    output.notice("\n".join(run_lines(run)))
    if run.metrics:
        output.tables([console.comparison_table([run])])
    output.notice("files: " + ", ".join(sorted(p.name for p in run.path.iterdir() if not p.name.startswith("."))))


@trained.command()
@with_flags(*OF_AN_UPDATE, "Machine", "Ranks", rules="methods")
def bench(
    methods: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help=default_help("bench"))] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help=f"interleaved; medians are printed (default {ROUNDS[False]}, with --full {ROUNDS[True]})"),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="what is to be quoted, in place of a first look")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the rows to this file too")] = None,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """Time, memory and multiply-adds of a plain PyTorch loop, each method, and each method with recording, in one run.

    Under torchrun: what several ranks gain over one process.
    """
    from gradlens.cli.progress import Display
    from gradlens.methods import DEFAULT_COMPARISON
    from gradlens.reporting.benchmarks import bench_table
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import set_up_process, shape_and_classes
    from gradlens.training.cost.step_benchmark import bench as measure_cost
    from gradlens.training.run_files import must_be_writable, write

    quiet, precision, context = given.pop("quiet", False), given.pop("precision", "fp32"), set_up_process(given)
    rounds = rounds or ROUNDS[full]
    if json_file:
        must_be_writable(json_file)
    if is_launched():
        _bench_together(methods or DEFAULT_COMPARISON, {**given, "precision": precision}, context, rounds, json_file, quiet, Output(form))
        return
    configs = [config for (config,) in configs_of(methods or DEFAULT_COMPARISON, {**given, "precision": "fp32"}, context)]
    low = [config for (config,) in configs_of(methods or DEFAULT_COMPARISON, {**given, "precision": precision}, context)]
    configs += [config for config in low if config.precision != "fp32"]
    shape, classes = shape_and_classes(configs[0], context)
    with Display(quiet) as display:
        result = measure_cost(configs, shape, classes, context.device, rounds, progress=display.count("bench"))
    output = Output(form)
    output.tables([bench_table(result)])
    if json_file:
        write(json_file, encode(result.to_json()))
        output.notice(f"wrote {json_file}")


def _bench_together(
    methods: Sequence[str], given: dict[str, Any], context: RunContext, rounds: int, json_file: Path | None, quiet: bool, output: Output
) -> None:
    from gradlens.cli.progress import Display
    from gradlens.reporting.benchmarks import ranks_table
    from gradlens.runtime.process_group import join
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import shape_and_classes
    from gradlens.training.cost.rank_benchmark import bench_ranks, to_json
    from gradlens.training.run_files import write

    ranks = join(context.device)
    given = {**given, "record_every": 0, "diagnose_every": 0, "epochs": 1000}
    configs = ranks.fail_together(lambda: [config for (config,) in configs_of(methods, given, context, (ranks.num_ranks, "layers"))])
    shape, classes = shape_and_classes(configs[0], context)
    with Display(quiet or not ranks.is_main) as display:
        rows = bench_ranks(configs, shape, classes, context.device, ranks, rounds, display.count("bench"))
    if not ranks.is_main:
        return
    first = configs[0]
    about = (
        f"{first.model.name}, batches of {first.batch_size} generated images, {ranks.num_ranks} ranks with {rows[0].threads} threads each."
    )
    output.tables([ranks_table(rows, about)])
    if json_file:
        settings = {
            "model": first.model.name,
            "width": first.model.width,
            "data": first.data.name,
            "batch_size": first.batch_size,
            "rounds": rounds,
        }
        write(json_file, encode(to_json(rows, settings)))
        output.notice(f"wrote {json_file}")


def _with_best_lr(
    group: list[Config], grid: list[float], context: RunContext, watch_for: Callable[[Config], Any], output: Output
) -> list[Config]:
    from gradlens.training.runs.lr_search import choose_lr

    lr = choose_lr(group[0], grid, 0.2, context, watch_for)
    output.notice(f"{group[0].method}: lr {lr:g} of {', '.join(f'{v:g}' for v in grid)} is best on a fifth of the training images")
    return [config.replace(lr=lr) for config in group]


def _write_figures(runs: Sequence[Run], out: Path, output: Output, drawing: Drawing, *, learned: bool = False) -> None:
    """Draw what the runs hold into a folder, of several experiments each into a folder of its own in it, and say which files to open.


    Args:
        runs: several methods, several seeds each; unfinished ones are listed, and drawn only where no run is finished.
        out: the folder.
        output: where it is said.
        drawing: formats, width and layers.
        learned: draw what analyses have stored in the runs too.

    """
    from gradlens.reporting.gallery import draw_experiment
    from gradlens.training.run_groups import experiments
    from gradlens.training.run_progress import split_finished, unfinished_text

    finished, others = split_finished(runs)
    parts = experiments(finished or others)
    opened: list[Path] = []
    for part in parts:
        folder = out / part.name if len(parts) > 1 else out
        drawn = draw_experiment(part.runs, folder, learned, drawing.formats, drawing.width, drawing.layers)
        where = f"{part.heading}: " if len(parts) > 1 else ""
        for name, why in drawn.skipped.items():
            output.notice(f"{where}no figure {name}: {why}")
        output.notice(f"{where}{', '.join(drawn.names)}")
        first = [name for name in ("cosine_heat_map", "cosine_over_training", "test_accuracy") if name in drawn.names]
        opened += [folder / f"{name}.{drawing.formats[0]}" for name in (first or drawn.names)[: 3 if len(parts) == 1 else 1]]
    output.notice(unfinished_text(runs))
    inside = f": {', '.join(part.name for part in parts)}" if len(parts) > 1 else ""
    output.notice(f"figures ({', '.join(drawing.formats)}, csv) in {shell_word(out)}{inside}")
    output.notice(f"open {', '.join(map(shell_command, opened))}")
