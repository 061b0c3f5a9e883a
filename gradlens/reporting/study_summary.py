"""Summary of a study: means over seeds, differences from the baseline, and whether chance explains them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gradlens.reporting.aggregate import final_values
from gradlens.reporting.numbers import DASH, with_ends
from gradlens.reporting.statistics import bootstrap_mean, holm, paired_p
from gradlens.runtime.tables import Cell, Table
from gradlens.training.run_directory import Run
from gradlens.training.sweep.study import StudyPoint
from gradlens.training.sweep.study_file import Study


class SummaryLine(NamedTuple):
    """One row of ``summary.csv``: a quantity of a method at a grid point, and its difference from the baseline there."""

    method: str
    grid: str  # "lr=0.001 width=8", or empty
    quantity: str
    mean: float
    low: float
    high: float
    seeds: int
    difference: float  # mean of (this − baseline), seed by seed; NaN for the baseline
    difference_low: float
    difference_high: float
    pairs: int
    p: float  # paired t-test
    p_holm: float  # corrected for all comparisons of this quantity


def grid_text(grid: Mapping[str, Any]) -> str:
    """Return a grid point in words."""
    return " ".join(f"{name}={value}" for name, value in grid.items())


def quantities(run: Run) -> dict[str, float]:
    """List what is compared: best and final accuracy on held-out images, final losses, each layer's final cosine with the true gradient."""
    found: dict[str, float] = {}
    for split, ends in run.summary.items():
        if not isinstance(ends, dict):
            continue
        names = ("final_loss",) if split == "train" else ("best_accuracy", "final_accuracy", "best_score", "final_score", "final_loss")
        found |= {f"{split} {name}": float(ends[name]) for name in names if ends.get(name) is not None}
    found |= {f"cosine {value.layer}": value.mean for value in final_values([run], "cosine")}
    return found


def summary_lines(study: Study, runs: Sequence[tuple[StudyPoint, Run]]) -> list[SummaryLine]:
    """Return means over seeds, and differences from the baseline method at the same grid point and seed, corrected for their number."""
    values: dict[tuple[str, str], dict[str, dict[int, float]]] = {}  # (method, grid) -> quantity -> seed -> value
    for point, run in runs:
        mine = values.setdefault((point.config.method, grid_text(point.grid)), {})
        for quantity, value in quantities(run).items():
            mine.setdefault(quantity, {})[point.config.seed] = value
    lines: list[SummaryLine] = []
    for (method, grid), found in values.items():
        base = values.get((study.baseline, grid), {})
        for quantity, seeds in found.items():
            mean = bootstrap_mean(list(seeds.values()), f"{method} {grid} {quantity}")
            pairs = [] if method == study.baseline else [v - base[quantity][s] for s, v in seeds.items() if s in base.get(quantity, {})]
            d = bootstrap_mean(pairs, f"{method} {grid} {quantity} difference")
            lines.append(SummaryLine(method, grid, quantity, *mean, *d, paired_p(pairs), math.nan))
    for quantity in dict.fromkeys(line.quantity for line in lines):
        which = [i for i, line in enumerate(lines) if line.quantity == quantity]
        for i, p in zip(which, holm([lines[i].p for i in which]), strict=True):
            lines[i] = lines[i]._replace(p_holm=p)
    return lines


class Merged(NamedTuple):
    """One row of ``rows.csv``: what every run's ``metrics.csv`` holds, with the point it belongs to."""

    run: str
    method: str
    seed: int
    grid: str
    split: str
    epoch: int
    step: int
    loss: float
    accuracy: float
    best: float
    score: float
    score_name: str


def merged_rows(runs: Sequence[tuple[StudyPoint, Run]]) -> list[Merged]:
    """Return all runs' metrics in one table, in the study's order."""
    return [
        Merged(point.name, point.config.method, point.config.seed, grid_text(point.grid), *row)
        for point, run in runs
        for row in run.metrics
    ]


def study_table(lines: Sequence[SummaryLine], baseline: str) -> Table:
    """Tabulate held-out scores (losses, of rules without predictions), beside their paired difference from the baseline."""
    scores = [line for line in lines if line.quantity.endswith("_score") and math.isfinite(line.mean)]
    accuracies = [line for line in lines if line.quantity.endswith("_accuracy") and math.isfinite(line.mean)] if not scores else []
    chosen = scores or accuracies or [line for line in lines if line.quantity.endswith("final_loss")]
    few = min((line.seeds for line in chosen), default=0) < 2
    caption = (
        "Means over seeds [95 % percentile bootstrap interval; too short with few seeds]; differences from "
        f"{baseline}, seed by seed; p: paired t-test, corrected for all comparisons of the quantity (Holm)."
        + (" With one seed there is neither interval nor test." if few else "")
    )
    printed = Table(notes=[caption])
    printed.add_column("method")
    for column in ("grid", "quantity"):
        printed.add_column(column, align="left")
    digits, factor, unit = (1, 100, "%") if accuracies else (4, 1, "")
    for column, unit_ in (("mean", unit), ("seeds", ""), (f"minus {baseline}", unit), ("p", "")):
        printed.add_column(column, unit_)
    for line in chosen:
        mean, low, high = (factor * v for v in (line.mean, line.low, line.high))
        away, least, most = (factor * v for v in (line.difference, line.difference_low, line.difference_high))
        p = Cell(f"{line.p_holm:.2g}" if math.isfinite(line.p_holm) else DASH, line.p_holm)
        difference = Cell(with_ends(away, least, most, digits, sign=True), away, least, most)
        printed.add_row(
            line.method, line.grid, line.quantity, Cell(with_ends(mean, low, high, digits), mean, low, high), line.seeds, difference, p
        )
    return printed
