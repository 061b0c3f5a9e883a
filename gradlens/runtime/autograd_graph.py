"""Walk a tensor's autograd graph, and detect reentrant gradient checkpointing in it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge


def graph_nodes(h: Tensor) -> Iterator[Node]:
    """Yield the nodes of a tensor's graph."""
    todo = [get_gradient_edge(h).node] if h.requires_grad else []
    seen = set(todo)
    while todo:
        node = todo.pop()
        yield node
        new = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= new
        todo += new


def is_reentrant(h: Tensor) -> bool:
    """Return whether a tensor was computed under reentrant gradient checkpointing, which supports ``backward()`` only."""
    return any(node.name() == "CheckpointFunctionBackward" for node in graph_nodes(h))
