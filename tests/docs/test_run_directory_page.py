"""The page about files of a run names every column and every key that is written."""

import json

import pytest
from shelf import trained
from tiny_runs import tiny

from gradlens.analysis.of_runs.registry import ANALYSES
from gradlens.reporting.study_summary import Merged, SummaryLine
from gradlens.training.comparison import Comparison, write_comparison
from gradlens.training.cost.simulation import CostRow
from gradlens.training.run_directory import TABLES
from tools.docs.run_directory import COMPARISON, CONFIG, SUMMARY, WRITTEN, columns, run_directory


@pytest.mark.parametrize("kind", [*TABLES.values(), Merged, SummaryLine, CostRow])
def test_every_column_has_a_meaning(kind):
    shown = dict(columns(kind))
    assert list(shown) == [f"`{name}`" for name in kind._fields]
    assert all(shown.values())


def test_every_file_and_key_of_a_run_is_named():
    run = trained(tiny())
    named = {name.removesuffix("/") for names in WRITTEN for name in names.split(", ")} | {f"{name}.json" for name in ANALYSES}
    assert {file.name for file in run.path.iterdir()} <= named
    assert set(json.loads((run.path / "config.json").read_text(encoding="utf-8"))) <= set(CONFIG)
    summary = {name for names in SUMMARY for name in names.split(", ")}
    assert set(json.loads((run.path / "summary.json").read_text(encoding="utf-8"))) <= summary


def test_the_page_has_a_table_for_every_table_of_a_run():
    page = "\n".join(run_directory())
    assert all(f"### {name}.csv" in page for name in TABLES)


def test_every_key_of_a_comparison_is_named(tmp_path):
    write_comparison(Comparison(tmp_path, (tmp_path / "runs" / "bp",)))
    assert list(json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))) == list(COMPARISON)
