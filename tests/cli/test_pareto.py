"""`gradlens pareto`: costs measured here, times the updates that finished runs needed to reach a loss."""

import csv

import pytest

from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run


def test_pareto_prints_and_draws_what_runs_needed(tmp_path, program):
    paths = []
    for method in ("bp", "dgl"):
        settings = {
            "data": "digits",
            "model": "mlp",
            "width": 8,
            "limit": 128,
            "batch_size": 32,
            "epochs": 4,
            "lr": 0.02,
            "record_every": 0,
        }
        paths.append(train_run(make_config(method=method, **settings), RunContext(out=tmp_path / "runs")).path)
    words = ["pareto", *paths, "--out", tmp_path / "figures", "--losses", "0.01,2.2,3", "--rounds", "1", "--format", "csv", "--quiet"]
    status, out, _ = program(*words)
    assert status == 0
    assert {line.partition(",")[0] for line in out.splitlines()[1:]} == {"3", "2.2", "0.01"}
    with (tmp_path / "figures" / "pareto.csv").open() as file:
        rows = {(row["label"], float(row["loss"])): row for row in csv.DictReader(file)}
    with (tmp_path / "figures" / "block_costs.csv").open() as file:
        blocks = list(csv.DictReader(file))
    for method in ("bp", "dgl"):
        mine = [row for row in blocks if row["method"] == method]
        assert [row["name"] for row in mine] == ["block1", "block2", "block3", "top"]
        total = sum(float(row[part]) for row in mine for part in ("forward", "backward", "update"))
        row = rows[method, 3.0]  # which the untrained network reaches
        assert float(row["updates"]) == float(row["total"]) == 0
        assert 0 < float(rows[method, 2.2]["total"]) == pytest.approx(float(rows[method, 2.2]["updates"]) * total)
    assert rows["bp", 0.01]["on_front"] == "False"  # no run reaches it
    assert program(*words)[0] == 0  # its own figures are replaced
    words[words.index("--losses") + 1] = "low"
    status, _, err = program(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert "--losses 'low': give numbers with commas between them, as 2.0,1.8" in err


def test_pareto_refuses_losses_of_different_experiments(tmp_path, program):
    paths = []
    for width in (4, 8):
        c = make_config(data="digits", model="mlp", width=width, limit=64, batch_size=32, epochs=0)
        paths.append(train_run(c, RunContext(out=tmp_path / "runs")).path)
    status, _, err = program("pareto", *paths)
    assert status == 2
    assert "losses of different experiments cannot be compared" in err


@pytest.mark.slow
def test_pareto_measures_language_and_graphs_on_their_own_batches(tmp_path, program):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question; " * 40, encoding="utf-8")
    language = {
        "task": "language",
        "data": str(tmp_path / "a.txt"),
        "task_options": {"length": 8},
        "width": 8,
        "depth": 2,
        "heads": 2,
        "lr": 0.01,
    }
    for settings in ({**language, "limit": 32}, {"task": "graphs", "data": "karate"}):
        run = train_run(make_config(method="dfa", **settings, epochs=20, record_every=0), RunContext(out=tmp_path / "runs"))
        status, out, err = program("pareto", run.path, "--out", tmp_path / settings["task"], "--rounds", "1", "--quiet")
        assert status == 0, err
        assert "dfa" in out
