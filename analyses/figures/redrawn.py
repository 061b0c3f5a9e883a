"""Draw the figures of a results folder anew from the csv files in it: what the curves say as the title, lines named at their ends.

Used where runs took hours: a better picture needs no new run. Figures are pure functions of the rows that were saved.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, SymmetricalLogLocator

from analyses.figures.curve_drawing import LETTERS, READING, labelled_curves
from gradlens.reporting.aggregate import CurvePoint, LayerPoint
from gradlens.reporting.axes import label_ends, mean_line
from gradlens.reporting.style import LOOK, save_figure, styles
from gradlens.runtime.csv_tables import read_table

Y_LABELS = {"accuracy": "{} accuracy (%)", "loss": "{} loss (nats)"}


class Curve(NamedTuple):
    """One of the four pictures over epochs."""

    split: str  # train, test
    quantity: str  # accuracy, loss
    message: Callable[[Sequence[CurvePoint]], str]  # what its points say


def curve_rows(folder: Path, curve: Curve) -> list[CurvePoint]:
    """The saved points of a curve, accuracies in %."""
    rows = read_table(folder / f"{curve.split}_{curve.quantity}.csv", CurvePoint)
    if curve.quantity != "accuracy":
        return [row for row in rows if row.split != READING]
    return [row._replace(mean=100 * row.mean, low=100 * row.low, high=100 * row.high) for row in rows if row.split != READING]


def with_unit(ends: Mapping[str, float], unit: str, digits: int = 1) -> str:
    """Where curves end, in words whose parts stay in one line: ``bp 68.3 %, dgl 70.6 %``."""
    return ", ".join(f"{label} {value:.{digits}f}{unit}".replace(" ", "\u00a0") for label, value in ends.items())


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
        figure = labelled_curves([*rows, *beside], look, curve.message(rows), told, y_label)
        name = f"{curve.split}_{curve.quantity}"
        save_figure(figure, read_table(folder / f"{name}.csv", CurvePoint), folder, name)


class Panels(NamedTuple):
    """A picture with a panel for each layer, and what its lines say."""

    name: str  # of its files
    y_label: str
    message: Callable[[Sequence[LayerPoint]], str]  # what its points say
    scale: Literal["linear", "log", "symlog"] = "linear"  # symlog: linear within ±1, logarithmic beyond
    mark: float = 0  # where a reference line lies
    quantity: str = ""  # of the rows; "": there is one
    layers: Sequence[str] = ()  # those to draw; (): all


def draw_panels(folder: Path, panels: Panels, notes: str) -> None:
    """Draw a picture of panels from its csv file, which stays as it is; lines are named right of the last panel.

    Args:
        folder: of the results.
        panels: which picture.
        notes: what was run, for under the title.

    """
    rows = read_table(folder / f"{panels.name}.csv", LayerPoint)
    save_figure(panel_figure([r for r in rows if panels.quantity in ("", r.quantity)], panels, notes), rows, folder, panels.name)


@style.context(LOOK)
def panel_figure(rows: Sequence[LayerPoint], panels: Panels, notes: str) -> Figure:
    """Return a row of panels with common axes, bottom layer first."""
    layers = [layer for layer in dict.fromkeys(p.layer for p in rows) if layer in panels.layers or not panels.layers]
    look = styles(dict.fromkeys(p.label for p in rows))
    figure = Figure(figsize=(8.3, 3.3), layout="constrained")
    grid = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
    for ax, layer in zip(grid, layers, strict=True):
        if panels.scale == "symlog":
            ax.set_yscale("symlog", linthresh=1, linscale=0.6)
        else:
            ax.set_yscale(panels.scale)
        ax.axhline(panels.mark, color="0.45", linewidth=0.9, zorder=1)
        for label in look:
            mine = sorted((p for p in rows if (p.label, p.layer) == (label, layer) and math.isfinite(p.mean)), key=lambda p: p.step)
            mean_line(ax, [p.step + 1 for p in mine], mine, look[label], label)
        ax.set_title(layer, loc="left", pad=3)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlabel("update")
    grid[0].set_ylabel(panels.y_label)
    if panels.scale == "symlog":
        grid[0].set_ylim(1.6 * min(p.mean for p in rows), 1.5)
        grid[0].yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
    if panels.scale != "linear":
        grid[0].yaxis.set_major_formatter(EngFormatter(sep=""))
    figure.suptitle("\n".join([*textwrap.wrap(panels.message(rows), LETTERS), notes]), x=0.01, ha="left", fontsize=10)
    figure.draw_without_rendering()  # the labels need the final limits
    ends = {}
    for label in look:
        if mine := [p for p in rows if (p.label, p.layer) == (label, layers[-1]) and math.isfinite(p.mean)]:
            end = max(mine, key=lambda p: p.step)
            ends[label] = (end.step + 1, end.mean, look[label].colour)
    label_ends(grid[-1], ends)
    return figure
