"""Drawing of a quantity: its axis and meaning, lines of means with their bands, panels of layers, colours of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
from matplotlib.ticker import LogLocator, NullLocator

from gradlens.reporting.aggregate import CurvePoint, FinalValue, LayerPoint
from gradlens.reporting.style import MARKERS, Style, band, in_lines, line_handles
from gradlens.runtime.errors import InputError

R = TypeVar("R", LayerPoint, FinalValue)

EARLY = 0.1  # of the axes: a line that ends so far left of the others has its name there
LINE = 0.165  # inches of a line of a name at a line's end
FEW = 25  # points in a line: up to here each gets a marker, in longer ones some


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
    "reached": Scale("share of nodes", "share of nodes that the rule's error signal reaches", (0, 1), (0, 1)),
    "true_reached": Scale("share of nodes", "share of nodes that backpropagation reaches", (0, 1), (0, 1)),
    "null_cosine": Scale("cosine", "chance (error signals shuffled over examples)", (-1, 1), (-0.2, 1), 0),
    "descent_ratio": Scale("measured ÷ predicted", "change of the loss by the real step ÷ its first-order prediction", (-1, 2), (0, 1), 1),
    "synth_explained_variance": Scale(
        "explained variance", "share of the incoming gradient's variance that the synthetic one explains", (-1, 1), (-1, 1), 0
    ),
    "effective_rank": Scale("effective rank", "effective rank of each block's output", (0, math.inf), (0, 2)),
    "fisher": Scale("between ÷ within", "scatter between the classes ÷ scatter within them", (0, math.inf), (0, 0)),
    "reconstruction_r2": Scale("R²", "I(h, x): share of the images' variance that a decoder reconstructs", (-1, 1), (0, 1), 0),
    "information_y_bits": Scale("bits", "I(h, y): information of a head on the label in bits, a lower bound", mark=0),
}
ANGLES = {  # kind of rows -> the two that the angle is between
    "feedback_transpose": "feedback matrix and the weights' transpose",
    "feedback_pseudoinverse": "feedback matrix and the weights' pseudo-inverse",
    "feedback_jacobian": "feedback matrix and the batch-mean Jacobian of the logits",
}
KINDS = {"weight": "weights", "bias": "biases", "parameters": "all parameters of a block", "activation": "output of a block"}


def scale_of(quantity: str) -> Scale:
    """Return how a quantity's axis is drawn; of one that is not in SCALES, by its name alone."""
    return SCALES.get(quantity, Scale(quantity.replace("_", " ")))


def seeds_of(rows: Iterable[CurvePoint | LayerPoint | FinalValue]) -> str:
    """Name the number of seeds of the means, in words."""
    counts = sorted({row.seeds for row in rows if row.seeds})
    return "one seed" if counts[-1] == 1 else f"mean of {'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"


def band_of(rows: Iterable[CurvePoint | LayerPoint]) -> str:
    """Return what the band is, in words, if there is one."""
    return "band: 95 % t-interval" if any(math.isfinite(row.low) for row in rows) else ""


def mean_line(ax: Axes, x: Sequence[int], rows: Sequence[CurvePoint | LayerPoint], look: Style, label: str) -> None:
    """Draw a line of means, with gaps where there is none, and the band of the interval."""
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
    band(ax, x, [row.low for row in rows], [row.high for row in rows], look.colour, 0.16)


def view(rows: Sequence[CurvePoint | LayerPoint], scale: Scale) -> tuple[float, float]:
    """Return the y axis' ends: all means, and the bands as far as they do not dwarf them; within the scale's limits, plus a margin."""
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


def y_axis(ax: Axes, rows: Sequence[CurvePoint | LayerPoint], scale: Scale) -> None:
    """Set the ends of the y axis to what the rows need, and on a log axis as many ticks as have room."""
    low, high = view(rows, scale)
    ax.set_ylim(low, high)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    room = int(ax.get_position().height * figure.get_figheight() / 0.22)  # tick labels that fit
    if scale.log:
        subs = (1.0, 2.0, 5.0) if 3 * math.log10(high / low) < room else (1.0,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=room))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}" if 1e-3 <= v <= 1e3 else f"$10^{{{round(math.log10(v))}}}$")


def spread(places: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Return places moved as little as possible (least squares) for neighbours to be ``gap`` apart, in their order, within two ends.

    Where there is not room for all of them, they reach beyond the lower end.

    >>> spread([0.5, 0.5, 0.125], 0.25), spread([1.0, 0.9], 0.25, high=1.0)
    ([0.375, 0.625, 0.125], [1.0, 0.75])
    """
    from sklearn.isotonic import isotonic_regression  # half a second that most figures do without

    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.array(places, dtype=float)
    if len(places):  # places less their steps must rise: the nearest that do
        rising = isotonic_regression(moved[order] - steps, y_min=low, y_max=high - gap * (len(places) - 1))
        moved[order] = rising + steps
    return [float(place) for place in moved]


def label_ends(ax: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write a text at each line's end, in its colour, joined to it where it had to be moved; lines that end early have it inside the axes.

    Args:
        ax: with its final limits.
        ends: text -> x and y of the line's end, and its colour.

    """
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    to_axes = ax.transData + ax.transAxes.inverted()
    at = {text: to_axes.transform((x, y)) for text, (x, y, _) in ends.items()}
    last = max(x for x, _ in at.values())
    gap = LINE / (ax.get_position().height * figure.get_figheight())
    for early in (True, False):
        group = {text: (x, min(1.0, max(0.0, y))) for text, (x, y) in at.items() if (x < last - EARLY) == early}
        heights = spread([float(y) for _, y in group.values()], gap, 0.0, 1.0)
        for (text, (x, y)), height in zip(group.items(), heights, strict=True):
            colour = ends[text][2]
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 2}
            ax.annotate(
                text, (x, y), ((x if early else max(1.0, last)) + 0.03, height), "axes fraction", "axes fraction", arrowprops=line,
                color=colour, va="center", fontsize=9, annotation_clip=False,
            )  # fmt: skip


def quantity_head(figure: Figure, scale: Scale, rows: Sequence[LayerPoint | FinalValue], *notes: str) -> None:
    """Write two lines above the panels: the quantity, and the runs."""
    what = f"{scale.text or scale.name}{f' ({KINDS[rows[0].kind]})' if rows[0].kind in KINDS else ''}"
    if rows[0].kind in ANGLES:
        what = f"angle between {ANGLES[rows[0].kind]}"
    lines = [what[0].upper() + what[1:], *in_lines(notes, figure.get_figwidth())]
    free = figure.get_layout_engine() is None  # else the layout finds the height that clears the panels
    more = 0.17 * (len(lines) - 2)
    if more > 0:
        height = figure.get_figheight()
        if free:
            grid = figure.axes[0].get_gridspec()
            assert grid is not None
            places = grid.get_subplot_params(figure)
            top, bottom = (end * height / (height + more) for end in (places.top, places.bottom))
            grid.update(top=top, bottom=bottom)
            for ax in figure.axes:  # which `update` does for pyplot's figures only
                place = ax.get_subplotspec()
                assert place is not None
                ax.set_position(place.get_position(figure))
        figure.set_figheight(height + more)
    y = 1 - 0.08 / figure.get_figheight() if free else None
    figure.suptitle("\n".join(lines), x=0.1 / figure.get_figwidth(), y=y, ha="left", fontsize=10)


def layer_panels(n: int, names: Sequence[str], look: Mapping[str, Style]) -> tuple[Figure, list[Axes]]:
    """Return a figure of n panels with common axes and a legend below, laid out in inches: panels do not move with the names."""
    rows = math.ceil(n / 5)
    columns = math.ceil(n / rows)
    width = max(6.4, min(8.0, 2.6 * columns))
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
    handles = line_handles((name, look[name]) for name in names)
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=in_legend)
    return figure, grid[:n]


def mark_below(grid: Sequence[Axes], layers: Sequence[str], rows: Sequence[LayerPoint], scale: Scale, look: Mapping[str, Style]) -> None:
    """Draw ▾ at the axis' lower end, the scale's limit, wherever a value lies below it, a line of them for each label that has any."""
    below = [p for p in rows if p.mean < scale.limits[0]]
    if below:
        grid[0].set_ylim(bottom=scale.limits[0])
    for line, label in enumerate(name for name in look if any(p.label == name for p in below)):
        for ax, layer in zip(grid, layers, strict=True):
            x = [p.step for p in below if (p.label, p.layer) == (label, layer)]
            ax.plot(
                x, [0.055 * line] * len(x), linestyle="", marker=CARETDOWN, markersize=6, color=look[label].colour,
                transform=ax.get_xaxis_transform(), clip_on=False, zorder=3,
            )  # fmt: skip


def colour_norm(values: np.ndarray[Any, Any], scale: Scale) -> Normalize:
    """Return colours symmetric about the scale's mark: over its limits where it has both, else as far as the values reach."""
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


def drawable(table: Sequence[R], quantity: str) -> list[R]:
    """Return the rows of a quantity, if there is anything in them to draw."""
    rows = [row for row in table if row.quantity == quantity]
    if not rows:
        there = ", ".join(sorted({row.quantity for row in table})) or "no rows"
        raise InputError(f"no {quantity} to draw; the table has {there}")
    if not any(row.seeds for row in rows):
        raise InputError(f"no finite {quantity} to draw: all {len(rows)} rows are NaN (an exact zero has no direction)")
    if len(kinds := sorted({row.kind for row in rows})) > 1:
        raise InputError(f"a figure shows rows of one kind; this table mixes {', '.join(kinds)}")
    return rows
