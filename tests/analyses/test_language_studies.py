"""The studies of language models: their settings, tables and figures, on runs of a few updates."""

import json
import sys

import pytest

from analyses import dfa_transformer, local_updates_language
from gradlens.gradients.layer_names import depth_and_kind

WORDS = "to be or not to be, that is the question: whether tis nobler in the mind to suffer; " * 60


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "play" / "input.txt"
    path.parent.mkdir()
    path.write_text(WORDS, encoding="utf-8")
    return path


def run(module, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["it", *words])
    module.main()


def test_every_cell_of_the_ladder_has_the_settings_of_the_paper(text):
    configs = {cell: dfa_transformer.config_of(str(text), *cell, 1) for cell in dfa_transformer.cells()}
    assert len(configs) == 10
    macro, micro = (configs[rule, "noam"] for rule in ("macro", "micro"))
    assert (macro.method, macro.options["points"], micro.options["points"]) == ("dfa", "blocks", "inside")
    assert macro.options["shared"]
    assert macro.options["error"] == "features"
    assert (macro.optimizer.lr_schedule, macro.optimizer.warmup, macro.optimizer.beta2) == ("inverse-sqrt", 200, 0.98)
    assert {config.optimizer.clip for config in configs.values()} == {0.5}
    assert {rung for rule, rung in configs if rule == "shallow"} == {"beta2"}
    assert set(dfa_transformer.BEFORE) | set(dfa_transformer.PUBLISHED) <= set(configs)


def tiny(monkeypatch):
    """Networks and runs that take no time."""
    small = {"width": 8, "depth": 2, "heads": 2, "batch_size": 8, "limit_test": 8, "record_every": 2}
    for module in (dfa_transformer, local_updates_language):
        monkeypatch.setattr(module, "SHARED", {**module.SHARED, **small, "task_options": {"length": 8}})
    monkeypatch.setattr(local_updates_language, "SHARED", {**local_updates_language.SHARED, "limit": 32})


@pytest.mark.slow
def test_the_ladder_is_trained_tested_and_drawn(text, tmp_path, monkeypatch, capsys):
    tiny(monkeypatch)
    words = ["--data", str(text), "--out", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures"), "--seeds", "2", "--steps", "4"]
    run(dfa_transformer, words, monkeypatch)
    assert "core-minutes" in capsys.readouterr().out.splitlines()[0]
    results = json.loads((tmp_path / "figures" / "dfa_transformer" / "results.json").read_text())
    for test in (leaf for one in dfa_transformer.TESTS for leaf in one.leaves):
        assert set(test.contrast) <= set(results["values"][test.metric])
    assert len(results["table"]) == 10
    assert all(len(seeds) == 2 for groups in results["values"].values() for seeds in groups.values())
    assert (tmp_path / "figures" / "dfa_transformer" / "ladder.png").exists()
    monkeypatch.setattr("gradlens.training.runs.train_run.train_run", None)  # the same command reads what is there
    run(dfa_transformer, words, monkeypatch)


@pytest.mark.slow
def test_local_updates_are_trained_measured_and_drawn(text, tmp_path, monkeypatch):
    tiny(monkeypatch)
    monkeypatch.setattr(local_updates_language, "SHARED", {**local_updates_language.SHARED, "depth": 4})
    words = ["--data", str(text), "--out", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures"), "--seeds", "2", "--epochs", "2"]
    run(local_updates_language, words, monkeypatch)
    folder = tmp_path / "figures" / "local_updates_language"
    results = json.loads((folder / "results.json").read_text())
    for test in (leaf for one in local_updates_language.TESTS for leaf in one.leaves):
        assert set(test.contrast) <= set(results["values"][test.metric])
    kinds = {point["kind"] for point in results["cosines"]}
    assert {"attention.query", "attention.key", "attention.value", "attention.out", "ff1", "ff2", "norm1", "norm2"} <= kinds
    assert {point["block"] for point in results["cosines"]} == {1, 2, 3, 4}
    seconds = results["seconds_of_an_update"]
    assert seconds["bp"]["sequential"] == pytest.approx(seconds["bp"]["total"])
    assert seconds["dgl"]["sequential"] < seconds["dgl"]["total"]
    assert {row["label"] for row in results["front"]} == set(local_updates_language.RULES)
    assert {"cosine_over_depth.png", "pareto.png", "block_costs.csv"} <= {path.name for path in folder.iterdir()}


def test_the_first_layers_cosine_is_of_its_matrices_in_the_second_half(text, tmp_path, monkeypatch):
    tiny(monkeypatch)
    config = local_updates_language.config_of(str(text), "dgl", 0, epochs=2)
    from gradlens.training.context import RunContext
    from gradlens.training.runs.train_run import train_run

    made = train_run(config, RunContext(out=tmp_path))
    wanted = [
        row.value
        for row in made.gradients
        if row.kind == "weight" and row.quantity == "cosine" and row.step >= max(r.step for r in made.gradients) / 2
        and row.layer.startswith("block1.layer.") and "norm" not in row.layer
    ]  # fmt: skip
    assert len(wanted) % 6 == 0
    assert {depth_and_kind(row.layer) for row in made.gradients if row.layer.startswith("block1.layer.ff1")} == {(1, "ff1")}
    assert local_updates_language.first_layer_cosine(made) == pytest.approx(sum(wanted) / len(wanted))
