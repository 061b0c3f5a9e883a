"""Figures of what is learned without labels: pure functions of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from gradlens.reporting.statistics import Interval
from gradlens.reporting.style import COLOURS, LOOK


class HeadPoint(NamedTuple):
    """What a probe reads from a representation trained under one projection head: mean over seeds with its 95 % interval."""

    head: str
    width: int  # numbers that the loss compares
    mean: float
    low: float
    high: float
    seeds: int


@style.context(LOOK)
def heads_figure(points: Sequence[HeadPoint], untrained: Interval, title: str) -> Figure:
    """Accuracy of the probe over the projection's width, a colour a head, named beside its points; the untrained network as a band."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax = figure.subplots()
    names = list(dict.fromkeys(p.head for p in points))
    widths = sorted({p.width for p in points})
    for i, name in enumerate(names):
        mine = [p for p in points if p.head == name]
        at = [widths.index(p.width) + 0.09 * (i - (len(names) - 1) / 2) for p in mine]
        ax.errorbar(at, [p.mean for p in mine], yerr=[p.high - p.mean for p in mine], fmt="o-", ms=5, lw=1.3, color=COLOURS[i])
        ax.annotate(name, (at[-1], mine[-1].mean), xytext=(12, 0), textcoords="offset points", va="center", color=COLOURS[i], fontsize=9)
    ax.axhspan(untrained.low, untrained.high, color="0.9", lw=0)
    ax.axhline(untrained.mean, color="0.5", lw=1)
    ax.set_xticks(range(len(widths)), [str(w) for w in widths])
    ax.set_xlabel("numbers that the loss compares (width of the projection)")
    ax.set_ylabel("probe of block3, test accuracy in %")
    ax.set_title(title, fontsize=10.5, loc="left")
    return figure


def by_name(values: Mapping[str, Sequence[float]], name: str) -> list[float]:
    """One group's values."""
    return [float(v) for v in values[name]]
