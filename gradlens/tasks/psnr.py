"""The peak signal-to-noise ratio, and the usual settings of networks of coordinates: what tasks with pixels as targets share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

LEAST = 1e-12  # mean squared error that counts as none, 120 dB
RATES = {"nerf": 5e-4}  # of Adam, in the code of the network's paper
OTHER_RATE = 5e-3


def decibels(mean_squared_error: Tensor) -> Tensor:
    """Compute −10 log10 of mean squared errors of colours between 0 and 1: the PSNR in dB, at most 120."""
    return -10 * mean_squared_error.clamp(min=LEAST).log10()


def no_hits(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return zero correct predictions of zero classes, on the device of targets."""
    nothing = torch.zeros((), dtype=torch.long, device=y.device)
    return nothing, nothing


def settings_of_network(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a task's defaults with the network's learning rate, if the optimiser is Adam.

    Args:
        given: flat name -> value of the settings that were set.
        defaults: the task's.

    """
    if given.get("optimizer", "adam") != "adam":
        return defaults
    return {**defaults, "lr": RATES.get(str(given.get("model", defaults["model"])), OTHER_RATE)}
