"""What a study found of one rule on one network and data set, in the same words for every task: score, nearness, silence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from gradlens.training.run_directory import Run


class RuleSummary(NamedTuple):
    """A rule on one network; a number a seed in each list."""

    domain: str  # "graphs", "language", "clicks", "views"
    data: str
    network: str
    rule: str
    score_name: str
    scores: list[float]
    output_cosines: list[float]  # mean over block outputs, second half of training; none where the rule sends no signal
    zeros: list[float]  # share of entries of the signals at block outputs that are exactly zero, mean over them, as above


def signals_of(run: Run, without: Sequence[str] = ("top",)) -> tuple[float | None, float]:
    """A run's mean cosine with the true signals at block outputs, None without any, and its share of exact zeros.

    Args:
        run: a recorded one.
        without: blocks that are left out; the output block has the true signal by every rule.

    """
    outputs = [row for row in run.gradients if row.kind == "activation" and row.layer not in without]
    half = max(row.step for row in outputs) / 2
    late = {
        what: [row.value for row in outputs if row.quantity == what and row.step >= half and math.isfinite(row.value)]
        for what in ("cosine", "zeros")
    }  # fmt: skip
    return (fmean(late["cosine"]) if late["cosine"] else None), fmean(late["zeros"])


def rule_summary(
    domain: str, data: str, network: str, rule: str, score_name: str, scores: Sequence[float], runs: Sequence[Run]
) -> RuleSummary:
    """The summary of a rule's runs, one a seed."""
    found = [signals_of(run) for run in runs]
    cosines = [cosine for cosine, _ in found if cosine is not None]
    return RuleSummary(domain, data, network, rule, score_name, list(scores), cosines, [zeros for _, zeros in found])
