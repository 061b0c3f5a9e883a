"""The link task: an example is a node, an item an edge, predicted from what the network gives for its two ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from gradlens.data.datasets import DATA_DIR
from gradlens.data.files import DataFiles
from gradlens.data.graphs import GRAPHS, file_stamp, load_graph
from gradlens.data.split import Data, Origin, Split
from gradlens.gradients.items import Half
from gradlens.models.graph_layers import EDGES
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator
from gradlens.runtime.step_context import Context
from gradlens.tasks.graphs import Graphs
from gradlens.tasks.task import Batch, TaskOptions

if TYPE_CHECKING:
    from gradlens.training.config import Config


class LinkOptions(TaskOptions, frozen=True):
    """Options of the link task."""

    size: int = Field(16, ge=2, description="numbers that the network gives for a node")
    validation: float = Field(0.05, gt=0, lt=0.5, description="share of the edges that are for validation")
    test: float = Field(0.1, gt=0, lt=0.5, description="share of the edges that are for testing")


def pair_logits(z: Tensor, y: Tensor) -> Tensor:
    """Return ⟨z_i, z_j⟩ of pairs y [P, 3], (i, j, whether they are linked), [P]: the logit that there is an edge."""
    return (z.index_select(0, y[:, 0]) * z.index_select(0, y[:, 1])).sum(1)


def link_loss(z: Tensor, y: Tensor) -> Tensor:
    """Return Σ −log p over the linked pairs, plus Σ −log(1 − p) over the others, by the number of linked pairs; p = sigmoid⟨z_i, z_j⟩."""
    return F.binary_cross_entropy_with_logits(pair_logits(z, y), y[:, 2].to(z.dtype), reduction="sum") / global_items(y)


class Links(Graphs):
    """Link prediction: x [nodes, F] features, y [P, 3] pairs of nodes and whether they are linked; the training edges are the context.

    The graph autoencoder of Kipf & Welling 2016 (arXiv 1611.07308) without its variational part. A step's pairs are all training edges and
    as many pairs that are none, drawn anew in each step; those of validation and test are fixed. No network sees their edges.
    """

    summary = "predict the edges of a graph from its nodes (a graph autoencoder)"
    item = "edge"
    losses: ClassVar[Mapping[str, Any]] = {"bce": link_loss}
    score_name = "auc"
    defaults: ClassVar[Mapping[str, Any]] = {"model": "gcn", "data": "blocks", "loss": "bce", "width": 32, "epochs": 400, "lr": 0.01}
    settings_of_networks = False
    classes_of_items = False
    Options: ClassVar[type[BaseModel]] = LinkOptions

    def defaults_for(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the autoencoder's settings; another optimiser has its own rate."""
        adam = given.get("optimizer", "adam") == "adam"
        return {name: value for name, value in self.defaults.items() if adam or name != "lr"}

    def shape_and_classes(self, config: Config) -> tuple[tuple[int, ...], int] | None:
        """Return the number of features of a named graph, and of the numbers that a node gets."""
        known = GRAPHS.get(config.data.name)
        return None if known is None else ((known.features,), config.task_options["size"])

    def load(self, config: Config, files: DataFiles) -> Data:
        """Load a graph as ``--task graphs`` does, and divide its edges by the run's seed; the last ones loaded are kept."""
        name, options = config.data.name, config.task_options
        root = files.data_dir or DATA_DIR
        return _data(name, file_stamp(name), root, files.download, options["size"], options["validation"], options["test"], config.seed)

    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Return all nodes; in training the edges and as many other pairs, drawn anew, in evaluation the part's own pairs."""
        y = examples.y
        if step >= 0:
            none = other_pairs(y[:, :2], len(examples.x), len(y), generator(config.seed, "negatives", step))
            y = torch.cat([y, F.pad(none, (0, 1)).to(y.device)])
        return Batch(examples.x, y, examples.context)

    def blank(self, shape: Sequence[int]) -> Batch:
        """Return two nodes that are linked."""
        return super().blank(shape)._replace(y=torch.tensor([[0, 1, 1], [0, 1, 0]]))

    def count(self, y: Tensor) -> int:
        """Count the edges."""
        return int(y[:, 2].sum())

    def hits(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Count pairs on the right side of p = 1/2, and pairs."""
        return ((pair_logits(logits, y) > 0) == (y[:, 2] > 0)).sum(), y[:, 2].ge(0).sum()

    def halves(self, x: Tensor, y: Tensor, context: Context, rng: torch.Generator) -> Iterator[Half] | None:
        """Divide the edges, and the other pairs, into two halves; each has the whole graph. None with fewer than four edges."""
        parts = [(y[:, 2] == linked).nonzero()[:, 0].cpu() for linked in (1, 0)]
        if len(parts[0]) < 4:
            return None
        deals = [rows[torch.randperm(len(rows), generator=rng)].to(y.device).tensor_split(2) for rows in parts]
        return (Half(x, y[torch.cat(rows)], context, None) for rows in zip(*deals, strict=True))

    def collect(self, z: Tensor, y: Tensor) -> Tensor:
        """Return a row a pair: its logit, and whether it is linked."""
        return torch.stack([pair_logits(z, y).double(), y[:, 2].double()], 1)

    def score(self, collected: Tensor) -> float:
        """Return the area under the ROC curve: how often a linked pair has the higher logit of one of each; ties count one half."""
        return ranked(collected)[0]

    def running_score(self, loss: float, accuracy: float) -> float:
        """Return NaN: sums do not say it."""
        return float("nan")


def ranked(collected: Tensor) -> tuple[float, float]:
    """Compute the area under the ROC curve and the average precision.

    Args:
        collected: [P, 2], the logit of each pair and whether it is linked.

    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    logits, linked = collected.T.numpy()
    return float(roc_auc_score(linked, logits)), float(average_precision_score(linked, logits))


def _codes(pairs: Tensor, nodes: int) -> Tensor:
    """Number pairs [P, 2] of different nodes, in whichever order."""
    low, high = pairs.min(1).values, pairs.max(1).values
    return low * nodes + high


def other_pairs(edges: Tensor, nodes: int, number: int, rng: torch.Generator) -> Tensor:
    """Draw pairs of different nodes that no edge links, each as likely as any other; the same pair may be drawn more than once.

    Args:
        edges: [E, 2] pairs.
        nodes: of the graph.
        number: of pairs to draw.
        rng: on the CPU.

    Returns:
        [number, 2] on the CPU, the lower node first.

    """
    known, found, have = _codes(edges.cpu(), nodes), list[Tensor](), 0
    while have < number:
        drawn = torch.randint(nodes, (2 * (number - have) + 8, 2), generator=rng)
        drawn = drawn[drawn[:, 0] != drawn[:, 1]].sort(1).values
        found.append(drawn[~torch.isin(_codes(drawn, nodes), known)])
        have += len(found[-1])
    return torch.cat(found)[:number]


def divided(edges: Tensor, nodes: int, shares: tuple[float, float], seed: int, where: str) -> tuple[Tensor, Tensor, Tensor]:
    """Divide the edges of a graph into those for training, validation and testing.

    Args:
        edges: [E, 2] each undirected edge once.
        nodes: of the graph.
        shares: of validation and test.
        seed: of the draws.
        where: name of the graph, for the error.

    Returns:
        pairs [P, 3]: of training its edges alone, of the others as many pairs that are no edge of the whole graph.

    Raises:
        InputError: a part without an edge, or a graph in which hardly any pair is not linked.

    """
    counts = [round(len(edges) * share) for share in shares]
    left = len(edges) - sum(counts)
    if min(*counts, left) < 1:
        what = f"{where} has {len(edges)} edges, of which {counts[0]} would be for validation and {counts[1]} for testing"
        raise InputError(f"{what}: set --set links.validation= and links.test= higher, or take a larger graph")
    if nodes * (nodes - 1) // 2 < 2 * len(edges):
        raise InputError(f"{where} links {len(edges)} of its {nodes * (nodes - 1) // 2} pairs of nodes: fewer than half may be linked")
    order = torch.randperm(len(edges), generator=generator(seed, "link parts"))
    none = other_pairs(edges, nodes, sum(counts), generator(seed, "unlinked pairs"))
    parts, others = edges[order].tensor_split([left, left + counts[0]]), none.tensor_split([counts[0]])
    held = (torch.cat([F.pad(part, (0, 1), value=1), F.pad(other, (0, 1))]) for part, other in zip(parts[1:], others, strict=True))
    return (F.pad(parts[0], (0, 1), value=1), *held)  # type: ignore[return-value]


@lru_cache(maxsize=2)
def _data(name: str, stamp: Any, root: Path, download: bool, size: int, validation: float, test: float, seed: int) -> Data:
    graph = load_graph(name, root, download)
    parts = divided(graph.edges.T, graph.nodes, (validation, test), seed, name)
    known = parts[0][:, :2].T
    context = {EDGES: torch.cat([known, known.flip(0)], 1)}
    train, held, tested = (Split(graph.features, pairs, context) for pairs in parts)
    origin = Origin(len(train), len(tested))
    return Data(train, tested, tuple(f"number {i}" for i in range(size)), origin=origin, selection=held)
