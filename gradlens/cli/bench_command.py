"""The command that times rules; ``main.py`` registers it. A thin shell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradlens.cli.options import OF_AN_UPDATE, default_help, with_flags
from gradlens.cli.output import Output, TableFormat
from gradlens.runtime.text_files import encode
from gradlens.runtime.torchrun_environment import is_launched

if TYPE_CHECKING:
    from gradlens.training.context import RunContext

benched = typer.Typer()
ROUNDS = {False: 3, True: 7}  # of `bench`: in a first look, and with --full


@benched.command()
@with_flags(*OF_AN_UPDATE, "Machine", "Ranks", rules="methods")
def bench(
    methods: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help=default_help("bench"))] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds", min=1, help=f"interleaved rounds; medians are printed (default {ROUNDS[False]}, with --full {ROUNDS[True]})"
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="settings for numbers to report, instead of a quick look")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the rows to this file too")] = None,
    capture: Annotated[bool, typer.Option("--capture", help="what gradlens.capture costs a transformer's step, instead of rules")] = False,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """Measure time, memory and multiply-adds of a plain PyTorch loop, each method, and each method with recording, in one run.

    Under torchrun: what several ranks gain over one process.
    """
    from gradlens.cli.progress import Display
    from gradlens.methods import DEFAULT_COMPARISON
    from gradlens.reporting.benchmarks import bench_table
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import set_up_process, to_measure
    from gradlens.training.cost.step_benchmark import bench as measure_cost
    from gradlens.training.run_files import must_be_writable, write

    quiet, precision, context = given.pop("quiet", False), given.pop("precision", "fp32"), set_up_process(given)
    rounds = rounds or ROUNDS[full]
    if json_file:
        must_be_writable(json_file)
    if capture:
        _bench_capture(context, rounds, json_file, Output(form))
        return
    if is_launched():
        _bench_together(methods or DEFAULT_COMPARISON, {**given, "precision": precision}, context, rounds, json_file, quiet, Output(form))
        return
    configs = [config for (config,) in configs_of(methods or DEFAULT_COMPARISON, {**given, "precision": "fp32"}, context)]
    low = [config for (config,) in configs_of(methods or DEFAULT_COMPARISON, {**given, "precision": precision}, context)]
    configs += [config for config in low if config.precision != "fp32"]
    shape, classes, data = to_measure(configs[0], context)
    with Display(quiet) as display:
        result = measure_cost(configs, shape, classes, context.device, rounds, progress=display.count("bench"), data=data)
    output = Output(form)
    output.tables([bench_table(result)])
    if json_file:
        write(json_file, encode(result.to_json()))
        output.notice(f"wrote {json_file}")


def _bench_capture(context: RunContext, rounds: int, json_file: Path | None, output: Output) -> None:
    from gradlens.reporting.benchmarks import capture_table
    from gradlens.training.cost.capture_benchmark import bench_capture
    from gradlens.training.run_files import write

    result = bench_capture(context.device, rounds)
    output.tables([capture_table(result)])
    if json_file:
        write(json_file, encode(result.to_json()))
        output.notice(f"wrote {json_file}")


def _bench_together(
    methods: Sequence[str], given: dict[str, Any], context: RunContext, rounds: int, json_file: Path | None, quiet: bool, output: Output
) -> None:
    from gradlens.cli.progress import Display
    from gradlens.reporting.benchmarks import ranks_table
    from gradlens.runtime.errors import InputError
    from gradlens.runtime.process_group import join
    from gradlens.tasks.registry import DEFAULT
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import shape_and_classes
    from gradlens.training.cost.rank_benchmark import bench_ranks, to_json
    from gradlens.training.run_files import write

    ranks = join(context.device)
    given = {**given, "record_every": 0, "diagnose_every": 0, "epochs": 1000}
    configs = ranks.fail_together(lambda: [config for (config,) in configs_of(methods, given, context, (ranks.num_ranks, "layers"))])
    if configs[0].task != DEFAULT:
        raise InputError(f"bench on several ranks generates images: it cannot measure --task {configs[0].task}; run it in one process")
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
