"""Greedy layerwise learning with heads of one, two and three hidden layers: the network that results, and what its blocks hold.

Belilovsky et al. 2019: the more hidden layers each stage's problem has, the better the network (CIFAR-10, full size: 88.3, 90.4 and
91.7 %). Here: BasicCNN of width 16, 5,000 CIFAR-10 images, batches of 100, Adam 1e-3 that falls to 0 over the whole run (cosine), ten
seeds, accuracies of all 10,000 test images. Stages of three, three and six epochs: the rate does not begin anew with each stage, so the
last, whose rate falls from half to 0, gets more. Its head is the network's own top in all three. A block is judged by a linear probe
(3,000 training images) of the block that its stage left: a deeper head answers better by itself, which says nothing of the block below.

Primary test of "auxiliary networks with more than one hidden layer work better": final accuracy of the whole network, the mean of two and
three hidden layers minus one, at least 0. Six of the ten seeds have been run; three saw 1.5 points, ten see about half of that.

    python -m analyses.greedy_heads --data cifar10          # about 12 minutes of one core
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, drawn_again, listed, minutes_of, probe_accuracy, probed, publish, trained
from analyses.verdicts.decision import Test, by_seed, details
from analyses.verdicts.wording import report
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, head, save_figure
from gradlens.training.config import make_config

SEEDS, STAGE_EPOCHS, EPOCHS, HIDDEN = 10, 3, 12, (1, 2, 3)  # the third stage, of two blocks, has what is left of the epochs
SHARED: dict[str, Any] = {
    "limit": 5_000, "width": 16, "batch_size": 100, "lr": 1e-3, "lr_schedule": "cosine", "epochs": EPOCHS, "record_every": 0,
}  # fmt: skip
OPTIONS = replace(FULL_PROBE, blocks=("block1", "block2"), features=512, train_images=3_000, separability=0, controls=False)
NETWORK, BEST = "final accuracy", "best accuracy"
PROBES = {"probe of block1": "block1", "probe of block2": "block2"}
COLOURS_OF = {"probe of block1": "#0072B2", "probe of block2": "#009E73", NETWORK: "#000000"}
TITLES = {"probe of block1": "linear probe of block1", "probe of block2": "linear probe of block2", NETWORK: "the whole network"}


def more(name: str, metric: str, upper: Mapping[str, float], primary_of: str = "") -> Test:
    """The test that some depths of head are better than one hidden layer, or another depth."""
    better = " and ".join(h for h, w in upper.items() if w > 0)
    worse = next(h for h, w in upper.items() if w < 0)
    says = f"{metric}: {'mean of ' if len(upper) > 2 else ''}{better} hidden layers − {worse}"
    return Test(name, says, metric, upper, "points", at_least=0, primary_of=primary_of)


TESTS = (
    more("deeper-heads", NETWORK, {"2": 0.5, "3": 0.5, "1": -1}, "deeper-auxiliary"),
    *details(
        "deeper-auxiliary",
        more("heads-2-1", NETWORK, {"2": 1, "1": -1}),
        more("heads-3-2", NETWORK, {"3": 1, "2": -1}),
        *(more(f"heads-{block}", metric, {"2": 0.5, "3": 0.5, "1": -1}) for metric, block in PROBES.items()),
    ),
)


class Point(NamedTuple):
    """An accuracy at one depth of head."""

    what: str  # the network's own, or a block's probe
    hidden: int  # hidden layers of the stages' heads
    mean: float  # test accuracy in %
    low: float
    high: float
    seeds: int


def values_of(runs: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """quantity -> hidden layers -> test accuracies in %, one a seed.

    Args:
        runs: what a results file says of them (:func:`analyses.training.study.listed`), in the order of seeds.
        read: their probes.

    """
    hidden = [run["label"].rpartition("=")[2] for run in runs]
    values = {
        name: by_seed((h, 100 * float(run["test"][key])) for h, run in zip(hidden, runs, strict=True))
        for name, key in ((NETWORK, "final_accuracy"), (BEST, "best_accuracy"))
    }
    probes = {name: by_seed((h, probe_accuracy(one, block)) for h, one in zip(hidden, read, strict=True)) for name, block in PROBES.items()}
    return values | probes


@style.context(LOOK)
def drawing(points: Sequence[Point], data: str) -> Figure:
    """A panel each for the blocks' probes and the network, over the depth of head."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    names = [name for name in TITLES if any(p.what == name for p in points)]
    for ax, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        mine = [p for p in points if p.what == name]
        x, y = [p.hidden for p in mine], [p.mean for p in mine]
        ax.errorbar(x, y, yerr=[p.mean - p.low for p in mine], fmt="o-", capsize=3, elinewidth=1.2, color=COLOURS_OF[name])
        for p in mine:
            ax.annotate(f"{p.mean:.1f}", (p.hidden, p.high), (0, 4), textcoords="offset points", ha="center", fontsize=9)
        ax.set_title(TITLES[name], loc="left", fontsize=10)
        ax.set(xlabel="hidden layers of the head", xticks=HIDDEN, xlim=(0.6, 3.4))
        ax.margins(y=0.15)
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel("test accuracy (%)")
    seeds = max(p.seeds for p in points)
    network = {p.hidden: p.mean for p in points if p.what == NETWORK}
    gain = (network[2] + network[3]) / 2 - network[1]
    title = f"Heads of two or three hidden layers instead of one change greedy's network by {gain:+.1f} points"
    head(figure, title.replace("-", "−"), f"greedy · {data}, 5,000 images · BasicCNN, width 16 · mean of {seeds} seeds, 95 % t-intervals")
    return figure


def main() -> None:
    """Train or read the runs, probe their blocks, test the sentence, write figures/greedy_heads."""
    args = arguments(__doc__ or "", numbers={"seeds": SEEDS}, redraw=True)
    if args.redraw:
        drawn_again(args.figures / "greedy_heads", "depth_of_heads", Point, lambda points: drawing(points, data_name(args)))
        return
    announce_cost(1.2 * args.seeds)
    configs = [
        make_config(method="greedy", options={"hidden": h, "stage_epochs": STAGE_EPOCHS}, data=args.data, seed=s, **SHARED)
        for s in range(args.seeds)
        for h in HIDDEN
    ]
    runs = trained(configs, args)
    values = values_of(listed(runs), probed(runs, args, OPTIONS))
    points = [Point(name, h, *interval(values[name][str(h)])) for name in TITLES for h in HIDDEN]
    for p in points:
        print(f"{p.hidden} hidden, {p.what}: {p.mean:.1f} % [{p.low:.1f}, {p.high:.1f}]")
    results = {
        "settings": {**SHARED, "data": Path(args.data).name, "seeds": args.seeds},
        "points": points,
        "values": values,
        "minutes": minutes_of({str(h): [r for r in runs if r.config.options["hidden"] == h] for h in HIDDEN}),
    }
    report(TESTS, results)
    save_figure(drawing(points, data_name(args)), points, args.figures / "greedy_heads", "depth_of_heads")
    publish("greedy_heads", runs, args, results, figures=False)


if __name__ == "__main__":
    main()
