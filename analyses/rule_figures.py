"""The figures of all rules beside each other: accuracies in rows, cosines by layer, feedback that turns to the weights or does not.

Pure functions of the rows that analyses.all_methods saves; a rule is named where it is drawn, so no legend has 18 entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.overview import CONTROL, FAMILIES
from gradlens.cli.listing import family
from gradlens.methods import METHODS
from gradlens.reporting.aggregate import FinalValue, LayerPoint
from gradlens.reporting.heat_map import heat_map
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import GREY, LOOK, band, head, save_figure

TURNED = ("kp", "brsf", "frsf", "fa")  # rules whose feedback is a matrix of its own
COLOURS_OF = {"kp": "#0072B2", "brsf": "#D55E00", "frsf": "#009E73", "fa": "#000000"}


class Placed(NamedTuple):
    """A rule's accuracy."""

    method: str
    mean: float  # final test accuracy in %
    low: float  # 95 % t-interval over seeds
    high: float
    seeds: int


def placed(values: Mapping[str, Sequence[float]]) -> list[Placed]:
    """Rules by their accuracy, the best first."""
    return sorted((Placed(name, *interval(seeds)) for name, seeds in values.items()), key=lambda row: -row.mean)


def setting_of(data: str) -> str:
    """What all runs share, in a line."""
    return f"{data}, 6,000 images · BasicCNN, width 16 · 5 epochs (greedy 5 a stage) · each rule with its own learning rate"


@style.context(LOOK)
def accuracies(rows: Sequence[Placed], data: str) -> Figure:
    """One rule a row, the best on top, coloured by family; the dashed line is a network whose blocks are not trained."""
    figure = Figure(figsize=(7.8, 1.5 + 0.27 * len(rows)), layout="constrained")
    ax = figure.subplots()
    shown: dict[str, str] = {}
    for at, row in enumerate(rows):
        name, colour = FAMILIES[family(METHODS[row.method])]
        shown.setdefault(name, colour)
        half = row.high - row.mean if math.isfinite(row.high) else 0.0
        ax.errorbar(row.mean, at, xerr=half, fmt="o", ms=5.5, lw=1.6, color=colour)
        ax.annotate(f"n = {row.seeds}", (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color="0.35")
    for control in (row for row in rows if row.method == CONTROL):
        ax.axvline(control.mean, color=GREY, linestyle="--", linewidth=1, zorder=0)
        ax.annotate(" only the top trained", (control.mean, -0.75), va="center", fontsize=9, color="0.3")
    ax.set_yticks(range(len(rows)), [row.method for row in rows])
    for label, row in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_color(FAMILIES[family(METHODS[row.method])][1])
    ax.set_ylim(len(rows) - 0.4, -1.1)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("final test accuracy on 10,000 images (%), mean and 95 % t-interval over n seeds")
    for at, (name, colour) in enumerate(shown.items()):
        ax.annotate(name, (0.02, 0.05 + 0.055 * at), xycoords="axes fraction", color=colour, fontsize=10, weight="bold")
    head(figure, "Local losses keep up with backprop; random feedback and synthetic gradients do not", setting_of(data))
    return figure


def cosines_of(table: Sequence[Mapping[str, Any]], seeds: int) -> list[FinalValue]:
    """The cosines of a results file's table as rows of a heat map."""
    return [
        FinalValue(row["method"], layer, "weight", "cosine", *_three(bounds), seeds, 0)
        for row in table
        for layer, bounds in row["cosine"].items()
    ]


def _three(bounds: Sequence[float | None]) -> tuple[float, float, float]:
    mean, low, high = (math.nan if v is None else v for v in bounds)
    return mean, low, high


def cosine_map(rows: Sequence[FinalValue], data: str) -> Figure:
    """Cosine of each layer's gradient with the true one, a rule a row."""
    figure = heat_map(rows, "cosine")
    head(
        figure,
        "Only sign-symmetric and learned feedback, and overlap, come near the true gradient at every layer",
        f"Cosine of the weight gradient with the true one, final weights, {max(row.seeds for row in rows)} seeds",
        setting_of(data).replace(" (greedy 5 a stage)", ""),
    )
    return figure


@style.context(LOOK)
def turning(points: Sequence[LayerPoint], data: str) -> Figure:
    """Angle between each layer's feedback matrix and its weights' transpose over training, a panel a layer."""
    layers = list(dict.fromkeys(p.layer for p in points))
    figure = Figure(figsize=(2.0 + 1.9 * len(layers), 3.6), layout="constrained")
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for ax, layer in zip(axes, layers, strict=True):
        for name in TURNED:
            mine = sorted((p for p in points if (p.layer, p.label) == (layer, name)), key=lambda p: p.step)
            if not mine:
                continue
            x, colour = [p.step for p in mine], COLOURS_OF[name]
            ax.plot(x, [p.mean for p in mine], color=colour, linewidth=1.8)
            band(ax, x, [p.low for p in mine], [p.high for p in mine], colour, 0.15)
            if ax is axes[-1]:
                said = f" {name} (n = {mine[-1].seeds})"
                ax.annotate(
                    said,
                    (x[-1], mine[-1].mean),
                    color=colour,
                    va="center",
                    fontsize=9.5,
                    annotation_clip=False,
                )
        ax.axhline(90, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
        ax.set_title(layer, loc="left")
        ax.set_xlabel("updates")
    axes[0].set_ylabel("angle of feedback and weights' transpose (°)")
    head(figure, "kp's feedback turns to the weights, fa's hardly does", f"{setting_of(data)} · band: 95 % t-interval")
    return figure


def draw(
    table: Sequence[Mapping[str, Any]], finals: Mapping[str, Sequence[float]], turned: Sequence[LayerPoint], data: str, folder: Path
) -> None:
    """Write the figures that the results allow.

    Args:
        table: a row a rule, with its cosines.
        finals: rule -> final test accuracies in %, one a seed.
        turned: angles of feedback matrices.
        data: what was trained on.
        folder: where they go.

    """
    rows = placed(finals)
    save_figure(accuracies(rows, data), rows, folder, "accuracies")
    cosines = cosines_of(table, min(len(seeds) for seeds in finals.values()))
    save_figure(cosine_map(cosines, data), cosines, folder, "cosine_heat_map")
    own = [p for p in turned if p.label in TURNED]
    if own:
        save_figure(turning(own, data), own, folder, "feedback_transpose")
