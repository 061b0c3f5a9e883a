"""What faulty and sound loops have in common: one step of training in a `with` block, as users write it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

Watch = Callable[..., AbstractContextManager[Any]]  # watch(model, **options): `gradlens.capture` with a file's name
Loop = Callable[[Watch], None]


class Fault(NamedTuple):
    """A sound loop, the same with a fault, and what has to be found."""

    right: Loop
    wrong: Loop
    part: str  # forward, backward, loss (the gradient at the outermost layer already differs), parameters (these alone), scale
    layers: tuple[str, ...] = ()  # each of these is a right answer; a name that ends in "." stands for all that begin with it
    factor: float | None = None  # of a scale
    ranks: int = 1


class Sound(NamedTuple):
    """Two loops that compute the same gradient but for rounding."""

    one: Loop
    other: Loop
    ranks: int = 1


def logits(output: Any) -> torch.Tensor:
    """The logits of a network of this folder or of transformers."""
    return output if isinstance(output, torch.Tensor) else output.logits


def mean_loss(output: Any, y: torch.Tensor, **options: Any) -> torch.Tensor:
    """Cross-entropy in at least float32, mean over all targets."""
    z = logits(output)
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    return F.cross_entropy(z.flatten(0, -2), y.flatten(), **options)


def step(
    model: torch.nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
    watch: Watch,
    *,
    sizes: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    loss: Callable[..., torch.Tensor] = mean_loss,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    between: Callable[[], Any] = lambda: None,
    **options: Any,
) -> None:
    """One step inside ``watch``.

    Args:
        model: the network.
        batch: inputs and targets.
        watch: the capture.
        sizes: of the micro-batches; default: the batch is one.
        weights: of each micro-batch's mean loss; default: its share of the batch.
        loss: (output, targets) -> loss.
        around: context of each forward pass, such as autocast.
        between: called between forward and backward.
        options: of the capture.

    """
    x, y = batch
    sizes = sizes or [len(x)]
    weights = weights or [size / len(x) for size in sizes]
    with watch(model, **options):
        for inputs, targets, weight in zip(x.split(list(sizes)), y.split(list(sizes)), weights, strict=True):
            with around():
                output = model(inputs)
            part = loss(output, targets)
            between()
            (part * weight if weight != 1 else part).backward()


def autocast() -> AbstractContextManager[Any]:
    """Mixed precision on the CPU."""
    return torch.autocast("cpu", torch.bfloat16)
