"""Run one block's forward pass, cut from its neighbours, and its pull-back (vector-Jacobian product).

The forward pass is cut at block boundaries: each block's output ``h`` keeps the block's own graph and block k+1
reads ``z``, a leaf copy of it. A learning rule then only defines each block's error signal; the true gradient is
the plain pull-back of the output block's own gradient through the same passes.

A block may read earlier outputs beside its predecessor's: it has an attribute ``reads_blocks`` with their indices, and gets them as further
arguments of its ``forward``. Each is read through its own leaf, and what the block sends goes to each of them.

A network may consist of parts: a block with an attribute ``begins_part`` passes no gradient to what it reads, so that the blocks before
it, the last of which has a term of the objective, are a network of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pass(NamedTuple):
    """One block's forward pass, cut from its neighbours. Its input is [N, *in], its output [N, *out].

    N is the number of rows of a block's input: with some rules more than there are images (two views, patches).

    Attributes:
        k: index of the block, 0 for the first.
        block: the module itself.
        x: [N, *in] input of the block: ``z`` of block k−1 (so no gradient leaves the block), or the network's input.
        y: [N] labels, or the rule's targets; kept with x, so that delayed or replayed inputs have the right ones.
        h: [N, *out] output of the block, with the block's graph: its own backward pass begins here. Put no loss on it.
        z: [N, *out] leaf copy of ``h`` without its graph: the input of block k+1, and where local losses are differentiated.
        src: [N, *in] the source of ``x``, with its graph, if that is not ``h`` of block k−1: a synthetic input. Else None.
        image: [N, *] the network's input, for rules that read it (``depends_on`` has "image"); None if it was not passed.
        also: earlier block -> its ``z`` [N, *out], which the block reads beside ``x``.

    """

    k: int
    block: nn.Module
    x: Tensor
    y: Tensor
    h: Tensor
    z: Tensor
    src: Tensor | None = None
    image: Tensor | None = None
    also: Mapping[int, Tensor] = {}


class Grad(NamedTuple):
    """Result of one block's backward pass: values, never side effects.

    Attributes:
        delta: [N, *out] the error signal at the block's output; None: not trained on this batch.
        params: parameter name within the block -> gradient of the parameter's shape; empty if ``delta`` is None.
        below: each [N, *in], a message pulled back to the block's input, in the order of ``Signal.messages_below``; () if
            nothing was sent, and at the first block, whose input takes no gradient.
        earlier: other earlier block that the block reads -> each [N, *out], the messages pulled back to that block's output, in the same
            order.

    """

    delta: Tensor | None
    params: dict[str, Tensor]
    below: tuple[Tensor, ...]
    earlier: Mapping[int, tuple[Tensor, ...]] = {}

    def sent(self, k: int) -> dict[int, tuple[Tensor, ...]]:
        """Return the messages by the block that they go to; those that were sent nothing are missing.

        Args:
            k: index of the block that sends.

        Returns:
            earlier block -> each [N, *out], the messages pulled back to its output.

        """
        return {j: messages for j, messages in ((k - 1, self.below), *self.earlier.items()) if messages}


def reads_blocks(block: nn.Module) -> tuple[int, ...]:
    """Return the indices of the earlier blocks whose outputs a block reads beside its predecessor's."""
    return tuple(vars(block).get("reads_blocks", getattr(type(block), "reads_blocks", ())))  # nn.Module looks for an attribute slowly


def ends_of_parts(blocks: Sequence[nn.Module]) -> list[int]:
    """Return for each block the last one of its part of the network: by default the output block, for all."""
    ends, last = [], len(blocks) - 1
    for k in reversed(range(len(blocks))):
        ends.append(last)
        if getattr(blocks[k], "begins_part", False):
            last = k - 1
    return ends[::-1]


def outputs(blocks: Iterable[nn.Module], x: Tensor) -> Iterator[Tensor]:
    """Run blocks plainly and yield the output [N, *out] of each, first to last; no cuts.

    Args:
        blocks: the network's blocks from the first on.
        x: [N, *in] the network's input.

    """
    blocks = list(blocks)
    wanted = {j for block in blocks for j in reads_blocks(block)}
    kept: dict[int, Tensor] = {}
    for k, block in enumerate(blocks):
        x = block(x, *(kept[j] for j in reads_blocks(block)))
        if k in wanted:
            kept[k] = x
        yield x


def cut(
    k: int,
    block: nn.Module,
    x: Tensor,
    y: Tensor,
    h: Tensor,
    image: Tensor | None = None,
    src: Tensor | None = None,
    also: Mapping[int, Tensor] = {},
) -> Pass:
    """Make the pass of a block with input ``x`` [N, *in] and output ``h`` [N, *out], cut at its output."""
    return Pass(k, block, x, y, h, h.detach().requires_grad_(), src, image, also)


def chain(
    blocks: Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    run: Callable[..., Tensor] = lambda block, *read: block(*read),
    first: int = 0,
    image: Tensor | None = None,
) -> Iterator[Pass]:
    """Run the plain forward pass lazily: block k+1 runs on the output of block k when its pass is requested.

    Args:
        blocks: the blocks, first to last.
        x: [N, *in] the network's input.
        y: [N] targets.
        run: (block, input, *earlier outputs) -> output, for rules that change what happens inside a block.
        first: index of the first of these blocks in the network.
        image: the network's input, if these are not its first blocks and the rule reads it.

    """
    image, k, blocks = x if first == 0 else image, first - 1, list(blocks)
    wanted = {j for block in blocks for j in reads_blocks(block)}
    kept: dict[int, Tensor] = {}
    for block in blocks:  # not enumerate, which keeps a reference to its last pair
        k += 1
        also = {j: kept[j] for j in reads_blocks(block)}
        p = cut(k, block, x, y, run(block, x, *also.values()), image, also=also)
        x = p.z
        if k in wanted:
            kept[k] = x
        yield p
        del p  # free the graph as soon as the caller does


def trainable(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Return the parameters of a module that require a gradient, by their name within the module (after ``prefix`` and a dot)."""
    return {name: p for name, p in module.named_parameters(prefix) if p.requires_grad}


def _laid_like(v: Tensor, h: Tensor) -> Tensor:
    """Copy ``v`` to the memory layout of ``h``: with any other, a pool's backward copies its whole input gradient twice."""
    return v if v.stride() == h.stride() else torch.empty_like(h, dtype=v.dtype).copy_(v)


def pull_back(p: Pass, delta: Tensor | None, send: Sequence[Tensor] = (), keep: bool = False) -> Grad:
    """Run one block's backward pass: gradients of its parameters from ``delta`` and the pull-back of each message in ``send``.

    Only requested gradients are computed: without messages there is no input gradient, without ``delta`` no parameter
    gradient. A message that is ``delta`` itself shares its backward pass. Messages go to all that the block read.

    Args:
        p: the pass to differentiate.
        delta: [N, *out] the error signal at ``p.h``, or None for a block that is not trained.
        send: [N, *out] messages to pull back to ``p.x`` and ``p.also``; ignored if ``p.x`` takes no gradient (the first block).
        keep: keep the graph, for another pull-back through the same pass.

    """
    named = trainable(p.block)
    params = list(named.values())
    messages = list(send) if p.x.requires_grad else []
    shared = next((i for i, m in enumerate(messages) if m is delta), None)
    grads: dict[str, Tensor] = {}
    read = [p.x, *p.also.values()]
    below: dict[int, Sequence[Tensor]] = {}  # message -> what it is at each tensor read
    todo = [i for i in range(len(messages)) if i != shared]
    if delta is not None and (params or shared is not None):
        wanted = params + (read if shared is not None else [])
        got = torch.autograd.grad(p.h, wanted, _laid_like(delta, p.h), retain_graph=keep or bool(todo), allow_unused=True)
        grads = {name: g for name, g in zip(named, got, strict=False) if g is not None}
        if shared is not None:
            below[shared] = [torch.zeros_like(t) if g is None else g for t, g in zip(read, got[len(params) :], strict=True)]
    for n, i in enumerate(todo):
        last = n == len(todo) - 1
        message = _laid_like(messages[i], p.h)
        below[i] = torch.autograd.grad(p.h, read, message, retain_graph=keep or not last, materialize_grads=True)
    at = [tuple(below[i][place] for i in range(len(messages))) for place in range(len(read))]
    return Grad(delta, grads, at[0], dict(zip(p.also, at[1:], strict=True)))


def pull_back_chain(
    passes: Sequence[Pass],
    slopes: Mapping[int, Tensor],
    keep: bool = False,
    further: bool = False,
    params: bool = True,
) -> list[Grad]:
    """Pull slopes of an objective back through all passes: backpropagation on these very forward passes.

    Frees the graphs unless ``keep``. Valid if all that a pass reads are earlier passes' ``z`` (see :func:`is_chain`).

    Args:
        passes: all passes, first to last, with their graphs.
        slopes: block -> [N, *out] gradient of the objective's own term at this block's output; the last pass's block has one.
        keep: keep the graphs, for more pull-backs.
        further: pull it back to the input of the first pass too, for passes before these.
        params: compute the gradients of parameters too.

    Returns:
        one Grad per pass, first to last; ``delta`` is the true gradient at that block's output.

    """
    grads: list[Grad] = []
    came = dict(slopes)
    for p in reversed(passes):
        delta = came.pop(p.k)
        send = (delta,) if p is not passes[0] or further else ()
        grad = pull_back(p, delta if params else None, send, keep)
        grads.append(grad._replace(delta=delta))
        for j, (message,) in grad.sent(p.k).items():
            came[j] = came[j] + message if j in came else message
    return grads[::-1]


def is_chain(passes: Sequence[Pass]) -> bool:
    """Return whether these are the blocks from the first on, each with its predecessor's output (and other earlier ones) as input.

    Only then is the pulled-back product the gradient of a loss.
    """
    whole = bool(passes) and [p.k for p in passes] == list(range(len(passes)))
    return whole and all(
        p.src is None and p.x is below.z and all(z is passes[j].z for j, z in p.also.items()) for below, p in pairwise(passes)
    )
