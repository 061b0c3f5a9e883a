"""Define a log of clicks: rows of ids, one a field, with a label of 0 or 1 each; and generate one whose best possible score is known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.data.split import Data, Split
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

SHARES = (0.8, 0.9)  # of the rows in random order: the first part is for training, the next for validation, the last for test


class ClickLog(NamedTuple):
    """Rows of ids and their labels."""

    ids: Tensor  # [N, F] whole numbers, of field f from 0 to sizes[f] − 1
    labels: Tensor  # [N] int64, 0 or 1
    sizes: tuple[int, ...]  # number of ids of each field
    positive: str  # what a label of 1 means


def shared_out(log: ClickLog, name: str) -> Data:
    """Divide the rows at random into 80 % for training, 10 % for validation and 10 % for test, the same at every call.

    Args:
        log: the rows.
        name: what they are called, for the error.

    Raises:
        InputError: a part without a row of both labels, of which no AUC is defined.

    """
    order = torch.randperm(len(log.labels), generator=generator(0, "click log parts"))
    parts = order.tensor_split([round(share * len(order)) for share in SHARES])
    splits = [Split(log.ids[rows], log.labels[rows]) for rows in parts]
    for split, what in zip(splits, ("training", "validation", "test"), strict=True):
        clicks = int(split.labels.sum())
        if clicks in (0, len(split)):
            only = "no row" if len(split) == 0 else f"{len(split)} row{'s' * (len(split) > 1)}, all with label {min(clicks, 1)}"
            raise InputError(f"the {what} part of {name} has {only}: an AUC needs rows of both labels, so take a longer file")
    train, validation, test = splits
    return Data(train, test, (log.positive,), selection=validation, inputs=log.sizes)


# --------------------------------------------------------------------------------------------------------- the generated log

FIELDS, IDS, RANK = 6, 10, 3
ROWS = 50_000
BIAS, SINGLE, PAIR, TRIPLE = -1.0, 0.5, 0.6, 1.2  # sizes of the terms of the log odds
ZIPF = 0.5  # the k-th id of a field has a frequency in proportion to k^-ZIPF


def log_odds(ids: Tensor) -> Tensor:
    """Compute log p / (1 − p) of rows of the generated log, in float64.

    A constant, a weight for each id, an inner product for each pair of ids (what a factorisation machine has), and products of three
    numbers, one from each of the fields 1 to 3 and 4 to 6 (what it has not). All are drawn once, from normal distributions.

    Args:
        ids: [N, F].

    """
    rng = generator(0, "click log")
    draws = torch.randn(FIELDS, IDS, 2 + RANK, generator=rng, dtype=torch.float64)
    single, third, vectors = draws[..., 0], draws[..., 1], draws[..., 2:]
    fields = torch.arange(FIELDS)
    weights, factors, v = single[fields, ids].sum(1), third[fields, ids], vectors[fields, ids]
    pairs = (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
    triples = factors[:, :3].prod(1) + factors[:, 3:].prod(1)
    odds: torch.Tensor = BIAS + SINGLE * weights + PAIR * pairs / (FIELDS * RANK) ** 0.5 + TRIPLE * triples / 2**0.5
    return odds


def frequencies() -> Tensor:
    """Return how frequent each id of a field is, [IDS] float64; the fields are independent of each other."""
    weights = torch.arange(1, IDS + 1, dtype=torch.float64) ** -ZIPF
    return weights / weights.sum()


def generated() -> ClickLog:
    """Generate the log ``ad-log``, always the same: ids are drawn by their frequencies, then each label with the row's own probability."""
    rng = generator(0, "click log rows")
    ids = torch.multinomial(frequencies().expand(FIELDS, -1), ROWS, replacement=True, generator=rng).T.contiguous()
    clicks = torch.rand(ROWS, generator=rng, dtype=torch.float64) < log_odds(ids).sigmoid()
    return ClickLog(ids.int(), clicks.long(), (IDS,) * FIELDS, "click")


def bayes() -> tuple[float, float]:
    """Compute the AUC and log loss of the true probabilities, by summing over all rows that the generated log can hold.

    No score of the same ids has a higher AUC, and no probabilities have a lower log loss.

    Returns:
        AUC, and log loss in nats.

    """
    every = torch.cartesian_prod(*[torch.arange(IDS)] * FIELDS)
    q = frequencies()[every].prod(1)
    p, order = log_odds(every).sigmoid().sort()
    q = q[order]
    clicked, other = q * p, q * (1 - p)
    below = other.cumsum(0) - other / 2
    auc = (clicked * below).sum() / (clicked.sum() * other.sum())
    return float(auc), float(-(clicked * p.log() + other * (1 - p).log()).sum())


GENERATED = "ad-log"
LOGS = {GENERATED: f"a generated log, {ROWS:,} rows, {FIELDS} fields of {IDS} ids; no score has an expected AUC above 0.820"}
