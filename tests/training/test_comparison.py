"""What paths stand for which runs, and the small file of a comparison folder."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import shelf
from tiny_runs import tiny

import gradlens
from gradlens.runtime.errors import InputError
from gradlens.training.comparison import ChosenRate, Comparison, as_runs, load, read_comparison, runs_of, write_comparison


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with runs a and b in o/, a comparison of both and a run elsewhere, and a study; bare directories."""
    monkeypatch.chdir(tmp_path)
    for name in ("o/a", "o/b", "c/runs/x", "c/searches/y", "far/z", "s/p"):
        Path(name).mkdir(parents=True)
        Path(name, "config.json").write_text("{}")
    Path("s/study.json").write_text("{}")
    Path("o/figures").mkdir()
    rates = {"dgl": ChosenRate(0.1, (0.01, 0.1), True)}
    write_comparison(
        Comparison(
            Path("c"), (Path("c/runs/x"), Path("far/z")), "compare-gradients", "abc", "gradlens x", "0", True, ("dgl",), (0,),
            (Path("c/searches/y"),), (Path("c/figures/f.png"),), rates,
        )
    )  # fmt: skip
    return tmp_path


def refused(*paths):
    with pytest.raises(InputError) as said:
        runs_of(paths)
    return str(said.value)


def test_what_paths_stand_for(folder):
    said = []
    wanted = {
        ("o/a",): ["o/a"],
        ("c",): ["c/runs/x", "far/z"],  # not its searches
        ("c/comparison.json",): ["c/runs/x", "far/z"],
        ("s",): ["s/p"],
        ("o/a", "o/figures", "o/a", "far/z", "c"): ["o/a", "far/z", "c/runs/x"],
    }
    for paths, runs in wanted.items():
        assert runs_of(paths, said.append) == [Path(run) for run in runs], paths
    assert said == []
    assert runs_of(["o"], said.append) == [Path("o/a"), Path("o/b")]
    assert said == ["o holds 2 runs: a, b"]


def test_what_stands_for_no_run_is_reported(folder):
    assert refused("o/aa") == "o/aa does not exist; nearest: o/a"
    assert refused("nothing/like/this") == "nothing/like/this does not exist"
    Path("elsewhere").mkdir()
    Path("o").rename("elsewhere/runs")
    assert refused("elsewhere").endswith("has no config.json; give what is in elsewhere/runs/, as elsewhere/runs/a")
    Path("elsewhere/runs").rename("o")
    assert refused("o/figures") == "o/figures is not a run directory: it has no config.json"
    Path("all").mkdir()
    Path("c").rename("all/c")
    assert refused("all") == "all is not a run directory: it has no config.json; it holds comparisons, give one of them: all/c"
    Path("all/c/comparison.json").write_text('{"format": 2}')
    assert "is of format 2, and this version of gradlens reads 1" in refused("all/c")
    Path("all/c/comparison.json").write_text('{"format": 1}')
    assert "is not a comparison of gradlens" in refused("all/c")


def test_a_run_that_is_gone_is_missed_unless_the_comparison_is_under_way(folder):
    shutil.rmtree("far")
    assert refused("c") == "c/comparison.json names the run far/z, which is not there; `gradlens x` trains it again"
    write_comparison(Comparison(Path("c"), (Path("c/runs/x"), Path("far/z")), "compare-gradients", finished=False))
    assert runs_of(["c"]) == [Path("c/runs/x")]
    shutil.rmtree("c/runs")
    assert refused("c") == "c is a comparison in which no run has begun"


def test_the_small_file_holds_relative_paths_and_is_read_as_it_was_written(folder):
    stored = json.loads(Path("c/comparison.json").read_text())
    assert (stored["runs"], stored["searches"], stored["figures"]) == (["runs/x", "../far/z"], ["searches/y"], ["figures/f.png"])
    made = read_comparison("c")
    Path("moved").mkdir()
    Path("c").rename("moved/c")
    Path("far").rename("moved/far")
    moved = read_comparison("moved/c")
    assert moved.run_paths == (Path("moved/c/runs/x"), Path("moved/far/z"))
    assert moved.learning_rates == made.learning_rates == {"dgl": ChosenRate(0.1, (0.01, 0.1), True)}


def test_a_small_file_with_the_first_name_of_the_digest_is_read(folder):
    file = Path("c/comparison.json")
    stored = json.loads(file.read_text())
    digest = stored.pop("request_digest")
    assert digest
    assert read_comparison("c").request_digest == digest
    file.write_text(json.dumps({**stored, "asked": digest}))
    assert read_comparison("c").request_digest == digest


def test_load_gives_a_run_or_what_belongs_together(tmp_path):
    run = shelf.copied(shelf.trained(tiny("bp")), tmp_path / "o")
    assert gradlens.load(run.path).config == run.config
    assert [one.path for one in load(tmp_path / "o").runs] == [run.path]
    write_comparison(Comparison(tmp_path / "c", (run.path,), "sweep", methods=("bp",)))
    both = gradlens.load(tmp_path / "c")
    assert isinstance(both, gradlens.Comparison)
    assert (both.methods, [one.config for one in both.runs]) == (("bp",), [run.config])
    with pytest.raises(InputError, match="^load.. reads a folder by its path, got an int"):
        gradlens.load(3)


def test_a_comparison_is_shown_as_a_table_of_its_runs_and_gives_its_runs_rows_together(tmp_path, monkeypatch):
    runs = [shelf.copied(shelf.trained(tiny(method)), tmp_path / "c" / "runs") for method in ("bp", "dgl")]
    write_comparison(Comparison(tmp_path / "c", tuple(run.path for run in runs), "compare-gradients", methods=("bp", "dgl")))
    both = gradlens.load(tmp_path / "c")
    assert repr(both) == f"<Comparison {tmp_path / 'c'}: 2 runs of bp, dgl; .runs, .frame()>"
    shown = both._repr_html_()
    for run in runs:
        assert re.search(rf"<tr>\W*<td[^>]*>{run.config.method}</td>", shown), shown
        assert f"{run.metrics[-1].accuracy:.1%}" in shown
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns)))
    for table, first in (("gradients", "step"), ("metrics", "split")):
        rows, columns = both.frame(table)
        assert columns[:4] == ["run", "method", "seed", first]
        assert len(rows) == sum(len(getattr(run, table)) for run in runs)
        for run in runs:
            mine = [row[3:] for row in rows if row[:3] == (run.path.name, run.config.method, run.config.seed)]
            assert mine == [tuple(row) for row in getattr(run, table)]
    with pytest.raises(InputError, match="unknown table 'gradient'"):
        both.frame("gradient")


def test_runs_may_be_given_in_any_form(tmp_path):
    run = shelf.copied(shelf.trained(tiny("bp")), tmp_path / "o")
    assert as_runs(run) == [run]
    for given in (run.path, str(run.path), load(run.path.parent), [run.path], [run], run.path.parent):
        assert [one.path for one in as_runs(given)] == [run.path]
    assert gradlens.comparison_table(run.path).csv() == gradlens.comparison_table([run]).csv()
    with pytest.raises(InputError, match="does not exist"):
        as_runs(tmp_path / "nowhere")
