"""What should a synthesiser regress, and should its last bias start at zero? Eight variants of dni and cdni.

The references regress δ itself, the gradient of the batch's mean loss (target=mean), and leave the last bias at PyTorch's default
(zero_bias=false), some 500–1500 times larger than δ at the start. Alternative: regress N·δ, the per-image gradient, and divide by N
(target=sum), from a zero start. Compared on the mean cosine of the blocks' weight gradients with the true ones over the last epoch, on the
ratio of their norms, and on test accuracy; BasicCNN of width 32 on the digits, 15 epochs, Adam 3e-4, three seeds. These are too few, at one
learning rate for all, to order the variants by accuracy: analyses/synthetic_gradient_scale.py does, with ten seeds and a rate for each.

    python -m analyses.dni_target
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.training.cost import announce_cost
from analyses.training.study import arguments, publish, trained
from gradlens.reporting.aggregate import final_values, scores
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
            "final_accuracy": (a.final_accuracy, a.final_low, a.final_high),
            "best_accuracy": a.best_accuracy,
        }
    return out


def main() -> None:
    """Train or read 24 small runs, print the comparison, write figures/dni_target."""
    args = arguments(__doc__ or "", data="digits")
    announce_cost(2)
    shared: dict[str, Any] = {"data": args.data, "width": 32, "epochs": 15, "lr": 3e-4, "record_every": 5}
    variants = product(("dni", "cdni"), ("sum", "mean"), (True, False), range(SEEDS))
    configs = [make_config(method=m, options={"target": t, "zero_bias": z}, seed=s, **shared) for m, t, z, s in variants]
    runs = trained(configs, args)
    found = summary(runs)
    for label, row in found.items():
        (c, *_), (r, *_), (a, *_) = row["cosine"], row["norm_ratio"], row["final_accuracy"]
        print(f"{label:40} cosine {c:6.3f}  norm ratio {r:8.3g}  test accuracy {100 * a:.1f} %")
    publish("dni_target", runs, args, {"settings": {**shared, "data": Path(args.data).name}, "seeds": SEEDS, "table": found})


if __name__ == "__main__":
    main()
