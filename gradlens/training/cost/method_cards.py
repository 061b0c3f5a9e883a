"""The locking and cost card of each rule but those that need a teacher's run: what a block waits for, and what a step costs beside bp's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from gradlens.data.datasets import DATASETS
from gradlens.gradients.locks import Locks
from gradlens.methods import BASELINE, METHODS
from gradlens.runtime.progress import Progress, no_progress
from gradlens.training.build import build_model_and_method
from gradlens.training.config import Config, make_config
from gradlens.training.cost.step_benchmark import bench

CARDED = tuple(name for name, rule in METHODS.items() if not rule.has_teacher)  # a teacher's run is needed
DATA = "cifar10"  # the images have its sizes: BasicCNN as in the reference study
SHAPE, CLASSES = DATASETS[DATA].shape, DATASETS[DATA].classes
IMAGES, ROUNDS, FULL_ROUNDS = 32, 1, 3  # small batches; rounds of a first look, and of one that is to be quoted


class Card(NamedTuple):
    """One rule's card."""

    method: str
    locks: Locks
    trained: int  # parameters of the rule's own modules: heads, synthesisers, feedback matrices that learn
    fixed: int  # numbers it holds and does not train: feedback matrices
    multiply_adds: float  # of a training step, an image
    flop_ratio: float  # the same / bp's
    rate_ratio: float  # images a second / bp's
    memory_ratio: float | None  # memory a step adds at its peak / bp's; None where that is unknown


def own_numbers(config: Config, device: torch.device) -> tuple[int, int]:
    """Return (trained, fixed) numbers of a rule's own modules on the card's network; running statistics of BatchNorm are not counted."""
    method = build_model_and_method(config, SHAPE, CLASSES, device).method
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    fixed = sum(b.numel() for name, b in method.named_buffers() if not name.endswith(statistics))
    return sum(p.numel() for p in method.parameters()), fixed


def cards(device: torch.device, progress: Progress = no_progress, methods: Sequence[str] = CARDED, rounds: int = ROUNDS) -> list[Card]:
    """Measure the cards of some rules with their default options, measured in one interleaved run.

    Args:
        device: where to measure.
        progress: called before each measurement.
        methods: names of METHODS; bp is measured with them.
        rounds: interleaved rounds.

    """
    names = [BASELINE, *(name for name in methods if name != BASELINE)]
    configs = [make_config(method=name, batch_size=IMAGES, data=DATA) for name in names]
    result = bench(configs, SHAPE, CLASSES, device, rounds, record_every=(), progress=progress)
    rows = {row.method: row for row in result.rows if row.method in names}
    bp = rows[BASELINE]
    found = []
    for config in configs:
        row = rows[config.method]
        memory = row.memory_mb / bp.memory_mb if row.memory_mb and bp.memory_mb else None
        found.append(
            Card(
                config.method, METHODS[config.method].locks(), *own_numbers(config, device), row.multiply_adds,
                row.flop_ratio / bp.flop_ratio, bp.time_ratio / row.time_ratio, memory,
            )
        )  # fmt: skip
    return [card for card in found if card.method in methods]
