"""`--format`: stdout holds the table alone, in the format that was asked for; export, and what notebooks see."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import shelf
import torch
from tiny_runs import tiny

import gradlens as package
from gradlens.cli.output import figure_formats
from gradlens.gradients.measurements import Measurements
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import Metric, load_run

QUIET = ("--quiet", "--threads", "1")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch, few_pixels):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    torch.set_num_threads(1)


@pytest.fixture
def run():
    return shelf.copied(shelf.trained(tiny("bp")), Path("runs")).path


def test_export_writes_the_comparison_in_every_format(program, run):
    other = shelf.trained(tiny("dgl")).path
    status, out, err = program("export", run, other, "--format", "csv")
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["method"] for row in rows] == ["bp", "dgl"]
    assert {"lr", "seeds", "block1.conv", "best test accuracy (%)", "final test accuracy (%)"} <= set(rows[0])
    accuracy = [m.accuracy for m in load_run(run).metrics if m.split == "test"]
    assert float(rows[0]["final test accuracy (%)"]) == 100 * accuracy[-1]
    for form, begins in (("md", "final cosine"), ("tex", "% needs"), ("json", "{"), ("text", "final cosine")):
        assert program("export", run, other, "--format", form)[1].startswith(begins)
    assert program("export", run, "--format", "latex", "--out", "table.tex")[1] == "wrote table.tex\n"
    assert r"\toprule" in Path("table.tex").read_text()
    assert r"\begin{tabular}{lr}" in Path("table.tex").read_text()  # ten numbers are rows
    Path("table.tex").write_text("mine")
    assert program("export", run, "--out", "table.tex") == (
        2, "", "gradlens: table.tex exists: --out names another file, --overwrite replaces it\n",
    )  # fmt: skip
    assert Path("table.tex").read_text() == "mine"
    assert program("export", run, "--out", "table.tex", "--overwrite")[0] == 0
    assert "mine" not in Path("table.tex").read_text()
    status, out, err = program("export", run, "--format", "word")
    assert (status, out, err) == (2, "", "gradlens: --format word: expected one of text, md, latex, csv, json\n")


def test_show_is_short_and_complete_as_json(program, run):
    out = program("show", run)[1]
    lines = out.splitlines()
    assert lines[0].startswith(f"{run}: finished, 4 of 4 epochs, 24 updates, 768 images")
    assert "{" not in out
    assert len(lines) < 25
    said = json.loads(program("show", run, "--format", "json")[1])
    assert (said["epochs_done"], said["images"], said["settings"]["batch_size"]) == (4, 768, 32)
    assert 0 <= said["final_accuracy"] <= 1


@pytest.mark.parametrize("words", [("list", "models"), ("measure", "RUN", "--quantity", "projection", *QUIET), ("doctor", "RUN", *QUIET)])
def test_stdout_is_the_table_alone(program, run, words):
    words = [run if word == "RUN" else word for word in words]
    status, out, err = program(*words, "--format", "json")
    assert status in (0, 1)
    content = json.loads(out)
    assert content["rows"] or words[0] == "doctor"  # which may find nothing wrong
    assert all({column["name"] for column in content["columns"]} == set(row) for row in content["rows"])
    assert words[0] == "list" or str(run) in err
    printed = program(*words, "--format", "md")[1]
    assert printed.count("\n| :--") == 1
    assert printed.splitlines()[-1].startswith("| "), "a row, of a healthy run too"
    assert content["rows"] or "| all | nothing wrong |" in printed


@pytest.mark.slow
def test_commands_that_draw_keep_stdout_for_the_table_too(program, run):
    few = ("--epochs", 0, "--width", 4, "--limit", 60, "--limit-test", 40, "--batch-size", 20, *QUIET)
    commands = [
        ("train", "bp", *few),
        ("compare-gradients", "bp", "dgl", *few, "--figure-format", "svg"),
        ("bench", "bp", "--width", 4, "--batch-size", 16, "--rounds", 1, *QUIET),
        ("filters", run, *QUIET, "--figure-format", "pdf,svg"),
        ("probe", run, *QUIET, "--train-images", 60),
    ]
    for words in commands:
        status, out, err = program(*words, "--format", "json")
        assert status == 0, err
        assert json.loads(out), words
    assert {p.suffix for folder in Path("comparisons").glob("*/figures") for p in folder.iterdir()} == {".svg", ".csv", ".json"}
    assert {p.suffix for p in Path("figures").rglob("filter_*")} == {".pdf", ".svg", ".csv"}


def test_formats_of_figures():
    assert figure_formats(None) == ("png",)
    assert figure_formats(["pdf,png", "PDF"]) == ("pdf", "png")
    with pytest.raises(InputError, match="no figure is written as 'jpg': expected one of png, svg, pdf"):
        figure_formats(["jpg"])


# --------------------------------------------------------------------------------------------------------- notebooks


class Frame:
    """Of pandas what the frames use."""

    def __init__(self, rows, columns=None):
        self.rows, self.columns = rows, columns


def test_a_run_in_a_notebook_is_a_line_and_its_tables_are_frames(run, monkeypatch):
    read = package.load(run)
    assert repr(read).startswith(f"<Run {run}: finished, bp of digits, 4 epochs, 24 updates, ")
    assert len(repr(read)) < 200
    assert read._repr_html_().startswith("<table>")
    monkeypatch.setitem(sys.modules, "pandas", type("pandas", (), {"DataFrame": Frame}))
    assert read.frame().rows == read.gradients
    assert read.frame("metrics").columns == list(Metric._fields)
    with pytest.raises(InputError, match="unknown table 'loss'"):
        read.frame("loss")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="`pip install pandas`"):
        read.frame()


def test_rows_of_any_loop_are_short_and_a_table(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    rows = package.compare(model, model(torch.ones(2, 3)).sum(), {name: torch.ones_like(p) for name, p in model.named_parameters()})
    assert isinstance(rows, Measurements)
    assert rows == list(rows)
    assert repr(rows) == f"<{len(rows)} measurements: {', '.join(dict.fromkeys(r.quantity for r in rows))} of 2 layers; .table(), .frame()>"
    table = rows.table()
    assert [(row[0].text, row[1].text) for row in table.rows] == [("0", "weight"), ("0", "bias"), ("1", "weight"), ("1", "bias")]
    (cosine,) = [r.value for r in rows if (r.layer, r.kind, r.quantity) == ("0", "weight", "cosine")]
    assert table.rows[0][[c.name for c in table.columns].index("cosine")].value == cosine
    assert rows._repr_html_().startswith("<table>")
    assert Measurements().table().rows == []
    assert repr(Measurements()) == "<0 measurements: nothing of 0 layers; .table(), .frame()>"


def test_completion_shows_what_users_import_and_nothing_else():
    names = {name for name in dir(package) if not name.startswith("_")}
    assert names == {name for name in package.__all__ if not name.startswith("_")}
    assert {"compare", "Lens", "load", "comparison_table"} <= names
