"""The graph task: an example is a node, an item a node with a label, the target its class; the whole graph is one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradlens.data.datasets import DATA_DIR
from gradlens.data.files import DataFiles
from gradlens.data.graphs import GRAPHS, file_stamp, load_graph
from gradlens.data.split import Data, Origin, Split
from gradlens.gradients.items import Half
from gradlens.gradients.losses import NONE
from gradlens.models.graph_layers import EDGES
from gradlens.runtime.step_context import Context
from gradlens.tasks.task import Batch, Task

if TYPE_CHECKING:
    from gradlens.training.config import Config

USUAL: Mapping[str, Any] = {"model": "gcn", "data": "blocks", "epochs": 250}
# the papers' settings for backprop, which rules without settings of their own for these networks get too
CONVOLUTION: Mapping[str, Any] = {"dropout": 0.5, "lr": 0.01, "weight_decay": 5e-4, "decay_blocks": 1}
ATTENTION: Mapping[str, Any] = {"dropout": 0.6, "attention_dropout": [0.6], "lr": 0.005, "weight_decay": 5e-4}
OF_NETWORK: Mapping[str, Mapping[str, Any]] = {"gcn": CONVOLUTION, "cheb": CONVOLUTION, "sage": CONVOLUTION, "gat": ATTENTION}


class Graphs(Task):
    """Node classification: x [nodes, F] features, y [nodes] classes, -1 where there is none in this part; the edges are the context.

    The graph is whole in every part: only the targets differ. The loss is the mean over the part's labelled nodes.
    """

    summary = "classify the nodes of a graph"
    item, example = "labelled node", "node"
    reads = "nodes"
    defaults = USUAL
    one_batch = has_edges = records_reached = True
    not_data_parallel = "a graph is one batch, and every node reads its neighbours"

    def defaults_for(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings of the network's paper; another optimiser takes none of them."""
        model = str(given.get("model", USUAL["model"]))
        if given.get("optimizer", "adam") != "adam" or model not in OF_NETWORK:
            return USUAL
        return {**USUAL, **OF_NETWORK[model]}

    def data_sets(self) -> Mapping[str, str]:
        """Return the named graphs."""
        return {name: graph.sentence for name, graph in GRAPHS.items()}

    def shape_and_classes(self, config: Config) -> tuple[tuple[int, ...], int] | None:
        """Return the number of features and of classes of a named graph."""
        known = GRAPHS.get(config.data.name)
        return None if known is None else ((known.features,), known.classes)

    def load(self, config: Config, files: DataFiles) -> Data:
        """Load a graph by name, an ``.npz`` file, or a data set of torch_geometric; the last ones loaded are kept."""
        return _data(config.data.name, file_stamp(config.data.name), files.data_dir or DATA_DIR, files.download)

    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Return all nodes with the part's targets, and the edges."""
        return Batch(examples.x, examples.y, examples.context)

    def blank(self, shape: Sequence[int]) -> Batch:
        """Return two nodes that are neighbours: a normalisation over nodes needs more than one."""
        return Batch(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.long), {EDGES: torch.tensor([[0, 1], [1, 0]])})

    def permutation(self, delta: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Permute the rows among the nodes that have an error signal: the others stay without one."""
        signalled = delta.detach().flatten(1).ne(0).any(1).nonzero()[:, 0].cpu()
        order = torch.arange(len(delta))
        order[signalled] = signalled[torch.randperm(len(signalled), generator=rng)]
        return order

    def halves(self, x: Tensor, y: Tensor, context: Context, rng: torch.Generator) -> Iterator[Half] | None:
        """Divide the labelled nodes into two halves; each has the whole graph. None with fewer than four."""
        labelled = (y >= 0).nonzero()[:, 0].cpu()
        if len(labelled) < 4:
            return None
        deal = labelled[torch.randperm(len(labelled), generator=rng)].to(y.device)
        return (self._only(x, y, some, context) for some in deal.tensor_split(2))

    @staticmethod
    def _only(x: Tensor, y: Tensor, nodes: Tensor, context: Context) -> Half:
        return Half(x, _targets(y, nodes), context, None)


def _targets(y: Tensor, nodes: Tensor) -> Tensor:
    """Return the labels of some nodes, and of all others none."""
    return torch.full_like(y, NONE).index_copy(0, nodes, y[nodes])


@lru_cache(maxsize=2)
def _data(name: str, stamp: Any, root: Path, download: bool) -> Data:
    graph = load_graph(name, root, download)
    context = {EDGES: torch.cat([graph.edges, graph.edges.flip(0)], 1)}
    train, validation, test = (Split(graph.features, _targets(graph.labels, nodes), context) for nodes in graph.parts.values())
    origin = Origin(len(graph.parts["train"]), len(graph.parts["test"]))
    return Data(train, test, graph.classes, origin=origin, selection=validation)


def clear_graph_cache() -> None:
    """Drop the loaded graphs."""
    _data.cache_clear()
