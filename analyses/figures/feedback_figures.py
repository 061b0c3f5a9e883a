"""Figures of the studies of feedback: the linear demonstration's race and angles, errors of MLPs by depth. Pure functions of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from analyses.figures.drawing import title_where
from gradlens.reporting.axes import spread
from gradlens.reporting.style import LOOK, styles

PAPERS_WINDOW = 10  # examples, of the race's figure


class RacePoint(NamedTuple):
    """One example of the race."""

    rule: str
    lr: float
    quantity: str  # nse, or angle (degrees, of B e to Wᵀ e)
    example: int
    mean: float  # nse: geometric
    low: float  # nse: 95 % t-interval over networks (of the logarithms); angle: 2 standard deviations over window and networks
    high: float
    seeds: int


class AnglePoint(NamedTuple):
    """The angle of B e to what another rule would send the hidden layer, around one example."""

    setting: str
    to: str  # backprop (Wᵀ e) or pseudo-backprop (W⁺ e)
    scale: float  # w
    example: int
    mean: float  # degrees
    low: float  # 95 % t-interval over networks
    high: float
    seeds: int


class Reading(NamedTuple):
    """An angle at the end that was read off the reference study's figure (one network a scale), and ours."""

    setting: str
    to: str
    scale: float
    figure: float  # degrees
    ours: float  # mean over networks
    low: float  # 95 % t-interval
    high: float
    sd: float  # of one network


class DepthPoint(NamedTuple):
    """A rule's test error at one depth."""

    data: str
    rule: str
    depth: int  # hidden layers
    mean: float  # %
    low: float  # 95 % t-interval over seeds
    high: float
    seeds: int


BLUE_TO_RED = LinearSegmentedColormap.from_list("scales", ["#1f4fa8", "#5b8fd0", "#8e6bb0", "#d0668a", "#c0202c"])
DEGREES = [0, 15, 30, 45, 60, 75, 90]
SYMBOLS = {"backprop": "Wᵀe (backprop)", "pseudo-backprop": "W⁺e (pseudo-backprop)"}


def _degrees(ax: Axes) -> None:
    ax.set_ylim(-3, 110)
    ax.set_yticks(DEGREES, [f"{d}°" for d in DEGREES])


@style.context(LOOK)
def angle_figure(rows: Sequence[AnglePoint], readings: Sequence[Reading], words: Mapping[str, str]) -> Figure:
    """Both angles over the examples, a row a setting, a line a scale; the figure's readings as open circles at the right end.

    Args:
        rows: of all settings.
        readings: the same.
        words: setting -> its title.

    """
    settings, scales = list(dict.fromkeys(r.setting for r in rows)), list(dict.fromkeys(r.scale for r in rows))
    last = max(r.example for r in rows) + 1
    figure = Figure(figsize=(8, 3.5 * len(settings) + 0.9))
    axes = figure.subplots(len(settings), 2, sharex=True, sharey=True, squeeze=False)
    bottom = 0.55 / figure.get_figheight()
    figure.subplots_adjust(left=0.07, right=0.93, top=1 - 0.95 / figure.get_figheight(), bottom=bottom, wspace=0.26, hspace=0.3)
    colours = {w: to_hex(BLUE_TO_RED(i / max(1, len(scales) - 1))) for i, w in enumerate(scales)}
    for i, setting in enumerate(settings):
        for ax, to in zip(axes[i], SYMBOLS, strict=True):
            _angles(ax, [r for r in rows if (r.setting, r.to) == (setting, to)], colours)
            mine = [r for r in readings if (r.setting, r.to) == (setting, to)]
            ax.plot(
                [1.35 * last] * len(mine), [r.figure for r in mine], "o", markersize=5, markerfacecolor="white",
                markeredgecolor="0.25", clip_on=False,
            )  # fmt: skip
            for r, y in zip(mine, spread([r.ours for r in mine], 5.6), strict=True):
                ax.text(1.9 * last, y, f"{r.scale:g}", color=colours[r.scale], fontsize=8.5, va="center", clip_on=False)
            ax.set_title(f"{words[setting]}\nangle to {SYMBOLS[to]}", loc="left", pad=4, fontsize=9.5)
            ax.set_xlim(1, 1.6 * last)
            if i == len(settings) - 1:
                ax.set_xlabel("example, log scale")
    seeds = max(r.seeds for r in rows)
    lines = (
        angles_title(readings),
        f"Angle of feedback alignment's Be · linear 30-20-10 · line: mean of {seeds} networks, its w at the right",
        "band: 95 % t-interval · circles: read off the reference study's figure, one network each",
    )
    figure.suptitle("\n".join(lines), x=0.011, y=0.992, ha="left", fontsize=10)
    return figure


def angles_title(readings: Sequence[Reading]) -> str:
    """What the angles say: within five degrees (root mean square) of the published ones in one setting, beyond ten in the other."""
    apart_ = {}
    for setting in ("inferred", "as written"):
        squares = [(r.ours - r.figure) ** 2 for r in readings if r.setting == setting]
        apart_[setting] = math.sqrt(fmean(squares)) if squares else math.nan
    return title_where(
        apart_["inferred"] < 5 and apart_["as written"] > 10,
        "The published angles appear where W begins ten times wider than W0, not where both begin in [−w, w]",
        "Angle of the feedback signal, simulated and as published",
    )


def _angles(ax: Axes, rows: Sequence[AnglePoint], colours: dict[float, str]) -> None:
    """A line and its band for each scale."""
    for w, colour in colours.items():
        mine = [r for r in rows if r.scale == w]
        x = [r.example + 1 for r in mine]
        ax.plot(x, [r.mean for r in mine], color=colour, linewidth=1.4)
        ax.fill_between(x, [r.low for r in mine], [r.high for r in mine], color=colour, alpha=0.12, linewidth=0)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    _degrees(ax)


@style.context(LOOK)
def race_figure(rows: Sequence[RacePoint]) -> Figure:
    """NSE of the three rules, and feedback alignment's angle to backprop."""
    figure = Figure(figsize=(8, 3.9))
    axes: Sequence[Axes] = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.075, right=0.975, top=0.78, bottom=0.125, wspace=0.18)
    colours: dict[str, str] = {"shallow": "0.45", **{name: look.colour for name, look in styles(("bp", "fa")).items()}}
    names = {"bp": "backprop", "fa": "feedback\nalignment", "shallow": "shallow (W only)"}
    last = max(r.example for r in rows)
    for rule, at, (dx, dy) in (("shallow", 0.5, (0, -6)), ("bp", 0.5, (6, 6)), ("fa", 0.4, (-6, -8))):
        mine = [r for r in rows if (r.rule, r.quantity) == (rule, "nse")]
        x, colour = [r.example for r in mine], colours[rule]
        axes[0].plot(x, [r.mean for r in mine], color=colour)
        axes[0].fill_between(x, [r.low for r in mine], [r.high for r in mine], color=colour, alpha=0.16, linewidth=0)
        near = min(mine, key=lambda r: abs(r.example - at * last))
        text: dict[str, Any] = {"ha": "right" if dx < 0 else "left", "va": "top" if dy < 0 else "bottom", "color": colour, "fontsize": 9}
        axes[0].annotate(f"{names[rule]},\nlr {mine[0].lr:g}", (near.example, near.mean), (dx, dy), textcoords="offset points", **text)
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-8, 3)
    axes[0].set_title("error, |y* − y|² ÷ |y*|², log scale", loc="left", pad=5)
    mine = [r for r in rows if r.quantity == "angle"]
    x = [r.example for r in mine]
    axes[1].plot(x, [r.mean for r in mine], color=colours["fa"])
    axes[1].fill_between(x, [r.low for r in mine], [r.high for r in mine], color=colours["fa"], alpha=0.16, linewidth=0)
    axes[1].set_title("angle of Be (fa) to Wᵀe (backprop)", loc="left", pad=5)
    _degrees(axes[1])
    for ax in axes:
        ax.set_xlim(0, last)
        ax.set_xlabel("example")
    seeds = max(r.seeds for r in rows)
    lines = (
        race_title(rows),
        f"Linear 30-20-10, W0 and W in ±0.01, a learning rate for each rule · mean of {seeds} networks",
        f"bands: left 95 % t-interval, right 2 s.d. over networks and a window of {PAPERS_WINDOW} examples",
    )
    figure.suptitle("\n".join(lines), x=0.011, y=0.985, ha="left", fontsize=10)
    return figure


def race_title(rows: Sequence[RacePoint]) -> str:
    """What the race says: examples until the mean error is below 1 %, and where the angle ends."""
    first = {
        rule: min((r.example for r in rows if (r.rule, r.quantity) == (rule, "nse") and r.mean < 0.01), default=math.inf)
        for rule in ("bp", "fa")
    }
    angle = [r.mean for r in sorted(rows, key=lambda r: r.example) if r.quantity == "angle"]
    return title_where(
        first["fa"] <= first["bp"] < math.inf and bool(angle) and angle[-1] < angle[0] - 20,
        "Feedback alignment learns as fast as backprop, while its signal turns towards backprop's",
        "Error and angle of feedback alignment over examples",
    )


@style.context(LOOK)
def depth_figure(rows: Sequence[DepthPoint], title: str, beside: str) -> Figure:
    """Test error over depth, a panel a data set, a line a rule.

    Args:
        rows: of all data sets.
        title: the message.
        beside: network and training, in words.

    """
    data, rules = list(dict.fromkeys(r.data for r in rows)), list(dict.fromkeys(r.rule for r in rows))
    looks = styles(rules)
    figure = Figure(figsize=(8, 3.9))
    ratios = [1.5 + len({r.depth for r in rows if r.data == name}) for name in data]
    axes = figure.subplots(1, len(data), squeeze=False, width_ratios=ratios)[0]
    figure.subplots_adjust(left=0.07, right=0.89, top=0.79, bottom=0.125, wspace=0.55)
    for ax, name in zip(axes, data, strict=True):
        depths = sorted({r.depth for r in rows if r.data == name})
        ends = []
        for i, rule in enumerate(rules):
            mine = sorted((r for r in rows if (r.data, r.rule) == (name, rule)), key=lambda r: r.depth)
            look, mean = looks[rule], [r.mean for r in mine]
            half = [[r.mean - r.low for r in mine], [r.high - r.mean for r in mine]]
            at = [depths.index(r.depth) + 0.07 * (i - (len(rules) - 1) / 2) for r in mine]
            ax.errorbar(at, mean, yerr=half, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=5, capsize=2)
            ends.append(mean[-1])
        low, high = ax.get_ylim()
        for rule, y in zip(rules, spread(ends, 0.065 * (high - low)), strict=True):
            ax.text(1.04, (y - low) / (high - low), rule, color=looks[rule].colour, fontsize=9.5, va="center", transform=ax.transAxes)
        ax.set_xticks(range(len(depths)), [str(d) for d in depths])
        ax.set_xlim(-0.35, len(depths) - 0.65)
        ax.yaxis.set_major_formatter("{x:g} %")
        ax.set_xlabel("hidden layers")
        ax.set_title(f"{name}: test error", loc="left", pad=5)
    seeds = max(r.seeds for r in rows)
    lines = (title, beside, f"mean and 95 % t-interval of {seeds} seeds, after the last epoch")
    figure.suptitle("\n".join(lines), x=0.011, y=0.985, ha="left", fontsize=10)
    return figure
