"""What the scripts here share: settings from a shipped config, runs trained or reused, figures and a results file written."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure

from gradlens._version import __version__
from gradlens.analysis.of_runs.options import ProbeOptions
from gradlens.analysis.of_runs.probe import Probe
from gradlens.cli.progress import Display
from gradlens.data.datasets import DATASETS
from gradlens.reporting.analysis_report import save_figures
from gradlens.reporting.style import save_figure
from gradlens.reporting.training_figures import figure_set
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.errors import INTERRUPTED, Stopped
from gradlens.runtime.text_files import write_text
from gradlens.training.config import Config, make_config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext, pick_device
from gradlens.training.run_directory import Run, plain
from gradlens.training.run_groups import run_labels
from gradlens.training.runs.train_run import train_or_reuse

R = TypeVar("R", bound=tuple[Any, ...])  # a NamedTuple
HERE = Path(__file__).resolve().parents[1]


def arguments(
    claim: str,
    what: Sequence[str] = (),
    run: bool = False,
    data: str = "cifar10",
    methods: bool = False,
    numbers: Mapping[str, int] | None = None,
    redraw: bool = False,
) -> argparse.Namespace:
    """The options the scripts take; ``claim`` is printed as the help.

    Args:
        claim: the script's docstring.
        what: choices of a first argument, for scripts with parts.
        run: add ``--run``, a run directory to read.
        data: what is trained on by default.
        methods: add ``--methods``, to train and show only some.
        numbers: whole numbers a script lets one change: flag without dashes -> default.
        redraw: add ``--redraw``, for scripts that can draw from the files of an earlier call.

    """
    parser = argparse.ArgumentParser(description=claim, formatter_class=argparse.RawDescriptionHelpFormatter)
    if what:
        parser.add_argument("what", choices=what)
        parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
        parser.add_argument("--limit", type=int, default=None, help="train on this many images")
    if run:
        parser.add_argument("--run", type=Path, default=None, help="a finished run of the same network")
    if methods:
        parser.add_argument("--methods", nargs="*", help="only these rules, bp among them (default all)")
    if redraw:
        parser.add_argument("--redraw", action="store_true", help="train nothing: decide and draw anew what the figures' folder holds")
    for name, default in (numbers or {}).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default {default})")
    parser.add_argument("--data", default=data, help=f"data set, or an image folder with a copy of it (default {data})")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the run directories")
    parser.add_argument("--figures", type=Path, default=HERE.parent / "figures", help="folder of the results")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def shipped(name: str, **changes: Any) -> Config:
    """A config of ``analyses/configs`` with some settings changed."""
    return make_config(**{**read_config_file(HERE / "configs" / f"{name}.json"), **changes})


def run_context_of(args: argparse.Namespace) -> RunContext:
    """Where a script's runs go."""
    return RunContext(out=args.out, device=pick_device(args.device))


def trained(configs: Sequence[Config], args: argparse.Namespace) -> list[Run]:
    """The finished runs of some configs, trained where they are missing and resumed where they were interrupted."""
    context = run_context_of(args)
    with Display(quiet=False, runs=len(configs)) as display:
        try:
            return train_or_reuse(configs, context, lambda c: display.watch(f"{c.method} {c.model.name} seed {c.seed}", c.epochs))
        except Stopped as stopped:
            again = "; the same command goes on" if stopped.status == INTERRUPTED else ""
            raise SystemExit(f"{stopped}{again}") from stopped


def probed(runs: Sequence[Run], args: argparse.Namespace, options: ProbeOptions) -> list[dict[str, Any]]:
    """The contents of each run's ``probe.json``, computed where it is missing."""
    with Display(quiet=False) as display:
        return Probe().analyse(runs, run_context_of(args), options, display.count, print)


def probe_accuracy(result: Mapping[str, Any], block: str, network: str = "trained") -> float:
    """A probe's test accuracy in % on one block, with true labels, at the last weights."""
    rows = [r for r in result["rows"] if (r["block"], r["network"], r["labels"]) == (block, network, "true")]
    return 100 * float(max(rows, key=lambda r: r["step"])["test"])


def data_name(args: argparse.Namespace) -> str:
    """What a figure says was trained on: the data set, or a folder that holds a copy of it."""
    folder = Path(args.data).name
    return {"cifar10": "CIFAR-10"}.get(args.data) or (
        args.data if args.data in DATASETS else {"cifar10": "CIFAR-10 (JPEG copy)"}.get(folder, folder)
    )


def test_accuracy(run: Run) -> dict[int, float]:
    """epoch -> test accuracy in %."""
    return {m.epoch: 100 * m.accuracy for m in run.metrics if m.split == "test"}


def minutes_of(groups: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """group -> mean minutes of training of one of its runs: what a further seed would cost."""
    return {name: fmean(sum(t.seconds for t in run.timing) for run in runs) / 60 for name, runs in groups.items() if runs}


def environment() -> dict[str, Any]:
    """Versions, threads and the day, for a results file."""
    return {
        "versions": {"gradlens": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "written": time.strftime("%Y-%m-%d"),
    }


def listed(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What a results file says of each run."""
    return [
        {
            "label": label,
            "seed": run.config.seed,
            "lr": run.config.optimizer.lr,
            **{k: v for k, v in run.summary.items() if isinstance(v, dict)},
            "training_minutes": round(sum(t.seconds for t in run.timing) / 60, 1),
        }
        for run, label in zip(runs, run_labels(runs), strict=True)
    ]


def publish(
    name: str, runs: Sequence[Run], args: argparse.Namespace, results: dict[str, Any], figures: bool = True, without: Sequence[str] = ()
) -> None:
    """Write the runs' figures and ``results.json`` (numbers, seeds, versions, time) to ``figures/<name>``.

    Args:
        name: the folder under figures/.
        runs: finished runs.
        args: of the script.
        results: what the script found.
        figures: draw the standard figures too.
        without: standard figures that are not drawn.

    """
    folder = args.figures / name
    folder.mkdir(parents=True, exist_ok=True)
    if figures:
        _draw(runs, folder, without)
    write_text(folder / "results.json", json.dumps(plain({**results, "runs": listed(runs), **environment()}), indent=2) + "\n")
    print(f"wrote {folder}")


def drawn_again(folder: Path, name: str, kind: type[R], drawing: Callable[[list[R]], Figure]) -> None:
    """Draw a picture from the csv file that lies beside it, which stays as it is.

    Args:
        folder: of the picture.
        name: of its files, without an ending.
        kind: a row of the csv file.
        drawing: makes the figure of the rows.

    """
    rows = read_table(folder / f"{name}.csv", kind)
    save_figure(drawing(rows), rows, folder, name)


def _draw(runs: Sequence[Run], folder: Path, without: Sequence[str]) -> None:
    """The standard figures of some runs; those that cannot be drawn are named."""
    figures = figure_set(runs)
    save_figures({name: drawn for name, drawn in figures.drawn.items() if name not in without}, folder)
    for name, why in figures.skipped.items():
        print(f"no figure {name}: {why}")
