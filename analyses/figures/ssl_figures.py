"""Figures of what is learned without labels: pure functions of rows. Titles say what is seen, names stand beside what they name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from analyses.figures.drawing import Cell
from gradlens.reporting.axes import spread
from gradlens.reporting.statistics import Interval
from gradlens.reporting.style import COLOURS, GREY, LOOK, MARKERS, head

SETTING = 9  # points, of names beside lines


class HeadPoint(NamedTuple):
    """What a probe reads from a representation trained under one projection head: mean over seeds with its 95 % interval."""

    head: str
    width: int  # numbers that the loss compares
    mean: float
    low: float
    high: float
    seeds: int


def _bars(ax: Axes, x: Sequence[float], cells: Sequence[Cell | HeadPoint], colour: str, marker: str, line: str = "") -> None:
    """Means with upright intervals; none where there is one seed."""
    low, high = (
        [abs(end - c.mean) if math.isfinite(end) else 0.0 for c, end in ((c, getattr(c, side)) for c in cells)] for side in ("low", "high")
    )
    ax.errorbar(x, [c.mean for c in cells], yerr=[low, high], fmt=marker + line, ms=5, lw=1.4, color=colour, capsize=2)


@style.context(LOOK)
def heads_figure(points: Sequence[HeadPoint], untrained: Interval, message: str, setting: str) -> Figure:
    """The probe's accuracy over the projection's width, a colour a head, named beside its last point; the untrained network as a band."""
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    ax = figure.subplots()
    names = list(dict.fromkeys(p.head for p in points))
    widths = sorted({p.width for p in points})
    lowest = min([p.low for p in points] + [untrained.low])
    highest = max(p.high for p in points)
    ends = [next(p.mean for p in reversed(points) if p.head == name) for name in names]
    heights = spread(ends, 0.075 * (highest - lowest))
    for i, name in enumerate(names):
        mine = [p for p in points if p.head == name]
        at = [widths.index(p.width) + 0.07 * (i - (len(names) - 1) / 2) for p in mine]
        _bars(ax, at, mine, COLOURS[i], MARKERS[i], "-")
        ax.text(len(widths) - 0.8, heights[i], name, va="center", color=COLOURS[i], fontsize=SETTING)
    ax.axhspan(untrained.low, untrained.high, color="0.92", lw=0)
    ax.axhline(untrained.mean, color=GREY, lw=1, ls="--")
    ax.text(-0.28, untrained.mean, "untrained network", va="bottom", color=GREY, fontsize=SETTING)
    ax.set_xticks(range(len(widths)), [str(w) for w in widths])
    ax.set_xlim(-0.3, len(widths) - 0.35)
    ax.set_xlabel("numbers that the loss compares (width of the projection)")
    ax.set_ylabel(f"probe of block3, test accuracy in %;\nmean and 95 % interval of {points[0].seeds} seeds")
    ax.grid(axis="x", visible=False)
    head(figure, message, setting)
    return figure


@style.context(LOOK)
def rows_figure(cells: Sequence[Cell], message: str, setting: str, unit: str, limit: float | None = None) -> Figure:
    """Means with intervals, a row each from the top, a colour and marker a column; several columns are named above the first row.

    Args:
        cells: the means.
        message: what is seen.
        setting: of what.
        unit: of the axis.
        limit: the largest possible value; intervals end there.

    """
    rows, columns = (list(dict.fromkeys(values)) for values in ([c.row for c in cells], [c.column for c in cells]))
    figure = Figure(figsize=(7.2, 1.6 + 0.36 * len(rows)), layout="constrained")
    ax = figure.subplots()
    shift = 0.56 / max(1, len(columns))
    names: list[Annotation] = []
    for j, column in enumerate(columns):
        mine = [c for c in cells if c.column == column]
        at = [rows.index(c.row) + (j - (len(columns) - 1) / 2) * shift for c in mine]
        ends = [
            (c.mean - c.low, min(c.high, limit if limit is not None else math.inf) - c.mean) if math.isfinite(c.low) else (0.0, 0.0)
            for c in mine
        ]
        colour = COLOURS[j % len(COLOURS)]
        ax.errorbar([c.mean for c in mine], at, xerr=np.array(ends).T, fmt=MARKERS[j], ms=5, lw=1.4, color=colour, capsize=2)
        where: dict[str, Any] = {"xy": (0, 1.01), "xycoords": "axes fraction", "xytext": (0, 0)}
        if names:  # behind the name before it
            where = {"xy": (1, 0), "xycoords": names[-1], "xytext": (14, 0)}
        if len(columns) > 1:
            names.append(
                ax.annotate(f"{'●■▲◆▼'[j]} {column}", color=colour, fontsize=SETTING, va="bottom", textcoords="offset points", **where)
            )
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    if limit is not None:
        ax.set_xlim(right=limit + 0.02 * (limit - ax.get_xlim()[0]))
    ax.set_xlabel(f"{unit};\nmean and 95 % interval of {seeds_of(cells)} seeds")
    head(figure, message, setting)
    return figure


def seeds_of(cells: Sequence[Cell]) -> str:
    """How many seeds the means are of, as ``5`` or ``3 to 5``."""
    counts = sorted({int(c.seeds) for c in cells})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


@style.context(LOOK)
def lines_figure(cells: Sequence[Cell], message: str, setting: str, axis: str, unit: str, apart: Mapping[str, str] | None = None) -> Figure:
    """Means with intervals over the columns, a line a row, named beside its last point.

    Args:
        cells: the means; those of one row are one line.
        message: what is seen.
        setting: of what.
        axis: what the columns are.
        unit: of the means.
        apart: columns that stand apart, without a line -> what they are called there.

    """
    apart = apart or {}
    rows = list(dict.fromkeys(c.row for c in cells))
    columns = [c for c in dict.fromkeys(c.column for c in cells) if c not in apart]
    places = {name: float(i) for i, name in enumerate(columns)}
    places |= {name: len(columns) + 0.6 + i for i, name in enumerate(apart)}
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    ax = figure.subplots()
    lowest, highest = min(c.low for c in cells), max(c.high for c in cells)
    ends = [next(c.mean for c in reversed(cells) if c.row == row and c.column == columns[-1]) for row in rows]
    heights = spread(ends, 0.06 * (highest - lowest))
    for i, row in enumerate(rows):
        colour, marker, shift = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], 0.05 * (i - (len(rows) - 1) / 2)
        for line, group in (
            ("-", [c for c in cells if c.row == row and c.column not in apart]),
            ("", [c for c in cells if c.row == row and c.column in apart]),
        ):
            if group:
                _bars(ax, [places[c.column] + shift for c in group], group, colour, marker, line)
        ax.text(len(columns) - 0.8, heights[i], row, va="center", color=colour, fontsize=SETTING)
    ax.set_xticks(list(places.values()), [apart.get(name, name) for name in places])
    ax.set_xlim(-0.3, max(len(columns) - 0.05, max(places.values()) + 0.4 if apart else 0.0))
    ax.set_xlabel(axis)
    ax.set_ylabel(f"{unit};\nmean and 95 % interval of {seeds_of(cells)} seeds")
    ax.grid(axis="x", visible=False)
    head(figure, message, setting)
    return figure


@style.context(LOOK)
def pairs_figure(cells: Sequence[Cell], message: str, setting: str, unit: str) -> Figure:
    """Accuracies of settings alone (diagonal) and in pairs, as a full symmetric table in colour; other cells are written below it."""
    names = list(dict.fromkeys(c.row for c in cells if c.row == c.column and c.row != "all"))
    found = {frozenset((c.row, c.column)): c for c in cells}
    values = np.array([[found[frozenset((a, b))].mean for b in names] for a in names])
    norm, colours = Normalize(values.min(), values.max()), colormaps["YlGnBu"]
    figure = Figure(figsize=(6.4, 4.9), layout="constrained")
    ax = figure.subplots()
    mesh = ax.pcolormesh(values, cmap=colours, norm=norm, edgecolors="white", linewidth=1.5)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            cell = found[frozenset((a, b))]
            ink = "white" if np.dot(colours(norm(cell.mean))[:3], (0.299, 0.587, 0.114)) < 0.5 else "0.1"
            ax.text(
                j + 0.5,
                i + 0.5,
                f"{cell.mean:.1f}\n± {(cell.high - cell.low) / 2:.1f}",
                ha="center",
                va="center",
                color=ink,
                fontsize=SETTING,
            )
    ax.set_xticks(np.arange(len(names)) + 0.5, names)
    ax.set_yticks(np.arange(len(names)) + 0.5, [f"{name} alone or with" for name in names])
    ax.invert_yaxis()
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
    figure.colorbar(mesh, ax=ax, label=unit, shrink=0.9)
    together = found.get(frozenset(("all",)))
    rest = f"all four together {together.mean:.1f} ± {(together.high - together.low) / 2:.1f} %; " if together else ""
    figure.supxlabel(f"{rest}mean ± half the 95 % interval of {seeds_of(cells)} seeds", fontsize=SETTING)
    head(figure, message, setting)
    return figure
