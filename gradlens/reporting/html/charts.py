"""Interactive charts as plain data. ``template/report.js`` turns them into plotly's traces in the reader's browser.

Each function is pure: rows in, a dict for JSON out. Numbers keep four significant digits, so that 12 methods × 5 layers × 500 steps
stay below a megabyte; numbers that are not finite become null, a gap in the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from gradlens.reporting.aggregate import CurvePoint, LayerPoint
from gradlens.reporting.layer_kinds import KindPoint
from gradlens.reporting.style import Style, contrast, readable_ink

Chart = dict[str, Any]
BINS = 21  # colours of a cosine from −1 to 1, steps of 0.1
DARK = "#1a2027"  # behind a chart in dark mode: template/report.css has the same
READABLE = 3.5  # contrast that a line has on it at least (WCAG requires 3)
SYMBOLS = {  # matplotlib's markers in plotly's words
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x", "p": "pentagon",
}  # fmt: skip


def compact(value: float | int | None) -> float | int | None:
    """Return a number as it is stored in the page: four significant digits, whole numbers in full.

    >>> compact(0.123456), compact(123456), compact(1.0), compact(float("nan"))
    (0.1235, 123456, 1, None)
    """
    if value is None or not math.isfinite(value):
        return None
    if isinstance(value, int):
        return value
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded


# ------------------------------------------------------------------------------------------------------------ colours


def in_the_dark(colour: str) -> str:
    """Return a line's colour on the dark page: greys are inverted (black becomes light grey), other hues made lighter where necessary."""
    r, g, b = to_rgb(colour)
    if max(r, g, b) - min(r, g, b) < 0.02:
        return to_hex((0.92 - 0.6 * r,) * 3)
    mixed, share = colour, 0.0
    while contrast(mixed, DARK) < READABLE:
        share += 0.05
        mixed = to_hex((r + (1 - r) * share, g + (1 - g) * share, b + (1 - b) * share))
    return mixed


def cosine_colours(dark: bool) -> list[tuple[str, str]]:
    """Return (colour, ink on it) of each of BINS cosines from −1, against the truth, to 1, with it; 0 is the page's own colour."""
    if not dark:
        colours = [to_hex(colormaps["RdBu"](i / (BINS - 1))) for i in range(BINS)]
    else:
        ends = {False: to_rgb("#f0705a"), True: to_rgb("#58a6f0")}
        middle = to_rgb("#262e37")
        shares = [2 * i / (BINS - 1) - 1 for i in range(BINS)]
        colours = [to_hex(tuple(m + (e - m) * abs(s) ** 0.7 for m, e in zip(middle, ends[s > 0], strict=True))) for s in shares]
    return [(colour, readable_ink(colour)) for colour in colours]


def cosine_bin(value: float) -> int | None:
    """Return the place of a cosine's colour; None without a value.

    >>> cosine_bin(-1), cosine_bin(0.04), cosine_bin(1), cosine_bin(float("nan"))
    (0, 10, 20, None)
    """
    return min(BINS - 1, max(0, math.floor((value + 1) / 2 * (BINS - 1) + 0.5))) if math.isfinite(value) else None


def looks(styles: Mapping[str, Style]) -> list[dict[str, Any]]:
    """Return each label's line, as in the figures: colours on light and dark, plotly's dash and symbol."""
    found = []
    for label, style in styles.items():
        pattern = style.dash[1] or ()
        dash = ",".join(f"{2 * part:g}px" for part in pattern) or "solid"
        found.append(
            {
                "label": label,
                "light": style.colour,
                "dark": in_the_dark(style.colour),
                "dash": dash,
                "pattern": " ".join(f"{2 * part:g}" for part in pattern),
                "symbol": SYMBOLS[style.marker],
            }
        )
    return found


# ------------------------------------------------------------------------------------------------------------- charts


def series(label: str, x: Sequence[Any], rows: Sequence[CurvePoint | LayerPoint | KindPoint]) -> dict[str, Any]:
    """Return a line of means and, where there are any, the ends of its band."""
    line: dict[str, Any] = {"label": label, "x": list(x), "y": [compact(row.mean) for row in rows]}
    if any(math.isfinite(row.low) for row in rows):
        line["low"], line["high"] = ([compact(v) for v in ends] for ends in ([r.low for r in rows], [r.high for r in rows]))
    return line


def line_chart(title: str, x: str, y: str, drawn: Sequence[Mapping[str, Any]], **look: Any) -> Chart:
    """Return a chart of lines.

    Args:
        title: above it.
        x: the axis' name.
        y: the axis' name.
        drawn: from :func:`series`; ``dash`` and ``name`` may be set to distinguish several lines of one label.
        look: ``percent`` (shares shown in %), ``log``, ``range`` (of y, None for as far as it goes), ``zero`` (a reference line at 0).

    """
    return {"kind": "lines", "title": title, "x": x, "y": y, "lines": list(drawn), **look}


def curve_chart(points: Sequence[CurvePoint], split: str, quantity: str, order: Iterable[str]) -> Chart | None:
    """Return loss or accuracy of a split over epochs; None without a value."""
    rows = [p for p in points if (p.split, p.quantity) == (split, quantity) and p.seeds]
    if not rows:
        return None
    share = quantity == "accuracy"
    values = [p.mean for p in rows]
    log = not share and min(values) > 0 and max(values) > 100 * min(values)  # as the figures do
    drawn = []
    for label in order:
        mine = sorted((p for p in rows if p.label == label), key=lambda p: p.epoch)
        if mine:
            drawn.append(series(label, [p.epoch for p in mine], mine))
    return line_chart(f"{split} {quantity}", "epoch", f"{quantity} (%)" if share else quantity, drawn, percent=share, log=log)


def method_band(points: Sequence[LayerPoint]) -> dict[str, Any] | None:
    """Return the band from the lowest to the highest mean of any method at each step, with a gap where records are far apart.

    None without a value.
    """
    at: dict[int, list[float]] = {}
    for p in points:
        if math.isfinite(p.mean):
            at.setdefault(p.step, []).append(p.mean)
    if not at:
        return None
    steps = sorted(at)
    usual = median(b - a for a, b in pairwise(steps)) if len(steps) > 1 else 0
    x: list[int] = []
    low: list[float | int | None] = []
    high: list[float | int | None] = []
    for before, step in zip([steps[0], *steps], steps, strict=False):
        if step - before > 2 * usual:
            x, low, high = [*x, (before + step) // 2], [*low, None], [*high, None]
        x.append(step)
        low.append(compact(min(at[step])))
        high.append(compact(max(at[step])))
    return {"x": x, "low": low, "high": high}


def by_layer(points: Sequence[LayerPoint], order: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return a dict layer -> one line a label over updates, layers bottom first."""
    layers = list(dict.fromkeys(p.layer for p in points))
    found: dict[tuple[str, str], list[LayerPoint]] = {}
    for p in points:
        found.setdefault((p.layer, p.label), []).append(p)
    names = list(order)
    drawn: dict[str, list[dict[str, Any]]] = {}
    for layer in layers:
        drawn[layer] = []
        for label in names:
            mine = sorted(found.get((layer, label), []), key=lambda p: p.step)
            if mine:
                drawn[layer].append(series(label, [p.step for p in mine], mine))
    return drawn


def matrix_chart(title: str, axes: tuple[str, str], x: Sequence[str], y: Sequence[str], z: Sequence[Sequence[float]], name: str) -> Chart:
    """Return a table in colour from 0 to 1; ``z[i][j]`` is at ``y[i]`` and ``x[j]``, whose axes are called ``axes`` (x, y)."""
    cells = [[compact(v) for v in row] for row in z]
    return {"kind": "matrix", "title": title, "x": list(x), "y": list(y), "z": cells, "name": name, "x_name": axes[0], "y_name": axes[1]}
