"""What several scripts here draw with: means with intervals, names beside markers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from gradlens.reporting.style import text_width


def title_where(holds: bool, result: str, otherwise: str) -> str:
    """A title that states a result, where the drawn values support it; else one that names what is drawn."""
    return result if holds else otherwise


class Cell(NamedTuple):
    """One setting's value: mean over seeds with its 95 % interval."""

    row: str
    column: str
    mean: float
    low: float
    high: float
    seeds: float


class Marker(NamedTuple):
    """A marker in a plot, and its name."""

    name: str
    x: float
    y: float
    colour: str


NAME_POINTS, MARKER_POINTS = 9.5, 4.0  # size of a name; half of a marker's width
NEXT_TO = 8  # points from a marker at which its name needs no line
AROUND = [(far, math.radians(turn)) for far in (NEXT_TO, 18, 30, 44, 60) for turn in (0, 180, 40, -40, 140, -140, 90, -90)]  # nearest first


def name_markers(ax: Axes, markers: Sequence[Marker], taken: Sequence[Bbox] = ()) -> None:
    """Write each marker's name beside it, where it hides no other marker or name as far as there is room; joined to it if it is far.

    Args:
        ax: with its final limits and place.
        markers: in data coordinates.
        taken: boxes in pixels that are to stay free.

    """
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    point = figure.dpi / 72
    middle = {m: ax.transData.transform((m.x, m.y)) for m in markers}
    half = MARKER_POINTS * point
    full = [*taken, *(Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in middle.values())]
    crowded = sorted(markers, key=lambda m: sorted(math.dist(middle[m], other) for other in middle.values())[:4])
    for m in crowded:
        wide, high = figure.dpi * text_width(m.name, NAME_POINTS), 1.1 * NAME_POINTS * point
        places = []
        for rank, (far, turn) in enumerate(AROUND):
            x, y = middle[m] + np.array([math.cos(turn), math.sin(turn)]) * far * point
            left = x if math.cos(turn) > 0.1 else x - wide if math.cos(turn) < -0.1 else x - wide / 2
            box = Bbox.from_extents(left, y - high / 2, left + wide, y + high / 2)
            hidden = sum(_shared(box, other) for other in full) + wide * high - _shared(box, ax.bbox)
            places.append((round(hidden), rank, box))
        _, rank, box = min(places, key=lambda place: place[:2])
        full.append(box)
        line = {"arrowstyle": "-", "color": m.colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3} if AROUND[rank][0] > NEXT_TO else None
        at = ax.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
        ax.annotate(m.name, (m.x, m.y), tuple(at), color=m.colour, fontsize=NAME_POINTS, ha="center", va="center", arrowprops=line)


def _shared(a: Bbox, b: Bbox) -> float:
    """The area in which two boxes overlap."""
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0.0
