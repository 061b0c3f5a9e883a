"""Fitting random labels: how fast bp and local learning with three kinds of head memorize a data set.

Claim (the documents, after Laskin et al. 2020 and Zhang et al. 2017): "Global back-propagation demonstrates higher capacity, in that it is
able to memorize the dataset better than local greedy backpropagation."

    python -m analyses.random_labels --data cifar10          # about 80 minutes on one core; interrupted, it goes on
"""

from __future__ import annotations

from typing import Any

from analyses.study import arguments, trained
from gradlens.config import Config, make

SEEDS = 3
SHARED: dict[str, Any] = {
    "limit": 10_000, "limit_test": 2_000, "label_noise": 1.0, "model": "basic-cnn", "width": 16, "batch_size": 128, "optimizer": "adam", "lr": 1e-3,
    "epochs": 55, "record_every": 0, "evaluate_train": True,
}  # fmt: skip
RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("bp", {}),
    ("dgl", {"head": "linear"}),
    ("dgl", {"head": "mlp", "pooled": True}),
    ("dgl", {"head": "mlp"}),
)


def configs(data: str) -> list[Config]:
    """All rules of seed 0, then all of seed 1, …: what is there when it is interrupted can be compared."""
    return [make(method=m, options=o, data=data, seed=s, **SHARED) for s in range(SEEDS) for m, o in RULES]


def main() -> None:
    """Train or read the runs."""
    args = arguments(__doc__ or "")
    trained(configs(args.data), args)


if __name__ == "__main__":
    main()
