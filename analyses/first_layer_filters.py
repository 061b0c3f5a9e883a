"""First-layer filters of five rules that differ in how far the loss reaches: do they look different?

Claim (after Laskin et al. 2020, whose figure has ResNet-50 and ImageNet): local methods learn different features, e.g. the first
convolution's filters look different. Panels as there: backprop, two chunks, three chunks, overlap, greedy (here dgl: all blocks at once).
BasicCNN of width 32 with five blocks, so that chunks of [3,2] and [2,2,1] units are neither bp nor dgl; 7,500 CIFAR-10 images, batches
of 64, five epochs (590 updates), Adam 1e-3, no augmentation; 500 more images are held out for the accuracies. Stems of 7x7 with four
seeds, and of 5x5 with one, where a Gabor share is undecided and nothing is claimed.

Judged, for each local rule against backprop on 7x7 stems and paired by seed: share of filters that a Gabor fits, entropy of the spectrum,
colour's share, effective rank. "Different" is supported where at least one of these four differences has a 95 % t-interval without zero,
Bonferroni-corrected for four; nothing refutes it. The same is said of what training *added* to the filters: so short a training
leaves much of the noise that they began with, and a rule that moves them further would differ by that alone.

    python -m analyses.first_layer_filters --data cifar10          # half an hour of CPU time, here 71 minutes on crowded cores; it resumes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from analyses.study import arguments, data_name, judged, publish, run_context_of, say, trained, weighed
from gradlens.analysis.of_runs.filters import FilterOptions, Filters
from gradlens.analysis.of_runs.interface import Session
from gradlens.cli.progress import Display
from gradlens.reporting.analysis_report import save_figures
from gradlens.reporting.filters import FILTER_NUMBERS, filter_figures, filter_table
from gradlens.reporting.numbers import number_text
from gradlens.reporting.statistics import Interval, interval
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
ERROR = 0.05  # of a rule's claim, over all its numbers together

Found = Mapping[str, Sequence[dict[str, Any]]]  # label -> contents of filters.json, one a seed


def config(label: str, stem: int, seed: int, data: str) -> Config:
    """One run's settings."""
    method, options = RULES[label]
    return make_config(method=method, options=options, stem=stem, seed=seed, data=data, **SHARED)


def corrected(values: Sequence[float], comparisons: int) -> Interval:
    """Mean and t-interval of some differences, so wide that ``comparisons`` of them hold together with 95 % (Bonferroni)."""
    n = len(values)
    if n < 2:
        return Interval(values[0], math.nan, math.nan, n)
    half = float(stdtrit(n - 1, 1 - ERROR / 2 / comparisons)) * stdev(values) / math.sqrt(n)
    return Interval(fmean(values), fmean(values) - half, fmean(values) + half, n)


def differences(found: Found, label: str, name: str, of: str = "trained") -> list[float]:
    """A number of a rule minus backprop's, seed by seed, in the units of the figures."""
    factor = FILTER_NUMBERS[name][1]
    return [
        factor * (mine["numbers"][name][of] - theirs["numbers"][name][of]) for mine, theirs in zip(found[label], found["bp"], strict=True)
    ]


def sureness(difference: Interval) -> float:
    """|mean| in half widths of its interval: above 1, zero is outside."""
    half = difference.high - difference.mean
    return abs(difference.mean) / half if half > 0 else math.inf if difference.mean else 0.0


def different(found: Found, label: str, of: str = "trained") -> tuple[dict[str, Interval], dict[str, Any]]:
    """All judged differences of a rule to backprop, and the claim that there is one, by the number that shows it best."""
    all_of_them = {name: corrected(differences(found, label, name, of), len(JUDGED)) for name in JUDGED}
    best = max(JUDGED, key=lambda name: sureness(all_of_them[name]))
    mean, low, high, n = all_of_them[best]
    sign = "higher" if mean > 0 else "lower"
    positive = Interval(mean, low, high, n) if mean > 0 else Interval(-mean, -high, -low, n)
    what = "filters differ" if of == "trained" else "what training added to the filters differs"
    claim = f"{label}: {what} from bp's, most in {FILTER_NUMBERS[best][0].split(' (')[0]} ({sign}; corrected for {len(JUDGED)} numbers)"
    return all_of_them, weighed(claim, positive, _unit(best), at_least=0)


def _unit(name: str) -> str:
    axis, factor = FILTER_NUMBERS[name]
    return "points" if factor == 100 else axis.split(" (")[1].rstrip(")") if " (" in axis else "directions"


def accuracies(runs: Sequence[Run]) -> Interval:
    """Final accuracy on held-out images in %, over seeds."""
    return interval(100 * run.summary["validation"]["final_accuracy"] for run in runs)


def main() -> None:
    """Train or read the runs, look at their filters, judge, write figures/first_layer_filters."""
    args = arguments(__doc__ or "")
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
        title = f"{data_name(args)} · BasicCNN, width 32, five blocks"
        drawn = filter_figures(found[stem], title)
        save_figures({name.replace("filter", f"stem{stem}"): figure for name, figure in drawn.items()}, folder)
    local = [label for label in RULES if label != "bp"]
    trained_, added = ({label: different(found[7], label, of) for label in local} for of in ("trained", "change"))
    for what, those in (("trained filters", trained_), ("what training added", added)):
        print(f"\n{what}, difference to bp [95 % interval corrected for {len(JUDGED)} numbers]")
        for label, (all_of_them, _) in those.items():
            told = (f"{FILTER_NUMBERS[n][0]} {d.mean:+.3g} [{d.low:.3g}, {d.high:.3g}]" for n, d in all_of_them.items())
            print(f"  {label}: {'; '.join(told)}")
    fewer = [-d for d in differences(found[7], "dgl", "gabor_share")]
    claims = [
        *(claim for _, claim in (*trained_.values(), *added.values())),
        judged(
            "dgl: fewer filters that a Gabor fits than bp's, as greedy has in the reference study's picture", fewer, "points", at_least=0
        ),
    ]
    say(claims)
    results = {
        "settings": {**SHARED, "data": Path(args.data).name, "seeds": {f"{stem}x{stem}": n for stem, n in SEEDS.items()}},
        "claims": claims,
        "differences": {label: all_of_them for label, (all_of_them, _) in trained_.items()},
        "differences_of_what_training_added": {label: all_of_them for label, (all_of_them, _) in added.items()},
        "numbers": {f"{stem}x{stem}": {label: [one["numbers"] for one in group] for label, group in found[stem].items()} for stem in SEEDS},
        "validation_accuracy": accuracy,
        "training_minutes": round(sum(t.seconds for run in runs.values() for t in run.timing) / 60, 1),
    }
    publish("first_layer_filters", list(runs.values()), args, results, figures=False)


if __name__ == "__main__":
    main()
