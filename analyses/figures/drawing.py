"""What several scripts here draw with: means with intervals, and labels that leave each other room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights of labels, moved up as far as it takes to leave a gap between neighbours."""
    placed: dict[int, float] = {}
    for i in sorted(range(len(heights)), key=lambda i: heights[i]):
        placed[i] = max(heights[i], max(placed.values(), default=-math.inf) + gap)
    return [placed[i] for i in range(len(heights))]


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
