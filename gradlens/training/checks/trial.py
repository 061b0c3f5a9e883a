"""Trials that the checks of a rule run on: small networks in float64, a rule on them as in a run, and the errors of a failed check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradlens.gradients.backward import backward
from gradlens.gradients.losses import Loss
from gradlens.gradients.method import Method, Update
from gradlens.models.graph_layers import EDGES
from gradlens.models.radiance_fields import DIRECTIONS, POINTS
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import build
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import seed_global
from gradlens.runtime.step_context import set_context
from gradlens.tasks.registry import DEFAULT, TASKS
from gradlens.tasks.task import Batch, Task
from gradlens.training.build import ModelAndMethod, make_network_info

NETWORKS: dict[
    str, tuple[str, ModelSpec]
] = {  # the smallest that have what matters: no normalisation, BatchNorm and pools, residual blocks
    "mlp": ("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=3)),
    "basic-cnn": ("basic-cnn", ModelSpec((3, 8, 8), 10, width=4, depth=2)),
    "resnet": ("resnet20", ModelSpec((3, 8, 8), 10, width=2)),
}
OTHER_TASKS: dict[str, dict[str, tuple[str, ModelSpec]]] = {  # networks of other tasks
    "language": {"transformer": ("transformer", ModelSpec((5,), 10, width=8, depth=2, heads=2))},
    "graphs": {"gcn": ("gcn", ModelSpec((7,), 10, width=6, depth=2)), "gat": ("gat", ModelSpec((7,), 10, width=3, depth=2, heads=2))},
    "links": {"encoder": ("gcn", ModelSpec((7,), 10, width=6, depth=2))},
    "clicks": {
        "deepfm": ("deepfm", ModelSpec((3, 4, 5), 1, width=6, depth=2, embedding=4)),
        "deep-cross": ("deep-cross", ModelSpec((3, 4, 5), 1, width=6, depth=2, embedding=4, interactions=2)),
    },
    "pictures": {"coordinate-mlp": ("coordinate-mlp", ModelSpec((2,), 3, width=8, depth=2))},
    "views": {"nerf-tiny": ("nerf-tiny", ModelSpec((4, 3), 4, width=8, depth=2))},
}
TASK_OF = {network: task for task, networks in OTHER_TASKS.items() for network in networks}
ALL_NETWORKS = {**NETWORKS, **{name: made for networks in OTHER_TASKS.values() for name, made in networks.items()}}
IMAGES, EPOCHS = 6, 3
Bits = dict[str, Tensor]


class CheckFailed(Exception):
    """A rule fails a check; the message gives the reason."""


class CheckSkipped(Exception):
    """A check does not apply to a rule; the message gives the reason."""


def networks_of(task: str) -> list[str]:
    """Return the names of a task's small networks.

    Raises:
        InputError: it has none.

    """
    if task == DEFAULT:
        return list(NETWORKS)
    if task not in OTHER_TASKS:
        raise InputError(f"gradlens check has no small network for --task {task}: set --task to {' or '.join([DEFAULT, *OTHER_TASKS])}")
    return list(OTHER_TASKS[task])


@dataclass(frozen=True)
class Trial:
    """A rule with its options, on one of ALL_NETWORKS; what is made here twice is the same to the bit, if the rule passes the checks."""

    rule: type[Method]
    options: Any
    network: str

    def build(
        self, loss: Callable[[Tensor, Tensor], Tensor] | None = None, warmed_up: bool = True, dropout: bool = False
    ) -> ModelAndMethod:
        """Build a fresh network and rule; ``warmed_up``: as in the last epoch of a run, past its warm-up, its parameters off the start."""
        name, spec = ALL_NETWORKS[self.network]
        if (why := self.rule.images_only) and self.network in TASK_OF:
            raise InputError(f"it is a rule of the image task: {self.task.with_items(why)}")
        if (why := self.rule.reads_classes) and not self.task.classes_of_items:
            raise InputError(f"it needs the class of each item: {why}")
        read = self.rule.input_shape(spec.shape, self.options)
        model = build(name, replace(spec, shape=read), seed=1).double()
        net = make_network_info(model, read, spec.classes, loss or self.loss, 3, EPOCHS, self.task)
        net = net._replace(image=spec.shape, teacher=_teacher)
        made = ModelAndMethod(model, self.rule(net, self.options).double())
        if dropout and isinstance(model[0], nn.Sequential):
            model[0].append(nn.Dropout(0.3))
        if warmed_up:
            self._warm_up(made)
        return made

    @property
    def task(self) -> Task:
        """Return the task of the network."""
        return TASKS[TASK_OF.get(self.network, DEFAULT)]

    @property
    def classes(self) -> int:
        """Return the size of the network's output for an item."""
        return ALL_NETWORKS[self.network][1].classes

    @property
    def loss(self) -> Loss:
        """Return the task's loss."""
        return next(iter(self.task.losses.values()))

    def _warm_up(self, made: ModelAndMethod) -> None:
        noise = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for p in made.method.parameters():
                p.add_(torch.randn(p.shape, generator=noise, dtype=torch.float64), alpha=0.05)
        made.method.start(EPOCHS, 1 << 20)
        twins = copy.deepcopy(list(made.model))
        for i in (-2, -1):  # what fills its buffers, if it has some
            seed_global(i)
            list(made.method.forward(twins, *self.batch(made.method, i)))
        for block, twin in zip(list(made.model), twins, strict=True):
            for module, other in zip(block.modules(), twin.modules(), strict=True):
                module.training = other.training

    def batch(self, method: Method, step: int = 0) -> tuple[Tensor, Tensor]:
        """Make the input and targets of a step from noise, as the rule does of images and labels; set the step's context."""
        spec, noise = ALL_NETWORKS[self.network][1], torch.Generator().manual_seed(5 + step)
        if self.network in TASK_OF:
            batch = BATCHES[TASK_OF[self.network]](spec, noise)
            self.task.make_known(batch.y)
            set_context(batch.context)
            return batch.x, batch.y
        images = torch.randint(0, 256, (IMAGES, *spec.shape), generator=noise, dtype=torch.uint8)
        labels = torch.randint(0, spec.classes, (IMAGES,), generator=noise)
        x, y = method.make_inputs(images, labels, step, lambda x: x.double() / 127.5 - 1)
        self.task.make_known(y)
        return x, y


def _sequences(spec: ModelSpec, noise: torch.Generator) -> Batch:
    """Make sequences of random tokens."""
    x, y = torch.randint(0, spec.classes, (2, IMAGES, *spec.shape), generator=noise)
    return Batch(x, y)


def _ring(spec: ModelSpec, noise: torch.Generator) -> Batch:
    """Make nodes on a ring with a chord, the first one without a label."""
    nodes = torch.arange(IMAGES)
    there = torch.cat([torch.stack([nodes, nodes.roll(-1)]), torch.tensor([[1], [4]])], 1)
    labels = torch.randint(0, spec.classes, (IMAGES,), generator=noise).index_fill(0, nodes[:1], -1)
    x = torch.randn(IMAGES, *spec.shape, generator=noise, dtype=torch.float64)
    return Batch(x, labels, {EDGES: torch.cat([there, there.flip(0)], 1)})


def _pairs(spec: ModelSpec, noise: torch.Generator) -> Batch:
    """Make the same nodes, four of their edges and four other pairs."""
    pairs = torch.tensor([[0, 1, 1], [1, 2, 1], [2, 3, 1], [1, 4, 1], [0, 3, 0], [2, 5, 0], [0, 2, 0], [1, 5, 0]])
    return _ring(spec, noise)._replace(y=pairs)


def _rows_of_ids(spec: ModelSpec, noise: torch.Generator) -> Batch:
    """Make rows of random ids, and labels of both kinds."""
    x = torch.stack([torch.randint(0, size, (IMAGES,), generator=noise) for size in spec.shape], 1)
    return Batch(x, torch.arange(IMAGES) % 2)


def _pixels(spec: ModelSpec, noise: torch.Generator) -> Batch:
    """Make places and colours of pixels."""
    x, y = (torch.rand(IMAGES, n, generator=noise, dtype=torch.float64) for n in (*spec.shape, spec.classes))
    return Batch(2 * x - 1, y)


def _rays(spec: ModelSpec, noise: torch.Generator) -> Batch:
    """Make points of rays, and their colours, a black background and intervals."""
    samples, axes = spec.shape
    points, colours, lengths = (torch.rand(IMAGES, *s, generator=noise, dtype=torch.float64) for s in ((samples, axes), (3,), (samples,)))
    directions = nn.functional.normalize(points[:, -1:] - points[:, :1], dim=-1)
    return Batch(points, torch.cat([colours, torch.zeros(IMAGES, 1), lengths + 0.1], 1), {POINTS: points, DIRECTIONS: directions})


BATCHES: dict[str, Callable[[ModelSpec, torch.Generator], Batch]] = {  # of OTHER_TASKS
    "language": _sequences,
    "graphs": _ring,
    "links": _pairs,
    "clicks": _rows_of_ids,
    "pictures": _pixels,
    "views": _rays,
}


def other_labels(y: Tensor, task: Task, classes: int) -> Tensor:
    """Return other targets of as many items: the next class, another item's numbers; of pairs whether they are linked, turned round."""
    if y.is_floating_point():
        other = y.roll(1, 0)
    elif task.classes_of_items:
        other = torch.where(y < 0, y, (y + 1) % max(2, classes))
    else:
        other = torch.cat([y[:, :2], 1 - y[:, 2:]], 1)
    task.make_known(other)
    return other


def _teacher(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :10]


def copied_state(module: nn.Module) -> Bits:
    """Copy all tensors of a module's state, by name."""
    return {name: t.detach().clone() for name, t in module.state_dict().items() if isinstance(t, Tensor)}


def differing_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """List the names of tensors that are not the same to the bit (NaNs equal themselves)."""

    def same(x: Tensor, y: Tensor) -> bool:
        return x.shape == y.shape and torch.allclose(x, y, rtol=0, atol=0, equal_nan=True)

    return [name for name in (*a, *(b.keys() - a.keys())) if name not in a or name not in b or not same(a[name], b[name])]


def first_three(names: Sequence[str]) -> str:
    """Join the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def updates_of_one_step(trial: Trial, made: ModelAndMethod, step: int = 0) -> dict[int, Update]:
    """Run one step with all graphs kept."""
    seed_global(step)
    x, y = trial.batch(made.method, step)
    passes = list(made.method.forward(list(made.model), x, y))
    return {u.k: u for u in backward(made.method, iter(passes), keep=True)}
