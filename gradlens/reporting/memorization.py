"""Memorization of several runs: scores over seeds, the printed tables, the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from gradlens.reporting.aggregate import CurvePoint, curve_points
from gradlens.reporting.analysis_report import Figures, Results, results_by_label
from gradlens.reporting.numbers import count_cell, mean_cell, short_number, with_thousands
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import GREY, LOOK, Style, band, head, joined, line_handles, over_seeds, styles
from gradlens.reporting.training_figures import curve_figure
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Cell, Table
from gradlens.training.metrics import TRAIN_EVAL
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import run_labels

APART = {  # settings of the rule, of the random draw, or of what is recorded: no part of the schedule
    "method", "options", "seed", "record_every", "diagnose_every", "keep_checkpoints", "evaluate_train", "online_probe", "limit_test",
    "compile",
}  # fmt: skip
MEMORIZATION_QUANTITIES = {  # what is read on partial noise -> in words
    "corrupted_noisy": "changed labels, as given (memorized)",
    "corrupted_true": "changed labels, the true ones",
    "clean": "labels that were kept",
    "held_out": "held-out images",
}


class Memorized(NamedTuple):
    """What one group of runs memorized; shares, each a mean over seeds with its 95 % t-interval."""

    label: str
    seeds: int
    epochs: int
    area: float
    area_low: float
    area_high: float
    epochs_to_50: float  # over the seeds that reached it; NaN: none did
    reached_50: int
    epochs_to_90: float
    reached_90: int
    final: float
    final_low: float
    final_high: float
    best: float
    best_low: float
    held_out: float
    held_out_low: float
    own_parameters: int  # of the rule's own modules: heads, synthesisers, feedback that learns


class BlockPoint(NamedTuple):
    """A probe's accuracy on one block (or the network's own), a mean over seeds."""

    label: str
    block: str  # "network": its own prediction
    quantity: str  # corrupted_noisy, corrupted_true, clean, held_out
    mean: float
    low: float
    high: float
    seeds: int
    untrained: float  # the same probe on the untrained network, mean over seeds; NaN for the network's own prediction


# -------------------------------------------------------------------------------------------------------- over seeds


def _values(results: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [math.nan if r[name] is None else float(r[name]) for r in results]


def memorization_scores(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[Memorized]:
    """Return one row a group of seeds, of runs and what :func:`gradlens.analysis.memorization.memorized` found of each."""
    rows = []
    for label, mine in results_by_label(runs, results).items():
        half, most = (interval(_values(mine, name)) for name in ("epochs_to_50", "epochs_to_90"))
        final, best = interval(_values(mine, "final")), interval(_values(mine, "best"))
        held = interval(r["held_out"]["final"] for r in mine)
        rows.append(
            Memorized(
                label, len(mine), mine[0]["curve"][-1][0], *interval(_values(mine, "area"))[:3], half.mean, half.n, most.mean, most.n,
                *final[:3], *best[:2], *held[:2], mine[0]["own_parameters"],
            )
        )  # fmt: skip
    return rows


def block_points(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[BlockPoint]:
    """Return the probes' accuracies by block, and the network's own as a last block; of runs with partial noise only."""
    partial = [(run, result) for run, result in zip(runs, results, strict=True) if "blocks" in result]
    rows: list[BlockPoint] = []
    if not partial:
        return rows
    for label, mine in results_by_label(*zip(*partial, strict=True)).items():
        for k, block in enumerate(row["block"] for row in mine[0]["blocks"]):
            for quantity in MEMORIZATION_QUANTITIES:
                here = interval(_values([r["blocks"][k] for r in mine], quantity))
                control = interval(_values([r["blocks"][k]["untrained"] for r in mine], quantity))
                rows.append(BlockPoint(label, block, quantity, *here, control.mean))
        networks_own = {
            "corrupted_noisy": [r["corrupted"]["noisy"] for r in mine], "corrupted_true": [r["corrupted"]["true"] for r in mine],
            "clean": [r["clean"]["accuracy"] for r in mine], "held_out": [r["held_out"]["final"] for r in mine],
        }  # fmt: skip
        for quantity, values in networks_own.items():
            rows.append(BlockPoint(label, "network", quantity, *interval(math.nan if v is None else v for v in values), math.nan))
    return rows


def memorization_curves(runs: Sequence[Run]) -> list[CurvePoint]:
    """Return the training images' accuracy in eval mode by epoch: the rows of the figure."""
    return [p for p in curve_points(runs) if (p.split, p.quantity) == (TRAIN_EVAL, "accuracy")]


# ------------------------------------------------------------------------------------------------------------ tables


def cautions(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """List caveats of the table: other settings, other labels, ordinary labels, and what the heads can hold."""
    notes = []
    configs = [run.config.as_dict(exclude=APART) for run in runs]
    for name, first in configs[0].items():
        if any(config[name] != first for config in configs):
            values = ", ".join(dict.fromkeys(f"{config[name]}" for config in configs))
            notes.append(f"different schedules: {name} is {values}")
    for seed in sorted({run.config.seed for run in runs}):
        if len({run.info.get("label_hash") for run in runs if run.config.seed == seed}) > 1:
            notes.append(f"different labels: the runs of seed {seed} have other ones each")
    if any(not run.config.data.label_noise for run in runs):
        notes.append("label noise 0: these labels are the true ones, and fitting them is learning as well as memorizing")
    network = max(int(r["network_parameters"]) for r in results)
    notes.append(
        f"own: numbers trained in the rule's own modules (heads, synthesisers), beside {with_thousands(network)} of the network;"
        " what heads can hold is a confounder: compare a rule with heads of several kinds"
    )
    return notes


def _when(mean: float, reached: int, row: Memorized) -> Cell:
    """Return an epoch, and of how many seeds where not all got there; beyond the last one where none did."""
    if not reached:
        return Cell(f"> {row.epochs}")
    return Cell(short_number(mean, 1) + ("" if reached == row.seeds else f" ({reached} of {row.seeds})"), mean)


def memorization_table(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate what each group memorized, with caveats below."""
    held = " or ".join(dict.fromkeys(r["held_out"]["split"] for r in results))
    chances = " or ".join(short_number(c, 1, scale=100, unit="%") for c in dict.fromkeys(r["chance"] for r in results))
    title = "accuracy in % of the training images, labels as given, in eval mode; area: its mean over the epochs"
    printed = Table(title, [f"{held}: {chances} is chance", *cautions(runs, results)])
    for column, unit in (("method", ""), ("area", "%"), ("epochs to 50 %", ""), ("epochs to 90 %", ""), ("final", "%"), ("best", "%")):
        printed.add_column(column, unit)
    printed.add_column(held, "%")
    printed.add_column("own")
    for r in memorization_scores(runs, results):
        when = [_when(r.epochs_to_50, r.reached_50, r), _when(r.epochs_to_90, r.reached_90, r)]
        ends = [mean_cell(m, low, 1, 100) for m, low in ((r.final, r.final_low), (r.best, r.best_low), (r.held_out, r.held_out_low))]
        printed.add_row(r.label, mean_cell(r.area, r.area_low, 1, 100), *when, *ends, count_cell(r.own_parameters))
    return printed


def memorization_block_table(points: Sequence[BlockPoint]) -> Table:
    """Tabulate partial noise: what a linear probe on each block, fitted to the labels as given, reads of them and of the true ones."""
    title = "linear probe on each block, fitted to the labels as given; accuracy in % (the same on the untrained network)"
    printed = Table(title)
    printed.add_column("method")
    printed.add_column("block", align="left")
    for text in MEMORIZATION_QUANTITIES.values():
        printed.add_column(text)
    for label, block in dict.fromkeys((p.label, p.block) for p in points):
        mine = {p.quantity: p for p in points if (p.label, p.block) == (label, block)}
        cells = []
        for quantity in MEMORIZATION_QUANTITIES:
            p = mine[quantity]
            control = f" ({short_number(p.untrained, 1, scale=100)})" if math.isfinite(p.untrained) else ""
            cell = mean_cell(p.mean, p.low, 1, 100, high=p.high)
            cells.append(cell._replace(text=cell.text + control))
        printed.add_row(label, "own prediction" if block == "network" else block, *cells)
    return printed


# ----------------------------------------------------------------------------------------------------------- figures


@style.context(LOOK)
def memorization_curve(points: Sequence[CurvePoint], chance: float, *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Draw the accuracy of the training images, labels as given, in eval mode over epochs, with what guessing gives.

    Args:
        points: from :func:`memorization_curves`.
        chance: accuracy of a guess, a share.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`.

    Raises:
        InputError: nothing to draw.

    """
    figure = curve_figure(points, TRAIN_EVAL, "accuracy", title=title, look=look)
    ax = figure.axes[0]
    ax.axhline(chance, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    ax.annotate(
        "chance", (1, chance), xycoords=("axes fraction", "data"), xytext=(0, -3), textcoords="offset points",
        ha="right", va="top", color="0.35", fontsize=9,
    )  # fmt: skip
    ax.set(ylim=(0, 1.02), ylabel="accuracy of the training images (%)")
    return figure


@style.context(LOOK)
def noise_by_block(
    points: Sequence[BlockPoint], words: Mapping[str, str], chance: float, *, title: str = "", look: Mapping[str, Style] | None = None
) -> Figure:
    """Draw what a linear probe reads on each block where some labels are random: a panel a quantity, a line a label.

    Thin dotted lines are the same probe on the untrained networks; the point on the right is the network's own prediction.

    Args:
        points: from :func:`block_points`.
        words: quantity -> the panel's title, in order.
        chance: accuracy of a guess, a share.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`.

    Raises:
        InputError: nothing to draw.

    """
    rows = [p for p in points if math.isfinite(p.mean)]
    if not rows:
        raise InputError("no block was probed: the runs have no partial label noise")
    look = look or styles(p.label for p in rows)
    names = [name for name in look if any(p.label == name for p in rows)]
    blocks = list(dict.fromkeys(p.block for p in rows))
    figure = Figure(figsize=(1.2 + 2.0 * len(words), 3.6), layout="constrained")
    grid = figure.subplots(1, len(words), sharey=True, squeeze=False)[0]
    for ax, (quantity, text) in zip(grid, words.items(), strict=True):
        ax.axhline(chance, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
        for label in names:
            mine = [p for p in rows if (p.label, p.quantity) == (label, quantity)]
            probes, own = [p for p in mine if p.block != "network"], [p for p in mine if p.block == "network"]
            colour, dash, marker = look[label]
            at = [blocks.index(p.block) for p in probes]
            ax.plot(at, [p.untrained for p in probes], color=colour, linewidth=0.9, linestyle=(0, (1, 1.5)), alpha=0.8)
            ax.plot(at, [p.mean for p in probes], color=colour, linewidth=1.7, linestyle=dash, marker=marker, markersize=4)
            band(ax, at, [p.low for p in probes], [p.high for p in probes], colour, 0.16)
            for p in own:
                half = p.mean - p.low if math.isfinite(p.low) else 0.0
                ax.errorbar(blocks.index(p.block), p.mean, yerr=half, color=colour, marker=marker, markersize=5, elinewidth=0.9, capsize=2)
        ax.set_title("\n".join(text.split(", ", 1)), loc="left")
        ax.set_xticks(range(len(blocks)), blocks, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_ylim(0, 1.02)
    grid[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    grid[0].set_ylabel("accuracy (%)")
    handles = line_handles((name, look[name]) for name in names)
    handles.append(Line2D([], [], color="0.4", linewidth=0.9, linestyle=(0, (1, 1.5)), label="untrained network"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    seeds = over_seeds(max(p.seeds for p in rows), "95 % t-intervals")
    head(figure, "Linear probe on each block, fitted to the labels as given", joined(title, seeds))
    return figure


def tables(runs: Sequence[Run], results: Results) -> Iterator[Table]:
    """Yield what `gradlens memorize` prints."""
    yield memorization_table(runs, results)
    if points := block_points(runs, results):
        yield memorization_block_table(points)


def figures(runs: Sequence[Run], results: Results, title: str) -> Figures:
    """Return what `gradlens memorize` draws."""
    chance, points = float(results[0]["chance"]), memorization_curves(runs)
    curve = memorization_curve(points, chance, title=title, look=styles(run_labels(runs)))
    drawn: dict[str, tuple[Figure, Sequence[Any]]] = {"memorization": (curve, points)}
    if blocks := block_points(runs, results):
        drawn["memorization_by_block"] = (noise_by_block(blocks, MEMORIZATION_QUANTITIES, chance, title=title), blocks)
    return drawn
