"""The section of the page on linear probes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.reporting.html.cells import Cells, block_cells_table, control_line, gathered, lines_of
from gradlens.reporting.html.charts import Chart, compact, line_chart
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell, number_cell
from gradlens.reporting.html.stored import Result, last, protocol, rows_of, stored, value
from gradlens.reporting.numbers import short_number, with_thousands
from gradlens.runtime.terminal import shell_word
from gradlens.training.run_directory import Run


def section(held: ReportContext) -> ReportSection:
    """Return what a linear probe reads on every block, beside its controls; whether the classes are strictly separable."""
    shown = ReportSection("separability", "Linear separability")
    results = stored(held, shown, "probe", "gradlens probe {}")
    if not results:
        return shown
    begun = [path for path, result in results.items() if not any(r["network"] == "trained" for r in rows_of(result, "rows", "network"))]
    if begun:
        paths = " ".join(shell_word(path) for path in begun)
        shown.missing.append(f"Interrupted before the trained network was probed: `gradlens probe {paths}` continues.")
    _by_block(held, results, shown)
    shown.charts += _over_time(held, results)
    shown.tables += [t for t in [_certificates(held, results)] if t]
    protocol(shown, results.values())
    return shown


def _accuracy(held: ReportContext, results: Mapping[Path, Result], network: str, labels: str = "true", half: str = "test") -> Cells:
    """Return accuracies of the probes of one network, by label and block."""

    def of(_: Run, result: Result) -> Any:
        rows = [r for r in rows_of(result, "rows", "block", "network") if r["network"] == network and r.get("labels", "true") == labels]
        return [(str(r["block"]), value(r, half)) for r in last(rows) if half in r]

    return gathered(held, results, of)


def _by_block(held: ReportContext, results: Mapping[Path, Result], shown: ReportSection) -> None:
    """Add the chart and the table of accuracies at the last weights, where the trained network was probed."""
    trained = _accuracy(held, results, "trained")
    if not trained:
        return
    blocks = list(dict.fromkeys(place for _, place in trained))
    untrained = _accuracy(held, results, "untrained")
    drawn = lines_of(held, trained) + control_line(untrained, "untrained network")
    pixels = [v for values in _accuracy(held, results, "pixels").values() for v in values if math.isfinite(v)]
    if pixels:
        level = [compact(float(np.mean(pixels)))] * len(blocks)
        drawn.append({"label": None, "name": "raw pixels", "x": blocks, "y": level, "dash": "dash"})
    drawn += control_line(_accuracy(held, results, "trained", "permuted"), "permuted labels", "longdashdot")
    shown.text.append(
        "Held-out accuracy of a multinomial logistic regression on each block's frozen activations. Grey: the same on the untrained"
        " network (dotted), on raw pixels (dashed) and with permuted labels (dash-dotted)."
    )
    shown.charts.append(line_chart("linear probe, held-out accuracy", "block", "accuracy (%)", drawn, percent=True, categories=True))
    columns = {
        "held-out %": trained, "training %": _accuracy(held, results, "trained", "true", "train"),
        "untrained network, held-out %": untrained,
        "permuted labels, training %": _accuracy(held, results, "trained", "permuted", "train"),
    }  # fmt: skip
    note = f"Raw pixels: {short_number(float(np.mean(pixels)), 1, scale=100)} % held-out." if pixels else ""
    note += " Training accuracy with permuted labels shows how much of any labelling so many features can fit."
    shown.tables.append(block_cells_table(held, "Linear probe", {name: (cells, 1, 100) for name, cells in columns.items()}, note.strip()))


def _over_time(held: ReportContext, results: Mapping[Path, Result]) -> list[Chart]:
    """Return a chart a block, of accuracy over updates, where more than one step was probed."""

    def of(_: Run, result: Result) -> Any:
        rows = [r for r in rows_of(result, "rows", "block", "network", "step") if r["network"] == "trained"]
        return [((str(r["block"]), int(r["step"])), value(r, "test")) for r in rows if r.get("labels", "true") == "true" and "test" in r]

    steps = dict(sorted(gathered(held, results, of).items(), key=lambda cell: cell[0][1][1]))
    if len({step for _, (_, step) in steps}) < 2:
        return []
    charts = []
    for block in dict.fromkeys(place for _, place in _accuracy(held, results, "trained")):
        mine = {(label, step): values for (label, (b, step)), values in steps.items() if b == block}
        charts.append(line_chart(f"linear probe on {block}", "updates", "accuracy (%)", lines_of(held, mine), percent=True))
    return charts


def _certificates(held: ReportContext, results: Mapping[Path, Result]) -> Table | None:
    rows = []
    for label, group in held.groups.items():
        for run in group:
            for r in rows_of(results.get(run.path, {}), "separability", "block", "verdict"):
                low, high = (r.get("gap") or [None, None])[:2]
                gap = "–" if low is None or high is None or r["verdict"] == "not separable" else f"{low:.3g} to {high:.3g}"
                words = [str(r.get(key, "–")) for key in ("block", "network", "labels")]
                rows.append(
                    [
                        held.named(label), TableCell(str(run.config.seed), run.config.seed), *(TableCell(w, w) for w in words),
                        TableCell(str(r["verdict"]), str(r["verdict"])), TableCell(gap, compact(value(r, "margin"))),
                        *(TableCell(with_thousands(value(r, key)), compact(value(r, key))) for key in ("n", "features", "cover_capacity")),
                        number_cell(value(r, "n_per_feature")),
                    ]
                )  # fmt: skip
    columns = ["method", "seed", "block", "network", "labels", "verdict", "largest margin between", "n", "d", "Cover's capacity", "n/d"]
    note = (
        "Few points in many dimensions are separable whatever their labels are: below Cover's capacity, 2 (d + 1) points, most two-class"
        " labellings are."
    )
    return Table("Strictly linearly separable?", columns, rows, note) if rows else None
