"""`gradlens figures` draws what the commands have stored, each kind from the runs that hold it, and says what it cannot draw."""

import json
import shutil

import pytest
import shelf

from gradlens.analysis.of_runs.options import ProbeOptions, RepresentationOptions
from gradlens.analysis.of_runs.registry import ANALYSES
from gradlens.reporting.gallery import draw_learned
from gradlens.reporting.registry import REPORTS
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_result, load_run

pytestmark = pytest.mark.usefixtures("few_pixels")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two tiny runs with everything stored that a command stores."""
    context, folder = RunContext(), tmp_path_factory.mktemp("runs")
    shared = {"width": 3, "limit": 96, "batch_size": 32, "epochs": 3, "label_noise": 0.3, "evaluate_train": True, "online_probe": True}
    runs = [shelf.copied(shelf.trained(make_config(method=method, **shared)), folder) for method in ("bp", "dgl")]
    few = {
        "probe": ProbeOptions(features=16, test_images=60, separability=0),
        "representations": RepresentationOptions(images=90, steps=2),
    }
    for name in ("probe", "memorization", "filters", "representations"):
        ANALYSES[name].analyse(runs, context, few.get(name))
    return [run.path for run in runs]


def holding(path, folder, *names):
    """A copy of a run in which only these results are stored, so that little is drawn."""
    copy = shutil.copytree(path, folder / path.name)
    for name in REPORTS:
        if name not in names:
            (copy / f"{name}.json").unlink(missing_ok=True)
    return copy


def test_every_kind_is_drawn_from_what_is_stored_and_nothing_in_the_runs_changes(measured, tmp_path):
    before = {file: file.read_bytes() for path in measured for file in path.rglob("*") if file.is_file()}
    drawn, skipped = draw_learned([load_run(path) for path in measured], tmp_path)
    names = {path.stem for path in drawn}
    assert names >= {"separability_by_depth", "memorization", "memorization_by_block", "filter_grid", "filter_numbers", "cka", "rdm"}
    assert names >= {"representation_by_depth", "regret-bp-s0", "regret-dgl-s0"}
    assert skipped == {}
    for path in drawn:
        assert all(path.with_suffix(ending).stat().st_size for ending in (".png", ".csv"))
    assert {file: file.read_bytes() for path in measured for file in path.rglob("*") if file.is_file()} == before


def test_the_regrets_table_holds_what_was_stored(measured, tmp_path):
    draw_learned([load_run(holding(measured[0], tmp_path, "online"))], tmp_path)
    stored = load_result(measured[0], "online")["rows"]
    lines = (tmp_path / "regret-bp-s0.csv").read_text().splitlines()
    assert len(lines) == len(stored) + 1
    assert lines[1].startswith(f"{stored[0]['block']},{stored[0]['learner']},{stored[0]['rounds']},")


def test_a_run_without_a_result_is_left_out_of_that_figure_only(measured, tmp_path):
    copies = [holding(measured[0], tmp_path), holding(measured[1], tmp_path, "probe")]
    drawn, skipped = draw_learned([load_run(path) for path in copies], tmp_path / "f")
    assert [path.stem for path in drawn] == ["separability_by_depth"]
    assert skipped == {}
    labels = {line.split(",")[0] for line in (tmp_path / "f" / "separability_by_depth.csv").read_text().splitlines()[1:]}
    assert labels == {"dgl"}


def test_what_cannot_be_drawn_is_said_and_the_rest_is_drawn(measured, tmp_path):
    copy = holding(measured[0], tmp_path, "probe", "online")
    (copy / "online.json").write_text(json.dumps({"rows": []}))
    drawn, skipped = draw_learned([load_run(copy)], tmp_path / "f")
    assert list(skipped) == ["online"]
    assert skipped["online"].startswith("no regret to draw")
    assert "separability_by_depth" in {path.stem for path in drawn}


@pytest.mark.slow
def test_the_command_names_both(measured, program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = program("figures", *(holding(path, tmp_path, "probe") for path in measured), "--out", "f")
    assert (status, err) == (0, "")
    assert "of what was learned: " in out
    assert "f/separability_by_depth.png" in out
