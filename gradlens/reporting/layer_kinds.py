"""A quantity by kind of layer over depth: the table of networks whose blocks are alike, as transformers', and its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradlens.gradients.layer_names import depth_and_kind
from gradlens.reporting.aggregate import final_values
from gradlens.reporting.axes import layer_panels, scale_of
from gradlens.reporting.style import LOOK, Style, band, head, in_lines, over_seeds, styles
from gradlens.runtime.errors import InputError

if TYPE_CHECKING:  # imports torch
    from gradlens.training.run_directory import Run


class KindPoint(NamedTuple):
    """A quantity's final value in the layer of one kind in one block."""

    label: str
    kind: str  # path of the layer within its block: attention.query, ff1, norm1
    block: int  # 1 for the first
    quantity: str
    mean: float
    low: float
    high: float
    seeds: int


def kind_points(runs: Sequence[Run], quantity: str = "cosine") -> list[KindPoint]:
    """Return a quantity's final values of the kinds of layers that two blocks or more have, normalisation included, kinds first.

    Args:
        runs: several methods, several seeds each; those of tasks whose networks' blocks are not alike have none.
        quantity: as in ``gradients.csv``.

    """
    found: list[KindPoint] = []
    from gradlens.tasks.registry import TASKS  # imports torch

    alike = [run for run in runs if TASKS[run.config.task].blocks_alike]
    for v in final_values(alike, quantity, norms=True) if alike else ():
        if place := depth_and_kind(v.layer):
            found.append(KindPoint(v.label, place[1], place[0], quantity, v.mean, v.low, v.high, v.seeds))
    blocks: dict[str, set[int]] = {}
    for p in found:
        blocks.setdefault(p.kind, set()).add(p.block)
    order = [kind for kind, depths in blocks.items() if len(depths) > 1]
    return sorted((p for p in found if p.kind in order), key=lambda p: (order.index(p.kind), p.label, p.block))


@style.context(LOOK)
def over_depth(points: Sequence[KindPoint], *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Draw final values over depth: one panel a kind of layer, one line a label.

    Args:
        points: from :func:`kind_points`, of one quantity.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`; default: of these points' labels.

    Raises:
        InputError: there is nothing to draw.

    """
    rows = [p for p in points if math.isfinite(p.mean)]
    if not rows:
        raise InputError("no kind of layer that two blocks have, with a finite value, to draw over depth")
    look = look or styles(p.label for p in rows)
    drawn = [label for label in look if any(p.label == label for p in rows)]
    kinds, scale = list(dict.fromkeys(p.kind for p in rows)), scale_of(rows[0].quantity)
    figure, grid = layer_panels(len(kinds), drawn, look)
    for ax, kind in zip(grid, kinds, strict=True):
        if scale.mark is not None:
            ax.axhline(scale.mark, color="0.45", linewidth=0.9, zorder=1)
        for label in drawn:
            mine = sorted((p for p in rows if (p.kind, p.label) == (kind, label)), key=lambda p: p.block)
            x, (colour, dash, marker) = [p.block for p in mine], look[label]
            ax.plot(x, [p.mean for p in mine], color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=1.6, label=label)
            band(ax, x, [p.low for p in mine], [p.high for p in mine], colour, 0.14)
        ax.set_title(kind, loc="left", pad=3)
        if ax.get_xlabel():
            ax.set_xlabel("block")
    low = min([p.mean for p in rows], default=0.0)
    if scale.shown is not None:
        grid[0].set_ylim(min(scale.shown[0], low - 0.05), scale.shown[1] * 1.04)
    grid[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    seeds = over_seeds(max(p.seeds for p in rows), "band: 95 % t-interval")
    what = f"{scale.text or scale.name} (weights), by kind of layer, at the end of training"
    head(figure, what[0].upper() + what[1:], *in_lines((title, seeds), figure.get_figwidth()))
    figure.supylabel(scale.name, x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure
