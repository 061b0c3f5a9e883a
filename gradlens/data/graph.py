"""Define a graph whose nodes are classified: features, edges, labels, and which nodes are for training, validation and test."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlens.runtime.errors import InputError

PARTS = ("train", "validation", "test")


class Graph:
    """An undirected graph; construction checks it and keeps each edge once, without self-loops.

    Args:
        where: its name in messages.
        features: [N, F] floats; each row is divided by the sum of its absolute values.
        edges: [E, 2] pairs of nodes, in any direction.
        labels: [N] whole numbers, -1 if unknown.
        parts: nodes of ``train``, ``validation`` and ``test``.
        classes: names of the classes; None: their numbers.

    Raises:
        InputError: an edge to a node that does not exist, a part without a labelled node, a node in two parts, or other wrong numbers.

    """

    def __init__(
        self, where: str, features: Tensor, edges: Tensor, labels: Tensor, parts: dict[str, Tensor], classes: tuple[str, ...] | None = None
    ) -> None:
        if features.ndim != 2 or not features.numel():
            raise InputError(f"{where}: features must be numbers [nodes, features], got the shape {list(features.shape)}")
        if len(strange := (~features.isfinite()).nonzero()):
            node, column = strange[0].tolist()
            raise InputError(f"{where}: feature {column} of node {node} is {features[node, column]:g}; features must be finite numbers")
        nodes = len(features)
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise InputError(f"{where}: edges must be pairs of nodes [E, 2], got the shape {list(edges.shape)}")
        if labels.shape != (nodes,):
            raise InputError(f"{where}: labels of the shape {list(labels.shape)} for {nodes} nodes; wanted one for each, -1 where unknown")
        if wrong := _outside(edges, nodes):
            raise InputError(f"{where}: an edge leads to node {wrong[0]}, which does not exist; nodes are 0 to {nodes - 1}")
        wide = features.double()  # a sum of float32 may overflow
        self.features = (wide / wide.abs().sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)).float()
        self.edges = _once(edges.long())
        self.labels = labels.long()
        self.parts = {part: self._part(where, part, parts[part].long()) for part in PARTS}
        least, most = int(self.labels.min()), int(self.labels.max())
        if classes is None and most >= nodes:
            raise InputError(
                f"{where}: a label is {most}, and {nodes} nodes have {nodes} classes at most: number them from 0, -1 where unknown"
            )
        self.classes = tuple(map(str, range(most + 1))) if classes is None else classes
        if most >= len(self.classes) or least < -1:
            wanted = f"with {len(self.classes)} classes they are 0 to {len(self.classes) - 1}, -1 where unknown"
            raise InputError(f"{where}: labels go from {least} to {most}; {wanted}")
        taken = torch.cat([*self.parts.values()])
        if len(twice := taken[torch.bincount(taken, minlength=nodes)[taken] > 1]):
            raise InputError(
                f"{where}: node {int(twice[0])} stands more than once in {', '.join(PARTS)}; each node may be in one of them, once"
            )

    def _part(self, where: str, part: str, chosen: Tensor) -> Tensor:
        """Return the labelled nodes among those chosen for a part."""
        if chosen.ndim != 1 or (wrong := _outside(chosen, len(self.labels))):
            got = f"node {wrong[0]}" if chosen.ndim == 1 else f"the shape {list(chosen.shape)}"
            raise InputError(f"{where}: the {part} part must be numbers of nodes, 0 to {len(self.labels) - 1}, got {got}")
        labelled = chosen[self.labels[chosen] >= 0]
        if not len(labelled):
            raise InputError(f"{where}: all labels of the {part} part are masked: none of its {len(chosen)} nodes has a label")
        return labelled

    @property
    def nodes(self) -> int:
        """Return the number of nodes."""
        return len(self.labels)


def _outside(numbers: Tensor, nodes: int) -> list[int]:
    """List numbers that are no nodes."""
    found: list[int] = numbers[(numbers < 0) | (numbers >= nodes)].tolist()
    return found


def _once(edges: Tensor) -> Tensor:
    """Return each undirected edge once, the lower node first, without self-loops, [2, E]."""
    ordered = edges.sort(1).values
    once: Tensor = torch.unique(ordered[ordered[:, 0] != ordered[:, 1]], dim=0)  # type: ignore[no-untyped-call]
    return once.T.contiguous()
