"""Names of the splits in ``metrics.csv``, and a run's best epoch by its score. Needs no torch, so that tables and figures load fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradlens.runtime.errors import unknown
from gradlens.tasks.scores import DIGITS, HIGHER_IS_BETTER

if TYPE_CHECKING:
    from gradlens.training.run_directory import Metric

ACCURACY = "accuracy"
TRAIN = "train"  # running, in train mode
TRAIN_EVAL = "train-eval"  # the same images after the epoch, in eval mode and without augmentation; every other split is a held-out one
VALIDATION = "validation"  # held out in place of test examples; or beside them, to choose the epoch whose test score is reported


def score_of(m: Metric) -> float:
    """Return the score of a row; of runs of earlier versions, which had no other, the accuracy."""
    return m.score if m.score_name else m.accuracy


def sign_of(score_name: str) -> int:
    """Return 1 for a score of which higher values are better, -1 for one of which lower ones are; of runs of earlier versions ("") 1.

    Raises:
        InputError: a score that is not known.

    """
    if score_name and score_name not in HIGHER_IS_BETTER:
        raise unknown("score", score_name, HIGHER_IS_BETTER)
    return 1 if not score_name or HIGHER_IS_BETTER[score_name] else -1


def held_out(metrics: Sequence[Metric]) -> list[Metric]:
    """Return the rows of the held-out split, in order: of test examples, where validation examples are held out beside them."""
    rows = [m for m in metrics if m.split not in (TRAIN, TRAIN_EVAL)]
    return [m for m in rows if m.split != VALIDATION] or rows


def best_held_out(metrics: Sequence[Metric]) -> Metric:
    """Return the held-out row of the best epoch, which validation examples choose where there are some beside the test ones."""
    rows = held_out(metrics)
    chosen = best_epoch([m for m in metrics if m.split == VALIDATION] or rows)
    return next((m for m in rows if m.epoch == chosen.epoch), rows[-1])  # a run may have stopped between the two evaluations


def score_text(value: float, name: str) -> str:
    """Return a score in words: an accuracy in %.

    >>> score_text(0.9125, "accuracy"), score_text(7.983, "perplexity")
    ('91.2%', '7.98')
    >>> score_text(0.91378, "auc")
    '0.9138'
    """
    return f"{value:.1%}" if name in ("", ACCURACY) else f"{value:,.{DIGITS.get(name, 2)}f}"


def best_epoch(metrics: Sequence[Metric]) -> Metric:
    """Return the row of the best score, the earliest of equals; of the lowest loss for rules that make no predictions."""
    if not any(math.isfinite(score_of(m)) for m in metrics):
        return min(metrics, key=lambda m: (m.loss if math.isfinite(m.loss) else math.inf, m.epoch))
    return max(metrics, key=lambda m: (sign_of(m.score_name) * score_of(m) if math.isfinite(score_of(m)) else -math.inf, -m.epoch))
