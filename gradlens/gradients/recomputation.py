"""Which call of a module is computed again, when a backward pass runs a forward pass (gradient checkpointing, reversible networks)."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import nn

backward_number = torch._C._current_graph_task_id  # of the backward pass that runs in this thread; -1 outside of one


class _Call(NamedTuple):
    """A call without graph, as a checkpointed segment makes it before backward."""

    number: int
    thread: int
    start: int  # the number of the next node when it began, which counts in each thread


class Calls:
    """Numbers the calls of modules.

    A segment's node is made just before the segment runs without graph, so the calls in it begin with higher node numbers than its own.
    When backward runs that node, the segment's calls come again, in the same order.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # module -> calls
        self._without_graph: dict[int, list[_Call]] = {}  # module -> calls
        self._segment: tuple[int, int] = (-1, -1)  # backward pass and node that calls are computed again for
        self._again: Counter[int] = Counter()  # module -> its calls there

    def forget(self) -> None:
        """Count from 0."""
        self.__init__()  # type: ignore[misc]

    def may_be_repeated(self, module: nn.Module) -> bool:
        """Whether a call inside a backward pass may be one computed again that gradients go through."""
        return id(module) in self._without_graph

    def number(self, module: nn.Module, start: int) -> tuple[int, bool] | None:
        """A call's number, and whether an earlier one of that number is computed again with a graph; None: nothing new is to be read in it.

        Args:
            module: what was called.
            start: ``torch.autograd``'s number of the next node when the call began.

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
        if not torch.is_grad_enabled():  # a segment in a segment: its own turn comes
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
