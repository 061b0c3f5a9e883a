"""Graphs: what is read is what was meant, named graphs are always the same, and what is wrong is named."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gradlens.data.geometric import from_geometric
from gradlens.data.graph import Graph
from gradlens.data.graphs import GRAPHS, load_graph
from gradlens.runtime.errors import InputError

NODES, FEATURES = 6, 3
ROWS = np.array([[1, 0, 3], [0, 0, 0], [2, 2, 0], [0, 1, 0], [0, 0, 5], [1, 1, 2]], np.float32)
SHARED = Path(os.environ.get("GRADLENS_GRAPHS", "shared/data"))  # folder of cora/cora.npz and citeseer/citeseer.npz


def arrays(**changes):
    found = {
        "features": ROWS,
        "edges": np.array([[0, 1], [1, 0], [2, 2], [4, 3], [5, 0]]),
        "y": np.array([0, 1, 0, 1, -1, 1]),
        "train": np.array([0, 1]),
        "val": np.array([2, 4]),
        "test": np.array([3, 5]),
    }
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def read(tmp_path, **changes):
    path = tmp_path / "graph.npz"
    np.savez(path, **arrays(**changes))
    return load_graph(str(path), tmp_path)


def contents(graph):
    """All that a graph holds, to be compared."""
    return [graph.classes, *(t.tolist() for t in (graph.features, graph.edges, graph.labels, *graph.parts.values()))]


def test_a_file(tmp_path):
    graph = read(tmp_path, classes=np.array(["good", "bad"]))
    assert graph.edges.T.tolist() == [[0, 1], [0, 5], [3, 4]]  # once, without self-loops
    torch.testing.assert_close(graph.features[[0, 2, 5]], torch.tensor([[0.25, 0, 0.75], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]))
    assert not graph.features[1].any()  # a node without features
    assert {part: nodes.tolist() for part, nodes in graph.parts.items()} == {"train": [0, 1], "validation": [2], "test": [3, 5]}
    assert graph.classes == ("good", "bad")


def test_sparse_features_are_the_dense_ones(tmp_path):
    rows, columns = ROWS.nonzero()
    sparse = {
        "indptr": np.searchsorted(rows, np.arange(NODES + 1)),
        "indices": columns.astype(np.int16),
        "values": ROWS[rows, columns],
        "shape": np.array(ROWS.shape),
    }
    dense = read(tmp_path)
    graph = read(tmp_path, features=None, **sparse)
    assert contents(graph) == contents(dense)
    ones = read(tmp_path, features=None, **{**sparse, "values": None})
    assert contents(ones) == contents(read(tmp_path, features=(ROWS != 0).astype(np.int64))) != contents(dense)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edges": np.array([[0, 6]])}, "an edge leads to node 6, which does not exist; nodes are 0 to 5"),
        ({"edges": np.array([[-1, 0]])}, "an edge leads to node -1, which does not exist"),
        ({"edges": np.array([0, 1])}, r"edges must be pairs of nodes \[E, 2\]"),
        ({"edges": np.array([[0.0, 1.0]])}, "edges must be whole numbers, got float64"),
        ({"y": np.array([-1, -1, 0, 1, -1, 1])}, "all labels of the train part are masked: none of its 2 nodes has a label"),
        ({"y": np.full(6, -1)}, "all labels of the train part are masked"),
        ({"y": np.array([0, -2, 0, 1, -1, 1])}, "labels go from -2 to 1; with 2 classes they are 0 to 1, -1 where unknown"),
        ({"y": np.array([0, 1])}, r"labels of the shape \[2\] for 6 nodes"),
        ({"y": np.int64(3)}, r"labels of the shape \[\] for 6 nodes"),
        (
            {"y": np.array([0, 1, 0, 1, -1, 10**9])},
            "a label is 1000000000, and 6 nodes have 6 classes at most: number them from 0, -1 where",
        ),
        ({"features": np.float32(3)}, r"features must be numbers \[nodes, features\], got the shape \[\]"),
        ({"classes": np.array(["one"])}, "labels go from -1 to 1; with 1 classes they are 0 to 0"),
        ({"train": np.array([0, 0])}, "node 0 stands more than once"),
        ({"features": np.full((6, 3), "a")}, "features must be numbers, got <U1"),
        ({"test": np.array([0, 3])}, "node 0 stands more than once in train, validation, test"),
        ({"val": np.array([7])}, "the validation part must be numbers of nodes, 0 to 5, got node 7"),
        ({"test": None}, "lacks the array test"),
        ({"features": None}, "lacks the array features, or indptr, indices, shape of a sparse matrix by rows"),
        ({"features": ROWS[:, 0]}, r"features must be numbers \[nodes, features\], got the shape \[6\]"),
        ({"features": np.full((6, 3), np.nan)}, "feature 0 of node 0 is nan; features must be finite numbers"),
        (
            {"features": None, "indptr": np.array([0, 9]), "indices": np.array([9]), "shape": np.array([1, 3])},
            "indptr, indices and shape are no sparse matrix by rows",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("name", "words"),
    [("karat", "unknown graph 'karat'; nearest: karate"), ("/nowhere/cora.npz", "/nowhere/cora.npz: there is no such file")],
)
def test_a_graph_that_is_not_there(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        load_graph(name, tmp_path)


@pytest.mark.parametrize("name", GRAPHS)
def test_named_graphs_are_always_the_same(tmp_path, name):
    graph, again = (load_graph(name, tmp_path) for _ in range(2))
    assert contents(graph) == contents(again)
    assert (graph.features.shape[1], len(graph.classes)) == (GRAPHS[name].features, GRAPHS[name].classes)
    assert sorted(torch.cat([*graph.parts.values()]).tolist()) == list(range(graph.nodes))
    for nodes in graph.parts.values():  # as many nodes of each class where the classes are equally large
        assert len(graph.labels[nodes].unique()) == len(graph.classes)


def test_neighbours_in_the_block_model_are_of_one_class_more_often_than_not(tmp_path):
    graph = load_graph("blocks", tmp_path)
    same = (graph.labels[graph.edges[0]] == graph.labels[graph.edges[1]]).double().mean()
    expected = 99 * 0.05 / (99 * 0.05 + 300 * 0.005)
    assert abs(same - expected) < 4 * (expected * (1 - expected) / graph.edges.shape[1]) ** 0.5


def test_karate_is_zacharys(tmp_path):
    graph = load_graph("karate", tmp_path)
    assert (graph.nodes, graph.edges.shape[1]) == (34, 78)
    assert graph.classes[graph.labels[0]] == "Mr. Hi"
    assert graph.classes[graph.labels[33]] == "Officer"
    assert torch.bincount(graph.labels[graph.parts["train"]]).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("name", "nodes", "edges", "features", "classes", "parts"),
    [("cora", 2708, 5278, 1433, 7, [140, 500, 1000]), ("citeseer", 3327, 4552, 3703, 6, [120, 500, 1000])],
)
def test_planetoid(tmp_path, name, nodes, edges, features, classes, parts):
    path = SHARED / name / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no {path}; set GRADLENS_GRAPHS to the folder of {name}/{name}.npz")
    graph = load_graph(str(path), tmp_path)
    assert (graph.nodes, graph.edges.shape[1], graph.features.shape[1], len(graph.classes)) == (nodes, edges, features, classes)
    assert [len(some) for some in graph.parts.values()] == parts
    assert torch.bincount(graph.labels[graph.parts["train"]]).tolist() == [20] * classes
    sums = graph.features.sum(1)
    without = (sums == 0).nonzero()[:, 0]
    assert len(without) == int((graph.labels < 0).sum()) == {"cora": 0, "citeseer": 15}[name]
    torch.testing.assert_close(sums[sums > 0], torch.ones(nodes - len(without)))


# ------------------------------------------------------------------------------------------------------ torch_geometric


def planetoid_like(**changes):
    """What torch_geometric's Planetoid graphs hold."""
    found = {
        "x": torch.from_numpy(ROWS),
        "edge_index": torch.tensor([[0, 1, 0, 5, 3, 4], [1, 0, 5, 0, 4, 3]]),
        "y": torch.tensor([0, 1, 0, 1, 0, 1]),
        "train_mask": torch.tensor([1, 1, 0, 0, 0, 0]).bool(),
        "val_mask": torch.tensor([[0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool().T,  # of several the first
        "test_mask": torch.tensor([0, 0, 0, 1, 0, 1]).bool(),
    }
    return SimpleNamespace(**{**found, **changes})


def test_a_graph_of_torch_geometric_is_that_of_a_file(tmp_path):
    graph = from_geometric("geometric:X", planetoid_like())
    assert contents(graph) == contents(read(tmp_path, y=np.array([0, 1, 0, 1, 0, 1]), val=np.array([2])))
    with pytest.raises(InputError, match="geometric:X has no val_mask: a graph for node classification has x, edge_index, y, train_mask"):
        from_geometric("geometric:X", planetoid_like(val_mask=None))


@pytest.mark.parametrize(
    ("y", "got"),
    [
        (torch.tensor([[0, 1, 0]] * 6), r"int64 \[6, 3\]"),
        (torch.tensor([0.5, 1, 0, 1, 0, 1]), r"float32 \[6\]"),
        (torch.tensor(1), r"int64 \[\]"),
        (torch.ones(6, dtype=torch.bool), r"bool \[6\]"),
    ],
)
def test_targets_of_torch_geometric_that_are_no_classes(y, got):
    with pytest.raises(InputError, match=rf"geometric:X: y must be one class a node, whole numbers \[6\] or \[6, 1\], got {got}"):
        from_geometric("geometric:X", planetoid_like(y=y))


def test_what_is_not_read_of_torch_geometric_is_named(capsys):
    plain = from_geometric("geometric:X", planetoid_like())
    more = from_geometric("geometric:X", planetoid_like(y=torch.tensor([[0], [1], [0], [1], [0], [1]]), edge_attr=torch.ones(6, 2)))
    assert torch.equal(plain.labels, more.labels)
    assert "geometric:X: edge_attr [6, 2] is not used: all edges count alike" in capsys.readouterr().err


def test_a_set_of_several_graphs(tmp_path, monkeypatch):
    sets = SimpleNamespace(__all__=["Many", "One"], Many=lambda: [planetoid_like()] * 3, One=lambda: [planetoid_like()])
    monkeypatch.setitem(sys.modules, "torch_geometric", SimpleNamespace(datasets=sets))
    monkeypatch.setitem(sys.modules, "torch_geometric.datasets", sets)
    assert load_graph("geometric:One", tmp_path).nodes == 6
    with pytest.raises(InputError, match="geometric:Many holds 3 graphs: nodes are classified on one; set --data to a set of one graph"):
        load_graph("geometric:Many", tmp_path)


def test_features_whose_sum_is_no_float32(tmp_path):
    rows = ROWS.copy()
    rows[0] = 2e38, 1e38, 2e38
    torch.testing.assert_close(read(tmp_path, features=rows).features[0], torch.tensor([0.4, 0.2, 0.4]))


def test_torch_geometric_is_needed_for_its_sets_only(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric.datasets", None)
    with pytest.raises(InputError, match=r"geometric:Planetoid/Cora needs torch_geometric; pip install .* installs it"):
        load_graph("geometric:Planetoid/Cora", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_sets_of_torch_geometric(tmp_path):
    pytest.importorskip("torch_geometric", reason="torch_geometric is not installed (extra `graphs`)")
    with pytest.raises(InputError, match="geometric:KarateClub has no val_mask, test_mask"):
        load_graph("geometric:KarateClub", tmp_path)
    with pytest.raises(InputError, match="unknown data set of torch_geometric 'Planetoi'; nearest: Planetoid"):
        load_graph("geometric:Planetoi/Cora", tmp_path)
    with pytest.raises(InputError, match=r"no geometric:Planetoid/Cora under .*: --download fetches it, --data-dir names another folder"):
        load_graph("geometric:Planetoid/Cora", tmp_path)


def webkb(folder, labels, edges):
    """The raw files of torch_geometric's WebKB sets, as their authors publish them: a node's features are the digits of its number."""
    folder.mkdir(parents=True)
    nodes = [f"{i}\t{','.join(f'{i:04b}')}\t{label}" for i, label in enumerate(labels)]
    (folder / "out1_node_feature_label.txt").write_text("\n".join(["id\tfeatures\tlabel", *nodes, ""]), encoding="utf-8")
    lines = ["from\tto", *(f"{a}\t{b}" for a, b in edges), ""]
    (folder / "out1_graph_edges.txt").write_text("\n".join(lines), encoding="utf-8")
    for split in range(10):  # of several the first counts
        parts = (np.arange(len(labels)) + split) % 4
        masks = {"train_mask": parts < 2, "val_mask": parts == 2, "test_mask": parts == 3}
        np.savez(folder / f"cornell_split_0.6_0.2_{split}.npz", **{name: mask.astype(np.uint8) for name, mask in masks.items()})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_set_of_torch_geometric_is_read_from_its_raw_files(tmp_path):
    pytest.importorskip("torch_geometric", reason="torch_geometric is not installed (extra `graphs`)")
    labels, edges = [0, 1, 2, 0, 1, 2, 0, 1], [(0, 1), (1, 0), (2, 5), (6, 7), (7, 3)]
    webkb(tmp_path / "geometric" / "WebKB" / "cornell" / "raw", labels, edges)
    graph = load_graph("geometric:WebKB/cornell", tmp_path)
    assert graph.labels.tolist() == labels
    assert {tuple(sorted(edge)) for edge in graph.edges.T.tolist()} == {(0, 1), (2, 5), (6, 7), (3, 7)}
    assert {name: part.tolist() for name, part in graph.parts.items()} == {"train": [0, 1, 4, 5], "validation": [2, 6], "test": [3, 7]}
    digits = torch.tensor([[float(digit) for digit in f"{i:04b}"] for i in range(8)])
    torch.testing.assert_close(graph.features, digits / digits.sum(1, keepdim=True).clamp(min=1))


def test_a_graph_may_be_made_in_code():
    graph = Graph(
        "mine",
        torch.eye(3),
        torch.tensor([[0, 1], [1, 2]]),
        torch.tensor([0, 1, 0]),
        {"train": torch.tensor([0]), "validation": torch.tensor([1]), "test": torch.tensor([2])},
    )
    assert graph.nodes == 3
