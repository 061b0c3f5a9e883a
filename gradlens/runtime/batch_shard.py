"""Divide a batch over ranks, and reduce and gather over the whole batch.

Losses are sums divided by the *global* batch size, so that gradients of the parts add up. Outside :func:`sharded` (a single
process, an evaluation) a batch is whole and every function here is the identity: rules and losses are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Shard(NamedTuple):
    """Images ``start`` to ``stop`` (not included) of a batch of ``batch_size``: the part of one rank of several."""

    start: int
    stop: int
    batch_size: int
    rank: int
    num_ranks: int


def shard_of(images: int, rank: int, num_ranks: int) -> Shard:
    """Return the images of a rank: as equal parts as can be, in the batch's order, the lower ranks the larger ones."""
    each, rest = divmod(images, num_ranks)
    start = rank * each + min(rank, rest)
    return Shard(start, start + each + (rank < rest), images, rank, num_ranks)


_current: Shard | None = None


@contextmanager
def sharded(shard: Shard | None) -> Iterator[None]:
    """Treat tensors of n rows inside the context as this rank's part of a batch; None: as a whole batch."""
    global _current
    before, _current = _current, shard
    try:
        yield
    finally:
        _current = before


def current_shard() -> Shard | None:
    """Return this rank's part, or None if batches are whole."""
    return _current


def global_count(n: int) -> int:
    """Return the number in the global batch for n in this rank's part: images, views, elements of a tensor."""
    return n if _current is None else n * _current.batch_size // (_current.stop - _current.start)


def global_offset(n: int) -> int:
    """Return the place in the global batch of the first of this rank's n rows."""
    return 0 if _current is None else n * _current.start // (_current.stop - _current.start)


def rank_rng_words(step: int) -> tuple[int, ...]:
    """Return the key of a step's draws that cannot be made for the whole batch (dropout in a block): each rank has its own."""
    return (step,) if _current is None or _current.rank == 0 else (step, _current.rank)


def draw_sharded(n: int, draw: Callable[[int], Tensor], dim: int = 0) -> Tensor:
    """Draw random numbers for this rank's n rows: for the global batch, then cut, so that they do not depend on the ranks.

    Args:
        n: rows of this rank.
        draw: number of rows -> a tensor with as many along ``dim``.
        dim: the dimension of the rows.

    """
    if _current is None:
        return draw(n)
    return draw(global_count(n)).narrow(dim, global_offset(n), n)


class _Sum(torch.autograd.Function):
    """The sum over ranks; a sum over ranks of losses that read it has the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        g = g.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(g)
        return g


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum a tensor over ranks; it has the same shape on all. Differentiable."""
    if _current is None:
        return x
    summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return summed


def all_gather_rows(x: Tensor) -> Tensor:
    """Gather all ranks' rows [N, *] to [global N, *] in the batch's order, on every rank. Differentiable.

    It is a sum in which each rank has zeros for the others' rows: parts may have different sizes, and the backward pass is a sum too.
    """
    if _current is None:
        return x
    n, start = len(x), global_offset(len(x))
    below, above = (x.new_zeros(rows, *x.shape[1:]) for rows in (start, global_count(n) - start - n))
    return all_reduce_sum(torch.cat([below, x, above]))


def current_shard_of(images: int) -> Shard | None:
    """Return this rank's part of another batch, of ``images`` images in total."""
    return None if _current is None else shard_of(images, _current.rank, _current.num_ranks)


def sharded_mean(x: Tensor) -> Tensor:
    """Return the mean of x [N, *] over all elements of the global batch, as this rank's share of it: shares add up."""
    return x.sum() / global_count(x.numel())


BUCKET_BYTES = 25_000_000  # bytes that are sent at a time, as in torch's DistributedDataParallel


class GradientReducer:
    """Sum of gradients over the ranks of a shared batch, one bucket at a time, during the backward pass.

    Args:
        put: called with (parameter, gradient) once the sum is computed; immediately if the batch is whole.

    """

    def __init__(self, put: Callable[[Tensor, Tensor], None]) -> None:
        self.put = put
        self.filling: list[tuple[Tensor, Tensor]] = []
        self.bytes = 0
        self.sent: list[tuple[Tensor, Any, list[Tensor]]] = []  # (bucket, its pending sum, its parameters)

    def add(self, parameter: Tensor, grad: Tensor) -> None:
        """Add a parameter's gradient on this rank's part."""
        if _current is None:
            self.put(parameter, grad)
            return
        if self.filling and self.filling[0][1].dtype != grad.dtype:
            self._send()
        self.filling.append((parameter, grad))
        self.bytes += grad.numel() * grad.element_size()
        if self.bytes >= BUCKET_BYTES:
            self._send()

    def _send(self) -> None:
        if not self.filling:
            return
        flat = torch.cat([grad.reshape(-1) for _, grad in self.filling])
        self.sent.append((flat, dist.all_reduce(flat, async_op=True), [parameter for parameter, _ in self.filling]))
        self.filling, self.bytes = [], 0

    def finish(self) -> None:
        """Send the last bucket, wait for all sums and pass them to ``put``."""
        self._send()
        for flat, work, parameters in self.sent:
            work.wait()
            for parameter, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):  # type: ignore[no-untyped-call]
                self.put(parameter, grad.view(parameter.shape))
        self.sent.clear()
