"""Asynchronous greedy learning when one block is slow: test accuracy against the slowdown, for each block that can be slow.

Belilovsky et al. 2020, as third-party notes have it: no visible loss up to a slowdown of about 1.2 of any one layer. dgl-async on BasicCNN
of width 16, 5,000 CIFAR-10 images, three epochs of 100 images a batch, Adam 1e-3 that falls to 0 (cosine), a buffer of ten batches
between units, accuracies of all 10,000 test images; a unit slowed S times skips a round with probability 1 − 1/S, so it also makes fewer
updates (in the paper it goes on until it has made as many as the others). Ten seeds at S = 1 and 1.2, three at S = 3, dgl beside them.

Primary test of "also where one layer is 1.2 times slower": final accuracy, the mean over the three units that can be slow minus none slow,
no more than one point below (at least −1). Ten seeds see a point or so beyond the bound.

    python -m analyses.async_slowdown --data cifar10          # about ten minutes of one core
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, listed, publish, trained
from analyses.verdicts.decision import Test, by_seed, details
from analyses.verdicts.wording import report
from gradlens.reporting.aggregate import final_values
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import COLOURS, LOOK, MARKERS, head, save_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SEEDS = {1.0: 10, 1.2: 10, 3.0: 3}  # slowdown -> seeds; no sentence speaks of the last
UNITS = {1: "block1", 2: "block2", 3: "block3 and top"}
SHARED: dict[str, Any] = {
    "limit": 5_000, "width": 16, "epochs": 3, "batch_size": 100, "lr": 1e-3, "lr_schedule": "cosine", "record_every": 25,
    "diagnose_every": 0,
}  # fmt: skip
FINAL, BEST, NONE, WAITING = "final accuracy", "best accuracy", "none slowed", "dgl"
VISIBLE = 1.0  # points: a loss that counts as one


def slowed(unit: str, slowdown: float) -> str:
    """What a group of runs is called."""
    return f"{unit} slowed {slowdown:g} times"


def loss_below(name: str, of: Mapping[str, float], against: str, primary_of: str = "") -> Test:
    """The test that some groups lose no more than a point against another."""
    said = "mean over the three parts, one slowed 1.2 times" if len(of) > 1 else next(iter(of))
    return Test(name, f"{FINAL}: {said} − {against}", FINAL, {**of, against: -1}, "points", at_least=-VISIBLE, primary_of=primary_of)


TESTS = (
    loss_below("slow-1.2", {slowed(unit, 1.2): 1 / len(UNITS) for unit in UNITS.values()}, NONE, "dgl-slowdown"),
    *details(
        "dgl-slowdown",
        *(loss_below(f"slow-1.2-{unit}", {slowed(unit, 1.2): 1}, NONE) for unit in UNITS.values()),
        *(loss_below(f"slow-3-{unit}", {slowed(unit, 3.0): 1}, NONE) for unit in UNITS.values()),
        loss_below("async-dgl", {NONE: 1}, WAITING),
    ),
)


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
    """Accuracy over slowdown, a line for each slowed unit named at its end, dgl as a band."""
    figure = Figure(figsize=(7.8, 3.9), layout="constrained")
    ax = figure.subplots()
    (dgl,) = [p for p in points if p.slowed == 0]
    ax.axhspan(dgl.low, dgl.high, color="0.92", zorder=0)
    ax.axhline(dgl.mean, color="0.5", linewidth=1, zorder=1)
    ax.annotate(f"dgl, which waits (n = {dgl.seeds})", (2.98, dgl.mean), (0, 3), textcoords="offset points", ha="right", fontsize=9.5)
    for unit, name in UNITS.items():
        mine = sorted((p for p in points if p.slowed == unit), key=lambda p: p.slowdown)
        x = [p.slowdown + 0.015 * (unit - 2) for p in mine]  # so that error bars do not hide each other
        look: dict[str, Any] = {"color": COLOURS[unit], "marker": MARKERS[unit], "markersize": 5}
        ax.errorbar(x, [p.mean for p in mine], yerr=[p.mean - p.low for p in mine], capsize=2.5, elinewidth=1, **look)
        ax.annotate(f"  {name} slow", (3.04, mine[-1].mean), color=COLOURS[unit], va="center", fontsize=9.5, annotation_clip=False)
    seeds = {p.slowdown: p.seeds for p in points if p.slowed}
    ax.set_xticks(list(seeds), [f"{s:g}×\nn = {n}" for s, n in seeds.items()])
    ax.set(xlabel="slowdown of one part", ylabel="final test accuracy (%)")
    head(
        figure,
        f"A part that is 1.2 times slower costs {cost_of(points, 1.2)} points of accuracy, one 3 times slower {cost_of(points, 3.0)}",
        f"dgl-async · {data}, 5,000 images · BasicCNN, width 16 · mean over seeds, 95 % t-intervals",
    )
    return figure


def cost_of(points: Sequence[Point], slowdown: float) -> str:
    """The least and the most points of accuracy that a slowdown of one unit costs on average, in words."""
    mean = {(p.slowed, p.slowdown): p.mean for p in points}
    lost = [mean[unit, 1.0] - mean[unit, slowdown] for unit in UNITS]
    return f"{min(lost):.1f} to {max(lost):.1f}"


def grid(data: str) -> list[tuple[int, float, int, Config]]:
    """(slowed unit, slowdown, seed, config) of each run, unit 0 for dgl, seed after seed: stopped early, it leaves whole comparisons."""
    found = []
    for seed in range(max(SEEDS.values())):
        found.append((0, 1.0, seed, make_config(method="dgl", data=data, seed=seed, **SHARED)))
        found += [(u, s, seed, config(data, u, s, seed)) for s, seeds in SEEDS.items() for u in UNITS if seed < seeds]
    return found


def group_of(label: str) -> str:
    """What the tests call a group of runs that a results file calls so; at a slowdown of 1 no unit is slow."""
    if label == WAITING:
        return WAITING
    options = dict(option.split("=") for option in label.split(" ")[1:])
    return NONE if options["slowed"] == "none" else slowed(UNITS[int(options["slowed"])], float(options["slowdown"]))


def values_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """quantity -> group -> one value a seed, of what a results file says of its runs (:func:`analyses.training.study.listed`)."""
    in_order = sorted(runs, key=lambda run: run["seed"])
    ends = {FINAL: "final_accuracy", BEST: "best_accuracy"}
    return {name: by_seed((group_of(run["label"]), 100 * float(run["test"][key])) for run in in_order) for name, key in ends.items()}


def minutes_by_group(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """group -> mean minutes of training of one run."""
    return {name: fmean(seeds) for name, seeds in by_seed((group_of(run["label"]), run["training_minutes"]) for run in runs).items()}


def main() -> None:
    """Train or read the runs, print the table, test the sentence, write figures/async_slowdown."""
    args = arguments(__doc__ or "")
    announce_cost(10)
    cells = grid(args.data)
    runs: dict[tuple[int, float], list[Run]] = {}
    for (unit, slowdown, *_), run in zip(cells, trained([c for *_, c in cells], args), strict=True):
        runs.setdefault((unit, slowdown), []).append(run)
    points = [point(u, s, group) for (u, s), group in runs.items()]
    for p in points:
        print(f"slowed unit {p.slowed} S={p.slowdown:g}: {p.mean:.1f} % [{p.low:.1f}, {p.high:.1f}], staleness {p.staleness:.2f}")
    every = list({run.path: run for group in runs.values() for run in group}.values())  # at a slowdown of 1 all units are one run
    results = {
        "settings": {**SHARED, "data": Path(args.data).name, "seeds": SEEDS},
        "points": points,
        "values": values_of(listed(every)),
        "minutes": minutes_by_group(listed(every)),
    }
    report(TESTS, results)
    save_figure(drawing(points, data_name(args)), points, args.figures / "async_slowdown", "accuracy_against_slowdown")
    publish("async_slowdown", every, args, results, figures=False)


if __name__ == "__main__":
    main()
