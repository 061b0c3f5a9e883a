"""End a run whose validation score has not improved for some epochs, with the weights of its best epoch."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from gradlens.data.split import Data
from gradlens.runtime.errors import InputError
from gradlens.training.config import Config
from gradlens.training.metrics import VALIDATION
from gradlens.training.state import Best, TrainState


def require_validation(config: Config, data: Data) -> None:
    """Refuse early stopping on data without validation examples.

    Raises:
        InputError: there are none.

    """
    if config.early_stopping is not None and data.selection is None and data.test_name != VALIDATION:
        raise InputError(
            f"--early-stopping {config.early_stopping} needs validation examples and {config.data.name} has none beside its test examples:"
            " hold some out with --validation, as 0.1"
        )


def keep_if_best(state: TrainState, epoch: int) -> None:
    """Keep a copy of the weights if the validation score after this epoch is the best so far, else count the epoch.

    Args:
        state: the run, after an evaluation; without early stopping it stays as it is.
        epoch: passes over the training examples that it has made.

    """
    if state.config.early_stopping is None:
        return
    score = state.position.best[VALIDATION]  # the best so far, this epoch's included; NaN before the first that is defined
    if math.isnan(score) or score == state.best.score:
        state.best = state.best._replace(without=state.best.without + 1)
    else:
        model, method = (_copied(module.state_dict()) for module in state.network)
        state.best = Best(score, epoch, 0, model, method)


def stops_early(state: TrainState) -> bool:
    """Return whether the validation score has not improved for as many epochs as ``--early-stopping`` allows."""
    return state.config.early_stopping is not None and state.best.without >= state.config.early_stopping


def take_best_at_end(state: TrainState) -> None:
    """Load the weights of the best epoch if the run stops early and an epoch had a score."""
    if stops_early(state) and state.best.model:
        state.network.load({"model": state.best.model, "method": state.best.method}, "the best epoch")


def summary_of(state: TrainState) -> dict[str, Any]:
    """Return what summary.json holds of an early end: the epoch after which it came, and that of the weights; empty without one."""
    if not stops_early(state):
        return {}
    return {"stopped_early": {"epoch": state.best.epoch + state.best.without, "weights_of_epoch": state.best.epoch}}


def _copied(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in weights.items()}
