"""Asynchronous greedy learning when one block is slow: test accuracy against the slowdown, for each block that can be slow.

Claim (of Belilovsky et al. 2020, as third-party notes have it): no visible loss up to a slowdown of about 1.2 of any one layer.
dgl-async on BasicCNN of width 16, 5,000 CIFAR-10 images, three epochs of 100 images a batch, Adam 1e-3, a buffer of ten batches between
units; a unit slowed S times skips a round with probability 1 − 1/S, so it also makes fewer updates (in the paper it goes on until it has
made as many as the others). Three seeds. Beside it dgl, and the staleness of what is read.

    python -m analyses.async_slowdown --data cifar10          # about ten minutes on two cores
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.study import arguments, data_name, publish, trained
from gradlens.reporting.aggregate import final_values
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import COLOURS, LOOK, MARKERS, PATTERNS, save_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SEEDS = {1.0: 10, 1.2: 10, 3.0: 3}  # slowdown -> seeds; no sentence speaks of the last
UNITS = (1, 2, 3)
SHARED: dict[str, Any] = {
    "limit": 5_000, "width": 16, "epochs": 3, "batch_size": 100, "lr": 1e-3, "lr_schedule": "cosine", "record_every": 25,
    "diagnose_every": 0,
}  # fmt: skip


class Point(NamedTuple):
    """Final test accuracy at one slowdown of one unit."""

    slowed: int  # which unit, 1 at the bottom; 0: dgl, which waits for its slowest
    slowdown: float
    mean: float  # test accuracy in %, final epoch
    low: float
    high: float
    seeds: int
    staleness: float  # rounds between writing and reading, mean over the last epoch's recorded steps, all units but the first, seeds


def config(data: str, unit: int, slowdown: float, seed: int) -> Config:
    """One run; at a slowdown of 1 all units are alike."""
    options = {"buffer": 10, "slowed": unit if slowdown > 1 else None, "slowdown": slowdown}
    return make_config(method="dgl-async", options=options, data=data, seed=seed, **SHARED)


def point(unit: int, slowdown: float, runs: Sequence[Run]) -> Point:
    """The mean over seeds."""
    accuracy = interval(100 * float(run.summary["test"]["final_accuracy"]) for run in runs)
    stale = [v.mean for run in runs for v in final_values([run], "staleness", "rule") if v.layer != "block1"]
    return Point(unit, slowdown, *accuracy, fmean(stale) if stale else math.nan)


@style.context(LOOK)
def drawing(points: Sequence[Point], data: str) -> Figure:
    """Accuracy over slowdown, a line for each slowed unit, dgl as a band; beside it the staleness."""
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    (dgl,) = [p for p in points if p.slowed == 0]
    left.axhspan(dgl.low, dgl.high, color="0.9", label="dgl, 95 % interval")
    left.axhline(dgl.mean, color="0.4", linewidth=1)
    for unit in sorted({p.slowed for p in points} - {0}):
        mine = sorted((p for p in points if p.slowed == unit), key=lambda p: p.slowdown)
        look: dict[str, Any] = {
            "color": COLOURS[unit],
            "marker": MARKERS[unit],
            "linestyle": (0, PATTERNS[unit] or None),
            "markersize": 4.5,
        }
        x, y = [p.slowdown for p in mine], [p.mean for p in mine]
        left.errorbar(x, y, yerr=[p.mean - p.low for p in mine], capsize=2.5, elinewidth=0.8, label=f"unit {unit} slowed", **look)
        right.plot(x, [p.staleness for p in mine], label=f"unit {unit} slowed", **look)
    left.set(xlabel="slowdown S of one unit", ylabel="test accuracy (%), final epoch")
    right.set(xlabel="slowdown S of one unit", ylabel="staleness of what is read (rounds)")
    left.legend()
    title = f"dgl-async · {data} · BasicCNN, width 16 · mean of {max(SEEDS.values())} seeds, 95 % t-intervals"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def grid(data: str) -> list[tuple[int, float, int, Config]]:
    """(slowed unit, slowdown, seed, config) of each run, unit 0 for dgl, seed after seed: stopped early, it leaves whole comparisons."""
    found = []
    for seed in range(max(SEEDS.values())):
        found.append((0, 1.0, seed, make_config(method="dgl", data=data, seed=seed, **SHARED)))
        found += [(u, s, seed, config(data, u, s, seed)) for s, seeds in SEEDS.items() for u in UNITS if seed < seeds]
    return found


def main() -> None:
    """Train or read the runs, print the table, write figures/async_slowdown."""
    args = arguments(__doc__ or "")
    cells = grid(args.data)
    runs: dict[tuple[int, float], list[Run]] = {}
    for (unit, slowdown, *_), run in zip(cells, trained([c for *_, c in cells], args), strict=True):
        runs.setdefault((unit, slowdown), []).append(run)
    points = [point(u, s, group) for (u, s), group in runs.items()]
    for p in points:
        print(f"slowed unit {p.slowed} S={p.slowdown:g}: {p.mean:.1f} % [{p.low:.1f}, {p.high:.1f}], staleness {p.staleness:.2f}")
    save_figure(drawing(points, data_name(args)), points, args.figures / "async_slowdown", "accuracy_against_slowdown")
    settings = {**SHARED, "data": Path(args.data).name, "seeds": SEEDS}
    every = list({run.path: run for group in runs.values() for run in group}.values())
    publish("async_slowdown", every, args, {"settings": settings, "points": points}, figures=False)


if __name__ == "__main__":
    main()
