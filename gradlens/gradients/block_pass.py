"""One block's forward pass, cut from its neighbours, and its pull-back (vector-Jacobian product).

The forward pass is cut at block boundaries: each block's output ``h`` keeps the block's own graph and the next block
reads ``z``, a leaf copy of it. A training rule then only says which gradient each block is told; the true gradient is
the plain pull-back of the top's own gradient through the same passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pass(NamedTuple):
    """One block's forward pass, cut from its neighbours. [N, *in] and [N, *out] are the shapes of what the block reads and gives.

    N is the number of rows a block reads, which a rule may make more than there are images (two views, patches).

    Attributes:
        k: which block, 0 at the bottom.
        block: the module itself.
        x: [N, *in] what the block read: the ``z`` of the block below (so no gradient leaves the block), or the network's input.
        y: [N] labels, or the targets that the rule made; they travel with x, so that late or drawn inputs keep theirs.
        h: [N, *out] what the block gave, with the block's graph: the block's own backward pass begins here. No loss is put on it.
        z: [N, *out] leaf copy of ``h`` without its graph: what the next block reads, and what local losses are differentiated at.
        src: [N, *in] what ``x`` is a copy of, with its graph, where that is not the ``h`` of the block below: a synthetic input. Else None.
        image: [N, *] the network's input, for rules that read it (``depends_on`` has "image"); None where nobody gave it.

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
    """What one block's backward pass gave: values, never side effects.

    Attributes:
        delta: [N, *out] gradient the block was told at its output; None: not trained on this batch.
        params: parameter name within the block -> gradient of the parameter's shape; empty where ``delta`` is None.
        below: each [N, *in], a message sent and pulled back to the block's input, in the order of ``Signal.messages_below``; () where
            nothing was sent, and at the first block, whose input takes no gradient.

    """

    delta: Tensor | None
    params: dict[str, Tensor]
    below: tuple[Tensor, ...]


def cut(k: int, block: nn.Module, x: Tensor, y: Tensor, h: Tensor, image: Tensor | None = None, src: Tensor | None = None) -> Pass:
    """The pass of a block that read ``x`` and gave ``h``, cut at its output."""
    return Pass(k, block, x, y, h, h.detach().requires_grad_(), src, image)


def chain(
    blocks: Iterable[nn.Module],
    x: Tensor,
    y: Tensor,
    run: Callable[[nn.Module, Tensor], Tensor] = lambda block, x: block(x),
    first: int = 0,
    image: Tensor | None = None,
) -> Iterator[Pass]:
    """The plain forward pass, lazily: block k+1 is run when the caller asks for its pass, on what block k gave.

    Args:
        blocks: the blocks, bottom first.
        x: [N, *in] the network's input.
        y: [N] targets.
        run: how a block is run, for rules that change what happens inside it.
        first: the number of the first of these blocks in the network.
        image: what the network was given, where these are not its lowest blocks and the rule reads it.

    """
    image, k = x if first == 0 else image, first - 1
    for block in blocks:  # not enumerate, which holds on to the last pair it gave
        k += 1
        p = cut(k, block, x, y, run(block, x), image)
        x = p.z
        yield p
        del p  # so that the graph lives no longer than the caller wants it


def trainable(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The parameters of a module that ask for a gradient, by their name within the module (``prefix`` and a dot before it)."""
    return {name: p for name, p in module.named_parameters(prefix) if p.requires_grad}


def _laid_like(v: Tensor, h: Tensor) -> Tensor:
    """``v`` in the memory layout of ``h``: against any other, a pool's backward copies its whole input gradient twice."""
    return v if v.stride() == h.stride() else torch.empty_like(h, dtype=v.dtype).copy_(v)


def pull_back(p: Pass, delta: Tensor | None, send: Sequence[Tensor] = (), keep: bool = False) -> Grad:
    """One block's backward: gradients of its parameters under ``delta`` and the pull-back of each message in ``send``.

    Nothing that nobody reads is computed: without messages there is no input gradient, without ``delta`` no parameter
    gradient. A message that is ``delta`` itself shares its backward pass with it.

    Args:
        p: the pass to go back through.
        delta: [N, *out] the gradient told at ``p.h``, or None for a block that is not trained.
        send: [N, *out] messages to pull back to ``p.x``; ignored where ``p.x`` takes no gradient (the first block).
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
    """The plain pull-back of ``top`` through all passes: what backpropagation gives on these very forward passes.

    Frees the graphs unless ``keep``. Valid where every pass read its predecessor's ``z`` (see :func:`is_chain`).

    Args:
        passes: all passes, bottom first, with their graphs.
        top: [N, *out] gradient of the objective with respect to the last pass's output.
        keep: keep the graphs, for more pull-backs.
        further: pull it back to the input of the first pass too, below which there are more.

    Returns:
        one Grad per pass, bottom first; ``delta`` is the true gradient at that block's output.

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
    """Whether these are the blocks from the bottom up, each having read its predecessor's output.

    Only then is the pulled-back product the gradient of a loss.
    """
    whole = bool(passes) and [p.k for p in passes] == list(range(len(passes)))
    return whole and all(p.src is None and p.x is below.z for below, p in pairwise(passes))
