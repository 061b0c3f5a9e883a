"""What a run consists of while it trains, and where it is. Plain data: step, loop, evaluation and checkpoints are functions of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from gradlens.data.split import Data, Split
from gradlens.runtime.batch_shard import rank_rng_words
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.runtime.rng import key, seed_global
from gradlens.training.batches import Batches
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.optimizers import lr_factor
from gradlens.training.step import NOT_RECORDED, Recording, Stage, UpdateProbe


class Position(NamedTuple):
    """Where a run is, as its checkpoint says it."""

    step: int  # updates made
    sums: tuple[float, int, float, int]  # this epoch so far: loss × images, images, right answers, images answered
    best: dict[str, float]  # split -> highest accuracy so far
    seconds: float  # spent in this epoch's steps so far


NO_SUMS = (0.0, 0, 0.0, 0)
BEGINNING = Position(0, NO_SUMS, {}, 0.0)


@dataclass
class TrainState:
    """One run in training; :func:`gradlens.training.runs.build_state.build_state` makes it from a config."""

    config: Config
    data: Data  # as they were loaded
    network: ModelAndMethod
    optimizer: torch.optim.Optimizer
    base_lr: list[float]  # of each of the optimiser's groups, before the schedule
    batches: Batches  # what is learned from
    test: Split
    test_name: str  # test or validation
    labelled: Split  # the training images whose label is known
    stage: Stage = field(init=False)  # makes an update of this process's blocks; ``choose.add_stage`` sets it when all ranks have a state
    ranks: ProcessGroup = SINGLE_PROCESS  # that share the run
    probe: UpdateProbe | None = None
    position: Position = BEGINNING
    saved: int = 0  # updates in the last checkpoint


def prepare_step(state: TrainState, step: int) -> Recording:
    """Make ready for an update: its learning rate, its draws, the rule's start; whether it is recorded and diagnosed.

    Inside :meth:`Batches.sharded` where the batch is shared.
    """
    config, batches = state.config, state.batches
    for group, lr in zip(state.optimizer.param_groups, state.base_lr, strict=True):
        group["lr"] = lr * lr_factor(config, step, batches.total)
    seed_global(key(config.seed, "step", *rank_rng_words(step)))  # dropout and the like
    state.network.method.start(step // batches.per_epoch + 1, step)
    if not config.record.every or step % config.record.every:
        return NOT_RECORDED
    return Recording(step, bool(config.record.diagnose_every) and step // config.record.every % config.record.diagnose_every == 0)
