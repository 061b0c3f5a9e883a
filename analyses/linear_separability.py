"""How well a linear probe reads the labels from each block, for rules that train blocks by their own losses and for others.

The reference study, of Belilovsky et al. 2019: "layerwise training increases linear separability of the different layers' activations":
with every layer that is trained on top of the others, separability rises. The runs are those of `analyses.all_methods` (BasicCNN of
width 16, 6,000 CIFAR-10 images, five epochs, greedy 15, rates as chosen there, ten seeds). Each block's activations are pooled to 512
features at most; probes are fitted to 3,000 of the run's training images and tested on all 10,000 test images. The blocks of shallow are
never trained: they are the control.

Primary test: a probe of greedy's block3 minus one of its block1, at least 0: separability rises with depth. It sees 1.5 points or so.
Further: the same of dgl, whether either rises more than bp's (a difference of differences), and the trained first block above the
untrained one.

    python -m analyses.linear_separability --data cifar10          # after all_methods 15 minutes of one core; interrupted, it goes on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.all_methods import SEEDS, SHARED, chosen_lr, configs_of, seed_after_seed
from analyses.figures.drawing import title_where
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, drawn_again, minutes_of, probe_accuracy, probed, publish, trained
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.cli.progress import Display
from gradlens.reporting.axes import spread
from gradlens.reporting.statistics import Interval, interval
from gradlens.reporting.style import LOOK, head, save_figure
from gradlens.runtime.text_files import read_json
from gradlens.training.run_directory import Run

LAYERWISE, UNTRAINED = ("greedy", "dgl"), "shallow"
RULES = ("bp", *LAYERWISE, UNTRAINED)
BLOCKS = ("block1", "block2", "block3")
OPTIONS = replace(FULL_PROBE, blocks=BLOCKS, features=512, train_images=3_000, separability=0, controls=False)
PROBE = "accuracy of a linear probe"
LOOKS = {"bp": ("#000000", "o"), "greedy": ("#D55E00", "D"), "dgl": ("#0072B2", "s"), "shallow": ("0.5", "v")}

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # rule -> contents of probe.json, one a seed


def group(rule: str, block: str) -> str:
    """What a block of a rule is called in the values."""
    return f"{rule} {block}"


def risen(rule: str, weight: float = 1.0) -> dict[str, float]:
    """The contrast of a rule's rise from the first block to the last."""
    return {group(rule, BLOCKS[-1]): weight, group(rule, BLOCKS[0]): -weight}


def probes(name: str, says: str, contrast: dict[str, float], primary_of: str = "") -> Test:
    """A test that a contrast of probes is not below 0."""
    return Test(name, f"{PROBE}: {says}", PROBE, contrast, "points", at_least=0, primary_of=primary_of)


TESTS = (
    probes("greedy-rises", "greedy's block3 − its block1", risen("greedy"), "separability-rises"),
    *details(
        "separability-rises",
        probes("dgl-rises", "dgl's block3 − its block1", risen("dgl")),
        *(probes(f"{r}-rises-more", f"{r}'s rise from block1 to block3 − bp's", {**risen(r), **risen("bp", -1)}) for r in LAYERWISE),
        *(
            probes(f"{r}-{b}-bp", f"{r}'s {b} − bp's", {group(r, b): 1, group("bp", b): -1})
            for r in LAYERWISE
            for b in (BLOCKS[0], BLOCKS[-1])
        ),
        *(
            probes(f"{r}-untrained", f"{r}'s block1 − the untrained one", {group(r, BLOCKS[0]): 1, group(UNTRAINED, BLOCKS[0]): -1})
            for r in (*LAYERWISE, "bp")
        ),
    ),
)


class Point(NamedTuple):
    """What a probe reads from a block."""

    rule: str
    block: str
    mean: float  # test accuracy in %
    low: float  # 95 % t-interval over seeds
    high: float
    seeds: int


def values_of(found: Results) -> dict[str, list[float]]:
    """rule and block -> accuracies in %, one a seed."""
    return {group(rule, block): [probe_accuracy(one, block) for one in seeds] for rule, seeds in found.items() for block in BLOCKS}


def points_of(values: Mapping[str, Sequence[float]]) -> list[Point]:
    """The table of the figure and the page."""
    named = {tuple(name.split(" ")): interval(seeds) for name, seeds in values.items()}
    return [Point(rule, block, *found) for (rule, block), found in named.items()]


def rise_of(values: Mapping[str, Sequence[float]], rule: str) -> Interval:
    """How much more a probe reads from a rule's last block than from its first."""
    return interval(last - first for first, last in zip(values[group(rule, BLOCKS[0])], values[group(rule, BLOCKS[-1])], strict=True))


@style.context(LOOK)
def drawing(points: Sequence[Point], data: str, width: int) -> Figure:
    """Accuracy of a probe over the blocks, a line a rule, named at its end."""
    figure = Figure(figsize=(7.8, 4.0), layout="constrained")
    ax = figure.subplots()
    for at, rule in enumerate(RULES):
        mine = [p for p in points if p.rule == rule]
        colour, marker = LOOKS[rule]
        x, half = [i + 0.02 * (at - 1.5) for i in range(len(mine))], [p.mean - p.low for p in mine]
        ax.errorbar(x, [p.mean for p in mine], yerr=half, color=colour, marker=marker, markersize=5.5, capsize=3, elinewidth=1.1)
    ends = [next(p.mean for p in points if (p.rule, p.block) == (rule, BLOCKS[-1])) for rule in RULES]
    for rule, y in zip(RULES, spread(ends, 1.8), strict=True):
        name = "blocks never trained" if rule == UNTRAINED else rule
        ax.annotate(name, (len(BLOCKS) - 0.92, y), color="0.35" if rule == UNTRAINED else LOOKS[rule][0], va="center", fontsize=9.5)
    ax.set_xticks(range(len(BLOCKS)), BLOCKS)
    ax.set_xlim(-0.15, 2.75)
    ax.set(xlabel="block, from the image to the top", ylabel="test accuracy of a linear probe (%)")
    head(
        figure,
        rising_title(points),
        f"{data}, 6,000 images · BasicCNN, width {width} · mean of {max(p.seeds for p in points)} seeds, 95 % t-intervals",
    )
    return figure


def rising_title(points: Sequence[Point]) -> str:
    """What the means say: a probe reads more from every further block of the trained rules."""
    mean = {(p.rule, p.block): p.mean for p in points}
    return title_where(
        all(mean[rule, lower] < mean[rule, upper] for rule in ("bp", *LAYERWISE) for lower, upper in pairwise(BLOCKS)),
        "With layerwise training a linear probe reads more from every further block, as with backprop",
        "What a linear probe reads from each block",
    )


def main() -> None:
    """Train or read the runs, probe them, test the sentence, write figures/linear_separability."""
    args = arguments(__doc__ or "", numbers={"seeds": SEEDS}, redraw=True)
    if args.redraw:
        folder = args.figures / "linear_separability"
        width = read_json(folder / "results.json")["settings"]["width"]
        drawn_again(folder, "separability_by_depth", Point, lambda points: drawing(points, data_name(args), width))
        return
    announce_cost(15, "beside the runs of all_methods")
    with Display(quiet=False) as display:
        rates = {name: chosen_lr(name, args, display) for name in RULES}
    configs = {name: configs_of(name, rate, args) for name, rate in rates.items()}
    runs: list[Run] = trained(seed_after_seed(configs), args)
    read = probed(runs, args, OPTIONS)
    found = {rule: [x for run, x in zip(runs, read, strict=True) if run.config.method == rule] for rule in configs}
    values = values_of(found)
    points = points_of(values)
    for p in points:
        print(f"{p.rule} {p.block}: {p.mean:.1f} % [{p.low:.1f}, {p.high:.1f}], {p.seeds} seeds")
    cost = minutes_of({rule: [run for run in runs if run.config.method == rule] for rule in configs})
    results = {
        "protocol": read[0]["protocol"],
        "settings": {**SHARED, "data": Path(args.data).name, "seeds": args.seeds},
        "points": points,
        "rise": {rule: rise_of(values, rule)[:3] for rule in RULES},
        "values": {PROBE: values},
        "minutes": {
            group(rule, block): cost[rule] * (block == BLOCKS[0]) for rule in configs for block in BLOCKS
        },  # one run has all blocks
        "minutes_of_probes": round(sum(sum(x["seconds"].values()) for x in read) / 60, 1),
    }
    report(TESTS, results)
    save_figure(drawing(points, data_name(args), SHARED["width"]), points, args.figures / "linear_separability", "separability_by_depth")
    publish("linear_separability", runs, args, results, figures=False)


if __name__ == "__main__":
    main()
