"""Load graphs by name: one function and one entry of ``GRAPHS`` each, an ``.npz`` file, or a data set of torch_geometric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlens.data.geometric import GEOMETRIC, geometric
from gradlens.data.graph import PARTS, Graph
from gradlens.data.graph_file import read_graph_file
from gradlens.runtime.errors import unknown
from gradlens.runtime.paths import is_there
from gradlens.runtime.rng import generator


def _shared_out(labels: Tensor, each: tuple[int, int], name: str) -> dict[str, Tensor]:
    """Choose nodes of every class for training and validation, the same at every call; the others are for test."""
    parts: list[list[Tensor]] = [[], [], []]
    for c in range(int(labels.max()) + 1):
        mine = (labels == c).nonzero()[:, 0]
        mine = mine[torch.randperm(len(mine), generator=generator(0, name, c))]
        for part, some in zip(parts, mine.tensor_split([each[0], sum(each)]), strict=True):
            part.append(some)
    return {part: torch.cat(some).sort().values for part, some in zip(PARTS, parts, strict=True)}


def karate(root: Path, download: bool) -> Graph:
    """Load Zachary's karate club from networkx: 34 members, 78 friendships, two clubs after the split; a feature per member.

    Two members of each club are for training, four for validation, the other 22 for test.
    """
    import networkx as nx

    club = nx.karate_club_graph()
    names = ("Mr. Hi", "Officer")
    labels = torch.tensor([names.index(club.nodes[i]["club"]) for i in club])
    return Graph("karate", torch.eye(len(labels)), torch.tensor(list(club.edges)), labels, _shared_out(labels, (2, 4), "karate"), names)


BLOCKS, MEMBERS, WORDS = 4, 100, 16  # of the block model below: classes, nodes of each, words that are frequent in one class
WITHIN, BETWEEN = 0.05, 0.005  # probabilities of an edge
FREQUENT, RARE = 0.12, 0.06  # probabilities of a word


def blocks(root: Path, download: bool) -> Graph:
    """Generate a stochastic block model, always the same: four classes of 100 nodes, more edges within a class than between two.

    A node has words as features; those of its class are twice as frequent as the others, which tells few nodes' classes without the
    edges. Ten nodes of each class are for training, 20 for validation, 70 for test.
    """
    labels = torch.arange(BLOCKS).repeat_interleave(MEMBERS)
    rng = generator(0, "blocks")
    likely = torch.where(labels[:, None] == labels, WITHIN, BETWEEN)
    edges = (torch.rand(likely.shape, generator=rng) < likely).triu(1).nonzero()
    own = labels[:, None] == torch.arange(BLOCKS).repeat_interleave(WORDS)
    words = torch.rand(own.shape, generator=rng) < torch.where(own, FREQUENT, RARE)
    return Graph("blocks", words.float(), edges, labels, _shared_out(labels, (10, 20), "blocks"))


class GraphSet(NamedTuple):
    """A named graph: its loader, and its facts that need no files."""

    load: Callable[[Path, bool], Graph]  # (folder of its files, whether to download them)
    features: int
    classes: int
    sentence: str  # its line of `gradlens list data`


GRAPHS: dict[str, GraphSet] = {
    "blocks": GraphSet(blocks, BLOCKS * WORDS, BLOCKS, "a generated block model, 400 nodes, 4 classes, 40 nodes for training"),
    "karate": GraphSet(karate, 34, 2, "Zachary's karate club, 34 members, 2 clubs, 4 members for training (networkx)"),
}


def file_stamp(name: str) -> Any:
    """Return what changes if a file of this name does; of a named graph nothing."""
    path = Path(name)
    state = path.stat() if path.is_file() else None
    return state and (state.st_size, state.st_mtime_ns, state.st_ino)


def load_graph(name: str, root: Path, download: bool = False) -> Graph:
    """Load a graph: a key of ``GRAPHS``, an ``.npz`` file, or ``geometric:CLASS/NAME``.

    Args:
        name: of the graph.
        root: folder of downloaded data sets.
        download: whether one that is missing is downloaded.

    Raises:
        InputError: anything that cannot be loaded.

    """
    if name in GRAPHS:
        return GRAPHS[name].load(root, download)
    if name.startswith(GEOMETRIC):
        return geometric(name.removeprefix(GEOMETRIC), root, download)
    if name.endswith(".npz") or is_there(name):
        return read_graph_file(Path(name))
    raise unknown("graph", name, GRAPHS, "gradlens list data")
