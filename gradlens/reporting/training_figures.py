"""The figures of runs' training: curves, cosines over training, the method × layer heat map. Tables in, figures out.

Nothing here trains or imports torch; each figure is a pure function of its table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from gradlens.reporting.aggregate import (
    CurvePoint,
    LayerPoint,
    alignment_values,
    curve_points,
    descent_points,
    final_values,
    layer_points,
    recorded_untrained,
    runs_title,
)
from gradlens.reporting.axes import (
    ANGLES,
    Scale,
    band_of,
    drawable,
    label_ends,
    layer_panels,
    mark_below,
    mean_line,
    quantity_head,
    scale_of,
    seeds_of,
    y_axis,
)
from gradlens.reporting.heat_map import alignment_figure, heat_map
from gradlens.reporting.layer_kinds import kind_points, over_depth
from gradlens.reporting.style import LOOK, MOST_IN_LEGEND, Style, in_lines, joined, styles
from gradlens.runtime.errors import InputError
from gradlens.training.metrics import ACCURACY, TRAIN, TRAIN_EVAL
from gradlens.training.run_groups import run_labels

if TYPE_CHECKING:  # imports torch
    from gradlens.training.run_directory import Run

# ------------------------------------------------------------------------------------------------------------- figures


def _curve(ax: Axes, label: str, mine: Sequence[CurvePoint], look: Style, starred: bool) -> tuple[str, tuple[float, float, str]]:
    """Draw one label's line, with a star at its best epoch if set; return its legend entry, and where it ends in which colour."""
    text = label
    if starred:
        best = max(mine, key=lambda p: (p.mean, -p.epoch))
        text = f"{label}: {100 * best.mean:.1f} % ({best.epoch})"
        ax.plot(best.epoch, best.mean, "*", color=look.colour, markersize=12, markeredgecolor="white", zorder=4)
    mean_line(ax, [p.epoch for p in mine], mine, look, text)
    last = next((p for p in reversed(mine) if math.isfinite(p.mean)), mine[-1])
    return text, (last.epoch, last.mean, look.colour)


@style.context(LOOK)
def curve_figure(
    points: Sequence[CurvePoint], split: str, quantity: str, *, title: str = "", look: Mapping[str, Style] | None = None
) -> Figure:
    """Draw loss or accuracy over epochs, all labels in one plot; on a held-out split each label's highest mean accuracy is starred.

    Up to ``MOST_IN_LEGEND`` labels stand in a legend, more of them at the ends of their lines.

    Args:
        points: from :func:`gradlens.reporting.aggregate.curve_points`.
        split: train, train-eval, test or validation.
        quantity: loss or accuracy.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`; default: of these points' labels.

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
    drawn = [name for name in look if any(p.label == name for p in rows)]
    many = len(drawn) > MOST_IN_LEGEND
    height = max(4.2, 0.9 + 0.19 * len(drawn)) if many else 4.2
    figure = Figure(figsize=(min(9.3, max(7.6, 6 + 0.085 * longest)), height), layout="constrained")
    ax = figure.subplots()
    ax.set_yscale("log" if log else "linear")
    ends = {}
    for label in drawn:
        mine = sorted((p for p in rows if p.label == label), key=lambda p: p.epoch)
        text, end = _curve(ax, label, mine, look[label], starred)
        ends[text] = end
    y_axis(ax, rows, scale)
    if share:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    ax.set(xlabel="epoch", ylabel=scale.name)
    star = "★ highest (epoch)" if starred else ""
    notes = (f"{split.capitalize()} {quantity}", title, seeds_of(rows), band_of(rows), star if many else "")
    ax.set_title("\n".join(in_lines(notes, figure.get_figwidth() - 0.6)), loc="left")
    if many:
        label_ends(ax, ends)
        return figure
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, handlelength=3.2)
    if starred:
        legend.set_title(star, prop=FontProperties(size=9.5))
        legend.set_alignment("left")
    return figure


@style.context(LOOK)
def over_training(
    points: Sequence[LayerPoint], quantity: str, *, beside: str = "", title: str = "", look: Mapping[str, Style] | None = None
) -> Figure:
    """Draw a quantity over updates: one panel a layer, bottom first, and one line a label; gaps are NaN.

    Values below a scale's lower limit leave the panel and are marked ▾ at its lower end; exact zeros are not on a log axis.

    Args:
        points: from :func:`gradlens.reporting.aggregate.layer_points`, of one kind.
        quantity: the one to draw.
        beside: a quantity of the same table that is drawn as a thin dotted line of the same colour (what chance gives).
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`; default: of these points' labels.

    Raises:
        InputError: the table has no finite value of it, or several kinds.

    """
    rows = drawable(points, quantity)
    look = look or styles(p.label for p in rows)
    dotted = [p for p in points if p.quantity == beside and math.isfinite(p.mean)]
    drawn = [label for label in look if any(p.label == label for p in rows)]
    scale = scale_of(quantity)
    layers = list(dict.fromkeys(p.layer for p in rows))
    lines: dict[tuple[str, str], list[LayerPoint]] = {}
    for p in sorted(rows, key=lambda p: p.step):
        lines.setdefault((p.layer, p.label), []).append(p)
    figure, grid = layer_panels(len(layers), drawn, look)
    for ax, layer in zip(grid, layers, strict=True):
        ax.set_yscale("log" if scale.log else "linear")
        if scale.mark is not None:
            ax.axhline(scale.mark, color="0.45", linewidth=0.9, zorder=1)
        for label in drawn:
            if mine := lines.get((layer, label)):
                mean_line(ax, [p.step for p in mine], mine, look[label], label)
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
    y_axis(grid[0], [*rows, *dotted], scale)
    mark_below(grid, layers, rows, scale, look)
    grid[0].xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    grid[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    if len(steps := {p.step for p in (*rows, *dotted)}) == 1:  # one point: no axis of thousandths of an update
        grid[0].set_xlim(min(steps) - 1, min(steps) + 1)
    below = f"▾ below {scale.limits[0]:g}".replace("-", "−") if any(p.mean < scale.limits[0] for p in rows) else ""
    zeros = "exact zeros not drawn" if scale.log and any(p.mean == 0 for p in rows) else ""
    thin = f"dotted: {scale_of(beside).text or beside.replace('_', ' ')}" if dotted else ""
    quantity_head(figure, scale, rows, title, seeds_of(rows), band_of(rows), below, zeros, thin)
    figure.supylabel(scale.name, x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


def _in_parts(name: str, table: Sequence[LayerPoint], look: Mapping[str, Style]) -> dict[str, tuple[list[LayerPoint], str]]:
    """Return the rows of a figure of layer panels, of many labels in parts that a legend can name, with the baseline in each.

    Returns:
        name of the figure -> its rows, and which part it is, in words.

    """
    from gradlens.methods import BASELINE  # imports torch, which is needed for `styles` anyway

    labels = [label for label in look if any(p.label == label for p in table)]
    if len(labels) <= MOST_IN_LEGEND:
        return {name: (list(table), "")}
    base = [label for label in labels if label.split(" ")[0] == BASELINE][:1]
    rest = [label for label in labels if label not in base]
    count = math.ceil(len(rest) / (MOST_IN_LEGEND - len(base)))
    size = math.ceil(len(rest) / count)
    parts = [{*base, *rest[i : i + size]} for i in range(0, len(rest), size)]
    return {
        f"{name}_{i}" if i > 1 else name: ([p for p in table if p.label in part], f"figure {i} of {len(parts)}")
        for i, part in enumerate(parts, 1)
    }


class Figures(NamedTuple):
    """The figures of some runs, and those that could not be drawn."""

    drawn: dict[str, tuple[Figure, list[Any]]]  # name -> figure and the rows it was drawn from
    skipped: dict[str, str]  # name -> why


def of_methods(runs: Sequence[Run], methods: Sequence[str]) -> list[Run]:
    """Return the runs of some methods; all, where none is named.

    Raises:
        InputError: a method that none of the runs has.

    """
    there = list(dict.fromkeys(run.config.method for run in runs))
    for name in methods:
        if name not in there:
            raise InputError(f"no run of {name!r} among those given, which are of {', '.join(there)}")
    return [run for run in runs if not methods or run.config.method in methods]


def _of_layers(tables: Mapping[str, Sequence[Any]], patterns: Sequence[str]) -> dict[str, list[Any]]:
    """Return tables of figures without the rows of layers that no pattern fits; what is not of layers stays, what is empty then goes.

    Raises:
        InputError: a pattern that fits no layer.

    """
    layers = dict.fromkeys(row.layer for table in tables.values() for row in table if hasattr(row, "layer"))
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise InputError(f"--layers {pattern}: fits none of {', '.join(layers) or 'no layers'}")

    def fits(row: Any) -> bool:
        return not hasattr(row, "layer") or row.kind == "descent" or any(fnmatchcase(row.layer, pattern) for pattern in patterns)

    kept = {name: [row for row in table if fits(row)] for name, table in tables.items()}
    return {name: table for name, table in kept.items() if table or not tables[name]}


def figure_set(runs: Sequence[Run], layers: Sequence[str] = ()) -> Figures:
    """Return all standard figures of some runs; with ``layers``, patterns as the shell's, of those layers only.

    The names: ``train_loss``, ``train_accuracy``, and for each held-out split there is ``test_loss``, ``test_accuracy``
    (``validation_…`` where training images were held out), with ``--evaluate-train`` also ``train_eval_…``;
    ``cosine_over_training``, ``cosine_heat_map``, ``norm_ratio_over_training``; of language models ``cosine_over_depth``, by kind of
    layer; ``alignment`` and ``descent_over_training`` where
    sparse rows were recorded;
    ``explained_variance_over_training`` and ``feedback_…_over_training`` where a rule recorded them. A figure of layer panels of
    more labels than a legend can hold is drawn in parts: ``cosine_over_training``, ``cosine_over_training_2``, ….

    Raises:
        InputError: no runs, the same run twice, a pattern that fits no layer, or nothing at all to draw.

    """
    points = curve_points(runs)
    look, title = styles(run_labels(runs)), runs_title(runs)
    wanted: dict[str, tuple[Callable[..., Figure], Sequence[Any]]] = {}

    def over(name: str, quantity: str, table: Sequence[LayerPoint], beside: str = "") -> None:
        for part, (rows, which) in _in_parts(name, table, look).items():
            wanted[part] = partial(over_training, quantity=quantity, beside=beside, title=joined(title, which)), rows

    for split in dict.fromkeys([TRAIN, *sorted({p.split for p in points})]):
        for quantity in dict.fromkeys(["loss", ACCURACY, *(p.quantity for p in points if p.split == split)]):
            rows = [p for p in points if (p.split, p.quantity) == (split, quantity)]
            wanted[f"{split}_{quantity}".replace("-", "_")] = partial(curve_figure, split=split, quantity=quantity, title=title), rows
    nulls = layer_points(runs, "null_cosine")
    over("cosine_over_training", "cosine", [*layer_points(runs, "cosine"), *nulls], "null_cosine")
    untrained = recorded_untrained(runs)
    when = "update 0, untrained" if len(untrained) == len(look) else joined("last recorded epoch", *(f"{u}: update 0" for u in untrained))
    wanted["cosine_heat_map"] = partial(heat_map, quantity="cosine", when=when, title=title), final_values(runs, "cosine")
    if kinds := kind_points(runs):
        wanted["cosine_over_depth"] = partial(over_depth, title=title), kinds
    over("norm_ratio_over_training", "norm_ratio", layer_points(runs, "norm_ratio"))
    if explained := layer_points(runs, "synth_explained_variance", "rule"):
        over("explained_variance_over_training", "synth_explained_variance", explained)
    if nulls:
        wanted["alignment"] = partial(alignment_figure, title=title), alignment_values(runs)
    if descent := descent_points(runs):
        over("descent_over_training", "descent_ratio", descent)
    for kind in ANGLES:
        if angles := layer_points(runs, "angle", kind):
            over(f"{kind}_over_training", "angle", angles)

    found = Figures({}, {})
    tables = {name: list(table) for name, (_, table) in wanted.items()}
    for name, table in (_of_layers(tables, layers) if layers else tables).items():
        try:
            found.drawn[name] = wanted[name][0](table, look=look), table
        except InputError as error:
            found.skipped[name] = str(error)
    if not found.drawn:
        raise InputError(f"nothing to draw: {'; '.join(found.skipped.values())}")
    return found
