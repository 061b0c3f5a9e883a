"""Name the scores of tasks and their direction. Needs no torch, so that tables find the best epoch fast."""

from __future__ import annotations

HIGHER_IS_BETTER: dict[str, bool] = {  # the name in metrics.csv -> whether a higher value is better
    "accuracy": True,
    "perplexity": False,
    "auc": True,
    "psnr": True,
}
DIGITS: dict[str, int] = {"perplexity": 2, "auc": 4, "psnr": 2}  # with which a score is written, where it is not in %
