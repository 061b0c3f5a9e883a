"""How analyses/dfa_graphs.py sets its runs up, keeps what it trained, and what it tests; its trainings are tiny here, on another graph."""

import json
import math
from statistics import fmean

import numpy as np
import pytest
import torch

from analyses import dfa_graphs as study
from analyses.figures.graph_figures import MapPoint, accuracy_figure, accuracy_title, map_figure
from gradlens.data.graphs import load_graph
from gradlens.training.config import make_config


@pytest.fixture
def folder(tmp_path):
    """The block model in the place of both graphs."""
    graph = load_graph("blocks", tmp_path)
    train, validation, test = graph.parts.values()
    for name in ("cora", "citeseer"):
        (tmp_path / name).mkdir()
        np.savez(
            tmp_path / name / f"{name}.npz",
            features=graph.features.numpy(), edges=graph.edges.T.numpy(), y=graph.labels.numpy(),
            train=train.numpy(), val=validation.numpy(), test=test.numpy(),
        )  # fmt: skip
    return tmp_path


def short(monkeypatch, epochs=6):
    """The same runs, of a few epochs."""
    monkeypatch.setattr(study, "RECORDED", {"record_every": 2, "diagnose_every": 0, "epochs": epochs})


def test_runs_have_the_settings_of_the_paper(folder):
    graphs = study.Graphs(folder, folder / "runs", 1)
    bp, dfa = (graphs.config("cora", "gcn", rule, 3) for rule in ("bp", "dfa propagated"))
    assert (bp.epochs, bp.optimizer.lr, bp.model.dropout, bp.optimizer.weight_decay, bp.optimizer.decay_blocks) == (250, 0.01, 0.5, 5e-4, 1)
    assert (dfa.model.dropout, dfa.optimizer.weight_decay, dfa.options["feedback"], dfa.seed) == (0.1, 1e-4, "propagated", 3)
    control, plain = (graphs.config("citeseer", "cheb", rule, 3) for rule in (study.CONTROL, "bp"))
    assert (control.method, control.model.dropout, control.optimizer.weight_decay) == ("bp", 0.0, 1e-4)
    assert control.replace(dropout=0.5, weight_decay=5e-4) == plain
    assert study.CONTROL not in {name for test in study.TESTS for leaf in test.leaves for name in leaf.contrast}
    assert graphs.config("cora", "gat", "dfa", 0).model.attention_dropout == [0.6, 0.0]


def test_a_run_is_trained_once_and_read_again(folder, monkeypatch):
    short(monkeypatch)
    graphs = study.Graphs(folder, folder / "runs", 1)
    first = graphs.run("cora", "gcn", "dfa", 0)
    graph = load_graph(str(folder / "cora" / "cora.npz"), folder)
    assert first.reached == pytest.approx(len(graph.parts["train"]) / graph.nodes)
    assert first.reached < first.reached_by_backprop < 1
    assert 0 < first.cosine < 1
    assert first.accuracy * len(graph.parts["test"]) / 100 == pytest.approx(round(first.accuracy * len(graph.parts["test"]) / 100))
    bp, shallow = (graphs.run("cora", "gcn", rule, 0) for rule in ("bp", "shallow"))
    assert bp.cosine == pytest.approx(1)
    assert bp.reached == bp.reached_by_backprop
    assert (shallow.cosine, shallow.reached) == (None, 0)
    assert {bp.reached_by_backprop, shallow.reached_by_backprop} == {first.reached_by_backprop}  # dropout of any share: the same nodes
    with monkeypatch.context() as patch:
        patch.setattr(study.Graphs, "train", None)
        assert graphs.run("cora", "gcn", "dfa", 0) == first
        with pytest.raises(TypeError):
            graphs.run("cora", "gcn", "dfa", 1)
        short(patch, epochs=7)
        with pytest.raises(TypeError):  # another config: trained anew
            graphs.run("cora", "gcn", "dfa", 0)


def made(accuracy):
    """Cells of three seeds whose accuracies a function of cell and rule gives."""
    return [
        {"data": data, "net": net, "rule": rule, "accuracy": [accuracy(data, net, rule) + d for d in (-1.0, 0.0, 1.0)], "minutes": 1.0}
        for data, net in study.CELLS
        for rule in study.rules_of(net)
    ]


def test_the_tests_find_their_values_and_the_replication_its_cells():
    found = made(lambda data, net, rule: study.REPLICATION[data, net].get(rule, (70.0,))[0])
    values, minutes = study.as_values(found)
    for test in study.TESTS:
        for leaf in test.leaves:
            assert all(len(values[leaf.metric][group]) == 3 for group in leaf.contrast)
            assert math.fsum(leaf.contrast.values()) == pytest.approx(0)
    assert len(study.TESTS[0].parts) == 10
    assert set(minutes.values()) == {1.0}
    beside = study.beside_replication(found)
    assert len(beside) == 15
    assert all(row["near"] and row["standard_errors"] < 1e-9 for row in beside)
    shifted = study.beside_replication(
        made(lambda data, net, rule: study.REPLICATION[data, net].get(rule, (70.0,))[0] + 5 * (net == "gat"))
    )
    assert [row["group"] for row in shifted if not row["near"]] == ["cora gat bp", "cora gat dfa", "cora gat shallow"]
    row = next(row for row in shifted if row["group"] == "cora gat bp")
    assert row["standard_errors"] == pytest.approx(5 / math.sqrt(0.6**2 / 5 + 1 / 3))
    json.dumps(found)


def test_contrasts_are_means_over_cells():
    near, spread, cheb = study.TESTS[1], study.TESTS[2], study.TESTS[3]
    assert near.contrast["cora gat bp"] == pytest.approx(1 / 3)
    assert near.contrast["citeseer gcn dfa"] == pytest.approx(-1 / 3)
    assert spread.contrast == {
        "cora gcn dfa propagated": 0.5, "cora gcn dfa": -0.5, "citeseer gcn dfa propagated": 0.5, "citeseer gcn dfa": -0.5,
    }  # fmt: skip
    assert cheb.contrast == {"cora cheb bp": 1, "cora cheb dfa": -1, "cora gcn dfa": 1, "cora gcn bp": -1}


def test_figures_show_every_cell_and_every_node():
    rows = study.accuracy_points(made(lambda *_: 70.0))
    assert "in every network" not in accuracy_title(rows)
    ordered = study.accuracy_points(made(lambda data, net, rule: {"bp": 80.0, "shallow": 30.0}.get(rule, 70.0)))
    assert "in every network" in accuracy_title(ordered)
    shown = accuracy_figure(rows, "title", "beside")
    assert len(shown.axes) == 5
    assert [len(ax.containers) for ax in shown.axes] == [8, 7, 6, 8, 7]  # ours, and the replication's three
    assert fmean(row.mean for row in rows) == 70
    points = [MapPoint(rule, i, str(i % 3), float(i), -float(i)) for rule in study.MAPPED for i in range(9)]
    maps = map_figure(points, "title", "beside")
    assert [len(ax.collections[0].get_offsets()) for ax in maps.axes] == [9, 9, 9]


@pytest.mark.slow
def test_maps_are_of_the_trained_hidden_layer(folder, monkeypatch):
    short(monkeypatch)
    asked = []

    def tsne(hidden):
        asked.append(torch.as_tensor(hidden))
        return np.asarray(hidden)[:, :2]

    monkeypatch.setattr(study, "tsne", tsne)
    graphs = study.Graphs(folder, folder / "runs", 1)
    maps = graphs.maps()
    assert [h.shape for h in asked] == [(400, 16)] * 3
    assert len(maps) == 3 * 400
    assert {point.label for point in maps} == {"0", "1", "2", "3"}
    assert graphs.maps() == maps
    assert len(asked) == 3  # read again


def test_the_cost_is_that_of_all_runs():
    runs = sum(len(study.rules_of(net)) for _, net in study.CELLS)
    assert runs == 21
    assert study.cost(10) - study.cost(0) == pytest.approx(10 * (study.cost(1) - study.cost(0)))
    assert make_config(task="graphs").epochs == 250
