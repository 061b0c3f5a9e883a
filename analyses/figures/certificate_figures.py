"""Figures of analyses/certificates.py: points separated by block, and regret over rounds. Pure functions of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from gradlens.reporting.axes import spread
from gradlens.reporting.style import GREY, LOOK, styles


class NStarPoint(NamedTuple):
    """How many points a block separates: the geometric mean of N* over labellings, and over seeds."""

    rule: str
    block: str
    labels: str  # true or dealt
    mean: float
    low: float  # 95 % t-interval over seeds, of the logarithms
    high: float
    seeds: int


class RegretPoint(NamedTuple):
    """Regret of the online probe after some rounds, and its bound."""

    rule: str
    block: str
    rounds: int
    mean: float  # nats
    low: float  # 95 % t-interval over seeds
    high: float
    bound: float  # of the learner's theorem; the same for all seeds
    seeds: int


def n_star_message(rows: Sequence[NStarPoint], capacity: int) -> str:
    """How many blocks separate measurably more images of the classes than points in general position would be."""
    true = [r for r in rows if r.labels == "true"]
    more = sum(r.low > capacity for r in true)
    low, high = (f"{end(r.mean for r in true):.0f}" for end in (min, max))
    who = f"{more} of {len(true)} blocks separate" if more > 1 else "One block separates" if more else "No block separates"
    return f"{who} measurably more images than as many random points would be (N* {low} to {high}; {capacity})"


@style.context(LOOK)
def n_star_figure(rows: Sequence[NStarPoint], capacity: int, beside: str) -> Figure:
    """Points separated by block: left of halves of the classes, right of labels shuffled over images; a line a rule."""
    figure = Figure(figsize=(8, 4.0))
    axes = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.085, right=0.9, top=0.79, bottom=0.13, wspace=0.25)
    rules, blocks = list(dict.fromkeys(r.rule for r in rows)), list(dict.fromkeys(r.block for r in rows))
    looks = styles(rules)
    low, high = min(0.9 * capacity, *(r.low for r in rows)), max(r.high for r in rows)
    for ax, labels in zip(axes, ("true", "dealt"), strict=True):
        ends = []
        for rule in rules:
            mine = [r for r in rows if (r.rule, r.labels) == (rule, labels)]
            look, x = looks[rule], range(len(blocks))
            half = [[r.mean - r.low for r in mine], [r.high - r.mean for r in mine]]
            shift = 0.04 * (rules.index(rule) - (len(rules) - 1) / 2)
            ax.errorbar(
                [i + shift for i in x], [r.mean for r in mine], yerr=half, color=look.colour, linestyle=look.dash, marker=look.marker,
                markersize=5, capsize=2,
            )  # fmt: skip
            ends.append(mine[-1].mean)
        ax.axhline(capacity, color=GREY, linewidth=1.1, linestyle=(0, (1, 1.5)))
        ax.set_yscale("log", base=2)
        ax.set_ylim(low / 1.05, high * 1.05)
        heights = spread([math.log2(y) for y in ends], 0.06 * math.log2(high / low))
        for rule, y in zip(rules, heights, strict=True):
            name = "untrained" if rule == "shallow" else rule
            ax.text(len(blocks) - 0.78, 2**y, name, color=looks[rule].colour, fontsize=9.5, va="center", clip_on=False)
        ax.set_xticks(range(len(blocks)), blocks)
        ax.set(xlim=(-0.3, len(blocks) - 0.8), xlabel="block, from the image to the top")
    ticks = [t for t in (16, 24, 32, 48, 64, 96, 128, 192, 256) if low / 1.05 <= t <= high * 1.05]
    axes[0].set_yticks(ticks, [str(t) for t in ticks])
    axes[0].minorticks_off()
    axes[0].set_ylabel("N*, images separated (log scale)")
    axes[0].set_title("classes, five against five", loc="left", pad=5)
    axes[1].set_title(f"labels shuffled; dotted: Cover's capacity, {capacity}", loc="left", pad=5)
    lines = (n_star_message(rows, capacity), beside, f"mean and 95 % t-interval of {max(r.seeds for r in rows)} seeds")
    figure.suptitle("\n".join(lines), x=0.011, y=0.985, ha="left", fontsize=10)
    return figure


def regret_message(rows: Sequence[RegretPoint]) -> str:
    """The largest share of its bound that a mean regret reaches."""
    return f"A linear learner's regret stays at {100 * max(r.mean / r.bound for r in rows):.0f} % of its bound or less, on every block"


@style.context(LOOK)
def regret_figure(rows: Sequence[RegretPoint], beside: str) -> Figure:
    """Regret over rounds beside its bound, both axes logarithmic, a panel a block, a line a rule."""
    rules, blocks = list(dict.fromkeys(r.rule for r in rows)), list(dict.fromkeys(r.block for r in rows))
    looks = styles(rules)
    figure = Figure(figsize=(8, 4.0))
    axes = figure.subplots(1, len(blocks), sharey=True)
    floor = 0.7 * min((r.mean for r in rows if r.mean > 0), default=0.1)
    figure.subplots_adjust(left=0.085, right=0.9, top=0.79, bottom=0.13, wspace=0.08)
    for ax, block in zip(axes, blocks, strict=True):
        ends = []
        for rule in rules:
            mine = [r for r in rows if (r.rule, r.block) == (rule, block)]
            look, x = looks[rule], [r.rounds for r in mine]
            ax.plot(x, [r.mean for r in mine], color=look.colour, linestyle=look.dash, linewidth=1.6)
            ax.fill_between(x, [r.low for r in mine], [r.high for r in mine], color=look.colour, alpha=0.15, linewidth=0)
            ends.append(mine[-1].mean)
        bounds = {r.rounds: r.bound for r in rows if r.block == block}
        ax.plot(list(bounds), list(bounds.values()), color=GREY, linewidth=1.3, linestyle=(0, (1, 1.5)))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_ylim(bottom=floor)
        ticks = [t for t in (1, 4, 16, 64, 256) if t <= max(bounds)]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xlabel("rounds T (batches)")
        ax.set_title(block, loc="left", pad=5)
        if block == blocks[-1] and min(ends) > 0:
            low, high = ax.get_ylim()
            heights = spread([math.log(y) for y in ends], 0.06 * math.log(high / low))
            for rule, y in zip(rules, heights, strict=True):
                name = "untrained" if rule == "shallow" else rule
                ax.text(1.35 * max(bounds), math.exp(y), name, color=looks[rule].colour, fontsize=9.5, va="center", clip_on=False)
    axes[0].set_ylabel("cumulative regret (nats)")
    first = min(bounds)
    axes[0].annotate("bound, ∝ √T", (4 * first, bounds[4 * first]), (0, -14), textcoords="offset points", color=GREY, fontsize=9)
    lines = (regret_message(rows), beside, f"mean of {max(r.seeds for r in rows)} seeds, band: 95 % t-interval")
    figure.suptitle("\n".join(lines), x=0.011, y=0.985, ha="left", fontsize=10)
    return figure
