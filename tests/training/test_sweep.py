"""Studies: expansion, statistics, and runs that survive what happens to workers and to the study itself."""

import contextlib
import io
import itertools
import math
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from processes import ROOT, Program, wait_for
from scipy import stats

from gradlens.cli.sweep import sweep
from gradlens.reporting.statistics import bootstrap_mean, holm, paired_p
from gradlens.reporting.study_summary import Merged, SummaryLine, grid_text
from gradlens.runtime.csv_tables import read_csv
from gradlens.runtime.errors import InputError
from gradlens.training.comparison import load, write_comparison
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_run
from gradlens.training.runs.train_run import train_run
from gradlens.training.sweep.study import StudyPoint, read_study, study_points
from gradlens.training.sweep.study_comparison import must_be_this_study, study_comparison

STUDY = """
methods = ["bp", "dgl"]
seeds = [0, 1]
baseline = "bp"
[settings]
model = "mlp"
width = 8
limit = 200
batch-size = 32
epochs = {epochs}
record-every = 3
[grid]
lr = [1e-3, 1e-2]
"""


def written(folder: Path, text: str = STUDY, epochs: int = 3) -> Path:
    path = folder / "study.toml"
    path.write_text(text.replace("{epochs}", str(epochs)))
    return path


# ---------------------------------------------------------------------------------------------------------- expansion


def test_a_study_is_its_methods_grid_and_seeds_crossed(tmp_path):
    found = study_points(read_study(written(tmp_path)), RunContext())
    wanted = [
        make_config(method=method, lr=lr, seed=seed, model="mlp", width=8, limit=200, batch_size=32, epochs=3, record_every=3)
        for lr, method, seed in itertools.product([1e-3, 1e-2], ["bp", "dgl"], [0, 1])
    ]
    assert [point.config for point in found] == wanted
    assert [grid_text(point.grid) for point in found] == ["lr=0.001"] * 4 + ["lr=0.01"] * 4


def test_what_comes_to_the_same_run_is_one(tmp_path):
    text = 'methods = ["bp"]\nseeds = [0]\n[grid]\nlr = [1e-3, 0.001]\nset = [["lr=1e-3"], []]'
    assert len(study_points(read_study(written(tmp_path, text)), RunContext())) == 1


def test_options_reach_the_methods_they_name(tmp_path):
    text = 'methods = ["bp", "dgl"]\n[settings]\nset = ["dgl.head=linear"]'
    bp, dgl = study_points(read_study(written(tmp_path, text)), RunContext())
    assert (bp.config.options, dgl.config.options["head"]) == ({}, "linear")


def test_seeds_may_be_given_by_their_number(tmp_path):
    assert read_study(written(tmp_path, 'methods = ["bp"]\nseeds = 2')).seeds == [0, 1]
    assert read_study(written(tmp_path, 'methods = ["bp"]')).seeds == [0]


@pytest.mark.parametrize("path", sorted((ROOT / "analyses" / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_the_studies_of_the_reference_study_expand(path):
    study = read_study(path)
    found = study_points(study, RunContext())
    sizes = [len(values) for values in study.grid.values()]
    assert len(found) == len(study.methods) * len(study.seeds) * math.prod(sizes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('methods = ["bp"]\nsedes = [1]', "unknown key of the study .*study.toml 'sedes'; nearest: seeds"),
        ('methods = ["pb"]', "unknown method 'pb'; nearest: bp"),
        ("seeds = [0]", "methods = None: expected a list of names of methods, with one at least"),
        ('methods = ["bp"]\nseeds = []', r"seeds = \[\]: expected a list of whole numbers, with one at least"),
        *(
            (f'methods = ["bp"]\nseeds = {wrong}', r"seeds = .*: expected a list of whole numbers, or how many \(2 is \[0, 1\]\)")
            for wrong in ("0", "true", '"2"', "1.5")
        ),
        ('methods = ["bp"]\nseeds = [1.5]', "expected a list of whole numbers"),
        ('methods = ["bp"]\nbaseline = "dgl"', r"baseline = 'dgl' is none of its methods \(bp\)"),
        ('methods = ["bp"]\n[grid]\nlr = []', r"\[grid\] lr = \[\]: expected a list of values to try"),
        ('methods = ["bp"]\n[grid]\nlr = 0.1', "expected a list of values to try"),
        ('methods = ["bp"]\n[settings]\nwith = 8', "unknown flag in .*'with'; nearest: width"),
        ('methods = ["bp"]\n[settings]\nseed = 8', r"seed cannot be set here, but by: seeds = \[...\]"),
        ('methods = ["bp"]\n[settings]\nlr = 1\n[grid]\nlr = [1]', r"lr stands in \[settings\] and in \[grid\]"),
        ('methods = ["bp"]\nsettings = 3', r"settings is no table: write \[settings\]"),
        ("methods = [", "study.toml is not TOML"),
    ],
)
def test_what_a_study_cannot_say(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_study(written(tmp_path, text))


def test_every_point_is_checked_before_the_first_is_trained(program, tmp_path):
    text = STUDY.replace("lr = [1e-3, 1e-2]", "batch-size = [32, 500]").replace("batch-size = 32\n", "")
    status, _, err = program("sweep", written(tmp_path, text), "--out", tmp_path / "out")
    assert status == 2
    assert err == "gradlens: --batch-size 500 is larger than the 200 training images there are\n"
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------- statistics


def test_a_studys_folder_takes_the_study_with_more_or_fewer_points_and_no_other(tmp_path):
    study = read_study(written(tmp_path))
    points, out = study_points(study, RunContext()), tmp_path / "out"
    must_be_this_study(out, points)
    write_comparison(study_comparison(study, points[1:], out, "gradlens sweep study.toml"))
    must_be_this_study(out, points)
    with pytest.raises(InputError, match="out holds another comparison .`gradlens sweep study.toml`.: set another folder with --out"):
        must_be_this_study(out, points[:1])


def test_holm_is_its_definition():
    rng = random.Random(1)
    for _ in range(50):
        ps = [rng.random() ** 3 for _ in range(rng.randint(1, 8))]
        for i, p in enumerate(ps):
            smaller = [q for q in ps if q <= p]  # step down: what is rejected at a level, every smaller one is too
            wanted = max(min(1.0, (len(ps) - sum(r < q for r in ps)) * q) for q in smaller)
            assert holm(ps)[i] == pytest.approx(wanted)
    assert holm([0.01, math.nan, 0.04])[::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(holm([0.01, math.nan])[1])


def test_the_bootstrap_interval_is_that_of_all_resamples():
    """With three values all 27 resamples can be listed: the quantiles of their means are the interval's ends."""
    values = [0.1, 0.2, 0.7]
    found = bootstrap_mean(values, "x")
    means = sorted(np.mean(sample) for sample in itertools.product(values, repeat=3))
    assert found.mean == pytest.approx(1 / 3)
    assert means[0] <= found.low <= means[1]
    assert means[-2] <= found.high <= means[-1]
    assert bootstrap_mean(values, "x") == found
    assert math.isnan(bootstrap_mean([0.5], "x").low)
    assert bootstrap_mean([0.5, math.nan], "x").n == 1


def test_the_paired_test_is_the_t_test():
    d = [0.3, -0.1, 0.4, 0.2]
    t = np.mean(d) / (np.std(d, ddof=1) / 2)
    assert paired_p(d) == pytest.approx(2 * stats.t.sf(abs(t), 3))
    assert paired_p([0.0, 0.0]) == 1.0
    assert math.isnan(paired_p([0.1]))


# ---------------------------------------------------------------------------------------------------------------- runs


def one_lr(epochs: int, lr: str = "1e-2", more: str = "") -> str:
    """Two runs: bp and dgl with one seed."""
    text = STUDY.replace("seeds = [0, 1]", "seeds = [0]").replace("lr = [1e-3, 1e-2]", f"lr = [{lr}]")
    return text.replace("epochs = {epochs}", f"epochs = {epochs}\n{more}")


def made_here(point: StudyPoint, out: Path) -> None:
    """A run of a study made by this process, as ``gradlens train`` makes it."""
    train_run(point.config, RunContext(out=out, name=point.name))


def saved(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoint.pt")}


class Short(NamedTuple):
    out: Path
    before: dict[Path, int]  # when the checkpoint that was there was written
    printed: str


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A study of which one run is there before it begins; the other is made in a process of its own."""
    folder = tmp_path_factory.mktemp("short")
    study, out = written(folder, one_lr(3)), folder / "out"
    made_here(study_points(read_study(study), RunContext())[0], out)
    before = saved(out)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        sweep(study, out, jobs=2, quiet=True)
    return Short(out, before, printed.getvalue())


@pytest.mark.slow
@pytest.mark.smoke
def test_a_study_ends_in_tables(short):
    assert "2 of 2 runs finished" in short.printed
    assert f"next: gradlens report {short.out}" in short.printed
    study = load(short.out)
    assert (study.made_by, study.finished, [run.config.method for run in study.runs]) == ("sweep", True, ["bp", "dgl"])
    drawn = {path.name for path in study.figure_paths}
    assert {"cosine_heat_map.png", "test_accuracy.png"} <= drawn
    assert all(path.parent == short.out / "figures" and path.is_file() for path in study.figure_paths)
    rows, lines = read_csv(short.out / "rows.csv", Merged), read_csv(short.out / "summary.csv", SummaryLine)
    assert {row.method for row in rows} == {"bp", "dgl"}
    assert {"test best_accuracy", "test final_accuracy", "test final_loss", "cosine block1.linear"} <= {line.quantity for line in lines}
    (dgl,) = [line for line in lines if (line.method, line.quantity) == ("dgl", "test final_accuracy")]
    ends = {run.config.method: run.summary["test"]["final_accuracy"] for run in map(load_run, short.out.glob("*-s0-*"))}
    assert dgl.difference == pytest.approx(ends["dgl"] - ends["bp"])
    assert (dgl.seeds, dgl.pairs, math.isnan(dgl.low), math.isnan(dgl.p)) == (1, 1, True, True)  # one seed: neither interval nor test


@pytest.mark.slow
@pytest.mark.smoke
def test_finished_runs_are_not_run_again(short):
    (path,) = short.before
    after = saved(short.out)
    assert after[path] == short.before[path]
    sweep(short.out.parent / "study.toml", short.out, quiet=True)
    assert saved(short.out) == after


@pytest.mark.slow
def test_a_run_that_fails_by_itself_is_reported_and_the_others_finish(program, tmp_path):
    text = one_lr(2, "1e-2, 1e30", 'optimizer = "sgd"').replace('["bp", "dgl"]', '["bp"]')
    study, out = written(tmp_path, text), tmp_path / "out"
    made_here(study_points(read_study(study), RunContext())[0], out)
    status, printed, err = program("sweep", study, "--out", out, "--jobs", "2")
    assert status == 1
    assert "1 of 2 runs finished" in printed
    assert "gradlens: 1 of 2 runs failed; bp-digits-mlp-s0-" in err
    assert "the loss became" in err.splitlines()[-1]


@pytest.mark.slow
def test_when_every_run_fails_the_reasons_are_kept(program, tmp_path):
    study, out = written(tmp_path, one_lr(2, "1e30", 'optimizer = "sgd"').replace('["bp", "dgl"]', '["bp"]')), tmp_path / "out"
    status, _, err = program("sweep", study, "--out", out, "--jobs", "1")
    assert status == 1
    assert "1 of 1 runs failed" in err
    assert "the loss became" in (out / "study.json").read_text()


# ------------------------------------------------------------------------------------- what happens to workers and studies

LONG = one_lr(60)  # long enough to be killed in its middle


def rows_of(run: Path) -> int:
    """How many rows of losses a run has written."""
    metrics = run / "metrics.csv"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def trainers(out: Path) -> dict[int, str]:
    """The processes that train for a study, and the runs they train."""
    found = subprocess.run(["pgrep", "-af", f"gradlens train .*{out}"], capture_output=True, text=True, check=False).stdout.splitlines()
    return {int(line.split()[0]): line.partition("--run-name ")[2].split()[0] for line in found}


def assert_same_study(a: Path, b: Path) -> None:
    assert (a / "rows.csv").read_bytes() == (b / "rows.csv").read_bytes()
    assert (a / "summary.csv").read_bytes() == (b / "summary.csv").read_bytes()
    runs = sorted(path.parent.name for path in a.glob("*/summary.json"))
    assert runs == sorted(path.parent.name for path in b.glob("*/summary.json"))
    for run in runs:
        assert (a / run / "gradients.csv").read_bytes() == (b / run / "gradients.csv").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The long study, whose runs nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study, out = written(folder, LONG), folder / "out"
    for point in study_points(read_study(study), RunContext()):
        made_here(point, out)
    sweep(study, out, quiet=True)
    return out


class Story(NamedTuple):
    """What became of a study whose worker was killed, which Ctrl-C ended, which was killed itself, and then left alone."""

    out: Path
    again: set[str]  # the runs that were begun again after a worker was killed
    killed: str  # the run of that worker
    interrupted: tuple[int | None, str, str]
    left_by_ctrl_c: dict[int, str]
    left_by_kill: dict[int, str]
    ended: tuple[int | None, str, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("story")
    study, out = written(folder, LONG), folder / "out"

    def begun() -> Program:
        return Program(folder, "sweep", study, "--out", out, "--jobs", "2")

    def goes_on(run: str) -> None:
        before = rows_of(out / run)
        wait_for(lambda: rows_of(out / run) > before + 2)

    driver = begun()
    wait_for(lambda: any(rows_of(run) > 3 for run in out.glob("*")))
    first = trainers(out)
    pid, killed = next((pid, run) for pid, run in first.items() if rows_of(out / run) > 3)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: set(trainers(out)) - set(first))
    again = {run for pid, run in trainers(out).items() if pid not in first}
    goes_on(killed)
    driver.send(signal.SIGINT)
    interrupted, left_by_ctrl_c = driver.finished(), trainers(out)

    driver = begun()
    goes_on(killed)
    driver.send(signal.SIGKILL)
    driver.finished()
    time.sleep(0.5)
    left_by_kill = trainers(out)
    return Story(out, again, killed, interrupted, left_by_ctrl_c, left_by_kill, begun().finished())


@pytest.mark.slow
def test_a_killed_worker_is_begun_again(story):
    assert story.again == {story.killed}


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(story):
    status, _, err = story.interrupted
    assert status == 130
    assert "gradlens: interrupted; every run has saved" in err
    assert "Traceback" not in err
    assert not story.left_by_ctrl_c


@pytest.mark.slow
def test_a_killed_study_leaves_no_orphans(story):
    assert not story.left_by_kill


@pytest.mark.slow
def test_a_study_loses_nothing_by_all_that(story, undisturbed):
    status, _, err = story.ended
    assert status == 0, err
    assert_same_study(story.out, undisturbed)


@pytest.mark.ray
def test_a_ray_worker_killed_in_mid_run(undisturbed, tmp_path):
    pytest.importorskip("ray")
    study, out = written(tmp_path, LONG), tmp_path / "out"
    driver = Program(tmp_path, "sweep", study, "--out", out, "--jobs", "2", "--address", "local")
    wait_for(lambda: any(rows_of(run) > 3 for run in out.glob("*")))
    tasks = subprocess.run(["pgrep", "-f", "ray::train_point"], capture_output=True, text=True, check=False).stdout.split()
    os.kill(int(tasks[0]), signal.SIGKILL)
    status, printed, err = driver.finished()
    assert status == 0, err
    assert "2 of 2 runs finished" in printed
    assert_same_study(out, undisturbed)


@pytest.mark.ray
@pytest.mark.smoke
def test_ray_that_is_not_there(program, tmp_path):
    pytest.importorskip("ray")
    status, _, err = program("sweep", written(tmp_path), "--out", tmp_path / "out", "--address", "127.0.0.1:1")
    assert status == 2
    assert "gradlens: --address 127.0.0.1:1: no Ray cluster can be reached" in err
