"""The section of the page on first-layer filters: the filters, and numbers that describe them."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from gradlens.reporting.html.parts import Picture, ReportContext, ReportSection, Table, TableCell, mean_cell
from gradlens.reporting.html.stored import Result, protocol, stored, value
from gradlens.reporting.statistics import interval


def section(held: ReportContext) -> ReportSection:
    """Make the section: the first layer's filters, and numbers that describe them."""
    shown = ReportSection("filters", "First-layer filters")
    results = stored(held, shown, "filters", "gradlens filters {}")
    names: dict[str, None] = {}
    for label, group in held.groups.items():
        for run in group:
            result = results.get(run.path, {})
            names |= dict.fromkeys(result.get("numbers") or {})
            if any(picture.method == held.place(label) for picture in shown.pictures):
                continue
            if drawn := picture_of(result):
                kernel = result.get("kernel", "?")
                name = f"{label}, {kernel}×{kernel}, seed {run.config.seed}"
                shown.pictures.append(Picture(name, held.place(label), drawn, f"Filters of {name}; the numbers are in the table"))
    if shown.pictures:
        shown.text.append(
            "Each filter is scaled to its own largest weight (grey is zero), in the stored order; one run of each method."
            f"{' Filters of other than 1 or 3 channels are shown as their mean over channels.' if _folded(results.values()) else ''}"
        )
    rows = []
    for label, group in held.groups.items():
        mine = [results[run.path] for run in group if run.path in results]
        for name in names:
            values = [interval(value(r, "numbers", name, state) for r in mine) for state in ("trained", "untrained", "random")]
            if mine and any(v.n for v in values):
                rows.append([held.named(label), TableCell(name.replace("_", " "), name), *map(mean_cell, values)])
            elif mine and name == "gabor_share":  # the kernel is too small for it to mean anything
                rows.append([held.named(label), TableCell("gabor share", name), *[TableCell("undecided")] * 3])
    if rows:
        meaning = next((m for r in results.values() if isinstance(m := (r.get("protocol") or {}).get("numbers"), Mapping)), {})
        note = " ".join(f"{name.replace('_', ' ')}: {meaning[name]}." for name in names if name in meaning)
        shown.tables.append(
            Table("Beside the untrained stem and random filters", ["method", "number", "trained", "untrained", "random"], rows, note)
        )
    protocol(shown, ({"protocol": {k: v for k, v in (r.get("protocol") or {}).items() if k != "numbers"}} for r in results.values()))
    return shown


def _folded(results: Iterable[Result]) -> bool:
    return any(r.get("channels") not in (None, 1, 3) for r in results)


def picture_of(result: Result) -> str:
    """Return stored weights [F][C][k][k] as a PNG in a data URI, one pixel a weight; "" where there are none.

    A filter's weights are divided by its largest magnitude, so that grey is zero; red, green and blue are its three channels.
    """
    try:
        weights = np.array(result.get("weights"), float)
    except (TypeError, ValueError):
        return ""
    if weights.ndim != 4 or not weights.size:
        return ""
    order = [i for i in result.get("order") or range(len(weights)) if isinstance(i, int) and 0 <= i < len(weights)]
    shown = weights[order] if weights.shape[1] in (1, 3) else weights[order].mean(1, keepdims=True)
    largest = np.abs(shown).max((1, 2, 3), keepdims=True)
    levels = np.nan_to_num(127.5 + 127.5 * shown / np.where(largest > 0, largest, 1), nan=127.5)
    pixels = levels.round().astype(np.uint8).transpose(0, 2, 3, 1).repeat(3 // shown.shape[1], 3)  # [F, k, k, 3]
    k, columns = pixels.shape[1], math.ceil(math.sqrt(2 * len(pixels)))
    grid = np.zeros((math.ceil(len(pixels) / columns) * (k + 1) + 1, columns * (k + 1) + 1, 4), np.uint8)
    for i, one in enumerate(pixels):
        y, x = (i // columns) * (k + 1) + 1, (i % columns) * (k + 1) + 1
        grid[y : y + k, x : x + k] = np.concatenate([one, np.full((k, k, 1), 255, np.uint8)], 2)
    return as_png(grid)


def as_png(pixels: Any) -> str:
    """Return pixels [H, W, 3 or 4] uint8 as a PNG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
