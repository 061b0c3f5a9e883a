"""Network and rule of a config."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradlens.gradients.losses import Loss
from gradlens.gradients.method import Method
from gradlens.gradients.network_info import NetworkInfo
from gradlens.models.block_boundaries import keep_compiled_graphs, output_shapes
from gradlens.models.custom import Sample
from gradlens.models.layouts import features_last
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import INPUT, build, head_width
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator, seeded
from gradlens.runtime.step_context import set_context, step_context
from gradlens.tasks.registry import DEFAULT, TASKS
from gradlens.tasks.task import Task
from gradlens.training.config import Config
from gradlens.training.other_runs import other_run, saved_weights
from gradlens.training.run_directory import Run
from gradlens.training.user_references import activate, builder


class ModelAndMethod(NamedTuple):
    """A network and the rule that trains it."""

    model: nn.Sequential
    method: Method

    def block_names(self) -> list[str]:
        """Return the blocks' names, bottom first."""
        return list(self.model._modules)  # not named_children, which leaves out a block's second name

    def load(self, state: Mapping[str, Any], source: str) -> None:
        """Load the saved weights and buffers of both, as a checkpoint or snapshot holds them.

        Raises:
            InputError: they are another network's or rule's; the message names ``source``.

        """
        load_weights(self.model, state["model"], source)
        load_weights(self.method, state["method"], source)


def load_weights(module: nn.Module, weights: Any, source: str) -> None:
    """Load saved weights and buffers into a module.

    Raises:
        InputError: they are another module's; the message names ``source``.

    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        detail = [line.strip() for line in str(error).splitlines()][:2][-1:]
        raise InputError(f"{source}: its weights do not fit this model: {' '.join(detail)}") from error


def make_network_info(
    model: nn.Sequential,
    shape: Sequence[int],
    classes: int,
    loss: Loss,
    seed: int = 0,
    epochs: int = 1,
    task: Task = TASKS[DEFAULT],
) -> NetworkInfo:
    """Describe a network for a rule: its blocks, their output shapes, and how it is trained.

    Args:
        model: the blocks, the last one the output block.
        shape: of an example: (C, H, W) of an image.
        classes: number of classes.
        loss: of the network's output and the targets.
        seed: of the rule's own draws.
        epochs: of the run.
        task: what an example and an item are.

    Raises:
        InputError: a network that cannot be cut at its blocks' boundaries.

    """
    with step_context():
        shapes = output_shapes(model, shape, _blank(task, shape))
    turned = [features_last(block, given) for block, given in zip(model, shapes, strict=True)]
    net = NetworkInfo(list(model), shapes, classes, head_width(model), loss, seed, list(model._modules), tuple(shape), epochs)
    return net._replace(features_last=turned, items=task, terms=task.terms(list(model)))


def _blank(task: Task, shape: Sequence[int]) -> Tensor | None:
    """Make a task's smallest input, and set its context; None: an image's."""
    if task.reads == INPUT:
        return None
    blank = task.blank(shape)
    set_context(blank.context)
    return blank.x


def _sample(task: Task, shape: Sequence[int]) -> Sample | None:
    """Make an input of a task on which a user's network is tried; None: an image."""
    if task.reads == INPUT:
        return None
    x, y, context = task.blank(shape)
    if x.is_floating_point():
        x = torch.randn(x.shape, generator=generator(0, "sample"))
    return Sample(x, context, task.example, task.item if task.per_item else task.example, tuple(y.shape[1:]))


def build_model_and_method(config: Config, shape: tuple[int, ...], classes: int, device: torch.device) -> ModelAndMethod:
    """Build the network and rule of a config, initialised by its seed, channels last on the device.

    Raises:
        InputError: a model that does not fit the images, a rule that does not fit the model.

    """
    activate(config.own, {"method": config.method, "model": config.model.name})
    rule = config.rule
    options = rule.Options(**config.options)
    read = rule.input_shape(shape, options)
    model = _built(config, read, shape, classes)
    if config.pretrained.run:
        begun = other_run(config.pretrained.run)
        if config.pretrained.keep_head:
            model = _with_kept_head(model, begun, config, shape, classes)
        else:
            load_weights(model, _begun_weights(model, begun), f"--init-from {config.pretrained.run}")
    task = TASKS[config.task]
    net = make_network_info(model, read, classes, task.losses[config.loss], config.seed, config.epochs, task)._replace(image=shape)
    if config.teacher:
        net = net._replace(teacher=_teacher(other_run(config.teacher), shape, classes, config, device))
    method = rule(net, options)
    layout: Any = {"device": device, "memory_format": torch.channels_last}
    network = ModelAndMethod(model.to(**layout), method.to(**layout))
    if config.compile:
        _compile(network)
    return network


def check_model_and_method(config: Config, shape: tuple[int, ...], classes: int) -> ModelAndMethod:
    """Build the network and rule of a config as shapes without values (torch's meta device), which takes no memory and hardly any time.

    A user's own code may need values, and another run's weights are copied: both happen on the CPU.

    Raises:
        InputError: as :func:`build_model_and_method`.

    """
    in_numbers = bool(config.own or config.pretrained.run or config.teacher or TASKS[config.task].blank(shape).context)
    device = torch.device("cpu" if in_numbers else "meta")
    with device:
        return build_model_and_method(config.replace(compile=False), shape, classes, device)


def _built(config: Config, read: tuple[int, ...], shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Build the network of a config for the rule's input: images of ``shape``, or patches of them."""
    spec = ModelSpec(
        read,
        classes,
        config.model.width,
        config.model.depth,
        config.model.stem,
        config.model.activation,
        config.model.attention,
        heads=config.model.heads,
        dropout=config.model.dropout,
        attention_dropout=tuple(config.model.attention_dropout or ()),
        norm_first=config.model.pre_norm,
        embedding=config.model.embedding,
        interactions=config.model.interactions,
    )
    try:
        return build(config.model.name, spec, config.model.cut, config.seed, builder(config.own, _sample(TASKS[config.task], read)))
    except InputError as error:
        if read == shape:
            raise
        patch = f"{config.method} reads patches of {read[1]}x{read[2]} pixels (--set patch= sets them)"
        raise InputError(f"{patch}, which {config.model.name} does not take: {error}") from error


def _begun_weights(model: nn.Sequential, begun: Run) -> dict[str, Tensor]:
    """Load a run's weights; if its rule trained no output block (its shape may differ: it read patches), keep this network's own."""
    weights: dict[str, Tensor] = saved_weights(begun.path / "checkpoint.pt")["model"]
    if begun.config.rule.classifies:
        return weights
    top = f"{list(model._modules)[-1]}."
    mine = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(top)}
    return {name: tensor for name, tensor in weights.items() if not name.startswith(top)} | mine


def to_be_restored(config: Config) -> Config:
    """Copy a config for a network whose weights a checkpoint replaces: ``--init-from`` is not read, but for a kept head's shape."""
    return config if config.pretrained.keep_head else config.replace(init_from=None)


def load_model_and_method(run: Run, shape: tuple[int, ...], classes: int, device: torch.device, file: Path | None = None) -> ModelAndMethod:
    """Load the network and rule of a run with the weights of its last checkpoint, or of a snapshot (``file``), in eval mode."""
    network = build_model_and_method(to_be_restored(run.config).replace(compile=False), shape, classes, device)
    file = file or run.path / "checkpoint.pt"
    network.load(saved_weights(file), str(file))
    network.model.eval(), network.method.eval()
    return network


def _with_kept_head(model: nn.Sequential, begun: Run, config: Config, shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Build a network on a pretrained run's blocks: its projection head's first layers become a block, a new linear layer the last one."""
    source = f"--init-from {begun.path}"
    theirs = classes if begun.config.rule.classifies else begun.num_classes
    pretrained = load_model_and_method(begun, shape, theirs, torch.device("cpu"))
    head = pretrained.method.kept_head(config.pretrained.keep_head)
    if head is None:
        layers = next((n for n in range(config.pretrained.keep_head, 0, -1) if pretrained.method.kept_head(n) is not None), 0)
        has = f"a projection head of {layers} layer{'s' * (layers > 1)}" if layers else "no projection head"
        raise InputError(f"--keep-head {config.pretrained.keep_head}: the run {begun.path} has {has}")
    load_weights(model, _begun_weights(model, begun), source)
    blocks = OrderedDict(zip(model._modules, model, strict=True))
    blocks.popitem()
    width = output_shapes(nn.Sequential(*blocks.values(), head), shape)[-1][0]
    with seeded(config.seed, "new top"):
        top = nn.Sequential(OrderedDict(out=nn.Linear(width, classes)))
    for name, part in (("head", head), ("top", top)):
        while name in blocks:  # a user's own block may be called so
            name += "_"
        blocks[name] = part
    return nn.Sequential(blocks).train()


def _teacher(run: Run, shape: tuple[int, ...], classes: int, config: Config, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Load a teacher: a function from images as the student reads them [N, C, H, W] to the trained network's logits [N, C].

    Raises:
        InputError: a run whose network has other inputs or outputs than the student.

    """
    if not run.config.rule.classifies:
        raise InputError(f"--teacher {run.path}: {run.config.method} gives no logits to learn from; fine-tune it first with --init-from")
    theirs = run.num_classes
    if theirs != classes:
        raise InputError(f"--teacher {run.path} has {theirs} classes and this data set has {classes}")
    drawn = ("data", "limit", "validation", "seed")  # not labels: images without one count too
    if config.data.normalize == "gaussian" and any(run.config.as_dict()[name] != config.as_dict()[name] for name in drawn):
        raise InputError(
            f"--teacher {run.path} was trained on images normalised by other statistics: with gaussian both need the same images"
        )
    if run.config.data.normalize != config.data.normalize:
        raise InputError(
            f"--teacher {run.path} was trained with --normalize {run.config.data.normalize}, the student reads {config.data.normalize}"
        )
    model, method = load_model_and_method(run, shape, classes, device)
    blocks = list(model)

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            return method.predict(blocks, images)

    return answer


def _compile(network: ModelAndMethod) -> None:
    """Compile (torch.compile) each block, head and synthesiser in place."""
    keep_compiled_graphs()
    lists = nn.ModuleList, nn.ModuleDict  # which are not run themselves
    own = [m for child in network.method.children() for m in (child.children() if isinstance(child, lists) else [child])]
    for module in (*network.model, *own):
        module.compile()
