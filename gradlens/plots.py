"""Tables in, figures out; nothing here trains or imports torch. Each figure is a pure function of its table.

Figures are built on matplotlib's ``Figure`` without pyplot: no global state, no display needed. matplotlib's own defaults
are used whatever the user's matplotlibrc says, so that the same table gives the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from gradlens.errors import InputError
from gradlens.reporting_style import LOOK, MARKERS, Style, styles
from gradlens.tables import (
    TRAIN,
    TRAIN_EVAL,
    CurvePoint,
    FinalValue,
    LayerPoint,
    alignment_values,
    curve_points,
    descent_points,
    final_values,
    labels,
    layer_points,
)

if TYPE_CHECKING:  # imports torch
    from gradlens.run import Run

FEW = 25  # points in a line: up to here each gets a marker, in longer ones some

R = TypeVar("R", LayerPoint, FinalValue)


class Scale(NamedTuple):
    """How a quantity's axis is drawn."""

    name: str  # at the axis
    text: str = ""  # what it means, for the title
    limits: tuple[float, float] = (-math.inf, math.inf)  # the axis ends here at the latest
    shown: tuple[float, float] | None = None  # always in view
    mark: float | None = None  # where a reference line is drawn
    log: bool = False


SCALES = {
    "cosine": Scale("cosine", "cosine of the rule's gradient and the true one", (-1, 1), (-0.2, 1), 0),
    "angle": Scale("angle (degrees)", "angle between the rule's gradient and the true one", (0, 180), (0, 90), 90),
    "norm_ratio": Scale(
        "norm ratio, log scale", "norm of the rule's gradient ÷ norm of the true one", (0, math.inf), (0.5, 2), 1, log=True
    ),
    "sign_agreement": Scale("share of signs", "share of the true gradient's signs that the rule's has", (0, 1), (0.4, 1), 0.5),
    "null_cosine": Scale("cosine", "chance (deltas dealt to other images)", (-1, 1), (-0.2, 1), 0),
    "descent_ratio": Scale("measured ÷ predicted", "change of the loss by the real step ÷ its first-order prediction", (-1, 2), (0, 1), 1),
    "synth_explained_variance": Scale(
        "explained variance", "share of the incoming gradient's variance that the synthetic one explains", (-1, 1), (-1, 1), 0
    ),
    "effective_rank": Scale("effective rank", "effective rank of each block's output", (0, math.inf), (0, 2)),
    "fisher": Scale("between ÷ within", "scatter between the classes ÷ scatter within them", (0, math.inf), (0, 0)),
    "reconstruction_r2": Scale("R²", "I(h, x): share of the images' variance that a decoder gives back", (-1, 1), (0, 1), 0),
    "information_y_bits": Scale("bits", "I(h, y): bits of the label that a head finds, a lower bound", mark=0),
}
ANGLES = {  # kind of rows -> the two that the angle is between
    "feedback_transpose": "feedback matrix and the weights' transpose",
    "feedback_pseudoinverse": "feedback matrix and the weights' pseudo-inverse",
    "feedback_jacobian": "feedback matrix and the batch-mean Jacobian of the logits",
}
KINDS = {"weight": "weights", "bias": "biases", "parameters": "all parameters of a block", "activation": "output of a block"}


def _scale(quantity: str) -> Scale:
    return SCALES.get(quantity, Scale(quantity.replace("_", " ")))


# ------------------------------------------------------------------------------------------------------ shared strokes


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _seeds(rows: Iterable[CurvePoint | LayerPoint | FinalValue]) -> str:
    """Over how many seeds the means go, in words."""
    counts = sorted({row.seeds for row in rows if row.seeds})
    return "one seed" if counts[-1] == 1 else f"mean of {'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"


def _band(rows: Iterable[CurvePoint | LayerPoint]) -> str:
    """What the band is, in words, if there is one."""
    return "band: 95 % t-interval" if any(math.isfinite(row.low) for row in rows) else ""


def _line(ax: Axes, x: Sequence[int], rows: Sequence[CurvePoint | LayerPoint], look: Style, label: str) -> None:
    """A line of means, gaps where there is none, and the band of the interval."""
    y = np.array([row.mean for row in rows])
    if ax.get_yscale() == "log":
        y[~(y > 0)] = math.nan
    here = np.isfinite(y)
    alone = here & ~np.r_[False, here[:-1]] & ~np.r_[here[1:], False]  # between gaps: invisible without a marker
    stride = max(1, len(x) // 7)
    first = MARKERS.index(look.marker) * stride // len(MARKERS)  # so that markers do not hide each other
    sparse = np.arange(len(x)) % stride == first
    width = 1.7 if len(x) <= FEW else 1.2 if len(x) <= 10 * FEW else 0.9
    marked = np.flatnonzero(here if len(x) <= FEW else alone | sparse)
    ax.plot(
        x, y, color=look.colour, linestyle=look.dash, linewidth=width, marker=look.marker, markersize=4,
        markevery=marked.tolist(), label=label,
    )  # fmt: skip
    low, high = [row.low for row in rows], [row.high for row in rows]
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)


def _view(rows: Sequence[CurvePoint | LayerPoint], scale: Scale) -> tuple[float, float]:
    """The y axis' ends: all means, and the bands as far as they do not dwarf them; within the scale's limits, plus a margin."""
    to, back = (math.log10, lambda v: 10.0**v) if scale.log else (float, float)
    drawn = [row for row in rows if math.isfinite(row.mean) and (row.mean > 0 or not scale.log)]
    means = [to(row.mean) for row in drawn] + [to(v) for v in scale.shown or ()]
    lowest, highest = min(means), max(means)
    reach = (highest - lowest) or 1.0
    ends = [to(v) for row in drawn for v in (row.low, row.high) if math.isfinite(v) and (v > 0 or not scale.log)]
    lowest, highest = max(min([lowest, *ends]), lowest - reach), min(max([highest, *ends]), highest + reach)
    if not scale.log:
        lowest, highest = max(lowest, scale.limits[0]), min(highest, scale.limits[1])
    margin = 0.05 * (highest - lowest or abs(highest) or 1.0)
    return back(lowest - margin), back(highest + margin)


def _y_axis(ax: Axes, rows: Sequence[CurvePoint | LayerPoint], scale: Scale) -> None:
    low, high = _view(rows, scale)
    ax.set_ylim(low, high)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    room = int(ax.get_position().height * figure.get_figheight() / 0.22)  # tick labels that fit
    if scale.log:
        subs = (1.0, 2.0, 5.0) if 3 * math.log10(high / low) < room else (1.0,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=room))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}" if 1e-3 <= v <= 1e3 else f"$10^{{{round(math.log10(v))}}}$")


def _head(figure: Figure, scale: Scale, rows: Sequence[LayerPoint | FinalValue], *notes: str) -> None:
    """Two lines above the panels: what is drawn, and of which runs."""
    what = f"{scale.text or scale.name}{f' ({KINDS[rows[0].kind]})' if rows[0].kind in KINDS else ''}"
    if rows[0].kind in ANGLES:
        what = f"angle between {ANGLES[rows[0].kind]}"
    lines = what[0].upper() + what[1:], _joined(*notes)
    free = figure.get_layout_engine() is None  # else the layout finds the height that clears the panels
    y = 1 - 0.08 / figure.get_figheight() if free else None
    figure.suptitle("\n".join(lines), x=0.1 / figure.get_figwidth(), y=y, ha="left", fontsize=10)


# ------------------------------------------------------------------------------------------------------------- figures


@style.context(LOOK)
def curve(points: Sequence[CurvePoint], split: str, quantity: str, *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Loss or accuracy over epochs, all labels in one plot; on a held-out split each label's highest mean accuracy is starred.

    Args:
        points: from :func:`gradlens.tables.curve_points`.
        split: train, train-eval, test or validation.
        quantity: loss or accuracy.
        title: what the runs have in common.
        look: from :func:`styles`; default: of these points' labels.

    Raises:
        InputError: the table has no such split or quantity.

    """
    rows = [p for p in points if p.split == split and p.quantity == quantity and p.seeds]
    if not rows:
        there = ", ".join(sorted({f"{p.split} {p.quantity}" for p in points if p.seeds})) or "nothing"
        raise InputError(f"no {split} {quantity} to draw; the table has {there}")
    look = look or styles(p.label for p in rows)
    share = quantity == "accuracy"
    starred = share and split not in (TRAIN, TRAIN_EVAL)
    values = [p.mean for p in rows]
    log = not share and min(values) > 0 and max(values) > 100 * min(values)  # else one spike or one bad run flattens all others
    unit = " (%)" if share else ", log scale" if log else ""
    scale = Scale(f"{split} {quantity}{unit}", limits=(0, 1 if share else math.inf), log=log)

    longest = max(len(p.label) for p in rows) + (16 if starred else 0)
    figure = Figure(figsize=(min(9.3, max(7.6, 6 + 0.085 * longest)), 4.2), layout="constrained")
    ax = figure.subplots()
    ax.set_yscale("log" if log else "linear")
    for label in (name for name in look if any(p.label == name for p in rows)):
        mine = sorted((p for p in rows if p.label == label), key=lambda p: p.epoch)
        text = label
        if starred:
            best = max(mine, key=lambda p: (p.mean, -p.epoch))
            text = f"{label}: {100 * best.mean:.1f} % ({best.epoch})"
            ax.plot(best.epoch, best.mean, "*", color=look[label].colour, markersize=12, markeredgecolor="white", zorder=4)
        _line(ax, [p.epoch for p in mine], mine, look[label], text)
    _y_axis(ax, rows, scale)
    if share:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    ax.set(xlabel="epoch", ylabel=scale.name)
    ax.set_title(_joined(title, _seeds(rows), _band(rows)), loc="left")
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, handlelength=3.2)
    if starred:
        legend.set_title("★ highest (epoch)", prop=FontProperties(size=9.5))
        legend.set_alignment("left")
    return figure


@style.context(LOOK)
def over_training(
    points: Sequence[LayerPoint], quantity: str, *, beside: str = "", title: str = "", look: Mapping[str, Style] | None = None
) -> Figure:
    """A quantity over updates: one panel a layer, bottom first, and one line a label; gaps are NaN.

    Values below a scale's lower limit leave the panel and are marked ▾ under it; exact zeros are not on a log axis.

    Args:
        points: from :func:`gradlens.tables.layer_points`, of one kind.
        quantity: the one to draw.
        beside: a quantity of the same table that is drawn as a thin dotted line of the same colour (what chance gives).
        title: what the runs have in common.
        look: from :func:`styles`; default: of these points' labels.

    Raises:
        InputError: the table has no finite value of it, or several kinds.

    """
    rows = _drawable(points, quantity)
    look = look or styles(p.label for p in rows)
    dotted = [p for p in points if p.quantity == beside and math.isfinite(p.mean)]
    drawn = [label for label in look if any(p.label == label for p in rows)]
    scale = _scale(quantity)
    layers = list(dict.fromkeys(p.layer for p in rows))
    lines: dict[tuple[str, str], list[LayerPoint]] = {}
    for p in sorted(rows, key=lambda p: p.step):
        lines.setdefault((p.layer, p.label), []).append(p)
    figure, grid = _panels(len(layers), drawn, look)
    for ax, layer in zip(grid, layers, strict=True):
        ax.set_yscale("log" if scale.log else "linear")
        if scale.mark is not None:
            ax.axhline(scale.mark, color="0.45", linewidth=0.9, zorder=1)
        for label in drawn:
            if mine := lines.get((layer, label)):
                _line(ax, [p.step for p in mine], mine, look[label], label)
            chance = sorted((p.step, p.mean) for p in dotted if (p.layer, p.label) == (layer, label))
            ax.plot(
                [step for step, _ in chance],
                [mean for _, mean in chance],
                ":.",
                color=look[label].colour,
                linewidth=1,
                markersize=3,
                zorder=1.5,
            )
        ax.set_title(layer, loc="left", pad=3)
    _y_axis(grid[0], [*rows, *dotted], scale)
    _mark_below(grid, layers, rows, scale, look)
    grid[0].xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    grid[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    below = f"▾ below {scale.limits[0]:g}".replace("-", "−") if any(p.mean < scale.limits[0] for p in rows) else ""
    zeros = "exact zeros not drawn" if scale.log and any(p.mean == 0 for p in rows) else ""
    thin = f"dotted: {_scale(beside).text or beside.replace('_', ' ')}" if dotted else ""
    _head(figure, scale, rows, title, _seeds(rows), _band(rows), below, zeros, thin)
    figure.supylabel(scale.name, x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


def _panels(n: int, names: Sequence[str], look: Mapping[str, Style]) -> tuple[Figure, list[Axes]]:
    """A figure of n panels with common axes and a legend below, laid out in inches: panels do not move with the names."""
    rows = math.ceil(n / 5)
    columns = math.ceil(n / rows)
    width = max(6.4, min(9.0, 2.6 * columns))
    in_legend = max(1, min(len(names), int((width - 0.4) / (0.8 + 0.085 * max(map(len, names))))))
    legend = 0.15 + 0.2 * math.ceil(len(names) / in_legend)
    height, head, foot, gap, left = 1.55, 0.66, 0.5 + legend, 0.3, 0.75
    total = head + rows * height + (rows - 1) * gap + foot
    figure = Figure(figsize=(width, total))
    places = {"left": left / width, "right": 1 - 0.15 / width, "top": 1 - head / total, "bottom": foot / total}
    places |= {"hspace": gap / height, "wspace": 0.1}
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=places)
    grid: list[Axes] = axes.ravel().tolist()
    for i, ax in enumerate(grid):
        if i >= n:
            ax.remove()
        elif i + columns >= n:
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("updates")
    handles = [Line2D([], [], color=c, linestyle=d, marker=m, markersize=4, label=k) for k in names for c, d, m in [look[k]]]
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=in_legend)
    return figure, grid[:n]


def _mark_below(grid: Sequence[Axes], layers: Sequence[str], rows: Sequence[LayerPoint], scale: Scale, look: Mapping[str, Style]) -> None:
    """▾ under the axis' lower limit wherever a value lies below it, a line of them for each label that has any."""
    low, high = grid[0].get_ylim()
    below = [p for p in rows if p.mean < scale.limits[0]]
    if below:
        grid[0].set_yticks([tick for tick in grid[0].get_yticks() if tick >= scale.limits[0]])
    step = 0.09 * (high - low)
    for line, label in enumerate(name for name in look if any(p.label == name for p in below)):
        at = low - line * step
        for ax, layer in zip(grid, layers, strict=True):
            x = [p.step for p in below if (p.label, p.layer) == (label, layer)]
            ax.plot(x, [at] * len(x), linestyle="", marker=11, markersize=6, color=look[label].colour)
        grid[0].set_ylim(at - step, high)


def _drawable(table: Sequence[R], quantity: str) -> list[R]:
    """The rows of a quantity, if there is anything in them to draw."""
    rows = [row for row in table if row.quantity == quantity]
    if not rows:
        there = ", ".join(sorted({row.quantity for row in table})) or "no rows"
        raise InputError(f"no {quantity} to draw; the table has {there}")
    if not any(row.seeds for row in rows):
        raise InputError(f"no finite {quantity} to draw: all {len(rows)} rows are NaN (an exact zero has no direction)")
    if len(kinds := sorted({row.kind for row in rows})) > 1:
        raise InputError(f"a figure shows rows of one kind; this table mixes {', '.join(kinds)}")
    return rows


@style.context(LOOK)
def heat_map(finals: Sequence[FinalValue], quantity: str, *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Final values as a table in colour: a column a label, a row a layer (the bottom one at the bottom), each value written out.

    Blue is with the true gradient, red against it; cells without a value are hatched.

    Args:
        finals: from :func:`gradlens.tables.final_values`, of one kind.
        quantity: the one to draw.
        title: what the runs have in common.
        look: from :func:`styles`: the order of the columns; default: of these labels.

    Raises:
        InputError: the table has no finite value of it, or several kinds.

    """
    rows = _drawable(finals, quantity)
    names = [name for name in look or styles(f.label for f in rows) if any(f.label == name for f in rows)]
    layers = list(dict.fromkeys(f.layer for f in rows))
    values = np.full((len(layers), len(names)), math.nan)
    for f in rows:
        values[layers.index(f.layer), names.index(f.label)] = f.mean

    scale = _scale(quantity)
    norm = _norm(values, scale)
    colours = colormaps["RdBu"]
    width = min(9.0, max(6.4, 2.6 + 0.75 * len(names)))
    figure = Figure(figsize=(width, 1.5 + 0.31 * max(4, len(layers))), layout="constrained")
    ax = figure.subplots()
    mesh = ax.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="white", linewidth=1.2)
    for (i, j), value in np.ndenumerate(values):
        text, ink = "–", "0.25"
        if math.isfinite(value):
            text = _cell(value, scale.log)
            ink = "white" if np.dot(colours(norm(value))[:3], (0.299, 0.587, 0.114)) < 0.5 else "0.1"
        else:
            ax.add_patch(Rectangle((j, i), 1, 1, facecolor="0.93", edgecolor="0.7", hatch="////", linewidth=0))
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink, fontsize=9.5)
    ax.set_xticks(np.arange(len(names)) + 0.5, [label.replace(" ", "\n") for label in names])
    ax.set_yticks(np.arange(len(layers)) + 0.5, layers)
    longest = max(len(word) for label in names for word in label.split(" "))
    if longest * 0.085 > 6.2 / len(names):
        ax.set_xticklabels(names, rotation=40, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    figure.colorbar(mesh, ax=ax, label=scale.name, aspect=18, pad=0.02).outline.set_visible(False)  # type: ignore[operator]
    _head(figure, scale, rows, title, "last recorded epoch", _seeds(rows))
    return figure


MARKS = {"cosine": ("o", "cosine"), "noise_corrected": ("D", "noise-corrected"), "null_cosine": ("|", "chance")}


@style.context(LOOK)
def alignment(finals: Sequence[FinalValue], *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Final cosines beside what noise and chance alone give: a panel a layer, a line a label, three marks on it.

    ● the cosine, ◇ the noise-corrected one (what it would be on a batch without noise), | the cosine of deltas dealt to other
    images. A cosine says something where ● stands clear of |; where ◇ is near 1, the batch's noise is all that ● lacks. Values
    outside −0.5…1.5 are drawn at the edge.

    Args:
        finals: from :func:`gradlens.tables.alignment_values`.
        title: what the runs have in common.
        look: from :func:`styles`; default: of these labels.

    Raises:
        InputError: no null and no noise-corrected cosine in the table.

    """
    rows = [f for f in finals if f.quantity in MARKS and math.isfinite(f.mean)]
    if not any(f.quantity != "cosine" for f in rows):
        raise InputError("no null and no noise-corrected cosine to draw (--diagnose-every 0, or nothing was measured yet)")
    look = look or styles(f.label for f in rows)
    names = [name for name in look if any(f.label == name for f in rows)]
    layers = list(dict.fromkeys(f.layer for f in rows))
    lines = math.ceil(len(layers) / 5)
    columns = math.ceil(len(layers) / lines)
    width = 1.3 + 0.075 * max(map(len, names)) + 1.55 * columns
    figure = Figure(figsize=(max(6.4, width), 1.35 + lines * (0.45 + 0.2 * len(names))), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for ax in grid[len(layers) :]:
        ax.remove()
    for ax, layer in zip(grid, layers, strict=False):
        ax.axvline(0, color="0.45", linewidth=0.9)
        for f in (f for f in rows if f.layer == layer):
            y, colour = names.index(f.label), look[f.label].colour
            marker, _ = MARKS[f.quantity]
            hollow = f.quantity == "noise_corrected"
            if f.quantity == "cosine" and math.isfinite(f.low):
                ax.plot([max(f.low, -0.5), min(f.high, 1.5)], [y, y], color=colour, linewidth=1.1, alpha=0.5)
            style_ = {
                "markerfacecolor": "none" if hollow else colour,
                "markeredgecolor": colour,
                "markersize": 10 if marker == "|" else 5.5,
            }
            ax.plot(min(max(f.mean, -0.5), 1.5), y, marker, zorder=3, **style_)
        ax.set_title(layer, loc="left", pad=3)
        ax.set_yticks(range(len(names)), names)
        ax.set(xlim=(-0.55, 1.55), xticks=(0, 0.5, 1), ylim=(len(names) - 0.4, -0.6))
    handles = [
        Line2D([], [], linestyle="", marker=m, markerfacecolor="none" if m == "D" else "0.2", markeredgecolor="0.2", label=text)
        for m, text in MARKS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    text = "cosine with the true gradient, without the batch's noise, and by chance"
    _head(figure, Scale("cosine", text), rows, title, "last epoch with sparse records", _seeds(rows))
    return figure


def _norm(values: np.ndarray[Any, Any], scale: Scale) -> Normalize:
    """Colours symmetric about the scale's mark: over its limits where it has both, else as far as the values reach."""
    finite = values[np.isfinite(values)]
    if scale.log:
        positive = finite[finite > 0]
        reach = max(2.0, float(np.exp(np.abs(np.log(positive)).max()))) if len(positive) else 2.0
        return LogNorm(1 / reach, reach, clip=True)
    low, high = scale.limits
    if not (math.isfinite(low) and math.isfinite(high)):
        centre = scale.mark or 0.0
        reach = float(np.abs(finite - centre).max()) or 1.0
        low, high = centre - reach, centre + reach
    return Normalize(low, high, clip=True)


def _cell(value: float, log: bool = False) -> str:
    """A value in at most five signs, with a real minus; on a log scale small values keep their power of ten.

    >>> _cell(-0.123), _cell(-0.004), _cell(0.004, log=True), _cell(1234.5)
    ('−0.12', '0.00', '4e−3', '1e3')
    """
    if abs(value) >= 999.5 or (log and 0 < abs(value) < 0.005):
        digits, power = f"{value:.0e}".split("e")
        text = f"{digits}e{int(power)}"
    else:
        text = f"{value:.{2 if abs(value) < 9.995 else 0}f}".replace("-0.00", "0.00")
    return text.replace("-", "−")


# ------------------------------------------------------------------------------------------------------------ the set


class Figures(NamedTuple):
    """The figures of some runs, and those that could not be drawn."""

    drawn: dict[str, tuple[Figure, list[Any]]]  # name -> figure and the rows it was drawn from
    skipped: dict[str, str]  # name -> why


def figure_set(runs: Sequence[Run]) -> Figures:
    """All standard figures of some runs.

    The names: ``train_loss``, ``train_accuracy``, and for each held-out split there is ``test_loss``, ``test_accuracy``
    (``validation_…`` where training images were held out), with ``--evaluate-train`` also ``train_eval_…``;
    ``cosine_over_training``, ``cosine_heat_map``, ``norm_ratio_over_training``; ``alignment`` and ``descent_over_training`` where
    sparse rows were recorded;
    ``explained_variance_over_training`` and ``feedback_…_over_training`` where a rule recorded them.

    Raises:
        InputError: no runs, the same run twice, or nothing at all to draw.

    """
    points = curve_points(runs)
    cosines, ratios = layer_points(runs, "cosine"), layer_points(runs, "norm_ratio")
    explained = layer_points(runs, "synth_explained_variance", "rule")
    finals = final_values(runs, "cosine")
    wanted: dict[str, tuple[Callable[..., Figure], Sequence[Any]]] = {}
    for split in dict.fromkeys([TRAIN, *sorted({p.split for p in points})]):
        for quantity in ("loss", "accuracy"):
            rows = [p for p in points if (p.split, p.quantity) == (split, quantity)]
            wanted[f"{split}_{quantity}".replace("-", "_")] = partial(curve, split=split, quantity=quantity), rows
    nulls = layer_points(runs, "null_cosine")
    wanted["cosine_over_training"] = partial(over_training, quantity="cosine", beside="null_cosine"), [*cosines, *nulls]
    wanted["cosine_heat_map"] = partial(heat_map, quantity="cosine"), finals
    wanted["norm_ratio_over_training"] = partial(over_training, quantity="norm_ratio"), ratios
    if explained:
        wanted["explained_variance_over_training"] = partial(over_training, quantity="synth_explained_variance"), explained

    if nulls:
        wanted["alignment"] = alignment, alignment_values(runs)
    if descent := descent_points(runs):
        wanted["descent_over_training"] = partial(over_training, quantity="descent_ratio"), descent
    for kind in ANGLES:
        if angles := layer_points(runs, "angle", kind):
            wanted[f"{kind}_over_training"] = partial(over_training, quantity="angle"), angles

    look = styles(labels(runs))
    title = _in_common(runs)
    found = Figures({}, {})
    for name, (draw, table) in wanted.items():
        try:
            found.drawn[name] = draw(table, title=title, look=look), list(table)
        except InputError as error:
            found.skipped[name] = str(error)
    if not found.drawn:
        raise InputError(f"nothing to draw: {'; '.join(found.skipped.values())}")
    return found


def _in_common(runs: Sequence[Run]) -> str:
    """Data and model of the runs; several are all named, so that no one compares them by mistake."""
    data = dict.fromkeys(Path(run.config.data).name for run in runs)
    models = dict.fromkeys(run.config.model for run in runs)
    return _joined(" / ".join(data), " / ".join(models))


# ------------------------------------------------------------------------------------------------------------- saving
