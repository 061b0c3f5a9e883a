"""Draw the figures of a results folder anew from the csv files in it: what the curves say as the title, lines named at their ends.

Used where runs took hours: a better picture needs no new run. Figures are pure functions of the rows that were saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, SymmetricalLogLocator

from analyses.curve_drawing import READING, labelled_curves
from gradlens.reporting.aggregate import CurvePoint, LayerPoint
from gradlens.reporting.axes import layer_panels
from gradlens.reporting.style import LOOK, Style, save_figure, styles
from gradlens.reporting.training_figures import over_training
from gradlens.runtime.csv_tables import read_table

Ends = Mapping[str, float]  # label -> the last value of its curve
Y_LABELS = {"accuracy": "{} accuracy (%)", "loss": "{} loss (nats)"}
NO_FLIP = 0.1  # explained variances nearer to 0 than this lie on the linear part of the axis


class Curve(NamedTuple):
    """One of the four pictures over epochs."""

    split: str  # train, test
    quantity: str  # accuracy, loss
    message: Callable[[Ends], str]  # what it says, from where its lines end


def curve_rows(folder: Path, curve: Curve) -> list[CurvePoint]:
    """The saved points of a curve, accuracies in %."""
    rows = read_table(folder / f"{curve.split}_{curve.quantity}.csv", CurvePoint)
    if curve.quantity != "accuracy":
        return [row for row in rows if row.split != READING]
    return [row._replace(mean=100 * row.mean, low=100 * row.low, high=100 * row.high) for row in rows if row.split != READING]


def ends_of(rows: Sequence[CurvePoint]) -> dict[str, float]:
    """Where each label's line ends."""
    return {row.label: row.mean for row in sorted(rows, key=lambda row: row.epoch)}


def draw_curves(folder: Path, curves: Sequence[Curve], notes: Sequence[str], readings: Sequence[CurvePoint] = ()) -> None:
    """Draw the pictures over epochs; their csv files stay as they are.

    Args:
        folder: of the results.
        curves: which.
        notes: what was run, for under the title.
        readings: another study's test accuracies in %, with the split ``reading``.

    """
    for curve in curves:
        rows = curve_rows(folder, curve)
        beside = [r for r in readings if (curve.split, curve.quantity) == ("test", "accuracy")]
        told = [*notes, "open marks: the reference study, one run each"] if beside else notes
        look = styles(dict.fromkeys(row.label for row in rows))
        y_label = Y_LABELS[curve.quantity].format("test" if curve.split == "test" else "training")
        figure = labelled_curves([*rows, *beside], look, curve.message(ends_of(rows)), told, y_label)
        name = f"{curve.split}_{curve.quantity}"
        save_figure(figure, read_table(folder / f"{name}.csv", CurvePoint), folder, name)


def layer_rows(folder: Path, name: str) -> list[LayerPoint]:
    """The saved points of a figure with a panel for each layer."""
    return read_table(folder / f"{name}.csv", LayerPoint)


def draw_layers(folder: Path, name: str, quantity: str, beside: str, message: str, notes: str) -> None:
    """Draw a figure of layer panels with what it says as its first line; its csv file stays as it is."""
    rows = layer_rows(folder, name)
    figure = over_training(rows, quantity, beside=beside, title=notes)
    first, *rest = figure.get_suptitle().split("\n")
    figure.suptitle("\n".join([message, *rest]), x=0.1 / figure.get_figwidth(), y=figure._suptitle.get_position()[1], ha="left", fontsize=10)
    figure.supylabel(first, x=0.1 / figure.get_figwidth(), ha="left", fontsize=9)
    save_figure(figure, rows, folder, name)


@style.context(LOOK)
def symlog_panels(rows: Sequence[LayerPoint], look: Mapping[str, Style], title: str, notes: str, y_label: str) -> Figure:
    """Return a panel for each layer whose axis is linear around 0 and logarithmic beyond: values far below 0 are seen as what they are."""
    layers = list(dict.fromkeys(p.layer for p in rows))
    figure, grid = layer_panels(len(layers), list(look), look)
    for ax, layer in zip(grid, layers, strict=True):
        ax.set_yscale("symlog", linthresh=1, linscale=0.6)
        ax.axhline(0, color="0.45", linewidth=0.9, zorder=1)
        for label, drawn in look.items():
            mine = sorted((p for p in rows if (p.label, p.layer) == (label, layer) and math.isfinite(p.mean)), key=lambda p: p.step)
            ax.plot([p.step for p in mine], [p.mean for p in mine], color=drawn.colour, ls=drawn.dash, marker=drawn.marker, ms=4, lw=1.4)
        ax.set_title(layer, loc="left", pad=3)
    lowest = min(p.mean for p in rows if math.isfinite(p.mean))
    grid[0].set_ylim(min(-1.5, 1.6 * lowest), 1.5)
    grid[0].yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
    grid[0].yaxis.set_major_formatter(EngFormatter(sep=""))
    grid[0].xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    width, height = figure.get_size_inches()
    figure.suptitle(f"{title}\n{notes}", x=0.1 / width, y=1 - 0.08 / height, ha="left", fontsize=10)
    figure.supylabel(y_label, x=0.1 / width, ha="left", fontsize=9)
    return figure
