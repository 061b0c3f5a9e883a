"""The commands that measure block costs: pipeline timelines, and compute to reach a loss; ``main.py`` registers them. A thin shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradlens.cli.options import OF_AN_UPDATE, data_given, default_help, with_flags
from gradlens.cli.output import FigureFormat, Output, TableFormat, figure_formats, words_of
from gradlens.cli.run_arguments import IN_COMPARISON, figure_folder, list_figures, runs_given

if TYPE_CHECKING:
    from gradlens.data.split import Data
    from gradlens.training.config import Config

seen = typer.Typer()


@seen.command()
@with_flags(*OF_AN_UPDATE, rules="methods")
def timeline(
    methods: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help=default_help("timeline"))] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="workers in the table and the timeline; the curves have 1 to 64")
    ] = 3,
    batches: Annotated[int, typer.Option("--batches", min=1, help="simulated batches, with filling and draining of the pipeline")] = 32,
    micro_batches: Annotated[
        int | None, typer.Option("--micro-batches", min=1, help="of a batch in bp's pipelines (4; of a graph 1)")
    ] = None,
    link: Annotated[float, typer.Option("--link", help="GB/s between two workers; the default is 10 Gbit Ethernet")] = 1.25,
    latency: Annotated[float, typer.Option("--latency", min=0, help="latency of one message in us")] = 50.0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="rounds of measuring; the least of each cost is used")] = 3,
    out: Annotated[Path, typer.Option("--out", help="folder of the figures")] = Path("figures"),
    form: TableFormat = "text",
    figure_format: FigureFormat = None,
    *,
    given: dict[str, Any],
) -> None:
    """Measure the cost of each block and simulate the rules on several workers: waiting times, speed-up, memory."""
    from gradlens.cli.progress import Display
    from gradlens.methods import DEFAULT_SIMULATION
    from gradlens.reporting import timeline as timeline_pictures
    from gradlens.reporting.aggregate import configs_title
    from gradlens.reporting.style import save_figure
    from gradlens.reporting.timeline import gantt, over_workers
    from gradlens.runtime.csv_tables import write_csv
    from gradlens.runtime.errors import InputError
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import set_up_process, to_measure
    from gradlens.training.cost import simulation
    from gradlens.training.run_files import must_be_writable

    quiet, context = given.pop("quiet", False), set_up_process(given)
    if not link > 0:
        raise InputError(f"--link: must be above 0 GB/s, got {link:g}")
    wire = simulation.Link(link * 1e9, latency * 1e-6)
    configs = [config for (config,) in configs_of(methods or DEFAULT_SIMULATION, given, context)]
    must_be_writable(out)
    shape, classes, data = to_measure(configs[0], context)
    size, examples, parts = _batch(configs[0], data, micro_batches)
    with Display(quiet) as display:
        progress = display.count("timeline")
        found = []
        for i, config in enumerate(configs):
            progress(i, len(configs), f"measuring {config.method}")
            found.append(simulation.measure_costs(config, shape, classes, context.device, rounds, data))
        progress(len(configs), len(configs), "simulating")
        points = simulation.throughput_curves(found, wire, batches, parts, sorted({*simulation.WORKERS, workers}))
        seconds = simulation.first_batches(found)
        bars = simulation.pictured(found, workers, wire, parts, seconds)
    chosen, output, formats = [p for p in points if p.workers == workers], Output(form), figure_formats(figure_format)
    output.tables([timeline_pictures.timeline_table(chosen, wire, size, examples)])
    output.notice("\n".join(timeline_pictures.unused_workers_text(chosen)))
    title = f"{configs_title(configs)} · batches of {size} {examples}"
    files = [
        save_figure(gantt(bars, seconds, title=f"{title} · {workers} workers"), bars, out, "timeline", formats=formats)[0],
        save_figure(over_workers(points, title=title), points, out, "workers", formats=formats)[0],
    ]
    write_csv(out / "block_costs.csv", [row for one in found for row in one.rows])
    output.notice(f"figures ({', '.join(formats)}, csv): {', '.join(map(str, files))}; measured: {out / 'block_costs.csv'}")


@seen.command()
@with_flags("device", "threads", "data-dir", "quiet")
def pareto(
    run_dirs: Annotated[list[Path], runs_given("run directories, of one method or several, or a comparison folder")],
    losses: Annotated[str | None, typer.Option("--losses", help="held-out losses, as 2.0,1.8 [four that the runs reach]")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="rounds of measuring; the least of each cost is used")] = 3,
    data: Annotated[str | None, data_given()] = None,
    out: Annotated[Path | None, typer.Option("--out", help=f"folder of the figure {IN_COMPARISON}")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="draw into a folder that holds other files")] = False,
    form: TableFormat = "text",
    figure_format: FigureFormat = None,
    *,
    given: dict[str, Any],
) -> None:
    """Measure what an update costs, and draw the seconds that each rule needs to reach a held-out loss: in all, and in sequence."""
    from gradlens.cli.progress import Display
    from gradlens.reporting.aggregate import runs_title
    from gradlens.reporting.figure_folder import note_runs
    from gradlens.reporting.pareto import comparable, levels, pareto_figure, pareto_points, pareto_table
    from gradlens.reporting.style import save_figure
    from gradlens.runtime.csv_tables import write_csv
    from gradlens.training.context import set_up_process
    from gradlens.training.cost.critical_path import costs_of_groups
    from gradlens.training.run_directory import load_run

    quiet, context = given.pop("quiet", False), set_up_process(given)
    runs = comparable([load_run(path, data) for path in run_dirs])
    wanted = _losses(losses) if losses else levels(runs)
    folder = figure_folder(runs, out, overwrite)
    with Display(quiet) as display:
        costs, rows = costs_of_groups(runs, context, rounds, display.count("pareto"))
    points, output, formats = pareto_points(runs, costs, wanted), Output(form), figure_formats(figure_format)
    output.tables([pareto_table(points)])
    drawn = save_figure(pareto_figure(points, title=runs_title(runs)), points, folder, "pareto", formats=formats)[0]
    write_csv(folder / "block_costs.csv", rows)
    note_runs(folder, [run.path for run in runs])
    list_figures(folder, [drawn])
    output.notice(f"figures ({', '.join(formats)}, csv): {drawn}; measured: {folder / 'block_costs.csv'}")


def _losses(typed: str) -> list[float]:
    """Read the losses, high to low.

    Raises:
        InputError: what is no number.

    """
    from gradlens.runtime.errors import InputError

    try:
        return sorted(map(float, words_of([typed])), reverse=True)
    except ValueError:
        raise InputError(f"--losses {typed!r}: give numbers with commas between them, as 2.0,1.8") from None


def _batch(config: Config, data: Data | None, micro_batches: int | None) -> tuple[int, str, int]:
    """Return how many examples a batch has, what they are, and into how many micro-batches it is divided."""
    from gradlens.runtime.errors import InputError
    from gradlens.tasks.registry import TASKS

    task = TASKS[config.task]
    if task.one_batch and (micro_batches or 1) > 1:
        raise InputError(f"--micro-batches {micro_batches} with --task {config.task}: {task.not_data_parallel}; leave it out")
    size = len(data.train.x) if task.one_batch and data is not None else config.batch_size
    parts = micro_batches or (1 if task.one_batch else 4)
    if parts > size:
        raise InputError(f"--micro-batches {parts}: a batch has {size} {task.example}s")
    return size, f"{task.example}s", parts
