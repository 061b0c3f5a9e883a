"""Find weights in products that a feedback rule does not replace, in a block's autograd graph or by their values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

LEAF = torch._C._functions.AccumulateGrad
# operations that join tensors without multiplying them: the derivative by one does not depend on the values of the others
JOINS = frozenset({"Add", "Sub", "Rsub", "Cat", "Stack", "Where", "Copy", "CopySlices", "IndexPut", "MaskedScatter", "Maximum", "Minimum"})
# products that also add a tensor, and the position of that argument
ADDED = {"Addmm": 0, "Baddbmm": 0, "Addbmm": 0, "Addmv": 0, "Addr": 0, "Convolution": 2}


is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def _node(t: Tensor) -> Node | None:
    """Return the node that receives a tensor's gradient; None if it takes none."""
    return get_gradient_edge(t).node if t.requires_grad else None


class Call(NamedTuple):
    """A call of a layer whose backward pass the rule changes, as nodes of the graph; None for no node."""

    path: str
    out: Node | None
    x: Node | None
    bias: Node | None

    def nodes(self) -> set[Node]:
        """Return the graph's nodes between the call's inputs and its output."""
        todo, found = [self.out], set[Node]()
        while todo:
            node = todo.pop()
            if node is None or node in (self.x, self.bias) or node in found or isinstance(node, LEAF):
                continue
            found.add(node)
            todo += [below for below, _ in node.next_functions]
        return found


def unreplaced(
    h: Tensor, read: Sequence[Tensor], calls: Collection[Call], paths: Mapping[int, str], hidden: str | None = None
) -> tuple[str, str] | None:
    """Find the first weight that is multiplied with another tensor that takes a gradient, outside the layers that a rule replaces.

    Args:
        h: [N, *out] output of the block.
        read: each [N, *in], its input, and earlier outputs that it reads beside it.
        calls: calls of its linear layers and convolutions.
        paths: id of a weight -> path of its layer.
        hidden: path of a layer whose weight was read while no graph is recorded, as inside an ``autograd.Function``.

    Returns:
        the layer's path and the name of the node that multiplies; None if there is no such weight.

    """
    start, sources = _node(h), {_node(x) for x in read}
    layers = set[Node]().union(*(call.nodes() for call in calls))
    below_of: dict[Node, list[Node]] = {}
    leaves: dict[Node, frozenset[int] | None] = {}  # ids of the leaves that a node depends on; None: also on an activation
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
            leaves[node] = None if node in sources else frozenset([id(node.variable)])
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
    """Return the weight among a node's inputs, if another input takes a gradient and is not made of that weight alone; else None."""
    for i, mine in enumerate(groups):
        if mine is None:
            continue
        weight = next((leaf for leaf in mine if leaf in paths), None)
        if weight is not None and any(other is None or not other <= mine for j, other in enumerate(groups) if j != i):
            return weight
    return None


# --------------------------------------------------------------------------------- weights that are used without being in the graph

ACTIVATION = ""  # origin of tensors computed from the block's input
# functions that concatenate or add tensors: a weight joined with detached activations is still found
JOINING = frozenset({
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "where", "copy_", "__setitem__",
    "index_put", "index_put_", "index_copy", "index_copy_", "scatter", "scatter_", "masked_scatter", "masked_scatter_",
    "add", "add_", "sub", "sub_", "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__",
})  # fmt: skip


def takes_values(name: str) -> bool:
    """Return whether a function's result can contain values of its arguments: not that of ``zeros_like``, ``new_ones``, …"""
    return not (name.endswith("_like") or name.startswith("new_"))


def tensors(given: Iterable[object]) -> list[Tensor]:
    """Return the tensors among a function's arguments or results, also those in lists and tuples; under torch.vmap the whole batch."""
    found: list[Tensor] = []
    for a in given:
        if isinstance(a, Tensor):
            found.append(a if not is_wrapped(a) else _whole(a))
        elif isinstance(a, (list, tuple)):
            found += [_whole(t) for t in a if isinstance(t, Tensor)]
    return found


def _whole(t: Tensor) -> Tensor:
    """Unwrap a tensor of torch.vmap and torch.func."""
    while is_wrapped(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t


def storage(t: Tensor) -> int:
    """Return the address of a tensor's storage; 0 if it has none (torch.vmap, sparse, no memory)."""
    try:
        return t.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


class Origins:
    """Origins of tensors while a block runs: one layer's weight (its path), or the block's input (``ACTIVATION``).

    A weight's values that take no gradient (detached, ``.data``, computed under ``no_grad``, of a frozen layer) propagate the gradient
    like the weight itself, but the graph does not name them. Activations joined with a weight's values (``torch.cat``,
    ``x[i] = w``, ``+``) may propagate it, too.

    Args:
        paths: id of a weight -> path of its layer.
        storages: address of a weight's storage -> path of its layer.
        read: each [N, *in], the block's input, and earlier outputs that it reads beside it.

    """

    def __init__(self, paths: Mapping[int, str], storages: Mapping[int, str], read: Sequence[Tensor]) -> None:
        self.paths, self.storages = paths, dict(storages)
        self.made: dict[int, tuple[Tensor, str]] = {
            id(x): (x, ACTIVATION) for x in read
        }  # keeps the tensors: else another could get the id
        self.mixed: dict[int, tuple[Tensor, str]] = {}  # address of activations -> a layer whose weight's values they contain

    def of(self, t: Tensor) -> str | None:
        """Return a tensor's origin; None: neither."""
        if (noted := self.made.get(id(t))) is not None:
            return noted[1]
        if id(t) in self.paths:
            return self.paths[id(t)]
        if t.requires_grad:
            return None if t.is_leaf else ACTIVATION  # a leaf is a parameter: the block's input is in `made`
        return self.storages.get(storage(t))

    def in_mixed(self, t: Tensor) -> str | None:
        """Return the layer whose weight's values are among activations; None: none."""
        noted = self.mixed.get(storage(t)) if self.mixed and t.requires_grad else None
        return noted[1] if noted else None

    def note(self, name: str, made: object, origins: Collection[str | None], path: str | None) -> None:
        """Store the origin of the function ``name``'s result ``made``, from its arguments' origins and the weight of ``path`` among them.

        An activation that takes a gradient is not stored: `of` recognises it.
        """
        for t in tensors((made,)):
            if path and (ACTIVATION not in origins or (name in JOINING and not t.requires_grad)):
                self.made[id(t)] = (t, path)
                if not t.requires_grad and (address := storage(t)):
                    self.storages.setdefault(address, path)
            elif t.requires_grad:
                self.made.pop(id(t), None)
                if path and (address := storage(t)):
                    self.mixed[address] = (t, path)
            else:
                self.made[id(t)] = (t, ACTIVATION)
