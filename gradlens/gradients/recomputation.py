"""Find the call of a module that is recomputed when a backward pass runs a forward pass (gradient checkpointing, reversible networks)."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import nn

backward_number = torch._C._current_graph_task_id  # number of the backward pass that runs in this thread; -1: none


class _Call(NamedTuple):
    """A call without graph, in a checkpointed segment before backward."""

    number: int
    thread: int
    start: int  # sequence number of the next node at its start, counted per thread


class Calls:
    """Numbering of the calls of modules.

    A segment's node is made just before the segment runs without graph, so the calls in it begin with higher node numbers than its own.
    When backward runs that node, the segment's calls are repeated in the same order.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # module -> calls
        self._without_graph: dict[int, list[_Call]] = {}  # module -> calls
        self._segment: tuple[int, int] = (-1, -1)  # backward pass and node of the current recomputation
        self._again: Counter[int] = Counter()  # module -> its calls in the current recomputation

    def forget(self) -> None:
        """Count from 0."""
        self.__init__()  # type: ignore[misc]

    def may_be_repeated(self, module: nn.Module) -> bool:
        """Return whether a call inside a backward pass may be a recomputed one with gradients."""
        return id(module) in self._without_graph

    def number(self, module: nn.Module, start: int) -> tuple[int, bool] | None:
        """Return a call's number, and whether it recomputes an earlier call of that number with a graph; None: the call is not to be read.

        Args:
            module: the called module.
            start: ``torch.autograd``'s sequence number of the next node at the start of the call.

        """
        now, key = backward_number(), id(module)
        if now == -1:
            number = self._counts.get(key, 0)
            self._counts[key] = number + 1
            if not torch.is_grad_enabled():
                self._without_graph.setdefault(key, []).append(_Call(number, threading.get_ident(), start))
            return number, False
        found = self._earlier(key, now, torch._C._current_autograd_node())
        if found is None:
            return None
        if not torch.is_grad_enabled():  # a segment inside a segment is recomputed later
            self._without_graph[key].append(_Call(found, threading.get_ident(), start))
            return None
        return found, True

    def _earlier(self, key: int, backward: int, node: Any) -> int | None:
        if node is None or key not in self._without_graph:
            return None
        made = node._sequence_nr()
        if self._segment != (backward, made):
            self._segment = (backward, made)
            self._again.clear()
        calls, here = [c for c in self._without_graph[key] if c.start > made], threading.get_ident()
        calls = [c for c in calls if c.thread == here] or calls
        place = self._again[key]
        self._again[key] += 1
        return calls[place].number if place < len(calls) else None
