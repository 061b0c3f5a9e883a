"""From a config to the network and the rule it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from gradlens.config import Config
from gradlens.errors import InputError
from gradlens.method import Method, Net
from gradlens.methods import METHODS
from gradlens.models import Plan, build, head_width, output_shapes
from gradlens.objectives import LOSSES, Loss
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


def make_net(model: nn.Sequential, shape: Sequence[int], classes: int, loss: Loss, seed: int = 0, epochs: int = 1) -> Net:
    """What a rule may know of a network: its blocks, what they give, and how it is trained.

    Args:
        model: the blocks, the last one the top.
        shape: (C, H, W) of an image.
        classes: number of classes.
        loss: of the network's output and the labels.
        seed: of the rule's own draws.
        epochs: of the run.

    Raises:
        InputError: a network that cannot be cut at its blocks' boundaries.

    """
    names = [name for name, _ in model.named_children()]
    return Net(list(model), output_shapes(model, shape), classes, head_width(model), loss, seed, names, tuple(shape), epochs)


def make_pair(config: Config, shape: tuple[int, int, int], classes: int, device: torch.device) -> Pair:
    """The network and rule of a config, initialised by its seed, channels last on the device.

    Raises:
        InputError: a model that does not fit the images, a rule that does not fit the model.

    """
    plan = Plan(shape, classes, config.width, config.depth, config.stem, config.activation)
    model = build(config.model, plan, config.cut, config.seed)
    if config.init_from:
        put_weights(model, load(config.init_from).checkpoint()["model"], f"--init-from {config.init_from}")
    net = make_net(model, shape, classes, LOSSES[config.loss], config.seed, config.epochs)
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
    lists = nn.ModuleList, nn.ModuleDict  # which are not run themselves
    own = [m for child in pair.method.children() for m in (child.children() if isinstance(child, lists) else [child])]
    for module in (*pair.model, *own):
        module.compile()
