"""First-layer filters of five rules that differ in how far the loss reaches: do they look different?

Claim (after Laskin et al. 2020, whose figure has ResNet-50 and ImageNet): local methods learn different features, e.g. the first
convolution's filters look different. Panels as there: backprop, two chunks, three chunks, overlap, greedy (here dgl: all blocks at once).
BasicCNN of width 32 with five blocks, so that chunks of [3,2] and [2,2,1] units are neither bp nor dgl; 7,500 CIFAR-10 images, batches
of 64, five epochs (590 updates), Adam 1e-3, no augmentation; 500 more images are held out for the accuracies. Stems of 7x7 with four
seeds, and of 5x5 with one, where a Gabor share is undecided and nothing is claimed.

Are filters of two rules further apart than those of two seeds of one rule? Four numbers of each run's 7x7 filters (share that a Gabor
fits, entropy of the spectrum, colour's share, effective rank), each in standard deviations of the runs of one rule, are a point; distances
are between runs of different seeds; no run is in two pairs of seeds, so four seeds give two independent values. Primary test of "the
first filters look different": dgl to backprop minus either to itself, at least 1 standard deviation.
Further: the other rules; the same of what training
*added* (so short a training leaves much of the noise that filters began with); whether dgl has fewer Gabors, as the greedy network has in
the reference study's picture. Two values decide little: eight seeds, four values, cost 4 hours of one core.

    python -m analyses.first_layer_filters --data cifar10          # half an hour of CPU time, here 71 minutes on crowded cores; it resumes
    python -m analyses.first_layer_filters --redraw                # the pictures of numbers anew, from figures/first_layer_filters
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.figures.drawing import title_where
from analyses.figures.filter_figures import fitted_filters, gabor_figure, moved_furthest
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, publish, run_context_of, trained
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.analysis.of_runs.filters import FilterOptions, Filters
from gradlens.analysis.of_runs.interface import Session
from gradlens.cli.progress import Display
from gradlens.reporting.filters import FilterNumber, filter_dots, filter_figures, filter_numbers, filter_table
from gradlens.reporting.numbers import number_text
from gradlens.reporting.statistics import Interval, interval
from gradlens.reporting.style import LOOK, head, save_figure
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.progress import no_progress
from gradlens.runtime.terminal import print_table
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SEEDS = {7: 4, 5: 1}  # stem -> seeds
RULES: dict[str, tuple[str, dict[str, Any]]] = {  # rule and its options, in the reference study's order
    "bp": ("bp", {}),
    "chunked in two": ("chunked", {"chunks": [3, 2]}),
    "chunked in three": ("chunked", {"chunks": [2, 2, 1]}),
    "overlap": ("overlap", {}),
    "dgl": ("dgl", {}),
}
SHARED: dict[str, Any] = {
    "model": "basic-cnn", "width": 32, "depth": 5, "limit": 8_000, "validation": 0.0625, "batch_size": 64, "lr": 1e-3, "epochs": 5,
    "record_every": 0, "diagnose_every": 0,
}  # fmt: skip
JUDGED = ("gabor_share", "frequency_entropy", "colour_share", "effective_rank")
DISTANCE, ADDED, GABORS = "distance of trained filters", "distance of what training added", "share of filters that a Gabor fits"
PAIRS = ((0, 1), (2, 3))  # seeds that are compared; no run is in two pairs, so that each pair is one independent value
APART = 1.0  # standard deviations beyond the distance of two seeds: filters that look different

Numbers = Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]]  # rule -> numbers of its filters, one a seed


def config(label: str, stem: int, seed: int, data: str) -> Config:
    """One run's settings."""
    method, options = RULES[label]
    return make_config(method=method, options=options, stem=stem, seed=seed, data=data, **SHARED)


def apart(name: str, label: str, metric: str, primary_of: str = "") -> Test:
    """The test that a rule's filters are further from bp's than either rule's own are from each other."""
    contrast = {f"{label} to bp": 1.0, f"{label} or bp to itself": -1.0}
    says = f"{metric}: {label} to bp − either to itself"
    return Test(name, says, metric, contrast, "sd", at_least=APART, primary_of=primary_of, repeats="pair")


LOCAL = tuple(label for label in RULES if label != "bp")
TESTS = (
    apart("filters-dgl", "dgl", DISTANCE, "filters-differ"),
    *details(
        "filters-differ",
        *(apart(f"filters-{label}", label, DISTANCE) for label in LOCAL if label != "dgl"),
        *(apart(f"added-{label}", label, ADDED) for label in LOCAL),
        Test("fewer-gabors", f"{GABORS}: bp − dgl", GABORS, {"bp": 1, "dgl": -1}, "points", at_least=0),
    ),
)


def located(numbers: Numbers, of: str) -> dict[str, list[list[float]]]:
    """rule -> one point a seed: the judged numbers in standard deviations of the runs of one rule, pooled over the rules."""
    scales = [math.sqrt(fmean(variance([one[name][of] for one in seeds]) for seeds in numbers.values())) for name in JUDGED]
    return {
        label: [[one[name][of] / scale for name, scale in zip(JUDGED, scales, strict=True)] for one in seeds]
        for label, seeds in numbers.items()
    }


def distances(points: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Distances of each rule to bp and of the two to themselves, between the pairs of seeds."""
    found = {}
    for label in points:
        if label == "bp":
            continue
        mine, theirs = points[label], points["bp"]
        found[f"{label} to bp"] = [fmean((math.dist(mine[a], theirs[b]), math.dist(mine[b], theirs[a]))) for a, b in PAIRS]
        found[f"{label} or bp to itself"] = [fmean(math.dist(own[a], own[b]) for own in (mine, theirs)) for a, b in PAIRS]
    return found


def values_of(numbers: Numbers) -> dict[str, dict[str, list[float]]]:
    """quantity -> group -> values, of what a results file holds of 7x7 filters."""
    gabors = {label: [100 * one["gabor_share"]["trained"] for one in seeds] for label, seeds in numbers.items()}
    gabors["untrained"] = [100 * one["gabor_share"]["untrained"] for one in numbers["bp"]]
    return {DISTANCE: distances(located(numbers, "trained")), ADDED: distances(located(numbers, "change")), GABORS: gabors}


class GaborShare(NamedTuple):
    """How many of a rule's filters a Gabor fits."""

    label: str
    mean: float  # %
    low: float  # 95 % t-interval
    high: float
    seeds: int


@style.context(LOOK)
def gabor_shares(rows: Sequence[GaborShare], data: str) -> Figure:
    """One rule a row, from the global loss to the most local one."""
    figure = Figure(figsize=(7.8, 3.2), layout="constrained")
    ax = figure.subplots()
    for at, row in enumerate(rows):
        ax.errorbar(
            row.mean, at, xerr=row.high - row.mean, fmt="o", ms=6, lw=1.8, capsize=3, color="#000000" if row.label == "bp" else "#0072B2"
        )
        ax.annotate(f"{row.mean:.0f} %", (row.mean, at), (0, 7), textcoords="offset points", ha="center", fontsize=9.5)
    ax.set_yticks(range(len(rows)), [f"{row.label}: {REACH[row.label]}" for row in rows])
    ax.set(ylim=(len(rows) - 0.4, -0.7), xlim=(-3, 75), xlabel="7×7 filters that a Gabor fits, R² > ½ (%)")
    ax.grid(axis="y", visible=False)
    head(
        figure,
        gabor_title(rows),
        f"{data}, 7,500 images, 590 updates · BasicCNN · mean of {rows[0].seeds} seeds, 95 % t-intervals",
    )
    return figure


def gabor_title(rows: Sequence[GaborShare]) -> str:
    """What the shares say: every local rule has as many Gabors as bp, and dgl's interval lies above bp's."""
    by = {row.label: row for row in rows}
    return title_where(
        min(by[label].mean for label in LOCAL) >= by["bp"].mean and by["dgl"].low > by["bp"].high,
        "Local losses make more of the first filters Gabor-like, the opposite of the paper's figure",
        "Share of the first filters that a Gabor fits",
    )


REACH = {
    "bp": "the global loss",
    "chunked in two": "3 + 2 units",
    "chunked in three": "2 + 2 + 1",
    "overlap": "pairs",
    "dgl": "each block's own",
    "untrained": "the first weights",
}


def accuracies(runs: Sequence[Run]) -> Interval:
    """Final accuracy on held-out images in %, over seeds."""
    return interval(100 * run.summary["validation"]["final_accuracy"] for run in runs)


def pictures(rows: Sequence[FilterNumber], shares: Sequence[GaborShare], folder: Path, data: str, title: str) -> None:
    """Write the figures of the filters' numbers."""
    save_figure(gabor_shares(shares, data), shares, folder, "gabor_shares")
    figure = filter_dots(rows)
    head(figure, moved_furthest(rows), f"{title} · mean of {max(r.seeds for r in rows)} seeds, 95 % t-intervals")
    save_figure(figure, rows, folder, "stem7_numbers")


def main() -> None:
    """Train or read the runs, look at their filters, test, write figures/first_layer_filters."""
    args = arguments(__doc__ or "", redraw=True)
    if args.redraw:
        folder = args.figures / "first_layer_filters"
        rows, shares = read_table(folder / "stem7_numbers.csv", FilterNumber), read_table(folder / "gabor_shares.csv", GaborShare)
        pictures(rows, shares, folder, data_name(args), f"{data_name(args)} · BasicCNN, width 32, five blocks")
        return
    announce_cost(30)
    order = [(stem, seed) for seed in range(max(SEEDS.values())) for stem in SEEDS if seed < SEEDS[stem]]
    keys = [(stem, label, seed) for stem, seed in order for label in RULES]
    runs = dict(zip(keys, trained([config(label, stem, seed, args.data) for stem, label, seed in keys], args), strict=True))
    place, folder = run_context_of(args), args.figures / "first_layer_filters"
    found: dict[int, dict[str, list[dict[str, Any]]]] = {stem: {label: [] for label in RULES} for stem in SEEDS}
    with Display(quiet=False) as display:
        progress, session = display.count("filters"), Session(place, FilterOptions())
        for i, (stem, label, seed) in enumerate(keys):
            progress(i, len(keys), f"{label}, stem {stem}, seed {seed}")
            found[stem][label].append(Filters().measure(runs[stem, label, seed], session, no_progress))
    accuracy = {}
    for stem, seeds in SEEDS.items():
        print(f"\nstem {stem}x{stem}, {seeds} seed{'s' * (seeds > 1)}")
        print_table(filter_table(found[stem]))
        for label in RULES:
            accuracy[f"{label} {stem}x{stem}"] = group = accuracies([runs[stem, label, seed] for seed in range(seeds)])
            print(f"{label}: {number_text(group.mean, group.low, 1)} % of held-out images right")
    numbers = {f"{stem}x{stem}": {label: [one["numbers"] for one in group] for label, group in found[stem].items()} for stem in SEEDS}
    values = values_of(numbers["7x7"])
    shares = [GaborShare(label, *interval(seeds)) for label, seeds in values[GABORS].items()]
    title = f"{data_name(args)} · BasicCNN, width 32, five blocks"
    pictures(filter_numbers(found[7]), shares, folder, data_name(args), title)
    change, rows = filter_figures(found[7], title)["filter_change"]
    save_figure(change, rows, folder, "stem7_change")
    fitted = fitted_filters(found[7])
    save_figure(gabor_figure(fitted, {share.label: share.mean for share in shares}, title), fitted, folder, "stem7_gabors")
    results = {
        "settings": {**SHARED, "data": Path(args.data).name, "seeds": {f"{stem}x{stem}": n for stem, n in SEEDS.items()}},
        "numbers": numbers,
        "values": values,
        "validation_accuracy": accuracy,
        "training_minutes": round(sum(t.seconds for run in runs.values() for t in run.timing) / 60, 1),
    }
    report(TESTS, results)
    publish("first_layer_filters", list(runs.values()), args, results, figures=False)


if __name__ == "__main__":
    main()
