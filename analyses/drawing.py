"""Figures that several scripts here draw: a table in colour, and means with intervals in rows. Pure functions of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps, style
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gradlens.reporting.style import COLOURS, LOOK


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights of labels, moved up as far as it takes to leave a gap between neighbours."""
    placed: dict[int, float] = {}
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        placed[i] = max(heights[i], max(placed.values(), default=-math.inf) + gap)
    return [placed[i] for i in range(len(heights))]


class Cell(NamedTuple):
    """One setting's value: mean over seeds with its 95 % interval."""

    row: str
    column: str
    mean: float
    low: float
    high: float
    seeds: float


@style.context(LOOK)
def value_map(cells: Sequence[Cell], title: str, unit: str) -> Figure:
    """Means as a table in colour, each with half its interval under it; a combination there is none of stays empty."""
    rows, columns = (list(dict.fromkeys(values)) for values in ([c.row for c in cells], [c.column for c in cells]))
    values = np.full((len(rows), len(columns)), math.nan)
    text = {}
    for c in cells:
        i, j = rows.index(c.row), columns.index(c.column)
        values[i, j] = c.mean
        text[i, j] = f"{c.mean:.1f}" + (f"\n±{c.mean - c.low:.1f}" if math.isfinite(c.low) else "")
    norm, colours = Normalize(np.nanmin(values), np.nanmax(values)), colormaps["viridis"]
    figure = Figure(figsize=(2.2 + 0.95 * len(columns), 1.5 + 0.62 * len(rows)), layout="constrained")
    ax = figure.subplots()
    ax.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="white", linewidth=1.2)
    for (i, j), said in text.items():
        ink = "white" if np.dot(colours(norm(values[i, j]))[:3], (0.299, 0.587, 0.114)) < 0.5 else "0.1"
        ax.text(j + 0.5, i + 0.5, said, ha="center", va="center", color=ink, fontsize=8.5)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.invert_yaxis()
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
    figure.suptitle(title, fontsize=10.5)
    figure.supxlabel(f"{unit}; mean and half the 95 % interval over seeds", fontsize=9)
    return figure


@style.context(LOOK)
def dots(cells: Sequence[Cell], title: str, unit: str) -> Figure:
    """Means with their intervals, a row each from the top, a colour a column; rows of one column alone need no legend."""
    rows, columns = (list(dict.fromkeys(values)) for values in ([c.row for c in cells], [c.column for c in cells]))
    figure = Figure(figsize=(7.2, 1.5 + 0.3 * len(rows)), layout="constrained")
    ax = figure.subplots()
    shift = 0.5 / max(1, len(columns))
    for j, column in enumerate(columns):
        mine = [c for c in cells if c.column == column]
        at = [rows.index(c.row) + (j - (len(columns) - 1) / 2) * shift for c in mine]
        half = [c.mean - c.low if math.isfinite(c.low) else 0.0 for c in mine]
        ax.errorbar([c.mean for c in mine], at, xerr=half, fmt="o", ms=5, lw=1.4, color=COLOURS[j % len(COLOURS)], label=column)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"{unit}; mean and 95 % interval over seeds")
    ax.set_title(title, fontsize=10.5)
    if len(columns) > 1:
        figure.legend(fontsize=8.5, loc="outside lower center", ncols=min(5, len(columns)))
    return figure
