"""Figures of analyses.synthetic_gradient_scale and analyses.dni_unlocked. Pure functions of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.figures.drawing import title_where
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import COLOURS, LOOK, head


class LengthRow(NamedTuple):
    """‖synthetic‖ / ‖true‖ over seeds: the geometric mean, and the law's value where it gives one."""

    model: str
    width: int
    batch: int
    below: int  # blocks below the interface under the output block
    updates: int  # made before
    variant: str
    ratio: float
    predicted: float  # NaN: the law does not say
    seeds: int


class ArmRow(NamedTuple):
    """An arm's final test accuracy in %, over seeds."""

    comparison: str
    arm: str
    mean: float
    low: float
    high: float
    seeds: int
    rate: float


def arm_rows(values: Mapping[str, Sequence[float]], rates: Mapping[str, float]) -> list[ArmRow]:
    """The rows of a results file's final test accuracy: group "comparison: arm" -> one a seed."""
    rows = []
    for group, each in values.items():
        comparison, _, arm = group.partition(": ")
        rows.append(ArmRow(comparison, arm, *interval(each), rates[group]))
    return rows


def _lines(ax: Axes, rows: Sequence[LengthRow], x: str, looks: Sequence[tuple[Mapping[str, object], str, str, str, float]]) -> None:
    """Points of some rows and the law's line, with the name at the right end; the number moves the name up, in points."""
    for wanted, name, colour, marker, up in looks:
        mine = sorted((r for r in rows if all(getattr(r, key) == value for key, value in wanted.items())), key=lambda r: getattr(r, x))
        at = [getattr(r, x) for r in mine]
        ax.plot(at, [r.ratio for r in mine], marker, color=colour, markersize=5)
        law = [r.predicted for r in mine if math.isfinite(r.predicted)]
        ax.plot(at, law if len(law) == len(at) else [r.ratio for r in mine], color=colour, linewidth=1.2)
        ax.annotate(name, (at[-1], mine[-1].ratio), (7, up), textcoords="offset points", color=colour, va="center", fontsize=9)
    ax.axhline(1, color="0.4", linewidth=0.9, linestyle=(0, (4, 2)))
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(at, [f"{v}" for v in at], minor=False)
    ax.minorticks_off()


@style.context(LOOK)
def lengths_figure(rows: Sequence[LengthRow], width: int, batch: int) -> Figure:
    """Ratios over N before the first update and before the second, and over widths."""
    figure = Figure(figsize=(8.0, 4.3), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(1.15, 1, 1))
    blue, green, red, black = COLOURS[1], COLOURS[3], COLOURS[2], COLOURS[0]
    over_n, over_width = [r for r in rows if r.width == width], [r for r in rows if r.batch == batch]
    first = {"updates": 0, "variant": "as published"}
    blocks = ((2, "MLP, block 1", "o", 4.0), (1, "block 2", "s", 0.0), (0, "block 3", "^", 3.0))
    looks = [({**first, "model": "mlp", "below": below}, name, blue, marker, up) for below, name, marker, up in blocks]
    _lines(axes[0], over_n, "batch", [*looks, ({**first, "model": "basic-cnn", "below": 0}, "CNN, block 3", green, "D", -5.0)])
    second = {"updates": 1, "model": "mlp", "below": 0}
    arms = (({**second, "variant": "zero start"}, "δ", red, "o", 0.0), ({**second, "variant": "N·δ, zero start"}, "N·δ", black, "s", 0.0))
    _lines(axes[1], over_n, "batch", arms)
    arms = ((arms[0][0], "second, δ", red, "o", -5.0), (arms[1][0], "second, N·δ", black, "s", 0.0))
    _lines(axes[2], over_width, "width", (({**first, "model": "mlp", "below": 0}, "first, δ", blue, "^", 5.0), *arms))
    titles = ("first, bias as published", "second, zero start (MLP, block 3)", f"over the width (MLP, N = {batch})")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, loc="left", fontsize=9.5)
        ax.set_xlabel("batch size N" if ax is not axes[2] else "width")
        ax.set_xlim(ax.get_xlim()[0], ax.get_xlim()[1] * (3 if ax is axes[1] else 7))
    axes[0].set_ylabel("length: synthetic / true gradient")
    axes[0].text(9, 1.15, "as long as the true one", color="0.35", fontsize=9, va="bottom")
    head(
        figure,
        lengths_title(over_n),
        f"digits, width {width} where not said; points: {rows[0].seeds} seeds, lines on the left: the formula, without a free parameter",
    )
    return figure


def lengths_title(rows: Sequence[LengthRow]) -> str:
    """What the lengths of the MLP's last block say over N: with a power of N near 1 they grow as it does, with one near 0 not at all."""
    powers = []
    for updates, variant in ((0, "as published"), (1, "N·δ, zero start")):
        mine = sorted((r.batch, r.ratio) for r in rows if (r.model, r.below, r.updates, r.variant) == ("mlp", 0, updates, variant))
        batches, ratios = (np.log(values) for values in zip(*mine, strict=True))
        powers.append(float(np.polyfit(batches, ratios, 1)[0]))
    return title_where(
        abs(powers[0] - 1) < 0.1 and abs(powers[1]) < 0.1,
        "The first synthetic gradients are too long in proportion to N; regressing N·δ from zero takes the N away",
        "Length of the first synthetic gradients",
    )


CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # behind numbers that lie on lines


@style.context(LOOK)
def accuracy_figure(rows: Sequence[ArmRow], comparisons: Sequence[str], order: Sequence[str], title: str, note: str) -> Figure:
    """Final test accuracy, a row an arm, a panel a comparison; bp is a line across."""
    shown = [arm for arm in order if any(r.arm == arm for r in rows)]
    figure = Figure(figsize=(8.0, 1.4 + 0.33 * len(shown)), layout="constrained")
    for ax, comparison in zip(np.ravel(figure.subplots(1, len(comparisons), sharey=True, squeeze=False)), comparisons, strict=True):
        for i, arm in enumerate(shown):
            for row in (r for r in rows if (r.comparison, r.arm) == (comparison, arm)):
                colour = (
                    COLOURS[0] if arm == "bp" else "0.5" if arm.startswith("untrained") else COLOURS[2 if arm.startswith("cdni") else 1]
                )
                ax.plot([max(0, row.low), min(100, row.high)], [i, i], color=colour, linewidth=2)
                ax.plot(row.mean, i, "o", color=colour, markersize=5)
                ax.annotate(
                    f"{row.mean:.1f}", (row.mean, i), (0, 6), textcoords="offset points", ha="center", color=colour, fontsize=9, bbox=CLEAR
                )
                if arm in ("bp", "untrained blocks"):
                    ax.axvline(row.mean, color=colour, linewidth=0.8, linestyle=(0, (3, 2)))
        ax.set(yticks=range(len(shown)), yticklabels=shown, xlim=(0, 105), xlabel="test accuracy (%)", ylim=(len(shown) - 0.4, -0.8))
        ax.set_title(comparison, loc="left")
    head(figure, title, note)
    return figure
