"""Fitting random labels: how fast bp and local learning with three kinds of head memorize, and which blocks hold what was memorized.

Claim (the reference study, after Laskin et al. 2020): "Global back-propagation demonstrates higher capacity, in that it is able to
memorize the dataset better than local greedy backpropagation." Here: BasicCNN of width 16, 10,000 CIFAR-10 images, every label drawn anew
once (Zhang et al. 2017), Adam 1e-3, batches of 128, no augmentation, constant rate, 55 epochs, three seeds; the same labels, images,
first weights and schedule for all rules of a seed. bp fits 90 % of so many images in about ten minutes on one core. Measured is the
accuracy on the training images in eval mode: its mean over the epochs (area) and its end, bp minus dgl with a head that is linear, an MLP
on activations averaged to 2x2, or an MLP on all of them. The heads differ hugely in what they could hold themselves; their parameters are
in the table.

Then labels of which a fifth is random, bp against dgl with the largest head, 4,000 images, 20 epochs: what a linear probe on each
block, fitted to the labels as given, says of the images whose label was changed.

The reference study's own protocol is in configs/random-labels-bp.json and -dgl.json: all 50,000 images, 100 epochs, SGD 0.1 with momentum
0.9, a ResNet (which one is not said; resnet20 here). Their figure shows the rate drop at epoch 80; here `step` drops it at 50 and 75.

    python -m analyses.random_labels --data cifar10          # an hour and a half on one core; interrupted, it goes on
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.study import arguments, data_name, judged, publish, run_context_of, say, trained
from gradlens.analysis.of_runs.memorization import Memorization
from gradlens.cli.progress import Display
from gradlens.reporting import memorization as reporting_memorization
from gradlens.reporting.analysis_report import save_figures
from gradlens.reporting.statistics import interval
from gradlens.runtime.terminal import print_table
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import group_runs

SEEDS = 3
SHARED: dict[str, Any] = {
    "limit": 10_000, "limit_test": 2_000, "label_noise": 1.0, "model": "basic-cnn", "width": 16, "batch_size": 128, "optimizer": "adam",
    "lr": 1e-3, "epochs": 55, "record_every": 0, "evaluate_train": True,
}  # fmt: skip
PARTLY: dict[str, Any] = {**SHARED, "label_noise": 0.2, "limit": 4_000, "epochs": 20}
RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bp", {}),
    ("dgl", {"head": "linear"}),
    ("dgl", {"head": "mlp", "pooled": True}),
    ("dgl", {"head": "mlp"}),
)
HEADS = {("linear", False): "a linear head", ("mlp", True): "a pooled MLP head", ("mlp", False): "a full MLP head"}

Found = dict[str, Any]  # what memorized() found of a run


def configs(data: str, rules: Sequence[tuple[str, dict[str, Any]]], settings: dict[str, Any]) -> list[Config]:
    """All rules of seed 0, then all of seed 1, …: what is there when it is interrupted can be compared."""
    return [make_config(method=m, options=o, data=data, seed=s, **settings) for s in range(SEEDS) for m, o in rules]


def looked_at(runs: Sequence[Run], args: Any) -> list[Found]:
    """What each run memorized."""
    with Display(quiet=False) as display:
        return Memorization().analyse(runs, run_context_of(args), watch=display.count)


def draw(name: str, runs: Sequence[Run], results: Sequence[Found], args: Any, title: str) -> None:
    """The figures of `gradlens memorize`, under another name."""
    drawn = reporting_memorization.figures(runs, results, title)
    save_figures({file.replace("memorization", name): figure for file, figure in drawn.items()}, args.figures / name)


def by_rule(runs: Sequence[Run], results: Sequence[Found]) -> dict[str, list[Found]]:
    """``bp`` and the kind of dgl's head -> one result a seed, in order of seeds."""
    found: dict[str, dict[int, Found]] = {}
    for run, result in zip(runs, results, strict=True):
        options = run.config.options
        name = HEADS[options["head"], options["pooled"]] if run.config.method == "dgl" else run.config.method
        found.setdefault(name, {})[run.config.seed] = result
    return {name: [seeds[s] for s in sorted(seeds)] for name, seeds in found.items()}


def paired(a: Sequence[Found], b: Sequence[Found], what: str) -> list[float]:
    """Differences in points, seed by seed."""
    return [100 * (x[what] - y[what]) for x, y in zip(a, b, strict=True)]


def claims(found: dict[str, list[Found]]) -> list[dict[str, Any]]:
    """The reference study's sentence for each kind of head, by the area under the curve and by its end."""
    words = {"area": "mean accuracy over the epochs", "final": "accuracy at the end"}
    return [
        judged(f"{words[what]} on random labels: bp above dgl with {head}", paired(found["bp"], found[head], what), "points", at_least=0)
        for head in HEADS.values()
        for what in words
    ]


def heads(found: dict[str, list[Found]]) -> dict[str, Any]:
    """What another kind of head changes for dgl: interval over seeds of the difference in area, in points."""
    kinds = list(HEADS.values())
    return {f"{b} - {a}": interval(paired(found[b], found[a], "area"))[:3] for a, b in ((kinds[0], kinds[1]), (kinds[1], kinds[2]))}


def wholly(args: Any) -> None:
    """All labels random: judge the claim, write figures/random_labels."""
    runs = trained(configs(args.data, RULES, SHARED), args)
    results = looked_at(runs, args)
    print_table(reporting_memorization.memorization_table(runs, results))
    found = by_rule(runs, results)
    judgements, gains = claims(found), heads(found)
    say(judgements)
    for change, (mean, low, high) in gains.items():
        print(f"area, {change}: {mean:+.1f} points [{low:.1f}, {high:.1f}]")
    title = f"{data_name(args)} · {SHARED['limit']:,} images · labels random"
    draw("random_labels", runs, results, args, title)
    saved = {
        "settings": {**SHARED, "data": Path(args.data).name, "seeds": SEEDS},
        "claims": judgements,
        "heads": gains,
        "scores": [row._asdict() for row in reporting_memorization.memorization_scores(runs, results)],
        "seeds": {label: [run.config.seed for run in group] for label, group in group_runs(runs).items()},
        "label_hashes": {run.config.seed: run.info["label_hash"] for run in runs},
    }
    publish("random_labels", runs, args, saved, figures=False)


def partly(args: Any) -> None:
    """A fifth of the labels random: what each block's probe reads, into figures/partly_random."""
    runs = trained(configs(args.data, (RULES[0], RULES[-1]), PARTLY), args)
    results = looked_at(runs, args)
    points = reporting_memorization.block_points(runs, results)
    print_table(reporting_memorization.memorization_block_table(points))
    title = f"{data_name(args)} · {PARTLY['limit']:,} images · a fifth of the labels random"
    draw("partly_random", runs, results, args, title)
    saved = {"settings": {**PARTLY, "data": Path(args.data).name, "seeds": SEEDS}, "blocks": [row._asdict() for row in points]}
    publish("partly_random", runs, args, saved, figures=False)


def main() -> None:
    """Train or read the runs, judge the claim, write figures/random_labels, then figures/partly_random."""
    args = arguments(__doc__ or "")
    wholly(args)
    partly(args)


if __name__ == "__main__":
    main()
