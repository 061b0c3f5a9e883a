"""Load graphs of torch_geometric, an optional library (extra ``graphs``)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from gradlens.data.graph import PARTS, Graph
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.extras import install_command
from gradlens.runtime.terminal import notice

GEOMETRIC = "geometric:"  # what the name of such a graph begins with


def geometric(name: str, root: Path, download: bool) -> Graph:
    """Load a data set of torch_geometric: ``CLASS`` or ``CLASS/NAME``, as ``Planetoid/PubMed``; a set of one graph.

    Raises:
        InputError: torch_geometric is not installed, has no such class, cannot load the set, the set has several graphs, or the graph
            cannot be converted.

    """
    try:
        import torch_geometric.datasets as known
    except ImportError as error:
        raise InputError(f"{GEOMETRIC}{name} needs torch_geometric; {install_command('graphs')} installs it") from error
    kind, _, which = name.partition("/")
    if kind not in (there := [n for n in known.__all__ if not n.startswith("_")]):
        raise unknown("data set of torch_geometric", kind, there)
    given: dict[str, Any] = {"name": which} if which else {}
    folder = root / "geometric" / kind
    if not download and not (folder / which).exists() and "root" in _arguments(getattr(known, kind)):
        raise InputError(f"no {GEOMETRIC}{name} under {folder}: --download fetches it, --data-dir names another folder")
    if "root" in _arguments(getattr(known, kind)):
        given["root"] = str(folder)
    try:
        found = getattr(known, kind)(**given)
        graphs, graph = len(found), found[0]
    except Exception as error:  # whatever a set raises: no connection, a damaged file, another name
        raise InputError(f"{GEOMETRIC}{name} could not be loaded: {' '.join(str(error).split())}") from error
    if graphs != 1:
        raise InputError(f"{GEOMETRIC}{name} holds {graphs} graphs: nodes are classified on one; set --data to a set of one graph")
    return from_geometric(f"{GEOMETRIC}{name}", graph)


def _arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind).parameters)


def from_geometric(where: str, graph: Any) -> Graph:
    """Convert a ``torch_geometric.data.Data`` with ``x``, ``edge_index``, ``y`` and the masks of its parts; of several masks the first.

    Features and weights of its edges are named in a notice, and not used.

    Raises:
        InputError: something of it is missing, targets that are not one class a node, or a graph that :class:`Graph` rejects.

    """
    wanted = ("x", "edge_index", "y", "train_mask", "val_mask", "test_mask")
    if missing := [name for name in wanted if getattr(graph, name, None) is None]:
        raise InputError(f"{where} has no {', '.join(missing)}: a graph for node classification has {', '.join(wanted)}")
    masks = [mask if mask.ndim == 1 else mask[:, 0] for mask in (graph.train_mask, graph.val_mask, graph.test_mask)]
    parts = {part: mask.nonzero()[:, 0] for part, mask in zip(PARTS, masks, strict=True)}
    y = graph.y
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.shape not in ((len(graph.x),), (len(graph.x), 1)):
        got = f"{str(y.dtype).removeprefix('torch.')} {list(y.shape)}"
        raise InputError(f"{where}: y must be one class a node, whole numbers [{len(graph.x)}] or [{len(graph.x)}, 1], got {got}")
    for name in ("edge_attr", "edge_weight"):
        if (ignored := getattr(graph, name, None)) is not None:
            notice(f"{where}: {name} {list(ignored.shape)} is not used: all edges count alike")
    return Graph(where, graph.x, graph.edge_index.T, y.flatten(), parts)
