"""Studies: expansion, statistics, and runs that survive what happens to workers and to the study itself."""

import itertools
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gradlens.config import make
from gradlens.errors import InputError
from gradlens.longtable import read_csv
from gradlens.reporting_study_summary import Line, Merged, bootstrap_mean, holm, paired_p, said
from gradlens.run import load
from gradlens.studies import points, read_study
from gradlens.training_context import Place

ROOT = Path(__file__).resolve().parent.parent
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
    found = points(read_study(written(tmp_path)), Place())
    wanted = [
        make(method=method, lr=lr, seed=seed, model="mlp", width=8, limit=200, batch_size=32, epochs=3, record_every=3)
        for lr, method, seed in itertools.product([1e-3, 1e-2], ["bp", "dgl"], [0, 1])
    ]
    assert [point.config for point in found] == wanted
    assert [said(point.grid) for point in found] == ["lr=0.001"] * 4 + ["lr=0.01"] * 4


def test_what_comes_to_the_same_run_is_one(tmp_path):
    text = 'methods = ["bp"]\nseeds = [0]\n[grid]\nlr = [1e-3, 0.001]\nset = [["lr=1e-3"], []]'
    assert len(points(read_study(written(tmp_path, text)), Place())) == 1


def test_options_reach_the_methods_they_name(tmp_path):
    text = 'methods = ["bp", "dgl"]\n[settings]\nset = ["dgl.head=linear"]'
    bp, dgl = points(read_study(written(tmp_path, text)), Place())
    assert (bp.config.options, dgl.config.options["head"]) == ({}, "linear")


@pytest.mark.parametrize("path", sorted((ROOT / "analyses" / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_the_documents_studies_expand(path):
    study = read_study(path)
    found = points(study, Place())
    sizes = [len(values) for values in study.grid.values()]
    assert len(found) == len(study.methods) * len(study.seeds) * math.prod(sizes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('methods = ["bp"]\nsedes = [1]', "unknown key of the study .*study.toml 'sedes'; known, nearest first: seeds"),
        ('methods = ["pb"]', "unknown method 'pb'; known, nearest first: bp"),
        ("seeds = [0]", "methods = None: wanted a list of names of methods, with one at least"),
        ('methods = ["bp"]\nseeds = []', r"seeds = \[\]: wanted a list of whole numbers, with one at least"),
        ('methods = ["bp"]\nseeds = [1.5]', "wanted a list of whole numbers"),
        ('methods = ["bp"]\nbaseline = "dgl"', r"baseline = 'dgl' is none of its methods \(bp\)"),
        ('methods = ["bp"]\n[grid]\nlr = []', r"\[grid\] lr = \[\]: wanted a list of values to try"),
        ('methods = ["bp"]\n[grid]\nlr = 0.1', "wanted a list of values to try"),
        ('methods = ["bp"]\n[settings]\nwith = 8', "unknown flag in .*'with'; known, nearest first: width"),
        ('methods = ["bp"]\n[settings]\nseed = 8', r"seed is not said here but by: seeds = \[...\]"),
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


def command(study: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "gradlens", "sweep", str(study), "--out", str(out), "--jobs", "2", *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def swept(study: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(study, out, *more), env=environment(), text=True, capture_output=True, timeout=180, check=False)


def wait_for_a_run(out: Path, rows: int = 3) -> None:
    """Until some run has finished an epoch or two."""
    until = time.monotonic() + 120
    while not any(len(path.read_text().splitlines()) > rows for path in out.glob("*/metrics.csv")):
        assert time.monotonic() < until
        time.sleep(0.05)


def trainers(out: Path) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"gradlens train .*{out}"], capture_output=True, text=True, check=False).stdout.split()
    return [int(pid) for pid in found]


def assert_same_study(a: Path, b: Path) -> None:
    assert (a / "rows.csv").read_bytes() == (b / "rows.csv").read_bytes()
    assert (a / "summary.csv").read_bytes() == (b / "summary.csv").read_bytes()
    runs = sorted(path.parent.name for path in a.glob("*/summary.json"))
    assert runs == sorted(path.parent.name for path in b.glob("*/summary.json"))
    for run in runs:
        assert (a / run / "gradients.csv").read_bytes() == (b / run / "gradients.csv").read_bytes()


LONG = STUDY.replace("seeds = [0, 1]", "seeds = [0]").replace("lr = [1e-3, 1e-2]", "lr = [1e-2]").replace("{epochs}", "60")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = swept(written(folder, LONG), folder / "out")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs finished" in done.stdout
    return folder / "out"


def test_a_study_ends_in_tables(undisturbed):
    rows, lines = read_csv(undisturbed / "rows.csv", Merged), read_csv(undisturbed / "summary.csv", Line)
    assert {row.method for row in rows} == {"bp", "dgl"}
    assert {"test best_accuracy", "test final_accuracy", "test final_loss", "cosine block1.linear"} <= {line.quantity for line in lines}
    (dgl,) = [line for line in lines if (line.method, line.quantity) == ("dgl", "test final_accuracy")]
    ends = {run.config.method: run.summary["test"]["final_accuracy"] for run in map(load, undisturbed.glob("*-s0-*"))}
    assert dgl.difference == pytest.approx(ends["dgl"] - ends["bp"])
    assert (dgl.seeds, dgl.pairs, math.isnan(dgl.low), math.isnan(dgl.p)) == (1, 1, True, True)  # one seed: neither interval nor test


def test_finished_runs_are_not_run_again(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("*/checkpoint.pt")}
    done = swept(undisturbed.parent / "study.toml", undisturbed)
    assert done.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("*/checkpoint.pt")} == before


def test_a_killed_worker_is_begun_again_and_a_killed_study_too(undisturbed, tmp_path):
    study, out = written(tmp_path, LONG), tmp_path / "out"
    driver = subprocess.Popen(command(study, out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_a_run(out)
    os.kill(trainers(out)[0], signal.SIGKILL)
    wait_for_a_run(out, 12)
    driver.kill()
    driver.wait()
    time.sleep(0.5)
    assert not trainers(out)  # no orphans
    done = swept(study, out)
    assert done.returncode == 0, done.stderr
    assert_same_study(out, undisturbed)


def test_ctrl_c_leaves_no_process_and_loses_nothing(undisturbed, tmp_path):
    study, out = written(tmp_path, LONG), tmp_path / "out"
    driver = subprocess.Popen(command(study, out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_a_run(out)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "gradlens: interrupted; every run has saved" in err
    assert "Traceback" not in err
    assert not trainers(out)
    assert swept(study, out).returncode == 0
    assert_same_study(out, undisturbed)


def test_a_run_that_fails_by_itself_is_said_and_the_others_finish(tmp_path):
    text = STUDY.replace('methods = ["bp", "dgl"]', 'methods = ["bp"]').replace("seeds = [0, 1]", "seeds = [0]").replace("1e-3", "1e30")
    done = swept(written(tmp_path, text.replace("epochs = {epochs}", 'epochs = 2\noptimizer = "sgd"')), tmp_path / "out")
    assert done.returncode == 1
    assert "1 of 2 runs finished" in done.stdout
    assert "gradlens: 1 of 2 runs failed; bp-digits-mlp-s0-" in done.stderr
    assert "the loss became" in done.stderr.splitlines()[-1]


def test_a_ray_worker_killed_in_mid_run(undisturbed, tmp_path):
    pytest.importorskip("ray")
    study, out = written(tmp_path, LONG), tmp_path / "out"
    driver = subprocess.Popen(
        command(study, out, "--address", "local"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_a_run(out)
    tasks = subprocess.run(["pgrep", "-f", "ray::train_point"], capture_output=True, text=True, check=False).stdout.split()
    os.kill(int(tasks[0]), signal.SIGKILL)
    printed, err = driver.communicate(timeout=180)
    assert driver.returncode == 0, err
    assert "2 of 2 runs finished" in printed
    assert_same_study(out, undisturbed)


def test_ray_that_is_not_there(tmp_path):
    pytest.importorskip("ray")
    done = swept(written(tmp_path), tmp_path / "out", "--address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "gradlens: --address 127.0.0.1:1: no Ray cluster can be reached" in done.stderr
