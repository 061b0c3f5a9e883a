"""The commands that look at what finished runs have learned; ``cli.py`` takes them in. A thin shell, like it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gradlens.cli.options import runs_given, with_flags

learned = typer.Typer()


@learned.command("memorize")
@with_flags(rules="what")
def memorize(
    what: Annotated[list[str] | None, typer.Argument(metavar="[METHOD_OR_RUN_DIR]...", help="default: bp dgl")] = None,
    figures_to: Annotated[Path | None, typer.Option("--figures", help="folder of the figures [OUT/figures]")] = None,
    *,
    given: dict[str, Any],
) -> None:
    """Train METHODs on random labels (--label-noise, default 1), or read such runs: how fast and how far each fits them."""
    from gradlens.analysis import memorization
    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.reporting import memorization as reporting_memorization
    from gradlens.runtime.errors import InputError
    from gradlens.training.config_builder import configs_of, methods_and_runs
    from gradlens.training.context import make_run_context
    from gradlens.training.run_directory import load_run
    from gradlens.training.run_files import must_be_writable
    from gradlens.training.runs.train_run import train_or_reuse

    quiet, place = given.pop("quiet", False), make_run_context(given)
    if place.name:
        raise InputError("--run-name names one run; memorize makes several: --out names their folder")
    methods, paths = methods_and_runs(what or memorization.DEFAULT_METHODS)
    read = [load_run(path) for path in paths]
    for run in read:
        memorization.must_be_memorized(run)
    configs = [c for group in configs_of(methods, memorization.wanted(given), place) for c in group] if methods else []
    for config in configs:
        memorization.must_be_memorizable(config, place)
    must_be_writable(figures_to or place.out / "figures")
    known = [run.config for run in read]
    missing = [config for config in configs if config not in known]
    with Display(quiet, len(missing)) as display:
        runs = read + train_or_reuse(missing, place, lambda c: display.watch(f"{c.method} seed {c.seed}", c.epochs))
        results = [memorization.memorized(run, place, display.count(f"{run.path.name}: probing")) for run in runs]
    console.show(reporting_memorization.memorization_table(runs, results))
    if points := reporting_memorization.block_points(runs, results):
        console.show(reporting_memorization.memorization_block_table(points))
    files = reporting_memorization.draw_memorization(runs, results, figures_to or place.out / "figures")
    typer.echo("\n".join(f"run: {run.path} ({memorization.NAME}.json)" for run in runs))
    typer.echo(f"figures (png, svg, csv): {', '.join(map(str, files))}")


def _aside(text: str) -> None:
    typer.echo(text, err=True)


@learned.command()
@with_flags("device", "threads", "data-dir", "download", "quiet")
def probe(
    run_dirs: Annotated[list[Path], runs_given("run directories, of one method or several")],
    block: Annotated[list[str] | None, typer.Option("--block", help="only this block; repeatable")] = None,
    train_images: Annotated[int | None, typer.Option("--train-images", help="fit to N training images, a seeded choice (all)")] = None,
    test_images: Annotated[int | None, typer.Option("--test-images", help="test on N test images, a seeded choice (all)")] = None,
    features: Annotated[int, typer.Option("--features", help="of a block at most: larger outputs are averaged over space")] = 2048,
    over_time: Annotated[bool, typer.Option("--over-time", help="at the snapshots too (--keep-checkpoints)")] = False,
    controls: Annotated[bool, typer.Option("--controls/--no-controls", help="raw pixels, the untrained network, permuted labels")] = True,
    separability: Annotated[
        int, typer.Option("--separability", min=0, help="training images whose strict separability is decided on every block; 0: none")
    ] = 200,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="compute anew what is stored")] = False,
    out: Annotated[Path, typer.Option("--out", help="folder of the figures")] = Path("figures"),
    *,
    given: dict[str, Any],
) -> None:
    """Fit a linear probe to every block of frozen networks: how well the labels can be read there, beside controls."""
    from gradlens.analysis import linear_probe
    from gradlens.cli.progress import Display
    from gradlens.reporting import console, probes
    from gradlens.reporting.aggregate import runs_title
    from gradlens.training.context import make_run_context
    from gradlens.training.run_files import must_be_writable

    quiet, place = given.pop("quiet", False), make_run_context(given)
    options = linear_probe.ProbeOptions(
        features, train_images, test_images, tuple(block or ()), over_time, controls, separability, overwrite
    )
    must_be_writable(out)
    runs = linear_probe.check_probe_runs(list(dict.fromkeys(run_dirs)), options, place)
    known: linear_probe.ProbeCache = {}
    with Display(quiet, len(runs)) as display:
        results = [linear_probe.probe_run(run.path, place, options, display.count(run.path.name), _aside, known) for run in runs]
    points = probes.probe_points(runs, results)
    if len(runs) == 1:
        console.show(probes.probe_detail(results[0]))
    for table in probes.probe_tables(points):
        console.show(table)
    if separability:
        console.show(probes.separability_table(runs, results))
    files = probes.draw_probes(points, out, runs_title(runs))
    typer.echo("\n".join(f"run: {run.path} ({linear_probe.NAME}.json)" for run in runs))
    typer.echo(f"figures (png, svg, csv): {', '.join(map(str, files))}")


@learned.command()
@with_flags("device", "threads", "data-dir", "download", "quiet")
def representations(
    run_dirs: Annotated[
        list[Path],
        runs_given("run directories; the first is compared with the others"),
    ],
    images: Annotated[int, typer.Option("--images", min=1, help="test images; a third of each class is held out and measured on")] = 3000,
    information_steps: Annotated[
        int, typer.Option("--information-steps", min=0, help="updates of each block's decoder and head; 0: no information estimates")
    ] = 300,
    block: Annotated[list[str] | None, typer.Option("--block", help="only this block; repeatable")] = None,
    over_time: Annotated[bool, typer.Option("--over-time", help="at the snapshots too (--keep-checkpoints)")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="compute anew what is stored")] = False,
    out: Annotated[Path, typer.Option("--out", help="folder of the figures")] = Path("figures"),
    *,
    given: dict[str, Any],
) -> None:
    """Say what each block represents: CKA with other runs, dissimilarities, rank, class separation, what it holds of image and label."""
    from gradlens.analysis import network_similarity
    from gradlens.analysis import representations as rep
    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.reporting import representations as reporting
    from gradlens.training.context import make_run_context
    from gradlens.training.run_files import must_be_writable

    quiet, place = given.pop("quiet", False), make_run_context(given)
    paths = list(dict.fromkeys(run_dirs))
    options = rep.RepresentationOptions(images, information_steps, blocks=tuple(block or ()), over_time=over_time, overwrite=overwrite)
    runs = rep.check_representation_runs(paths, place, options)
    must_be_writable(out)
    known: dict[str, dict[str, Any]] = {}
    with Display(quiet, len(runs)) as display:
        results = [rep.represent_run(run.path, place, options, display.count(run.path.name), known) for run in runs]
        pairs = network_similarity.compare_run(paths[0], paths[1:], place, options, display.count("comparing"))
    console.show(reporting.representation_table(reporting.depth_points(runs, results)))
    console.show(reporting.pair_table(pairs, reporting.named(runs)[0]))
    drawn = reporting.draw_representations(runs, results, pairs, out)
    first = f", {network_similarity.PAIRS}.json"
    typer.echo("\n".join(f"run: {run.path} ({rep.RESULT}.json{first if run is runs[0] else ''})" for run in runs))
    typer.echo(f"figures (png, svg, csv): {', '.join(str(out / f'{name}.png') for name in drawn)}")


@learned.command()
@with_flags("device", "threads", "data-dir", "download", "quiet")
def filters(
    run_dirs: Annotated[
        list[Path],
        runs_given("run directories of networks that begin with a convolution"),
    ],
    over_time: Annotated[bool, typer.Option("--over-time", help="the numbers at the snapshots too (--keep-checkpoints)")] = False,
    out: Annotated[Path, typer.Option("--out", help="folder of the figures")] = Path("figures"),
    *,
    given: dict[str, Any],
) -> None:
    """Show what the first convolution looks for: its filters side by side, and numbers beside those of the untrained stem and of chance."""
    from gradlens.analysis import first_layer_filters as seen
    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.reporting import filters as reporting_filters
    from gradlens.training.context import make_run_context
    from gradlens.training.run_files import must_be_writable

    quiet, place = given.pop("quiet", False), make_run_context(given)
    must_be_writable(out / "filter_grid.png")
    with Display(quiet, len(run_dirs)) as display:
        runs = seen.check_filter_runs(run_dirs, place)
        found = [seen.filters_run(run.path, place, over_time, display.count(run.path.name)) for run in runs]
    results = reporting_filters.results_by_label(runs, found)
    console.show(reporting_filters.filter_table(results))
    files = reporting_filters.draw_filters(runs, results, out)
    typer.echo("\n".join(f"run: {run.path} (filters.json)" for run in runs))
    typer.echo(f"figures (png, svg, csv): {', '.join(map(str, files))}")


@learned.command()
@with_flags("device", "threads", "data-dir", "download", "quiet")
def inpaint(
    run_dirs: Annotated[
        list[Path],
        runs_given("run directories of context-encoder or context-encoder-local"),
    ],
    images: Annotated[int, typer.Option("--images", help="pictures of each method")] = 8,
    out: Annotated[Path, typer.Option("--out", help="folder of the figure")] = Path("figures"),
    *,
    given: dict[str, Any],
) -> None:
    """Show what context encoders put where pixels were dropped, and their error there beside that of the mean patch."""
    from gradlens.analysis import inpainting
    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.reporting import inpainting as reporting_inpainting
    from gradlens.training.context import make_run_context
    from gradlens.training.run_files import must_be_writable

    quiet, place = given.pop("quiet", False), make_run_context(given)
    must_be_writable(out)
    runs = inpainting.check_inpainting_runs(list(dict.fromkeys(run_dirs)), images, place)
    with Display(quiet, len(runs)) as display:
        results = [inpainting.inpaint_run(run.path, place, images, display.count(run.path.name)) for run in runs]
    console.show(reporting_inpainting.inpainting_table(reporting_inpainting.inpainting_rows(runs, results)))
    files = reporting_inpainting.draw_inpainting(runs, results, out)
    typer.echo("\n".join(f"run: {run.path} ({inpainting.NAME}.json)" for run in runs))
    typer.echo(f"figures (png, svg, csv): {', '.join(map(str, files))}")


@learned.command("report")
def report(
    run_dirs: Annotated[list[Path], runs_given("run directories, of one method or several")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the page")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a page that is there")] = False,
) -> None:
    """Write one self-contained page of all that runs hold: a verdict first, then curves, cosines, costs, settings and what was measured."""
    from gradlens.reporting.html.page import write_page

    path = write_page(run_dirs, out, overwrite)
    typer.echo(f"open {path} ({path.stat().st_size / 1e6:.1f} MB; it needs no network)")


@learned.command()
@with_flags("device", "threads", "data-dir", "download", "quiet")
def doctor(
    run_dirs: Annotated[list[Path], runs_given("run directories, finished or not")],
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON, for scripts")] = False,
    *,
    given: dict[str, Any],
) -> None:
    """Say what went wrong in runs: dead heads, lagging synthesisers, drift, collapse, spikes…; exit status 1 if anything did."""
    import json

    from gradlens.analysis.doctor import RESULT, diagnosis_json, diagnosis_line, examine
    from gradlens.cli.progress import Display
    from gradlens.reporting import console
    from gradlens.training.context import make_run_context
    from gradlens.training.run_directory import load_run, plain, save_result

    quiet, place = given.pop("quiet", False), make_run_context(given)
    runs = [load_run(path) for path in dict.fromkeys(run_dirs)]
    with Display(quiet, len(runs)) as display:
        found = [examine(run, place, display.count(run.path.name)) for run in runs]
    if as_json:
        typer.echo(json.dumps([plain({"run": str(run.path), **diagnosis_json(d)}) for run, d in zip(runs, found, strict=True)], indent=1))
    for run, diagnosis in zip(runs, found, strict=True):
        if diagnosis.findings and not as_json:
            console.show(console.diagnosis_table(str(run.path), diagnosis))
        elif not as_json:
            typer.echo(f"{run.path}: {diagnosis_line(diagnosis)}")
        save_result(run.path, RESULT, diagnosis_json(diagnosis))
    if not as_json:
        typer.echo("\n".join(f"run: {run.path} ({RESULT}.json)" for run in runs))
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

    runs = [load_run(path) for path in dict.fromkeys(run_dirs)]
    loggers.check_export(runs, out, overwrite)
    with Display(given.get("quiet", False)) as display:
        show = display.count("tensorboard")
        for i, run in enumerate(runs):
            show(i, len(runs), run.path.name)
            typer.echo(f"wrote {loggers.export(run, out)}")
    typer.echo(f"next: tensorboard --logdir {out}")
