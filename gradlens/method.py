"""What a training rule is (Method), what it says at one block (Signal), and how it is run over a step (backward)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from gradlens.objectives import Loss, slope
from gradlens.passes import Grad, Pass, chain, pull_back


class Net(NamedTuple):
    """What a rule may know of the network it trains."""

    blocks: Sequence[nn.Module]  # bottom first
    shapes: Sequence[torch.Size]  # each block's output, without the batch dimension
    classes: int
    head_width: int  # width of the network's own top: the default for auxiliary heads
    loss: Loss
    seed: int


class Signal(NamedTuple):
    """What the rule says at one block's output."""

    delta: Tensor | None  # [N, *out] told to the block's parameters; None: not trained on this batch
    send: tuple[Tensor, ...] = ()  # [N, *out] pulled back to the block below; (): no input gradient is computed
    own: Mapping[str, Tensor] = {}  # gradients of the rule's own modules, by their name in the rule
    kept: Any = None  # what `learn` needs later
    loss: Tensor | None = None  # scalar: the loss this signal descends, for the records
    answer: Tensor | None = None  # [N, C] the network's answer, where this block gives it


def top_signal(loss: Loss, p: Pass) -> Signal:
    """What a supervised rule says at the top block: the loss's own gradient, told and sent."""
    value, delta = slope(loss, p.z, p.y)
    return Signal(delta, (delta,), loss=value, answer=p.z.detach())


class Update(NamedTuple):
    """One block's part of a step, as :func:`backward` yields it."""

    k: int
    p: Pass
    signal: Signal
    grad: Grad
    own: Mapping[str, Tensor]  # gradients of the rule's own modules, from `signal` and `learn` together
    above: tuple[Tensor, ...]  # [N, *out] messages that came from the block above


class Options(BaseModel, frozen=True, extra="forbid"):
    """The options of a rule that has none; a rule with options subclasses this."""


class Method(nn.Module):
    """A training rule; a subclass's docstring is its equation. Its own modules (heads, synthesisers) are its submodules.

    A rule overrides :meth:`signal`, and of the other methods only what it needs.
    """

    Options: ClassVar[type[BaseModel]] = Options
    reads: ClassVar[frozenset[str]] = frozenset()  # of "labels", "image", "error", "above": what each block hears

    own_quantities: ClassVar[Mapping[str, str]] = {}  # what `quantities` gives: name -> meaning

    def __init__(self, net: Net, options: Any) -> None:
        super().__init__()
        self.depth = len(net.blocks)
        self.loss = net.loss
        self.options = options

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The passes of one step, bottom first: the plain chain unless the rule changes what blocks read."""
        return chain(blocks, x, y)

    def signal(self, k: int, passes: Mapping[int, Pass], above: tuple[Tensor, ...]) -> Signal:
        """What block k is told and sends down, from the arguments alone.

        Args:
            k: the block, 0 at the bottom.
            passes: passes by block; holds at least k.
            above: [N, *out] what block k+1 sent, pulled back to this block's output; () where it sent nothing.

        """
        raise NotImplementedError

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, above: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Gradients of the rule's own modules that need the block's gradient or the message from above."""
        return {}

    def start(self, epoch: int, step: int) -> None:
        """Called before each step (epoch counts from 1, step from 0), for rules that change over time."""

    def needs_above(self, k: int) -> bool:
        """Whether block k must wait for the block above it; the top block never does."""
        return k < self.depth - 1 and bool(self.reads & {"above", "error"})

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """The network's answer [N, C] outside training: all blocks in turn."""
        for block in blocks:
            x = block(x)
        return x

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """What a probe reads: each block's output [N, *out], bottom first."""
        for block in blocks:
            x = block(x)
            yield x

    def rule(self) -> AbstractContextManager[None]:
        """Active while the method's own backward runs (feedback rules replace Wᵀ inside blocks); the truth runs without."""
        return nullcontext()

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Numbers of the rule's own to record for one block (a synthesiser's error): name -> scalar tensor."""
        return {}

    def param_groups(self, blocks: Sequence[nn.Module]) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: blocks and the rule's own modules, one group."""
        return [{"params": [p for module in (*blocks, self) for p in module.parameters() if p.requires_grad]}]


def backward(method: Method, passes: Iterator[Pass], keep: bool = False) -> Iterator[Update]:
    """Run a rule over one step's passes, yielding each block's update as soon as it is known.

    A block that hears nothing from above is told its gradient, pulled back and freed before the next block is run; the
    others wait until the block above them has spoken.

    Args:
        method: the rule.
        passes: one step's passes, bottom first, made lazily by ``method.forward``.
        keep: keep every graph for a later pull-back of the truth.

    """
    known: dict[int, Pass] = {}
    waiting: list[int] = []
    k = -1
    for p in passes:  # not enumerate, which holds on to the last pair it gave
        k += 1
        known[k] = p
        del p  # so that nothing of block k outlives its update while the next block runs
        waiting.append(k)
        if method.needs_above(k):
            continue
        above: tuple[Tensor, ...] = ()
        while waiting:
            j = waiting.pop()
            signal = method.signal(j, known, above)
            with method.rule():
                grad = pull_back(known[j], signal.delta, signal.send, keep)
            learned = method.learn(j, known[j], signal, grad, above)
            update = Update(j, known[j], signal, grad, {**signal.own, **learned}, above)
            above = grad.below
            if not keep and j < method.depth - 1:  # the top's pass stays: it holds the error some rules broadcast
                del known[j]
            del signal, grad, learned
            yield update
            del update
        del above
