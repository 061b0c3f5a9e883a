"""Names of the splits in ``metrics.csv``, and a run's best epoch. Needs no torch, so that tables and figures load fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlens.training.run_directory import Metric

TRAIN = "train"  # running, in train mode
TRAIN_EVAL = "train-eval"  # the same images after the epoch, in eval mode and without augmentation; every other split is a held-out one


def best_epoch(metrics: Sequence[Metric]) -> Metric:
    """Return the row of the highest accuracy, the earliest of equals; of the lowest loss for rules that make no predictions."""
    if not any(math.isfinite(m.accuracy) for m in metrics):
        return min(metrics, key=lambda m: (m.loss if math.isfinite(m.loss) else math.inf, m.epoch))
    return max(metrics, key=lambda m: (m.accuracy if math.isfinite(m.accuracy) else -math.inf, -m.epoch))
