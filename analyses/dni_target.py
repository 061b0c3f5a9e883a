"""What should a synthesiser regress, and should its last bias start at zero? Eight variants of dni and cdni.

The references regress δ itself, the gradient of the batch's mean loss (target=mean), and leave the last bias at PyTorch's default
(zero_bias=false), some 500–1500 times larger than δ at the start. Alternative: regress N·δ, the per-image gradient, and divide by N
(target=sum), from a zero start. Compared on the mean cosine of the blocks' weight gradients with the true ones over the last epoch, on the
ratio of their norms, and on test accuracy; BasicCNN of width 32 on the digits, 15 epochs, Adam 3e-4, three seeds. These are too few, at one
learning rate for all, to order the variants by accuracy: analyses/synthetic_gradient_scale.py does, with ten seeds and a rate for each.

    python -m analyses.dni_target
    python -m analyses.dni_target --redraw          # the pictures anew, from the files in figures/dni_target
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.figures.drawing import title_where
from analyses.figures.redrawn import Curve, Panels, draw_curves, draw_panels, ends_of, with_unit
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, publish, trained
from gradlens.reporting.aggregate import LayerPoint, final_values, scores
from gradlens.reporting.statistics import interval
from gradlens.training.config import make_config
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import run_labels

SEEDS = 3


def summary(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """label -> mean cosine and norm ratio of the three blocks' convolutions, and final test accuracy, with intervals over seeds."""
    out = {}
    by_label = {label: [r for r, name in zip(runs, run_labels(runs), strict=True) if name == label] for label in run_labels(runs)}
    accuracy = {score.label: score for score in scores(runs)}
    for label, group in by_label.items():
        cosines = [fmean(v.mean for v in final_values([r], "cosine") if v.layer.endswith(".conv")) for r in group]
        ratios = [math.exp(fmean(math.log(v.mean) for v in final_values([r], "norm_ratio") if v.layer.endswith(".conv"))) for r in group]
        a = accuracy[label]
        out[label] = {
            "cosine": interval(cosines)[:3],
            "norm_ratio": interval(ratios)[:3],
            "final_accuracy": (a.final_score, a.final_low, a.final_high),
            "best_accuracy": a.best_score,
        }
    return out


NAMES = {  # of the two extremes, which are drawn; the others are in the csv files
    f"{method} target={target} zero_bias={start}": f"{method} {words}"
    for method in ("dni", "cdni")
    for target, start, words in (("sum", "yes", "N·δ from zero"), ("mean", "no", "as published"))
}
BETWEEN = [f"{method} target={t} zero_bias={z}" for method in ("dni", "cdni") for t, z in (("sum", "no"), ("mean", "yes"))]
UNUSED = ("cosine_heat_map", "cosine_over_training", "train_loss", "train_accuracy", "test_loss")  # the table and the others say it
BLOCKS = ("block1.conv", "block2.conv", "block3.conv")


def explained(rows: Sequence[LayerPoint]) -> str:
    """What the explained variances at the end say: below 0 as published, above it on average with N·δ."""
    last = max(row.step for row in rows)
    published, units = ([r.mean for r in rows if r.step == last and name in r.label] for name in ("published", "N·δ"))
    return title_where(
        max(published) < 0 < fmean(units),
        "Synthesisers that regress N·δ explain some of the gradient (0: a constant, 1: all of it); as published they end below 0",
        "How much of the gradient the synthesisers explain (0: as much as a constant, 1: all of it)",
    )


def lengths(rows: Sequence[LayerPoint]) -> str:
    """What the first lengths say: more than a hundred times too long as published, within a factor of ten with N·δ."""
    first: dict[tuple[str, str], float] = {}
    for row in sorted(rows, key=lambda row: row.step):
        if row.mean > 0 and row.layer in BLOCKS:
            first.setdefault((row.label, row.layer), row.mean)
    published, units = ([value for (label, _), value in first.items() if name in label] for name in ("published", "N·δ"))
    return title_where(
        min(published) > 100 and all(0.1 < value < 10 for value in units),
        "As published, synthetic gradients start hundreds of times too long; where N·δ is regressed, near the right length",
        "Length of the blocks' gradients over that of the true ones",
    )


PANELS = (
    Panels(
        "explained_variance_over_training", "share of the gradient's\nvariance explained (symlog)",
        explained,
        "symlog", without=BETWEEN, updates="linear",
    ),
    Panels(
        "norm_ratio_over_training", "length ÷ that of the true\ngradient (log scale)",
        lengths,
        "log", 1, "norm_ratio", BLOCKS, BETWEEN, "linear",
    ),
)  # fmt: skip


def redraw(folder: Path) -> None:
    """Draw the pictures from the csv files of a results folder."""
    about = f"BasicCNN of width 32 on the digits, Adam 3e-4 · mean of {SEEDS} seeds"
    curve = Curve("test", "accuracy", lambda rows: f"Test accuracy, last epoch: {with_unit(ends_of(rows), ' %', 0)}")
    draw_curves(folder, [curve], [about, "band: 95 % t-interval"], names=NAMES, without=BETWEEN)
    for panels in PANELS:
        draw_panels(folder, panels, about, NAMES)


def main() -> None:
    """Train or read 24 small runs, print the comparison, write figures/dni_target."""
    args = arguments(__doc__ or "", data="digits", redraw=True)
    if not args.redraw:
        announce_cost(2)
        compared(args)
    redraw(args.figures / "dni_target")


def compared(args: Namespace) -> None:
    """Train or read the runs and save what they come to."""
    shared: dict[str, Any] = {"data": args.data, "width": 32, "epochs": 15, "lr": 3e-4, "record_every": 5}
    variants = product(("dni", "cdni"), ("sum", "mean"), (True, False), range(SEEDS))
    configs = [make_config(method=m, options={"target": t, "zero_bias": z}, seed=s, **shared) for m, t, z, s in variants]
    runs = trained(configs, args)
    found = summary(runs)
    for label, row in found.items():
        (c, *_), (r, *_), (a, *_) = row["cosine"], row["norm_ratio"], row["final_accuracy"]
        print(f"{label:40} cosine {c:6.3f}  norm ratio {r:8.3g}  test accuracy {100 * a:.1f} %")
    publish(
        "dni_target", runs, args, {"settings": {**shared, "data": Path(args.data).name}, "seeds": SEEDS, "table": found}, without=UNUSED
    )


if __name__ == "__main__":
    main()
