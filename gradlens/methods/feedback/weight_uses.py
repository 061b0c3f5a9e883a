"""Which weights take part in a product that a feedback rule does not replace: found in a block's autograd graph, or by their values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

LEAF = torch._C._functions.AccumulateGrad
# what joins tensors without multiplying them: the slope along one does not depend on the values of the others
JOINS = frozenset({"Add", "Sub", "Rsub", "Cat", "Stack", "Where", "Copy", "CopySlices", "IndexPut", "MaskedScatter", "Maximum", "Minimum"})
# products that also add something, and the place of what they add
ADDED = {"Addmm": 0, "Baddbmm": 0, "Addbmm": 0, "Addmv": 0, "Addr": 0, "Convolution": 2}


def _node(t: Tensor) -> Node | None:
    """Where a tensor's gradient goes; None where it takes none."""
    return get_gradient_edge(t).node if t.requires_grad else None


class Call(NamedTuple):
    """A call of a layer whose backward pass the rule changes, as nodes of the graph: None where there is a leaf or nothing."""

    path: str
    out: Node | None
    x: Node | None
    bias: Node | None

    def nodes(self) -> set[Node]:
        """What the call put into the graph between its inputs and its output."""
        todo, found = [self.out], set[Node]()
        while todo:
            node = todo.pop()
            if node is None or node in (self.x, self.bias) or node in found or isinstance(node, LEAF):
                continue
            found.add(node)
            todo += [below for below, _ in node.next_functions]
        return found


def unreplaced(
    h: Tensor, x: Tensor, calls: Collection[Call], paths: Mapping[int, str], hidden: str | None = None
) -> tuple[str, str] | None:
    """The first weight that is multiplied with something else that takes a gradient, outside of the layers that a rule replaces.

    Args:
        h: [N, *out] what the block gave.
        x: [N, *in] what it read.
        calls: of its linear layers and convolutions that ran as such.
        paths: id of a weight -> path of its layer.
        hidden: path of a layer whose weight was read where no graph is recorded, as inside an ``autograd.Function``.

    Returns:
        the layer's path and the name of the node that multiplies; None where there is no such weight.

    """
    start, source = _node(h), _node(x)
    layers = set[Node]().union(*(call.nodes() for call in calls))
    below_of: dict[Node, list[Node]] = {}
    leaves: dict[Node, frozenset[int] | None] = {}  # ids of the leaves below a node; None: it carries an activation
    todo = [start] if start is not None else []
    while todo:
        node = todo[-1]
        if node not in below_of:
            below_of[node] = [n for n, _ in node.next_functions if n is not None]
            todo += [n for n in below_of[node] if n not in below_of]
            continue
        todo.pop()
        if node in leaves:
            continue
        if isinstance(node, LEAF):
            leaves[node] = None if node is source else frozenset([id(node.variable)])
            continue
        if hidden is not None and isinstance(node, BackwardCFunction):
            return hidden, node.name()
        groups = [leaves[n] for n in below_of[node]]
        if node in layers:
            leaves[node] = None
            continue
        if len(groups) > 1 and _multiplied(groups, paths) is not None and _kind(node) not in JOINS:
            factors = [leaves[n] for i, (n, _) in enumerate(node.next_functions) if n is not None and i != ADDED.get(_kind(node))]
            if (weight := _multiplied(factors, paths)) is not None:
                return paths[weight], node.name()
        leaves[node] = None if None in groups else frozenset[int]().union(*(g for g in groups if g is not None))
    return None


def _kind(node: Node) -> str:
    return node.name().rpartition(":")[2].rstrip("0123456789").removesuffix("Backward")


def _multiplied(groups: list[frozenset[int] | None], paths: Mapping[int, str]) -> int | None:
    """The weight among what a node reads beside something that takes a gradient and is not made of it alone; None: there is none."""
    for i, mine in enumerate(groups):
        if mine is None:
            continue
        weight = next((leaf for leaf in mine if leaf in paths), None)
        if weight is not None and any(other is None or not other <= mine for j, other in enumerate(groups) if j != i):
            return weight
    return None


# --------------------------------------------------------------------------------- weights that are used without being in the graph

ACTIVATION = ""  # the origin of what is made of the block's input


def tensors(given: Iterable[object]) -> list[Tensor]:
    """The tensors among a function's arguments or results, also those in lists and tuples."""
    return [t for a in given for t in (a if isinstance(a, (list, tuple)) else (a,)) if isinstance(t, Tensor)]


def storage(t: Tensor) -> int:
    """The address of a tensor's numbers; 0 where it has none (of torch.vmap, sparse, without memory)."""
    try:
        return t.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


class Origins:
    """What tensors are made of while a block runs: of one layer's weight (its path), or of the block's input (``ACTIVATION``).

    A weight's values that take no gradient (detached, ``.data``, computed under ``no_grad``, of a frozen layer) carry the gradient down
    as the weight itself does, but the graph does not name them.

    Args:
        paths: id of a weight -> path of its layer.
        storages: address of a weight's numbers -> path of its layer.
        x: what the block reads.

    """

    def __init__(self, paths: Mapping[int, str], storages: Mapping[int, str], x: Tensor) -> None:
        self.paths, self.storages = paths, storages
        self.made: dict[int, tuple[Tensor, str]] = {id(x): (x, ACTIVATION)}  # with the tensors: else another could get the id

    def of(self, t: Tensor) -> str | None:
        """A tensor's origin; None: neither."""
        if (noted := self.made.get(id(t))) is not None:
            return noted[1]
        if id(t) in self.paths:
            return self.paths[id(t)]
        if t.requires_grad:
            return None if t.is_leaf else ACTIVATION  # a leaf is a parameter: the block's input is noted
        return self.storages.get(storage(t))

    def note(self, made: object, origin: str) -> None:
        """Keep the origin of what a function made. An activation that takes a gradient needs no note: it is known by that."""
        for t in tensors((made,)):
            if origin == ACTIVATION and t.requires_grad:
                self.made.pop(id(t), None)
            else:
                self.made[id(t)] = (t, origin)
