"""Optimisers: from a config to one over a rule's parameters, and the learning rate of each update."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradlens.config import Config
from gradlens.setup import Pair


class SGDW(torch.optim.SGD):
    """SGD whose decay is no part of the gradient: w ← (1 − lr · decay) w − lr · momentum(g) (Loshchilov & Hutter 2019, algorithm 1).

    Parameters without a gradient are not decayed.
    """

    def __init__(self, groups: Any, lr: float, momentum: float, nesterov: bool, decoupled_decay: float) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
        for group in self.param_groups:
            group["decoupled_decay"] = decoupled_decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Decay, then SGD's own step."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if trained and group["decoupled_decay"]:
                torch._foreach_mul_(trained, 1 - group["lr"] * group["decoupled_decay"])
        return super().step(closure)


def make_optimizer(config: Config, pair: Pair) -> torch.optim.Optimizer:
    """The optimiser of a config over the rule's parameter groups; fused where torch has it."""
    groups = pair.method.param_groups(list(pair.model))
    decay = config.weight_decay
    if config.optimizer in ("adam", "adamw"):
        adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return adam(groups, lr=config.lr, weight_decay=decay, fused=True)
    if config.optimizer == "sgdw":
        return SGDW(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, decoupled_decay=decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, weight_decay=decay, fused=True)
    return torch.optim.RMSprop(groups, lr=config.lr, momentum=config.momentum, weight_decay=decay)


def lr_factor(config: Config, step: int, total: int) -> float:
    """What the learning rate is multiplied with at an update: linear warm-up, then constant, cosine to 0, or ×0.1 at ½ and ¾."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, total - config.warmup)
    if config.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if config.lr_schedule == "step":
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return 1.0
