"""The method × layer heat map of a quantity, and alignment between chance and the noise ceiling. Tables in, figures out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from gradlens.reporting.aggregate import FinalValue
from gradlens.reporting.axes import Scale, colour_norm, drawable, quantity_head, scale_of, seeds_of
from gradlens.reporting.numbers import cell_text
from gradlens.reporting.style import LOOK, Style, panels, readable_ink, styles
from gradlens.runtime.errors import InputError

CELL = 0.62  # inches of a cell's width, at least: "−0.11" and a gap
MOST_COLUMNS = 10  # labels beyond which they become rows, where the layers are not more


def _coloured_table(ax: Axes, shown: np.ndarray[Any, Any], norm: Normalize, log: bool) -> QuadMesh:
    """Draw cells in the colour of their values, which are written into them; those without a value are hatched."""
    colours = colormaps["RdBu"]
    mesh = ax.pcolormesh(np.ma.masked_invalid(shown), cmap=colours, norm=norm, edgecolors="white", linewidth=1.2)
    for (i, j), value in np.ndenumerate(shown):
        text, ink = "–", "0.25"
        if math.isfinite(value):
            text = cell_text(value, log)
            ink = readable_ink(to_hex(colours(norm(value))))
        else:
            ax.add_patch(Rectangle((j, i), 1, 1, facecolor="0.93", edgecolor="0.7", hatch="////", linewidth=0))
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink, fontsize=9.5)
    return mesh


@style.context(LOOK)
def heat_map(
    finals: Sequence[FinalValue],
    quantity: str,
    *,
    when: str = "last recorded epoch",
    title: str = "",
    look: Mapping[str, Style] | None = None,
    label_rows: bool | None = None,
) -> Figure:
    """Draw final values as a table in colour: a column a label, a row a layer in the order of the printed table, the first one on top.

    Every value is written out. Of many labels and few layers each label is a row and each layer a column: names stay horizontal.
    Blue is with the true gradient, red against it; cells without a value are hatched.

    Args:
        finals: from :func:`gradlens.reporting.aggregate.final_values`, of one kind.
        quantity: the one to draw.
        when: the values were recorded.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`: the order of the columns; default: of these labels.
        label_rows: make each label a row; default: where there are many labels and few layers.

    Raises:
        InputError: the table has no finite value of it, or several kinds.

    """
    rows = drawable(finals, quantity)
    names = [name for name in look or styles(f.label for f in rows) if any(f.label == name for f in rows)]
    layers = list(dict.fromkeys(f.layer for f in rows))
    values = np.full((len(layers), len(names)), math.nan)
    for f in rows:
        values[layers.index(f.layer), names.index(f.label)] = f.mean
    turned = len(names) > MOST_COLUMNS >= len(layers) if label_rows is None else label_rows
    shown, columns, lines = (values.T, layers, names) if turned else (values, names, layers)

    scale = scale_of(quantity)
    beside = 1.1 + 0.085 * max(map(len, lines))  # names and colour bar
    figure = Figure(figsize=(max(6.4, beside + CELL * len(columns)), 1.5 + 0.31 * max(4, len(lines))), layout="constrained")
    ax = figure.subplots()
    mesh = _coloured_table(ax, shown, colour_norm(values, scale), scale.log)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [name.replace("." if turned else " ", "\n") for name in columns])
    ax.set_yticks(np.arange(len(lines)) + 0.5, lines)
    ax.invert_yaxis()
    longest = max(len(word) for name in columns for word in name.split("." if turned else " "))
    if longest * 0.085 > max(CELL, (6.4 - beside) / len(columns)):
        ax.set_xticklabels(columns, rotation=40, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    figure.colorbar(mesh, ax=ax, label=scale.name, aspect=max(18, 1.6 * len(lines)), pad=0.02).outline.set_visible(False)  # type: ignore[operator]
    quantity_head(figure, scale, rows, title, when, seeds_of(rows))
    return figure


MARKS = {"cosine": ("o", "cosine"), "noise_corrected": ("D", "noise-corrected"), "null_cosine": ("|", "chance")}


@style.context(LOOK)
def alignment_figure(finals: Sequence[FinalValue], *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Draw final cosines beside those of noise and chance alone: a panel a layer, a line a label, three marks on it.

    ● the cosine, ◇ the noise-corrected one (what it would be on a batch without noise), | the cosine when each example gets another
    one's error signal. A cosine is above chance where ● is clear of |; where ◇ is near 1, only the batch's noise keeps ● below 1. Values
    outside −0.5…1.5 are drawn at the edge.

    Args:
        finals: from :func:`gradlens.reporting.aggregate.alignment_values`.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`; default: of these labels.

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
    for ax, layer in zip(panels(figure, len(layers), columns, sharex=True, sharey=True), layers, strict=True):
        ax.axvline(0, color="0.45", linewidth=0.9)
        for f in (f for f in rows if f.layer == layer):
            y, colour = names.index(f.label), look[f.label].colour
            marker, _ = MARKS[f.quantity]
            hollow = f.quantity == "noise_corrected"
            if f.quantity == "cosine" and math.isfinite(f.low):
                ax.plot([max(f.low, -0.5), min(f.high, 1.5)], [y, y], color=colour, linewidth=1.1, alpha=0.5)
            style_: dict[str, Any] = {
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
    quantity_head(figure, Scale("cosine", text), rows, title, "last epoch with sparse records", seeds_of(rows))
    return figure


# ------------------------------------------------------------------------------------------------------------ the set
