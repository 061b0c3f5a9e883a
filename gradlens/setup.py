"""From a config to the network, the rule and the optimiser it names."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from gradlens.config import Config
from gradlens.errors import InputError
from gradlens.method import Method, Net
from gradlens.methods import METHODS
from gradlens.models import Plan, build, head_width, output_shapes
from gradlens.objectives import LOSSES
from gradlens.run import load


class Pair(NamedTuple):
    """A network and the rule that trains it."""

    model: nn.Sequential
    method: Method

    def names(self) -> list[str]:
        """The blocks' names, bottom first."""
        return [name for name, _ in self.model.named_children()]


def put_weights(module: nn.Module, weights: Any, source: str) -> None:
    """Load saved weights and buffers into a module.

    Raises:
        InputError: they are another module's; ``source`` says whose.

    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        detail = [line.strip() for line in str(error).splitlines()][:2][-1:]
        raise InputError(f"{source}: its weights do not fit this model: {' '.join(detail)}") from error


def make_pair(config: Config, shape: tuple[int, int, int], classes: int, device: torch.device) -> Pair:
    """The network and rule of a config, initialised by its seed, channels last on the device.

    Raises:
        InputError: a model that does not fit the images, a rule that does not fit the model.

    """
    plan = Plan(shape, classes, config.width, config.depth, config.stem, config.activation)
    model = build(config.model, plan, config.cut, config.seed)
    if config.init_from:
        put_weights(model, load(config.init_from).checkpoint()["model"], f"--init-from {config.init_from}")
    net = Net(list(model), output_shapes(model, shape), classes, head_width(model), LOSSES[config.loss], config.seed)
    rule = METHODS[config.method]
    method = rule(net, rule.Options(**config.options))
    layout: Any = {"device": device, "memory_format": torch.channels_last}
    pair = Pair(model.to(**layout), method.to(**layout))
    if config.compile:
        _compile(pair)
    return pair


def _compile(pair: Pair) -> None:
    """torch.compile each block, head and synthesiser in place."""
    import torch._functorch.config  # not there by `import torch` alone

    torch._functorch.config.donated_buffer = False  # for the whole process: recorded steps go back twice through the same passes
    own = [m for child in pair.method.children() for m in (child if isinstance(child, nn.ModuleList) else [child])]
    for module in (*pair.model, *own):
        module.compile()


def make_optimizer(config: Config, pair: Pair) -> torch.optim.Optimizer:
    """The optimiser of a config over the rule's parameter groups; fused where torch has it."""
    groups = pair.method.param_groups(list(pair.model))
    decay = config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr, weight_decay=decay, fused=True)
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
