"""State of a run in training: its parts and its position, read and advanced by loop, log and checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from gradlens.data.split import Data, Split
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.training.batches import Batches
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.optimizers import lr_factor
from gradlens.training.step import Stage, UpdateProbe


class Position(NamedTuple):
    """Position of a run; the fields are keys of its checkpoint."""

    step: int  # updates made
    sums: tuple[float, int, float, int]  # this epoch so far: loss × items, items, correct predictions, classified items
    best: dict[str, float]  # split -> best score so far
    seconds: float  # spent in this epoch's steps so far

    @property
    def begun(self) -> bool:
        """Return whether the untrained network has been evaluated, which begins a run."""
        return bool(self.best)


NO_SUMS = (0.0, 0, 0.0, 0)
BEGINNING = Position(0, NO_SUMS, {}, 0.0)


class Best(NamedTuple):
    """The epoch with the best validation score so far, where early stopping keeps it; the fields are keys of the checkpoint."""

    score: float
    epoch: int
    without: int  # epochs since, without a better one
    model: dict[str, Any]  # weights and buffers after it
    method: dict[str, Any]


NO_BEST = Best(math.nan, 0, 0, {}, {})


@dataclass
class TrainState:
    """One run in training; :func:`gradlens.training.runs.build_state.build_state` makes it from a config."""

    config: Config
    data: Data  # as they were loaded
    network: ModelAndMethod
    optimizer: torch.optim.Optimizer
    base_lr: list[float]  # of each of the optimiser's groups, before the schedule
    batches: Batches  # of the training examples
    test: Split
    test_name: str  # test or validation
    labelled: Split  # the training examples with a target
    selection: Split | None = None  # validation examples beside the test ones
    stage: Stage = field(init=False)  # updates this process's blocks; ``choose.add_stage`` sets it when all ranks have a state
    ranks: ProcessGroup = SINGLE_PROCESS  # that share the run
    probe: UpdateProbe | None = None
    position: Position = BEGINNING
    best: Best = NO_BEST
    saved: int = 0  # updates in the last checkpoint
    saved_at: float = field(default_factory=time.monotonic)  # when it was written, or the run begun


def set_lr(state: TrainState, step: int) -> None:
    """Set the optimiser's learning rates for an update."""
    for group, lr in zip(state.optimizer.param_groups, state.base_lr, strict=True):
        group["lr"] = lr * lr_factor(state.config, step, state.batches.total)
