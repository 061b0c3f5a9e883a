"""Draw curves over epochs whose lines are labelled at their ends, with readings of another study as open marks. Pure functions of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from gradlens.reporting.aggregate import CurvePoint
from gradlens.reporting.axes import Scale, label_ends, mean_line, view
from gradlens.reporting.style import LOOK, Style, in_lines, wrapped

READING = "reading"  # the split of points that are another study's


@style.context(LOOK)
def labelled_curves(
    rows: Sequence[CurvePoint],
    look: Mapping[str, Style],
    title: str,
    notes: Sequence[str],
    y_label: str,
    scale: Literal["linear", "log"] = "linear",
    epochs: Sequence[int] = (),
) -> Figure:
    """Return one plot: a line with its 95 % band for each label, named at its end.

    Args:
        rows: means over seeds by epoch; those of the split ``reading`` are drawn as open marks in their label's colour.
        look: label -> style, in the order of drawing.
        title: what the curves say.
        notes: what was run, for under the title.
        y_label: quantity and unit.
        scale: of the y axis.
        epochs: where ticks of a logarithmic epoch axis stand; none: the axis is linear.

    """
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    ax = figure.subplots()
    ax.set_yscale(scale)
    ends = {}
    for label, mine in _by_label(rows, look).items():
        lines = [p for p in mine if p.split != READING]
        if lines:
            mean_line(ax, [p.epoch for p in lines], lines, look[label], label)
            ends[label] = (lines[-1].epoch, lines[-1].mean, look[label].colour)
        read = [p for p in mine if p.split == READING]
        ax.plot([p.epoch for p in read], [p.mean for p in read], ls="", marker="o", ms=7, mfc="none", mec=look[label].colour, mew=1.4)
    _epoch_axis(ax, epochs)
    limits = (0, 100 if "%" in y_label else math.inf)
    ax.set_ylim(*view([p for p in rows if math.isfinite(p.mean)], Scale(y_label, limits=limits, log=scale == "log")))
    ax.set_ylabel(y_label)
    ax.set_title("\n".join([*wrapped(title, 6.9), *in_lines(notes, 7.1)]), loc="left", fontsize=10)
    figure.draw_without_rendering()  # the labels need the final limits
    label_ends(ax, ends)
    return figure


def _by_label(rows: Sequence[CurvePoint], look: Mapping[str, Style]) -> dict[str, list[CurvePoint]]:
    """Return each label's points with a value, by epoch, in the order of the styles."""
    found = {label: [p for p in rows if p.label == label and math.isfinite(p.mean)] for label in look}
    return {label: sorted(points, key=lambda p: p.epoch) for label, points in found.items() if points}


def _epoch_axis(ax: Axes, epochs: Sequence[int]) -> None:
    """Label the epochs; logarithmic where ticks are given."""
    ax.set_xlabel("epoch")
    if not epochs:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        return
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(list(epochs)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
