"""Optimisers: from a config to one over a rule's parameters, and the learning rate of each update."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config

TRUST = 0.001  # LARS: how far a tensor may move in one update at lr 1, as a share of its own norm


NO_DECAY = {"weight_decay": 0.0, "decoupled_decay": 0.0}


class SGDW(torch.optim.SGD):
    """SGD whose decay is no part of the gradient: w ← (1 − lr · decay) w − lr · momentum(g) (Loshchilov & Hutter 2019, algorithm 1).

    Parameters without a gradient are not decayed.
    """

    def __init__(self, groups: Any, lr: float, momentum: float, nesterov: bool, decoupled_decay: float) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
        for group in self.param_groups:
            group.setdefault("decoupled_decay", decoupled_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Decay the weights, then make SGD's own step."""
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if trained and group["decoupled_decay"]:
                torch._foreach_mul_(trained, 1 - group["lr"] * group["decoupled_decay"])
        return super().step(closure)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman & Ginsburg 2017, arXiv:1708.03888), as SimCLR's ``lars_optimizer.py`` has it.

    With gradient g, weights w, decay λ, momentum μ, trust coefficient η, for each tensor by itself:
    u = g + λ w;  r = η ‖w‖ / ‖u‖, or 1 where a norm is 0;  v ← μ v + lr · r · u;  w ← w − v.
    The learning rate is inside v (classic momentum): after the rate falls, what v holds still moves by the older one.

    Tensors of one dimension or none (biases, normalisation) have neither decay nor trust ratio: u = g, r = 1. Parameters without
    a gradient stay as they are, v too.

    Args:
        groups: parameters, or groups of them.
        lr: learning rate.
        momentum: μ.
        weight_decay: λ.
        trust: η.

    """

    def __init__(self, groups: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = TRUST) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one update; return what ``closure`` gives, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            plain, scaled = [p for p in trained if p.ndim <= 1], [p for p in trained if p.ndim > 1]
            if plain:
                self._move(plain, torch._foreach_mul(_gradients(plain), group["lr"]), group["momentum"])
            if scaled:
                self._move(scaled, _trusted(scaled, group), group["momentum"])
        return loss

    def _move(self, params: list[Tensor], steps: tuple[Tensor, ...], momentum: float) -> None:
        """Apply v ← momentum · v + step; w ← w − v."""
        if momentum:
            for p in params:
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in params]
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, steps)
            steps = tuple(velocities)
        torch._foreach_sub_(params, steps)


def _gradients(params: Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _trusted(params: list[Tensor], group: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return lr · r · (g + λ w) of each tensor; no number is read back from the device."""
    decayed = torch._foreach_add(_gradients(params), params, alpha=group["weight_decay"])
    w, u = (torch.stack(torch._foreach_norm(tensors)) for tensors in (params, decayed))
    ratio = torch.where((w > 0) & (u > 0), group["trust"] * w / u, 1.0)
    torch._foreach_mul_(decayed, (group["lr"] * ratio).unbind())
    return decayed


def make_optimizer(config: Config, network: ModelAndMethod) -> torch.optim.Optimizer:
    """Return the optimiser of a config over the rule's parameter groups; with ``--clip`` it scales gradients before each step."""
    optimizer, clip = _optimizer(config, network), config.optimizer.clip
    if clip is not None:
        optimizer.register_step_pre_hook(lambda o, _args, _kwargs: _scale_down(o, clip))
    return optimizer


def _scale_down(optimizer: torch.optim.Optimizer, clip: float) -> None:
    """Scale the gradient of all parameters together down to a norm of ``clip``, in new tensors: measured ones stay as they are."""
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    grads = _gradients(trained)
    norm = torch.nn.utils.get_total_norm(grads)
    scale = (clip / (norm + 1e-6)).clamp(max=1.0)
    for p, grad in zip(trained, torch._foreach_mul(grads, scale), strict=True):
        p.grad = grad


def _optimizer(config: Config, network: ModelAndMethod) -> torch.optim.Optimizer:
    """Return the optimiser, fused where torch has it."""
    groups, c = network.method.param_groups(list(network.model)), config.optimizer
    if c.decay_blocks is not None:
        groups = _decayed_apart(groups, network, c.decay_blocks)
    if c.name in ("adam", "adamw"):
        adam = torch.optim.Adam if c.name == "adam" else torch.optim.AdamW
        return adam(groups, lr=c.lr, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay, fused=True)
    if c.name == "sgdw":
        return SGDW(groups, lr=c.lr, momentum=c.momentum, nesterov=c.nesterov, decoupled_decay=c.weight_decay)
    if c.name == "lars":
        return LARS(groups, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay)
    if c.name == "sgd":
        return torch.optim.SGD(groups, lr=c.lr, momentum=c.momentum, nesterov=c.nesterov, weight_decay=c.weight_decay, fused=True)
    return torch.optim.RMSprop(groups, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay)


def _decayed_apart(groups: list[dict[str, Any]], network: ModelAndMethod, blocks: int) -> list[dict[str, Any]]:
    """Divide each group of parameters: those of the first blocks, and the others, which have no weight decay."""
    decayed = {p for block in list(network.model)[:blocks] for p in block.parameters()}
    found = []
    for group in groups:
        mine, others = ([p for p in group["params"] if (p in decayed) == inside] for inside in (True, False))
        found += [{**group, "params": mine}] if mine else []
        found += [{**group, "params": others, **NO_DECAY}] if others else []
    return found


def lr_factor(config: Config, step: int, total: int) -> float:
    """Return what the learning rate is multiplied with at an update.

    Linear warm-up, then constant, cosine to 0, ×0.1 at ½ and ¾, exponential to a tenth, or √(warmup / t) at the t-th update: with
    lr = (width · warmup)^−½ the last one is the schedule of Vaswani et al. 2017 (arXiv 1706.03762, §5.3), named Noam.
    """
    c = config.optimizer
    if step < c.warmup:
        return (step + 1) / c.warmup
    done = (step - c.warmup) / max(1, total - c.warmup)
    if c.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if c.lr_schedule == "step":
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))
    if c.lr_schedule == "exponential":
        return math.exp(done * math.log(0.1))
    if c.lr_schedule == "inverse-sqrt":
        return math.sqrt(c.warmup / (step + 1))
    return 1.0
