"""`gradlens figures` draws what the commands have stored, each kind from the runs that hold it, and says what it cannot draw."""

import json
import shutil

import pytest
import shelf
from made_runs import made, stored

from gradlens.analysis.of_runs.options import ProbeOptions, RepresentationOptions
from gradlens.analysis.of_runs.registry import ANALYSES
from gradlens.reporting.aggregate import final_values
from gradlens.reporting.gallery import draw_learned
from gradlens.reporting.heat_map import heat_map
from gradlens.reporting.registry import REPORTS
from gradlens.reporting.training_figures import Figures
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


def test_what_cannot_be_drawn_is_reported_and_the_rest_is_drawn(measured, tmp_path):
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
    assert "separability_by_depth" in out
    assert out.rstrip().endswith("open f/cosine_heat_map.png, f/cosine_over_training.png, f/test_accuracy.png")
    assert (tmp_path / "f" / "separability_by_depth.png").exists()


def test_runs_of_several_experiments_are_drawn_in_a_folder_each_and_unfinished_ones_listed(program, monkeypatch, tmp_path):
    drawn = []

    def one(runs, layers):  # one figure instead of ten
        rows = final_values(runs, "cosine")
        drawn.append((heat_map(rows, "cosine"), rows))
        return Figures({"cosine_heat_map": drawn[-1]}, {"train_loss": "no epoch"})

    monkeypatch.setattr("gradlens.reporting.gallery.figure_set", one)
    own = {"model": "net", "own": {"model": {"file": "net.py", "name": "build", "sha256": "0" * 64}}}
    runs = [made(), made("dgl"), made("bp", 1, width=4, path="w"), made("bp", 2, path="o", **own), made("dni", finished=False, path="u")]
    paths = [stored(run, tmp_path) for run in runs]
    monkeypatch.chdir(tmp_path)
    status, out, err = program("figures", *paths, "--out", "f")
    assert (status, err) == (0, "")
    folders = sorted(path.name for path in (tmp_path / "f").iterdir() if path.is_dir())
    assert folders == ["digits-basic-cnn", "digits-basic-cnn-width4", "digits-net"]
    labels = (tmp_path / "f" / "digits-basic-cnn" / "labels.csv").read_text()
    assert {line.split(",")[0] for line in labels.splitlines()[1:]} == {"bp", "dgl"}
    assert "not finished, so not ranked: u (30 updates)" in out
    assert "digits · net: no figure train_loss: no epoch" in out
    assert [sorted({row.label for row in rows}) for _, rows in drawn] == [["bp", "dgl"], ["bp"], ["bp"]]
    assert "figures (png, csv) in f: digits-basic-cnn, digits-basic-cnn-width4, digits-net" in out
    status, out, _ = program("figures", *paths[:2], "--out", "g")  # one experiment: no folder of its own
    assert status == 0
    assert (tmp_path / "g" / "cosine_heat_map.png").exists()
    assert not [path for path in (tmp_path / "g").iterdir() if path.is_dir()]
