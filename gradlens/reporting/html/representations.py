"""The section of the page on what each block represents, and the similarity of two networks' blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gradlens.reporting.html.cells import Cells, block_cells_table, control_line, gathered, lines_of
from gradlens.reporting.html.charts import line_chart, matrix_chart
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell, number_cell
from gradlens.reporting.html.stored import Result, last, protocol, result_of, rows_of, stored, value
from gradlens.reporting.numbers import short_number
from gradlens.reporting.statistics import interval
from gradlens.training.run_directory import Run

MATRICES = 12  # CKA matrices on the page at most
DEPTH = {  # quantity -> title, y axis
    "effective_rank": ("effective rank", "rank"),
    "participation_ratio": ("participation ratio", "directions"),
    "fisher": ("class separation (Fisher)", "between ÷ within"),
    "reconstruction_r2": ("what is left of the image", "R² of a decoder"),
    "information_y_bits": ("information about the label", "bits, at least"),
    "head_accuracy": ("a head's accuracy", "accuracy (%)"),
}


def section(held: ReportContext) -> ReportSection:
    """Return rank, class separation and information of every block; how alike two networks' blocks are."""
    shown = ReportSection("representations", "Representations")
    results = stored(held, shown, "representations", "gradlens representations {}")

    def by_block(network: str, quantity: str) -> Cells:
        def of(_: Run, result: Result) -> Any:
            rows = [r for r in rows_of(result, "rows", "block", "network", quantity) if r["network"] == network]
            return [(str(r["block"]), value(r, quantity)) for r in last(rows)]

        return gathered(held, results, of)

    if results:
        shown.text.append("Of each block's output on held-out images; the dotted grey line is the untrained networks' mean.")
    columns: dict[str, tuple[Cells, int, int]] = {}
    for quantity, (title, axis) in DEPTH.items():
        trained = by_block("trained", quantity)
        if any(math.isfinite(v) for values in trained.values() for v in values):
            drawn = lines_of(held, trained) + control_line(by_block("untrained", quantity), "untrained network")
            percent = quantity == "head_accuracy"
            shown.charts.append(line_chart(title, "block", axis, drawn, percent=percent, categories=True))
            columns[f"{title}{' %' if percent else ''}"] = (trained, 1 if percent else 2, 100 if percent else 1)
    if columns:
        shown.tables.append(block_cells_table(held, "Of each block's output", columns))
    _likeness(held, shown)
    protocol(shown, results.values())
    return shown


def _likeness(held: ReportContext, shown: ReportSection) -> None:
    """Add CKA of pairs of networks: one table of equal blocks, and the first matrices."""
    pairs = {run.path: result for run in held.runs if (result := result_of(run, "cka"))}
    if not pairs:
        if not shown.command:
            shown.missing.append("No two networks were compared (CKA): `gradlens representations RUN_DIR RUN_DIR` compares them.")
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
                names = (f"blocks of {other}", f"blocks of {own}")
                charts.append(matrix_chart(f"{own} and {other}", names, theirs, mine, z, "CKA"))
    shown.charts += charts[:MATRICES]
    if len(charts) > MATRICES:
        shown.text.append(f"{MATRICES} of {len(charts)} CKA matrices are drawn; the table has all pairs.")
    if rows:
        columns = ["method", "seed", "compared with", "mean CKA of equal blocks", "by block"]
        shown.tables.append(Table("How alike two networks' blocks are (linear CKA, unbiased)", columns, rows))


def _other(entry: Mapping[str, Any]) -> str:
    label, seed = entry.get("label"), entry.get("seed")
    if entry.get("network") == "untrained":
        return "its untrained network"
    return f"{label} s{seed}" if label is not None and seed is not None else str(entry.get("run", "another run"))
