"""Run one block's forward pass, cut from its neighbours, and its pull-back (vector-Jacobian product).

The forward pass is cut at block boundaries: each block's output ``h`` keeps the block's own graph and block k+1
reads ``z``, a leaf copy of it. A learning rule then only defines each block's error signal; the true gradient is
the plain pull-back of the output block's own gradient through the same passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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

    """

    k: int
    block: nn.Module
    x: Tensor
    y: Tensor
    h: Tensor
    z: Tensor
    src: Tensor | None = None
    image: Tensor | None = None


class Grad(NamedTuple):
    """Result of one block's backward pass: values, never side effects.

    Attributes:
        delta: [N, *out] the error signal at the block's output; None: not trained on this batch.
        params: parameter name within the block -> gradient of the parameter's shape; empty if ``delta`` is None.
        below: each [N, *in], a message pulled back to the block's input, in the order of ``Signal.messages_below``; () if
            nothing was sent, and at the first block, whose input takes no gradient.

    """

    delta: Tensor | None
    params: dict[str, Tensor]
    below: tuple[Tensor, ...]


def cut(k: int, block: nn.Module, x: Tensor, y: Tensor, h: Tensor, image: Tensor | None = None, src: Tensor | None = None) -> Pass:
    """Make the pass of a block with input ``x`` [N, *in] and output ``h`` [N, *out], cut at its output."""
    return Pass(k, block, x, y, h, h.detach().requires_grad_(), src, image)


def chain(
    blocks: Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    run: Callable[[nn.Module, Tensor], Tensor] = lambda block, x: block(x),
    first: int = 0,
    image: Tensor | None = None,
) -> Iterator[Pass]:
    """Run the plain forward pass lazily: block k+1 runs on the output of block k when its pass is requested.

    Args:
        blocks: the blocks, first to last.
        x: [N, *in] the network's input.
        y: [N] targets.
        run: (block, input) -> output, for rules that change what happens inside a block.
        first: index of the first of these blocks in the network.
        image: the network's input, if these are not its first blocks and the rule reads it.

    """
    image, k = x if first == 0 else image, first - 1
    for block in blocks:  # not enumerate, which keeps a reference to its last pair
        k += 1
        p = cut(k, block, x, y, run(block, x), image)
        x = p.z
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
    gradient. A message that is ``delta`` itself shares its backward pass.

    Args:
        p: the pass to differentiate.
        delta: [N, *out] the error signal at ``p.h``, or None for a block that is not trained.
        send: [N, *out] messages to pull back to ``p.x``; ignored if ``p.x`` takes no gradient (the first block).
        keep: keep the graph, for another pull-back through the same pass.

    """
    names, params = list(trainable(p.block)), list(trainable(p.block).values())
    messages = list(send) if p.x.requires_grad else []
    shared = next((i for i, m in enumerate(messages) if m is delta), None)
    grads: dict[str, Tensor] = {}
    below: dict[int, Tensor] = {}
    todo = [i for i in range(len(messages)) if i != shared]
    if delta is not None and (params or shared is not None):
        wanted = params + ([p.x] if shared is not None else [])
        got = torch.autograd.grad(p.h, wanted, _laid_like(delta, p.h), retain_graph=keep or bool(todo), allow_unused=True)
        grads = {name: g for name, g in zip(names, got, strict=False) if g is not None}
        if shared is not None:
            below[shared] = got[-1] if got[-1] is not None else torch.zeros_like(p.x)
    for n, i in enumerate(todo):
        last = n == len(todo) - 1
        message = _laid_like(messages[i], p.h)
        (below[i],) = torch.autograd.grad(p.h, p.x, message, retain_graph=keep or not last, materialize_grads=True)
    return Grad(delta, grads, tuple(below[i] for i in range(len(messages))))


def pull_back_chain(passes: Sequence[Pass], top: Tensor, keep: bool = False, further: bool = False) -> list[Grad]:
    """Pull ``top`` back through all passes: backpropagation on these very forward passes.

    Frees the graphs unless ``keep``. Valid if the input of every pass is its predecessor's ``z`` (see :func:`is_chain`).

    Args:
        passes: all passes, first to last, with their graphs.
        top: [N, *out] gradient of the objective with respect to the last pass's output.
        keep: keep the graphs, for more pull-backs.
        further: pull it back to the input of the first pass too, for passes before these.

    Returns:
        one Grad per pass, first to last; ``delta`` is the true gradient at that block's output.

    """
    grads: list[Grad] = []
    delta = top
    for k in reversed(range(len(passes))):
        grad = pull_back(passes[k], delta, (delta,) if k or further else (), keep)
        grads.append(grad)
        if k:
            (delta,) = grad.below
    return grads[::-1]


def is_chain(passes: Sequence[Pass]) -> bool:
    """Return whether these are the blocks from the first on, each with its predecessor's output as input.

    Only then is the pulled-back product the gradient of a loss.
    """
    whole = bool(passes) and [p.k for p in passes] == list(range(len(passes)))
    return whole and all(p.src is None and p.x is below.z for below, p in pairwise(passes))
