"""The README's first figure: how near each rule's first-layer gradient is to the true one, and how well the network does.

Reads ``figures/all_methods/results.json`` (``python -m analyses.all_methods``); trains nothing.

    python -m analyses.overview
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.figures.drawing import title_where
from analyses.training.study import HERE
from gradlens.cli.listing import family
from gradlens.methods import METHODS
from gradlens.reporting.style import LOOK, save_figure
from gradlens.runtime.errors import InputError

FIGURES = HERE.parent / "figures"
LAYER = "block1.conv"
CONTROL = "shallow"  # trains the top alone
FAMILIES = {  # as `gradlens list methods` names them -> name and colour
    "baselines": ("backpropagation", "#000000"),
    "local": ("local losses", "#0072B2"),
    "synthetic gradients": ("synthetic gradients", "#D55E00"),
    "feedback": ("feedback matrices", "#009E73"),
}
PLACES = {  # where a name stands (cosine, points of accuracy), where beside its marker is no room
    "chunked": (0.70, 50.9), "frsf": (0.745, 54.6), "brsf": (0.76, 48.4), "overlap": (0.86, 55.2), "usf": (0.96, 51.2), "dgl": (0.50, 52.2),
}  # fmt: skip


class Standing(NamedTuple):
    """One rule: cosine of the first layer's weight gradient with the true one, and best test accuracy; NaN bounds: one seed."""

    method: str
    cosine: float
    cosine_low: float
    cosine_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def standings(results: dict[str, Any]) -> list[Standing]:
    """The rules of a results file that have a true gradient of the same loss at the first layer; the control has NaN cosines."""
    rows = []
    for row in results["table"]:
        cosine = row["cosine"].get(LAYER) or [float("nan")] * 3
        if cosine[0] == cosine[0] or row["method"] == CONTROL:
            numbers = (*cosine[:3], *row["best"][:3])
            rows.append(Standing(row["method"], *(float("nan") if v is None else v for v in numbers)))
    return rows


@style.context(LOOK)
def nearness_and_accuracy(rows: Sequence[Standing], setting: str) -> Figure:
    """Draw one marker a rule, coloured by family; the dashed line is a network whose blocks are not trained."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    ax = figure.subplots()
    (control,) = (row for row in rows if row.method == CONTROL)
    for row in rows:
        if row.method == CONTROL:
            continue
        x, y, colour = row.cosine, 100 * row.accuracy, FAMILIES[family(METHODS[row.method])][1]
        ax.plot([x, x], [100 * row.accuracy_low, 100 * row.accuracy_high], color=colour, alpha=0.22, linewidth=2)
        ax.plot(x, y, "o", color=colour, markersize=7, zorder=3)
        if place := PLACES.get(row.method):
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3}
            ax.annotate(row.method, (x, y), place, color=colour, fontsize=10, arrowprops=line, ha="center", va="center")
        else:
            ax.annotate(row.method, (x, y), (7, -3), textcoords="offset points", color=colour, fontsize=10)
    shown = dict.fromkeys(FAMILIES[family(METHODS[row.method])] for row in rows if row.method != CONTROL)
    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in shown]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 0.02), labelcolor="linecolor", handletextpad=0.1)
    ax.axhline(100 * control.accuracy, color="0.45", linestyle="--", linewidth=1)
    ax.text(1.04, 100 * control.accuracy + 0.4, "only the top trained", ha="right", color="0.35", fontsize=9.5)
    ax.axvline(0, color="0.8", linewidth=1, zorder=0)
    ax.set_xlim(-0.3, 1.06)
    ax.set_xlabel("cosine of the first layer's gradient with the true one, end of training")
    ax.set_ylabel("best test accuracy (%)")
    figure.suptitle(
        overview_title(rows),
        x=0.01,
        ha="left",
        fontsize=11,
        weight="bold",
    )
    ax.set_title(setting, loc="left", fontsize=9, color="0.35")
    return figure


def overview_title(rows: Sequence[Standing]) -> str:
    """What the markers say: dgl's cosine is below 0.7 and its accuracy less than two points below bp's."""
    by = {row.method: row for row in rows}
    holds = {"bp", "dgl"} <= set(by) and by["dgl"].cosine < 0.7 and by["dgl"].accuracy > by["bp"].accuracy - 0.02
    return title_where(
        holds,
        "A gradient far from the true one can train as well: dgl beside bp",
        "Test accuracy over the cosine of the first layer's gradient",
    )


def main(folder: Path = FIGURES) -> None:
    """Draw the figure from the stored results."""
    source = folder / "all_methods" / "results.json"
    if not source.exists():
        raise InputError(f"{source} is not there: `python -m analyses.all_methods --data cifar10` makes it")
    rows = standings(json.loads(source.read_text(encoding="utf-8")))
    setting = (
        "CIFAR-10 (6,000 images), 3-block CNN of width 32, 5 epochs, each rule with its own learning rate\n"
        "bars: 95 % interval over three seeds; without a bar, one seed"
    )
    print(save_figure(nearness_and_accuracy(rows, setting), rows, folder / "overview", "nearness_and_accuracy")[0])


if __name__ == "__main__":
    main()
