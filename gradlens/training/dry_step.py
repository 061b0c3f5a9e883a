"""Dry run of a first step on copies, if rule or network are a user's: errors are one sentence, before anything is written."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from gradlens.data.transforms import normalizer
from gradlens.gradients.backward import backward
from gradlens.gradients.method import Method, Step
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.models.block_boundaries import refuse_reentrant
from gradlens.models.zoo import INPUT
from gradlens.runtime.rng import forked, generator
from gradlens.runtime.step_context import set_context, step_context
from gradlens.runtime.user_code import blamed
from gradlens.tasks.registry import TASKS
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.user_references import reference


def check_first_step(config: Config, network: ModelAndMethod, shape: tuple[int, ...], classes: int) -> None:
    """Make the first step of a run, recorded, on copies and images of noise, where rule or network are a user's own.

    Shipped rules are not tried: the tests make this step of each on each kind of network.

    Args:
        config: the run's.
        network: its network and rule, which stay as they are.
        shape: of an example: (C, H, W) of the images.
        classes: number of classes.

    Raises:
        InputError: the rule cannot train the network, or the network cannot be trained by gradients of its blocks.

    """
    rule, where = (reference({"own": config.own}, kind) for kind in ("method", "model"))
    if rule is None and where is None:
        return
    on = where or config.model.name
    with blamed(f"the first step of {config.method} on {on} raised"), forked(), step_context():
        model, method = copy.deepcopy(network.model), copy.deepcopy(network.method)
        x, y = _noise(config, method, shape, classes, next(model.parameters()).device)
        method.start(1, 0)
        passes = []
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            for p in method.forward(list(model), x, y):
                if where is not None:
                    refuse_reentrant(p.h, network.block_names()[p.k])
                passes.append(p)
            step = Step(list(model), x, y, passes, {u.k: u for u in backward(method, iter(passes), keep=True)})
            truth = true_gradients(method, step)
            if config.record.every:
                step_rows(0, network.block_names(), method, step, truth)


def _noise(config: Config, method: Method, shape: tuple[int, ...], classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the input and targets of a step on as few images as the rule and a normalisation over the batch take."""
    task = TASKS[config.task]
    if task.reads != INPUT:
        blank = task.blank(shape)
        set_context({name: t.to(device) for name, t in blank.context.items()})
        x, y = method.make_inputs(blank.x.to(device), blank.y.to(device), 0, lambda x: x)
        task.make_known(y)
        return x, y
    n, noise = max(2, method.least_batch), generator(config.seed, "dry step")
    images = torch.randint(256, (n, *shape), generator=noise, dtype=torch.uint8).to(device)
    labels = torch.randint(classes, (n,), generator=noise).to(device)
    x, y = method.make_inputs(images, labels, 0, normalizer("pm1", images))
    task.make_known(y)
    return x, y
