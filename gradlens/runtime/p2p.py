"""Send tensors from one rank to another asynchronously and in order; two messages may be in flight while the next is computed.

Sizes, memory layouts and types are sent once per batch size, through the launcher's store: received tensors have the sender's memory
layout, so that layers use the same kernels and give bit-identical results. Later batches of that size must have the same layouts.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import MESSAGE_TIMEOUT, ProcessGroup

UNDER_WAY = 2  # messages of one channel in flight at most


Layout = tuple[tuple[int, ...], tuple[int, ...], str]  # size, stride, type


def _memory_and_layout(x: Tensor) -> tuple[Tensor, Layout]:
    """Return a tensor's memory from end to end [numel], and (size, stride, type) to see it as the tensor again."""
    x = x.detach()
    spread = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    if spread != x.numel():  # an expanded view, or one with holes
        x = x.contiguous()
    return x.as_strided((x.numel(),), (1,)), (tuple(x.shape), x.stride(), str(x.dtype).removeprefix("torch."))


def _in_memory(layouts: Sequence[Layout]) -> list[Any]:
    """Reduce layouts to what determines the memory order: without strides of dimensions of size 1."""
    return [(size, [step for n, step in zip(size, stride, strict=True) if n > 1], kind) for size, stride, kind in layouts]


class Outbox:
    """Messages from this rank to another on one channel.

    Args:
        ranks: the ranks.
        to: the receiving rank.
        channel: name of the channel.
        tag: tag of the channel, the same on both sides.

    """

    def __init__(self, ranks: ProcessGroup, to: int, channel: str, tag: int) -> None:
        self.ranks, self.to, self.tag = ranks, to, tag
        self.name = f"{channel}/{ranks.rank}-{to}"
        self.layouts: dict[int, Sequence[Layout]] = {}  # images of a batch -> layouts that were sent for it
        self.under_way: deque[list[tuple[Any, Tensor]]] = deque()
        self.bytes = 0  # sent so far

    def send(self, images: int, tensors: Sequence[Tensor]) -> None:
        """Send tensors of a batch of ``images`` images; waits only while two earlier messages are in flight.

        Raises:
            InputError: other layouts than those of an earlier batch of as many images.

        """
        flats, layouts = zip(*map(_memory_and_layout, tensors), strict=True) if tensors else ((), ())
        if images not in self.layouts:
            self.ranks.store.set(f"{self.name}/{images}", repr(list(layouts)))
            self.layouts[images] = layouts
        elif _in_memory(layouts) != _in_memory(self.layouts[images]):
            raise InputError(
                f"--parallel layers: a block's output has (size, stride, type) {_layout_text(layouts)} for {images} images, after"
                f" {_layout_text(self.layouts[images])} for as many: it must be the same for every batch; else train in one process"
            )
        while len(self.under_way) >= UNDER_WAY:
            self._wait()
        self.under_way.append([(dist.isend(flat, self.to, tag=self.tag), flat) for flat in flats])
        self.bytes += sum(flat.numel() * flat.element_size() for flat in flats)

    def _wait(self) -> None:
        for work, _ in self.under_way.popleft():
            work.wait()

    def empty(self) -> None:
        """Wait until all messages have been sent."""
        while self.under_way:
            self._wait()


def _layout_text(layouts: Sequence[Layout]) -> str:
    return ", ".join(map(str, layouts)) or "nothing"


class Inbox:
    """Messages that this rank receives from another on one channel; the arguments are those of :class:`Outbox`."""

    def __init__(self, ranks: ProcessGroup, source: int, channel: str, tag: int, device: torch.device) -> None:
        self.ranks, self.source, self.tag, self.device = ranks, source, tag, device
        self.name = f"{channel}/{source}-{ranks.rank}"
        self.layouts: dict[int, list[Any]] = {}
        self.expected: deque[tuple[int, list[tuple[Any, Tensor]] | None]] = deque()

    def expect(self, images: int) -> None:
        """Start receiving the next message, of a batch of ``images`` images, in the background."""
        self.expected.append((images, self._receive(images) if images in self.layouts else None))

    def take(self, images: int) -> list[Tensor]:
        """Wait for the next message and return its tensors."""
        if not self.expected:
            self.expect(images)
        wanted, receiving = self.expected.popleft()
        assert wanted == images
        if receiving is None:
            key = f"{self.name}/{images}"
            self.ranks.store.wait([key], timedelta(seconds=MESSAGE_TIMEOUT))
            self.layouts[images] = ast.literal_eval(self.ranks.store.get(key).decode())
            receiving = self._receive(images)
        for work, _ in receiving:
            work.wait()
        return [tensor for _, tensor in receiving]

    def _receive(self, images: int) -> list[tuple[Any, Tensor]]:
        begun = []
        for size, stride, kind in self.layouts[images]:
            flat = torch.empty(torch.Size(size).numel(), dtype=getattr(torch, kind), device=self.device)
            begun.append((dist.irecv(flat, self.source, tag=self.tag), flat.as_strided(size, stride)))
        return begun
