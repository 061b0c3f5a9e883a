"""Figures of analyses.predicting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.reporting.style import COLOURS, LOOK, MARKERS, PATTERNS, head

RAW, PSI, TOP = "labels alone (X1)", "pretext features (ψ)", "ψ, its k − 1 principal components"
EXACT, ORACLE = "ψ of endless pairs", "best linear prediction of the label"
UNIVERSAL, DEPENDENT, KERNEL = "best pretext features (ψ*)", "ψ*, dependent views (α = 0.5)", "labels alone, kernel ridge"
NAMES = {  # in the figures; others as they are
    RAW: "labels alone", PSI: "pretext features", TOP: "their main components", EXACT: "pretext features of endless pairs",
    ORACLE: "best linear prediction", UNIVERSAL: "best pretext features", DEPENDENT: "the same, dependent views",
}  # fmt: skip
LABELS = (RAW, PSI, TOP, EXACT, ORACLE, KERNEL, UNIVERSAL, DEPENDENT)


class Point(NamedTuple):
    """One point of a figure: a mean over trials."""

    panel: str  # a, b, c, d, or the sweep's α
    label: str
    x: float  # k, ε_CI (a mean over trials) or labels
    mean: float  # error E‖Y − prediction‖², or the sweep's excess risk
    error: float  # standard error of the mean; NaN for one trial
    trials: int


def strokes(label: str) -> dict[str, Any]:
    """How a line is drawn."""
    i = LABELS.index(label)
    colour = COLOURS[LABELS.index(UNIVERSAL) if label == DEPENDENT else i]
    return {"color": colour, "linestyle": (0, PATTERNS[i % len(PATTERNS)] or None), "marker": MARKERS[i], "markersize": 4, "linewidth": 1.5}


def line(ax: Axes, rows: Sequence[Point], label: str) -> None:
    """A line of means with the band of a standard error."""
    mine = sorted((p for p in rows if p.label == label), key=lambda p: p.x)
    x, y, e = ([getattr(p, name) for p in mine] for name in ("x", "mean", "error"))
    look = strokes(label)
    ax.plot(x, y, **look)
    ax.fill_between(x, np.subtract(y, e), np.add(y, e), color=look["color"], alpha=0.2, linewidth=0)


def legend(figure: Figure, rows: Iterable[Point], columns: int) -> None:
    """All lines of a figure."""
    present = {p.label for p in rows}
    handles = [Line2D([], [], label=NAMES.get(label, label), **strokes(label)) for label in LABELS if label in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


PANELS = {
    "a": ("(a) linear features, independent views", "classes"),
    "b": ("(b) linear features", "conditional dependence of the views"),
    "c": ("(c) best features", "classes"),
    "d": ("(d) best features", "conditional dependence of the views"),
}


@style.context(LOOK)
def panel_figure(rows: Sequence[Point], k: int, pairs: int, labels: int, message: str) -> Figure:
    """The four panels of the paper's figure 1, under what they say."""
    figure = Figure(figsize=(8.0, 6.6), layout="constrained")
    for ax, (panel, (title, x)) in zip(figure.subplots(2, 2).ravel(), PANELS.items(), strict=True):
        mine = [p for p in rows if p.panel == panel]
        for label in LABELS:
            if any(p.label == label for p in mine):
                line(ax, mine, label)
        ax.set_title(title + (f", {k} classes" if panel in "bd" else ""), loc="left")
        ax.set(xlabel=x, ylabel="squared error", ylim=(0, None))
    legend(figure, [p for p in rows if p.panel in PANELS], 3)
    head(
        figure,
        message,
        f"linear layer on features, {pairs:,} pairs, {labels:,} labels; mean ± 1 standard error of {rows[0].trials} trials",
    )
    return figure


@style.context(LOOK)
def label_figure(rows: Sequence[Point], alphas: Sequence[float], k: int, pairs: int, message: str) -> Figure:
    """Excess risk over the number of labels, a panel an α, under what they say."""
    shown = [f"α = {alpha:g}" for alpha in alphas]
    words = {"α = 0": "independent views", "α = 1": "one view twice"}
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    grid = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for ax, panel in zip(grid, shown, strict=True):
        ax.set(xscale="log", yscale="log", xlabel="number of labels")
        for label in LABELS:
            if any((p.panel, p.label) == (panel, label) for p in rows):
                line(ax, [p for p in rows if p.panel == panel], label)
        ax.set_title(words.get(panel, panel), loc="left")
    grid[0].set_ylabel("excess risk (squared error)")
    mine = [p for p in rows if p.panel in shown]
    legend(figure, mine, 3)
    head(
        figure,
        message,
        f"{k} classes, features from {pairs:,} pairs; α: share of a view in the other; mean ± 1 s.e. of {mine[0].trials} trials",
    )
    return figure
