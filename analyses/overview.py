"""The README's first figure: how near each rule's first-layer gradient is to the true one, and how well the network does.

Reads ``figures/all_methods/results.json`` (``python -m analyses.all_methods``); trains nothing.

    python -m analyses.overview
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from scipy.stats import spearmanr

from analyses.figures.drawing import Marker, name_markers
from analyses.training.study import HERE
from gradlens.cli.listing import family
from gradlens.methods import METHODS
from gradlens.reporting.style import GREY, LOOK, head, save_figure
from gradlens.runtime.errors import InputError

FIGURES = HERE.parent / "figures"
LAYER = "block1.conv"
CONTROL = "shallow"  # trains the top alone
FAMILIES = {  # as `gradlens list methods` names them -> name and colour
    "baselines": ("backpropagation", "#000000"),
    "local": ("local losses", "#0072B2"),
    "synthetic gradients": ("synthetic gradients", "#D55E00"),
    "feedback": ("feedback matrices", "#009E73"),
    "self supervised": ("without labels", "#AA4499"),
}


class Standing(NamedTuple):
    """One rule: cosine of the first layer's weight gradient with the true one, and final test accuracy; NaN bounds: one seed."""

    method: str
    cosine: float
    cosine_low: float
    cosine_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    seeds: int  # of the accuracy


def standings(results: dict[str, Any]) -> list[Standing]:
    """The rules of a results file that have a true gradient of the same loss at the first layer; the control has NaN cosines."""
    rows = []
    for row in results["table"]:
        cosine = row["cosine"].get(LAYER) or [float("nan")] * 3
        if cosine[0] == cosine[0] or row["method"] == CONTROL:
            a, b, c, *final = (float("nan") if v is None else float(v) for v in (*cosine[:3], *row["final"][:3]))
            seeds = len(results["values"]["final accuracy"][row["method"]])
            rows.append(Standing(row["method"], a, b, c, final[0], final[1], final[2], seeds))
    return rows


def rank_correlation(rows: Sequence[Standing]) -> float:
    """Spearman's correlation of the first layer's cosine with the accuracy, of rules other than bp; NaN of fewer than 3."""
    others = [row for row in rows if row.method not in ("bp", CONTROL)]
    if len(others) < 3:
        return math.nan
    return float(spearmanr([row.cosine for row in others], [row.accuracy for row in others]).statistic)


def message(rows: Sequence[Standing]) -> str:
    """What the picture shows."""
    found, n = rank_correlation(rows), sum(row.method not in ("bp", CONTROL) for row in rows)
    if not found >= 0.5:
        return "Test accuracy over the cosine of the first layer's gradient"
    return f"The nearer the first layer's gradient, the more accurate the rule: rank correlation {found:.1f} over {n} rules"


def family_legend(figure: Figure, methods: Sequence[str]) -> None:
    """Name the families of some rules in their colours, below all axes."""
    shown = dict.fromkeys(FAMILIES[family(METHODS[name])] for name in methods)
    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in shown]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), labelcolor="linecolor", handletextpad=0, handlelength=1.4,
        columnspacing=1,
    )  # fmt: skip


@style.context(LOOK)
def nearness_and_accuracy(rows: Sequence[Standing], setting: str) -> Figure:
    """Draw one marker a rule, coloured by family; the dashed line is a network whose blocks are not trained."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    ax = figure.subplots()
    (control,) = (row for row in rows if row.method == CONTROL)
    markers = []
    for row in (row for row in rows if row.method != CONTROL):
        x, y, colour = row.cosine, 100 * row.accuracy, FAMILIES[family(METHODS[row.method])][1]
        ax.plot([x, x], [100 * row.accuracy_low, 100 * row.accuracy_high], color=colour, alpha=0.22, linewidth=2)
        ax.plot(x, y, "o", color=colour, markersize=7, zorder=3)
        markers.append(Marker(row.method, x, y, colour))
    ax.axhline(100 * control.accuracy, color=GREY, linestyle="--", linewidth=1)
    below = ax.annotate(
        "only the top trained", (1.05, 100 * control.accuracy), (0, 3), textcoords="offset points", color="0.35", fontsize=9, ha="right"
    )
    ax.axvline(0, color="0.8", linewidth=1, zorder=0)
    ax.set_xlim(-0.3, 1.06)
    ax.set_xlabel("cosine of the first layer's gradient with the true one, end of training")
    ax.set_ylabel("final test accuracy (%)")
    family_legend(figure, [row.method for row in rows if row.method != CONTROL])
    seeds = sorted({row.seeds for row in rows})
    of = "one seed" if seeds == [1] else f"{' to '.join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))} seeds"
    head(
        figure,
        message(rows),
        setting,
        f"mean of {of}; bars: 95 % t-interval of the accuracy; not shown: greedy, whose true gradient is another one in each stage",
    )
    figure.draw_without_rendering()  # names need the final place of the axes
    across = ax.get_window_extent()
    y = ax.transData.transform((0, 100 * control.accuracy))[1]
    name_markers(ax, markers, [below.get_window_extent(), Bbox.from_extents(across.x0, y - 1, across.x1, y + 1)])
    return figure


def main(folder: Path = FIGURES) -> None:
    """Draw the figure from the stored results."""
    source = folder / "all_methods" / "results.json"
    if not source.exists():
        raise InputError(f"{source} is not there: `python -m analyses.all_methods --data cifar10` makes it")
    results = json.loads(source.read_text(encoding="utf-8"))
    rows, used = standings(results), results["settings"]
    network = f"3-block CNN of width {used['width']}, {used['epochs']} epochs, each rule with its own learning rate"
    setting = f"CIFAR-10 ({used['limit']:,} images), {network}"
    print(save_figure(nearness_and_accuracy(rows, setting), rows, folder / "overview", "nearness_and_accuracy")[0])


if __name__ == "__main__":
    main()
