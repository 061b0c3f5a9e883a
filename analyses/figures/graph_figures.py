"""Figures of the study of graphs: accuracy of each rule on each network, and t-SNE maps of a hidden layer. Pure functions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.reporting.style import COLOURS, LOOK, MORE_COLOURS, styles


class AccuracyPoint(NamedTuple):
    """A rule's test accuracy on one network and graph, at the best validation accuracy."""

    data: str
    net: str
    rule: str
    mean: float  # %
    low: float  # 95 % t-interval over seeds
    high: float
    sd: float  # of one seed
    seeds: int
    reference: float | None  # %, of the plain-PyTorch replication; None: it has no such run
    reference_sd: float | None
    reference_seeds: int | None


class MapPoint(NamedTuple):
    """A node in a t-SNE map of the hidden layer."""

    rule: str
    node: int
    label: str
    x: float
    y: float


SHORT = {"bp less regularised": "bp,\nless\nreg.", "dfa propagated": "along\nedges", "shallow": "shal-\nlow"}


def accuracy_title(rows: Sequence[AccuracyPoint]) -> str:
    """The order of the rules, where it is the same in every panel."""
    mean = {(r.data, r.net, r.rule): r.mean for r in rows}
    cells = {(r.data, r.net) for r in rows}
    if all(mean[a, b, "bp"] > mean[a, b, "dfa"] > mean[a, b, "shallow"] for a, b in cells):
        return "On graphs direct feedback is below backprop and above a trained output layer alone, in every network"
    return "Direct feedback on graphs, beside backprop and a trained output layer alone"


@style.context(LOOK)
def accuracy_figure(rows: Sequence[AccuracyPoint], title: str, beside: str) -> Figure:
    """Accuracy of each rule, a panel per graph and network; the replication's mean and standard deviation as open circles.

    Args:
        rows: of all cells.
        title: the message.
        beside: how it was trained, in words.

    """
    cells = list(dict.fromkeys((r.data, r.net) for r in rows))
    looks = styles(dict.fromkeys(r.rule for r in rows))
    figure = Figure(figsize=(8, 3.4))
    ratios = [1 + sum((r.data, r.net) == cell for r in rows) for cell in cells]
    axes = figure.subplots(1, len(cells), squeeze=False, sharey=True, width_ratios=ratios)[0]
    figure.subplots_adjust(left=0.065, right=0.99, top=0.73, bottom=0.17, wspace=0.1)
    for ax, (data, net) in zip(axes, cells, strict=True):
        mine = [r for r in rows if (r.data, r.net) == (data, net)]
        for at, row in enumerate(mine):
            look = looks[row.rule]
            half = [[row.mean - row.low], [row.high - row.mean]]
            ax.errorbar([at - 0.12], [row.mean], yerr=half, color=look.colour, marker=look.marker, markersize=5, capsize=2)
            if row.reference is not None:
                ax.errorbar(
                    [at + 0.18], [row.reference], yerr=[row.reference_sd or 0], color="0.45", marker="o", markersize=4.5,
                    markerfacecolor="white", capsize=0, linewidth=0.9,
                )  # fmt: skip
        ax.set_xticks(range(len(mine)), [SHORT.get(r.rule, r.rule) for r in mine], fontsize=7.5)
        ax.set_xlim(-0.6, len(mine) - 0.4)
        ax.set_title(f"{data}, {net}", loc="left", pad=5)
    axes[0].yaxis.set_major_formatter("{x:g} %")
    lines = (title, beside, f"mean and 95 % t-interval of {max(r.seeds for r in rows)} seeds; open circles: replication, ± sd")
    figure.suptitle("\n".join(lines), x=0.011, y=0.985, ha="left", fontsize=10)
    return figure


@style.context(LOOK)
def map_figure(rows: Sequence[MapPoint], title: str, beside: str) -> Figure:
    """The maps side by side, a colour per class.

    Args:
        rows: of all rules.
        title: the message.
        beside: how the maps were made, in words.

    """
    rules, labels = list(dict.fromkeys(r.rule for r in rows)), sorted({r.label for r in rows})
    colours = dict(zip(labels, (*COLOURS, *MORE_COLOURS), strict=False))
    figure = Figure(figsize=(8, 3.3))
    axes = figure.subplots(1, len(rules), squeeze=False)[0]
    figure.subplots_adjust(left=0.01, right=0.99, top=0.73, bottom=0.1, wspace=0.04)
    for ax, rule in zip(axes, rules, strict=True):
        mine = [r for r in rows if r.rule == rule]
        ax.scatter([r.x for r in mine], [r.y for r in mine], s=1.5, c=[colours[r.label] for r in mine], linewidths=0, rasterized=True)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.set_title(rule, loc="left", pad=4)
    dots = [Line2D([], [], linestyle="", marker="o", markersize=4, color=colours[label], label=label) for label in labels]
    figure.legend(handles=dots, loc="lower center", ncols=len(labels), handlelength=0.8, columnspacing=1.2)
    figure.suptitle("\n".join((title, beside)), x=0.011, y=0.985, ha="left", fontsize=10)
    return figure
