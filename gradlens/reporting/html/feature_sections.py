"""The sections of the page that show what networks have learned to see: first-layer filters, and what each block represents."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from gradlens.reporting.aggregate import interval
from gradlens.reporting.html.charts import line_chart, matrix_chart
from gradlens.reporting.html.parts import Picture, ReportContext, ReportSection, Table, TableCell, mean_cell, number_cell
from gradlens.reporting.html.stored import (
    Cells,
    Result,
    block_cells_table,
    gathered,
    last,
    lines_of,
    pooled,
    protocol,
    result_of,
    rows_of,
    stored,
    value,
)
from gradlens.reporting.html.wording import short_number
from gradlens.training.run_directory import Run

MATRICES = 12  # CKA matrices on the page at most


def filters(held: ReportContext) -> ReportSection:
    """The first layer's filters, and numbers that say how they look."""
    section = ReportSection("filters", "First-layer filters")
    results = stored(held, section, "filters", "gradlens filters {}")
    names: dict[str, None] = {}
    for label, group in held.groups.items():
        for run in group:
            result = results.get(run.path, {})
            names |= dict.fromkeys(result.get("numbers") or {})
            if any(picture.method == held.place(label) for picture in section.pictures):
                continue
            if drawn := picture_of(result):
                kernel = result.get("kernel", "?")
                name = f"{label}, {kernel}×{kernel}, seed {run.config.seed}"
                section.pictures.append(Picture(name, held.place(label), drawn))
    if section.pictures:
        section.text.append(
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
            elif mine and name == "gabor_share":  # the kernel is too small for it to say anything
                rows.append([held.named(label), TableCell("gabor share", name), *[TableCell("undecided")] * 3])
    if rows:
        meaning = next((m for r in results.values() if isinstance(m := (r.get("protocol") or {}).get("numbers"), Mapping)), {})
        note = " ".join(f"{name.replace('_', ' ')}: {meaning[name]}." for name in names if name in meaning)
        section.tables.append(
            Table("Beside the untrained stem and random filters", ["method", "number", "trained", "untrained", "random"], rows, note)
        )
    protocol(section, ({"protocol": {k: v for k, v in (r.get("protocol") or {}).items() if k != "numbers"}} for r in results.values()))
    return section


def _folded(results: Iterable[Result]) -> bool:
    return any(r.get("channels") not in (None, 1, 3) for r in results)


def picture_of(result: Result) -> str:
    """Stored weights [F][C][k][k] as a PNG in a data URI, one pixel a weight; "" where there are none.

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
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


DEPTH = {  # quantity -> title, y axis
    "effective_rank": ("effective rank", "rank"),
    "participation_ratio": ("participation ratio", "directions"),
    "fisher": ("class separation (Fisher)", "between ÷ within"),
    "reconstruction_r2": ("what is left of the image", "R² of a decoder"),
    "information_y_bits": ("information about the label", "bits, at least"),
    "head_accuracy": ("a head's accuracy", "accuracy (%)"),
}


def representations(held: ReportContext) -> ReportSection:
    """Rank, class separation and information of every block; how alike two networks' blocks are."""
    section = ReportSection("representations", "Representations")
    results = stored(held, section, "representations", "gradlens representations {}")

    def by_block(network: str, quantity: str) -> Cells:
        def of(_: Run, result: Result) -> Any:
            rows = [r for r in rows_of(result, "rows", "block", "network", quantity) if r["network"] == network]
            return [(str(r["block"]), value(r, quantity)) for r in last(rows)]

        return gathered(held, results, of)

    if results:
        section.text.append("Of each block's output on held-out images; the dotted grey line is the untrained networks' mean.")
    columns: dict[str, tuple[Cells, int, int]] = {}
    for quantity, (title, axis) in DEPTH.items():
        trained = by_block("trained", quantity)
        if any(math.isfinite(v) for values in trained.values() for v in values):
            drawn = lines_of(held, trained) + pooled(by_block("untrained", quantity), "untrained network")
            percent = quantity == "head_accuracy"
            section.charts.append(line_chart(title, "block", axis, drawn, percent=percent, categories=True))
            columns[f"{title}{' %' if percent else ''}"] = (trained, 1 if percent else 2, 100 if percent else 1)
    if columns:
        section.tables.append(block_cells_table(held, "Of each block's output", columns))
    _likeness(held, section)
    protocol(section, results.values())
    return section


def _likeness(held: ReportContext, section: ReportSection) -> None:
    """CKA of pairs of networks: one table of equal blocks, and the first matrices."""
    pairs = {run.path: result for run in held.runs if (result := result_of(run, "cka"))}
    if not pairs:
        section.missing.append("No two networks were compared (CKA): `gradlens representations RUN_DIR RUN_DIR` does.")
        return
    rows, charts = [], []
    for label, group in held.groups.items():
        for run in group:
            for entry in rows_of(pairs.get(run.path, {}), "with", "blocks", "matrix"):
                mine, theirs = list(entry["blocks"]), list(entry.get("with_blocks") or entry["blocks"])
                z = [[math.nan if v is None else float(v) for v in line] for line in entry["matrix"]]
                if len(z) != len(mine) or any(len(line) != len(theirs) for line in z):
                    continue
                own, other = f"{label} s{run.config.seed}", _other(entry)
                shared = [(block, z[mine.index(block)][theirs.index(block)]) for block in mine if block in theirs]
                text = ", ".join(f"{block} {short_number(v)}" for block, v in shared)
                mean = interval(v for _, v in shared).mean
                rows.append(
                    [
                        held.named(label),
                        TableCell(str(run.config.seed), run.config.seed),
                        TableCell(other, other),
                        number_cell(mean),
                        TableCell(text),
                    ]
                )
                charts.append(matrix_chart(f"{own} and {other}", theirs, mine, z, "CKA"))
    section.charts += charts[:MATRICES]
    if len(charts) > MATRICES:
        section.text.append(f"{MATRICES} of {len(charts)} CKA matrices are drawn; the table has all pairs.")
    if rows:
        columns = ["method", "seed", "compared with", "mean CKA of equal blocks", "by block"]
        section.tables.append(Table("How alike two networks' blocks are (linear CKA, unbiased)", columns, rows))


def _other(entry: Mapping[str, Any]) -> str:
    label, seed = entry.get("label"), entry.get("seed")
    if entry.get("network") == "untrained":
        return "its untrained network"
    return f"{label} s{seed}" if label is not None and seed is not None else str(entry.get("run", "another run"))
