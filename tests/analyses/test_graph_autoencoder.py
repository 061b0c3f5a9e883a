"""How analyses/graph_autoencoder.py sets its runs up, keeps what it trained, and what it tests; its trainings are tiny here."""

import math

import pytest

from analyses import graph_autoencoder as study
from analyses.figures.graph_figures import accuracy_figure


@pytest.fixture
def links(tmp_path, monkeypatch):
    """Runs of a few epochs on the karate club, in the place of both graphs."""
    monkeypatch.setattr(study, "EPOCHS", {"cora": 6, "citeseer": 6})
    monkeypatch.setattr(study, "RECORDED", {"record_every": 2, "diagnose_every": 0})
    config = study.Links.config
    monkeypatch.setattr(study.Links, "config", lambda self, *cell: config(self, *cell).replace(data="karate"))
    return study.Links(tmp_path, tmp_path / "runs", 1)


def test_runs_have_the_settings_of_the_released_code(tmp_path):
    links = study.Links(tmp_path, tmp_path / "runs", 1)
    bp, dfa = (links.config(*cell, 3) for cell in (("cora", "bp"), ("citeseer", "dfa")))
    assert (bp.epochs, bp.optimizer.lr, bp.model.width, bp.task_options["size"], bp.seed) == (400, 0.01, 32, 16, 3)
    assert (dfa.epochs, dfa.optimizer.lr) == (200, 0.02)
    for config in (bp, dfa):
        assert (config.model.dropout, config.optimizer.weight_decay, config.model.name) == (0, 0, "gcn")


def test_a_run_is_trained_once_and_read_again(links, monkeypatch):
    first = links.run("cora", "dfa", 0)
    assert 0 < first.auc < 100
    assert first.reached == 1  # every member of the club has a pair in each step
    bp, shallow = (links.run("cora", rule, 0) for rule in ("bp", "shallow"))
    assert bp.cosine == pytest.approx(1)
    assert (shallow.cosine, shallow.reached) == (None, 0)
    monkeypatch.setattr(study.Links, "train", None)
    assert links.run("cora", "dfa", 0) == first
    with pytest.raises(TypeError):
        links.run("cora", "dfa", 1)


def made(score):
    """Cells of three seeds whose scores a function of graph, metric and rule gives."""
    return [
        {
            "data": data, "rule": rule, "minutes": 1.0,
            **{name: [score(data, metric, rule) + d for d in (-1.0, 0.0, 1.0)] for name, metric in (("auc", "AUC"), ("precision", "AP"))},
        }
        for data in study.GRAPHS
        for rule in study.RULES
    ]  # fmt: skip


def test_the_tests_find_their_values_and_the_replication_its_cells():
    found = made(lambda data, metric, rule: study.REPLICATION[data, metric][rule][0])
    values, minutes = study.as_values(found)
    for test in study.TESTS:
        for leaf in test.leaves:
            assert all(len(values[leaf.metric][group]) == 3 for group in leaf.contrast)
            assert math.fsum(leaf.contrast.values()) == pytest.approx(0)
    assert set(minutes.values()) == {1.0}
    points = study.score_points(found)
    beside = study.beside_replication(points)
    assert len(beside) == 12
    assert all(row["near"] and row["standard_errors"] < 1e-9 for row in beside)
    assert study.title(points).startswith("A graph autoencoder learns by direct feedback as by backprop")
    assert len(accuracy_figure(points, "title", "beside").axes) == 4
    far = study.score_points(made(lambda data, metric, rule: 70.0))
    assert "as by backprop" not in study.title(far)
    assert not all(row["near"] for row in study.beside_replication(far))
