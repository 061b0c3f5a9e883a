"""Draw the figures of a results folder anew from the csv files in it: what the curves say as the title, lines named at their ends.

Used where runs took hours: a better picture needs no new run. Figures are pure functions of the rows that were saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, SymmetricalLogLocator

from analyses.figures.curve_drawing import READING, labelled_curves
from gradlens.reporting.aggregate import CurvePoint, FinalValue, LayerPoint
from gradlens.reporting.axes import label_ends
from gradlens.reporting.heat_map import heat_map
from gradlens.reporting.style import GREY, LOOK, Style, band, head, save_figure, styles
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


def draw_curves(
    folder: Path,
    curves: Sequence[Curve],
    notes: Sequence[str],
    readings: Sequence[CurvePoint] = (),
    names: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
) -> None:
    """Draw the pictures over epochs; their csv files stay as they are.

    Args:
        folder: of the results.
        curves: which.
        notes: what was run, for under the title.
        readings: another study's test accuracies in %, with the split ``reading``.
        names: label -> what it is called in the picture.
        without: labels that are not drawn.

    """
    for curve in curves:
        drawn = [row for row in curve_rows(folder, curve) if row.label not in without]
        rows = [row._replace(label=(names or {}).get(row.label, row.label)) for row in drawn]
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
    without: Sequence[str] = ()  # labels that are not drawn
    updates: Literal["linear", "log"] = "log"  # scale of the axis of updates


def draw_panels(folder: Path, panels: Panels, notes: str, names: Mapping[str, str] | None = None) -> None:
    """Draw a picture of panels from its csv file, which stays as it is; lines are named right of the last panel.

    Args:
        folder: of the results.
        panels: which picture.
        notes: what was run, for under the title.
        names: label -> what it is called in the picture.

    """
    rows = read_table(folder / f"{panels.name}.csv", LayerPoint)
    drawn = [r for r in rows if panels.quantity in ("", r.quantity) and r.label not in panels.without]
    renamed = [r._replace(label=(names or {}).get(r.label, r.label)) for r in drawn]
    save_figure(panel_figure(renamed, panels, notes), rows, folder, panels.name)


SMOOTHED = 9  # recorded points in a running mean of a line of many
MANY = 40
FEW_DECADES = 100  # a range of a logarithmic axis up to which 2 and 5 are labelled too


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of the values around each one, of fewer towards the ends, as many on either side.

    >>> running_mean([0.0, 3.0, 6.0, 0.0], 3)
    [0.0, 3.0, 3.0, 0.0]
    """
    halves = [min(width // 2, i, len(values) - 1 - i) for i in range(len(values))]
    return [fmean(values[i - half : i + half + 1]) for i, half in enumerate(halves)]


def _line(ax: Axes, rows: Sequence[LayerPoint], look: Style, begin: float) -> None:
    """A line of means with markers at equal distances from ``begin``; one of many points is smoothed, with the points faint behind it."""
    x, y = [p.step + 1 for p in rows], [p.mean for p in rows]
    if len(rows) > MANY:
        ax.plot(x, y, color=look.colour, linewidth=0.7, alpha=0.35)
        y = running_mean(y, SMOOTHED)
    ax.plot(x, y, color=look.colour, linestyle=look.dash, linewidth=1.5, marker=look.marker, markersize=4.5, markevery=(begin, 0.25))
    band(ax, x, [p.low for p in rows], [p.high for p in rows], look.colour, 0.13)


def _short(value: float, _: int) -> str:
    """A tick in at most five signs: thousands by their letter."""
    return EngFormatter(sep="")(value) if abs(value) >= 1000 else f"{value:g}".replace("-", "−")


@style.context(LOOK)
def panel_figure(rows: Sequence[LayerPoint], panels: Panels, notes: str) -> Figure:
    """Return a row of panels with common axes, bottom layer first."""
    layers = [layer for layer in dict.fromkeys(p.layer for p in rows) if layer in panels.layers or not panels.layers]
    look = styles(dict.fromkeys(p.label for p in rows))
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    grid = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
    finite = [p for p in rows if math.isfinite(p.mean) and (p.mean > 0 or panels.scale != "log")]
    for ax, layer in zip(grid, layers, strict=True):
        if panels.scale == "symlog":
            ax.set_yscale("symlog", linthresh=1, linscale=0.6)
        else:
            ax.set_yscale(panels.scale)
        ax.set_xscale(panels.updates)
        ax.axhline(panels.mark, color=GREY, linewidth=0.9, zorder=1)
        for i, label in enumerate(look):
            mine = sorted((p for p in finite if (p.label, p.layer) == (label, layer)), key=lambda p: p.step)
            _line(ax, mine, look[label], 0.25 * i / len(look))
        ax.set_title(layer, loc="left", pad=3)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlabel("update" + ", log scale" * (panels.updates == "log"))
    grid[0].set_ylabel(panels.y_label)
    reach = [p.mean for p in finite]
    margin = 0.04 * (max(reach) - min(reach))
    if panels.scale == "symlog":
        grid[0].set_ylim(1.6 * min(reach), 1.5)
        grid[0].yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1))
    elif panels.scale == "log":
        low, high = min(0.5, min(reach) / 1.3), max(2.0, 1.3 * max(reach))
        grid[0].set_ylim(low, high)
        if high / low < FEW_DECADES:
            grid[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            grid[0].yaxis.set_minor_locator(NullLocator())
    else:
        grid[0].set_ylim(min(reach) - margin, max(reach) + margin)
    if panels.scale != "linear":
        grid[0].yaxis.set_major_formatter(_short)
    several = "" if max(p.seeds for p in finite) == 1 else "; band: 95 % t-interval (cut at the panel)"
    smooth = f"; lines of many points: running mean of {SMOOTHED}" if len({p.step for p in rows}) > MANY else ""
    head(figure, panels.message(rows), f"{notes}{several}{smooth}")
    figure.draw_without_rendering()  # the labels need the final limits
    ends = {}
    for label in look:
        if mine := [p for p in finite if (p.label, p.layer) == (label, layers[-1])]:
            end = max(mine, key=lambda p: p.step)
            ends[label] = (end.step + 1, end.mean, look[label].colour)
    label_ends(grid[-1], ends)
    return figure


def draw_heat_map(folder: Path, message: Callable[[Mapping[str, float]], str], notes: str, layers: Sequence[str]) -> None:
    """Draw a folder's final cosines, a rule a row, without backprop's, which are 1, and in some layers only.

    Args:
        folder: of the results; its csv file stays as it is.
        message: what it says, from the rules' cosines in the first of the layers.
        notes: what was run.
        layers: columns.

    """
    rows = read_table(folder / "cosine_heat_map.csv", FinalValue)
    shown = [row for row in rows if row.label != "bp" and row.layer in layers]
    figure = heat_map(shown, "cosine", label_rows=True)
    first = {row.label: row.mean for row in shown if row.layer == layers[0]}
    head(figure, message(first), "Cosine of the weight gradient with the true one, mean over the last recorded epoch", notes)
    save_figure(figure, rows, folder, "cosine_heat_map")


def draw_updates(folder: Path, name: str, label: str, message: Callable[[Sequence[LayerPoint]], str], notes: str) -> None:
    """Draw one label's quantity as a table in colour, a layer a row and an update a column: where a row of panels would be long.

    Args:
        folder: of the results; its csv file stays as it is.
        name: of the picture.
        label: whose values.
        message: what they say.
        notes: what was run.

    """
    rows = read_table(folder / f"{name}.csv", LayerPoint)
    mine = [row for row in rows if row.label == label]
    cells = [FinalValue(f"update {r.step + 1}", r.layer, r.kind, r.quantity, r.mean, r.low, r.high, r.seeds, r.dropped) for r in mine]
    figure = heat_map(cells, cells[0].quantity)
    head(figure, message(mine), notes)
    save_figure(figure, rows, folder, name)
