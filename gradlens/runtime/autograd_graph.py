"""What a tensor was computed by: the nodes of its graph, and whether a part of it is computed again in a backward pass of its own."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge


def graph_nodes(h: Tensor) -> Iterator[Node]:
    """The nodes of a tensor's graph."""
    todo = [get_gradient_edge(h).node] if h.requires_grad else []
    seen = set(todo)
    while todo:
        node = todo.pop()
        yield node
        new = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= new
        todo += new


def is_reentrant(h: Tensor) -> bool:
    """Whether a tensor was made under reentrant gradient checkpointing, through which torch gives no gradient but by ``backward()``."""
    return any(node.name() == "CheckpointFunctionBackward" for node in graph_nodes(h))
