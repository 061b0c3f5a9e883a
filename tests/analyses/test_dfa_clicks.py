"""The study of click-through: its settings, what it keeps of a run, tests and figures, on runs of a few updates."""

import json
import math
import sys

import pytest
import toy_tasks

from analyses import dfa_clicks as study
from analyses.figures.click_figures import AucPoint, auc_title


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(study, "SHARED", {**study.SHARED, "width": 8, "embedding": 4, "depth": 1, "batch_size": 48, "epochs": 2})
    monkeypatch.setattr(study, "ADULT", {**toy_tasks.CLICK_COLUMNS, "rare": 3})
    monkeypatch.setattr(study, "NETS", {**study.NETS, "afn": {"interactions": 4}})
    monkeypatch.setattr(study, "RECORD_EVERY", 1)


def test_each_cell_has_its_settings(small, tmp_path):
    clicks = study.Clicks(toy_tasks.click_file(), tmp_path, 2)
    configs = {cell: clicks.config(*cell, 1e-3, 1) for cell in study.cells()}
    assert len(configs) == 28
    assert {c.options["statistics"] for c in configs.values() if c.method == "shallow"} == {"batch"}
    assert [configs["adult", "deepfm", rule].model.dropout for rule in study.RULES] == [0.5, 0.5, 0.1, 0.5]
    assert {c.model.dropout for (_, net, _), c in configs.items() if net != "deepfm"} == {0.0}
    assert set(study.BEFORE) <= set(configs)
    groups = {study.group(*cell) for cell in configs}
    assert all(set(leaf.contrast) <= groups for test in study.TESTS for leaf in test.leaves)
    assert study.cost(5) * 5 == pytest.approx(25 * study.SHARED["epochs"], rel=0.05)


def test_a_run_is_kept_and_read_again(small, tmp_path, monkeypatch):
    clicks = study.Clicks(toy_tasks.click_file(), tmp_path, 1)
    found = clicks.run("adult", "autoint", "dfa", 0.01, 0, 1)
    assert 0 < found.auc <= 1
    assert set(found.cosines) == {"embedding", "widened", "attention1", "attention2", "attention3", "hidden1", "top"}
    assert found.cosines["top"] == pytest.approx(1)
    assert all(-1 <= c <= 1 for c in (*found.cosines.values(), *found.weight_cosines.values()))
    monkeypatch.setattr(study, "fit", None)
    assert clicks.run("adult", "autoint", "dfa", 0.01, 0, 1) == found


def test_a_rate_at_which_training_diverges_is_none(small, tmp_path):
    clicks = study.Clicks(toy_tasks.click_file(), tmp_path, 1)
    assert math.isnan(clicks.run("adult", "deep-cross", "bp", 1e30, 0).auc)
    assert clicks._validation(("adult", "deep-cross", "bp"), 1e30) == -math.inf


def test_a_title_states_an_order_only_where_it_holds():
    def points(nets, values):
        return [
            AucPoint("adult", net, rule, value, value, value, 2, 0.3, value, None, None)
            for net, each in zip(nets, values, strict=True)
            for rule, value in zip(("bp", "dfa", "shallow"), each, strict=True)
        ]

    nets = ("deep-cross", "deepfm")
    assert auc_title(points(nets, [(0.9, 0.8, 0.7)] * 2)).startswith("On adult direct feedback is below")
    mixed = [*points(nets, [(0.9, 0.8, 0.7)] * 2), *(r._replace(data="other") for r in points(nets, [(0.8, 0.9, 0.7)] * 2))]
    assert auc_title(mixed).startswith("On adult direct")
    assert "beside" in auc_title(points(nets, [(0.8, 0.9, 0.7)] * 2))


@pytest.mark.slow
def test_the_study_trains_tests_and_draws(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "best_rate", lambda score: (1e-3, {"0.001": score(1e-3)}))
    monkeypatch.setattr(study, "LOGS", ("adult",))
    monkeypatch.setattr(study, "EVERYWHERE", [("adult", net) for net in study.NETS])
    only = [test for test in study.TESTS if not any("ad-log" in group for leaf in test.leaves for group in leaf.contrast)]
    monkeypatch.setattr(study, "TESTS", tuple(only))
    words = ["--data", str(toy_tasks.click_file()), "--out", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures"), "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["it", *words])
    study.main()
    assert "core-minutes" in capsys.readouterr().out.splitlines()[0]
    folder = tmp_path / "figures" / "dfa_clicks"
    results = json.loads((folder / "results.json").read_text())
    assert len(results["cells"]) == 14
    assert all(len(seeds) == 2 for groups in results["values"].values() for seeds in groups.values())
    assert {"auc.png", "auc.csv", "cosines.png", "cosines.csv"} <= {path.name for path in folder.iterdir()}
