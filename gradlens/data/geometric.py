"""Load graphs of torch_geometric, an optional library (extra ``graphs``)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from gradlens.data.graph import PARTS, Graph
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.extras import install_command

GEOMETRIC = "geometric:"  # what the name of such a graph begins with


def geometric(name: str, root: Path, download: bool) -> Graph:
    """Load a data set of torch_geometric: ``CLASS`` or ``CLASS/NAME``, as ``Planetoid/PubMed``; its first graph.

    Raises:
        InputError: torch_geometric is not installed, has no such class, cannot load the set, or the graph has no parts.

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
        graph = getattr(known, kind)(**given)[0]
    except Exception as error:  # whatever a set raises: no connection, a damaged file, another name
        raise InputError(f"{GEOMETRIC}{name} could not be loaded: {' '.join(str(error).split())}") from error
    return from_geometric(f"{GEOMETRIC}{name}", graph)


def _arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind).parameters)


def from_geometric(where: str, graph: Any) -> Graph:
    """Convert a ``torch_geometric.data.Data`` with ``x``, ``edge_index``, ``y`` and the masks of its parts; of several masks the first.

    Raises:
        InputError: something of it is missing, or a graph that :class:`Graph` rejects.

    """
    wanted = ("x", "edge_index", "y", "train_mask", "val_mask", "test_mask")
    if missing := [name for name in wanted if getattr(graph, name, None) is None]:
        raise InputError(f"{where} has no {', '.join(missing)}: a graph for node classification has {', '.join(wanted)}")
    masks = [mask if mask.ndim == 1 else mask[:, 0] for mask in (graph.train_mask, graph.val_mask, graph.test_mask)]
    parts = {part: mask.nonzero()[:, 0] for part, mask in zip(PARTS, masks, strict=True)}
    return Graph(where, graph.x, graph.edge_index.T, graph.y.reshape(len(graph.x), -1)[:, 0], parts)
