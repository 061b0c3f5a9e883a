"""The command line through its real entry points: what a user types, what is printed, the exit status, and what is left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shelf
import torch
from PIL import Image
from tiny_runs import tiny

from gradlens import load
from gradlens.runtime.csv_tables import write_csv

ROOT = Path(__file__).parents[2]
WHOLE = ["--width", "8", "--epochs", "2", "--record-every", "2", "--quiet"]
CRASHES = """
from gradlens import Method, Signal, top_signal

class Mine(Method):
    depends_on = frozenset({"input"})
    def signal(self, k, passes, received):
        return top_signal(self.loss, passes[k]) if k == self.num_blocks - 1 else Signal(passes[k].nothing)
"""
TINY = [*WHOLE[:4], "--limit", "160", "--limit-test", "100", "--batch-size", "32", *WHOLE[4:]]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, few_pixels):
    """Each test runs in an empty folder, on one thread."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    torch.set_num_threads(1)
    return tmp_path


@pytest.fixture
def gradlens(program):
    """Run the program in this process: (exit status, stdout, stderr)."""
    return program


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are written as empty files with their tables: what is drawn is tested elsewhere, and takes seconds."""

    def written(figure, rows, folder, name, *, formats=("png",), **_):
        paths = [Path(folder) / f"{name}.{ending}" for ending in (formats[0], "csv")]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        paths[0].touch()
        write_csv(paths[1], rows)
        return paths

    monkeypatch.setattr("gradlens.reporting.analysis_report.save_figure", written)


@pytest.fixture
def one_figure(undrawn, monkeypatch):
    """Of the figures of training the heat map alone, as an empty file with a table."""
    from gradlens.training.run_groups import label_settings

    def figure_set(runs, layers):
        return SimpleNamespace(drawn={"cosine_heat_map": (None, label_settings(runs))}, skipped={})

    monkeypatch.setattr("gradlens.reporting.gallery.figure_set", figure_set)


def refuses(result, *words):
    """Exit 2, nothing on stdout, one sentence on stderr that holds these words, nothing written."""
    status, out, err = result
    assert (status, out) == (2, ""), err
    assert err.startswith("gradlens: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    assert not list(Path().glob("runs/**/*")), "something was written"


# ------------------------------------------------------------------------------------------------------ entry points


@pytest.mark.parametrize(
    "program",
    [pytest.param(["-m", "gradlens"], id="python -m gradlens"), pytest.param([str(ROOT / "cli.py")], id="cli.py", marks=pytest.mark.slow)],
)
def test_every_way_in_runs_the_same_program(program):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *program, "list", "quantities"], capture_output=True, text=True, env=env, check=True)
    assert "norm_ratio" in done.stdout


@pytest.mark.slow
def test_the_installed_command_is_the_same_program():
    command = shutil.which("gradlens", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("gradlens is not installed in this environment: pip install . puts the command there")
    done = subprocess.run([command, "list", "methods"], capture_output=True, text=True, check=True)
    assert "cdni" in done.stdout


# ----------------------------------------------------------------------------------------------------- the commands


def test_train_leaves_a_run_and_says_where(gradlens):
    status, out, err = gradlens("train", "dgl", *TINY, "--set", "head=linear", "--set", "lr=0.001")
    assert (status, err) == (0, "")
    (run,) = Path("runs").iterdir()
    assert f"run: {run}" in out
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["options"]["head"], config["lr"]) == ("linear", 0.001)
    assert {"config.json", "metrics.csv", "gradients.csv", "timing.csv", "checkpoint.pt", "summary.json"} <= {p.name for p in run.iterdir()}


def test_progress_goes_to_stderr_and_the_table_to_stdout(gradlens):
    status, out, err = gradlens("train", "bp", *TINY[:-1])
    assert status == 0
    assert "epoch 2/2: test" in err
    assert "images/s" in out
    assert "epoch 2/2" not in out


def test_compare_gradients_prints_one_table_draws_and_reuses(gradlens):
    status, out, _ = gradlens("compare-gradients", *TINY)
    assert status == 0
    for word in ("bp", "dgl", "dni", "cdni", "block1", "final cosine", "best test", "cosine_heat_map.png", "next: gradlens report"):
        assert word in out
    (folder,) = Path("comparisons").iterdir()
    assert re.fullmatch("bp-dgl-dni-cdni-digits-[0-9a-f]{6}", folder.name)
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "cosine_over_training", "cosine_heat_map"):
        for kind in ("png", "csv"):
            assert (folder / "figures" / f"{name}.{kind}").stat().st_size > 0
    before = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/checkpoint.pt")}
    assert len(before) == 4
    status, _, err = gradlens("compare-gradients", *TINY)
    assert status == 0
    assert err.count("finished, read from comparisons/bp-") == 4
    run = next(folder.glob("runs/dgl-*"))
    status, again, err = gradlens("compare-gradients", run, "bp", *TINY)
    assert status == 0
    assert f"bp: finished, read from {folder}/runs/bp-" in err
    assert f"run: {run}" in again
    assert not list(Path().glob("comparisons/dgl-bp-*/runs"))
    assert {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/checkpoint.pt")} == before
    following = again.splitlines()[-1].removeprefix("next: gradlens ").split()
    assert gradlens(*following)[0] == 0
    assert Path(following[-1], "report.html").exists()


def test_a_folder_of_its_own_holds_one_comparison_and_grows(gradlens, undrawn):
    asked = ["compare-gradients", "bp", *TINY, "--out", "mine"]
    for _ in range(2):
        assert gradlens(*asked)[0] == 0  # the same again needs no flag
    status, out, err = gradlens("compare-gradients", "dgl", *TINY, "--out", "mine")
    assert (status, out) == (2, "")
    assert "mine holds another comparison (`gradlens compare-gradients bp --width 8" in err
    assert "set another folder with --out, or replace it with --overwrite" in err
    assert len(list(Path("mine/runs").iterdir())) == 1
    assert gradlens("compare-gradients", "bp", "dgl", *TINY, "--out", "mine")[0] == 0
    made = load("mine")
    assert [run.config.method for run in made.runs] == ["bp", "dgl"]
    assert made.command.startswith("gradlens compare-gradients bp dgl")


@pytest.mark.usefixtures("own_code_forgotten")
def test_what_crashes_is_found_before_anything_is_trained_and_what_diverges_is_listed_unranked(gradlens, undrawn):
    Path("mine.py").write_text(CRASHES)
    status, out, err = gradlens("compare-gradients", "dgl", "mine.py:Mine", "bp", "--seeds", "3", *TINY)
    assert (status, out) == (2, "")
    assert "gradlens: the first step of mine on basic-cnn raised: AttributeError: " in err
    refuses((2, "", gradlens("train", "mine.py:Mine", *TINY)[2].splitlines(True)[-1]), "the first step of mine")
    assert not [path for path in Path().iterdir() if path.is_dir()]
    status, out, err = gradlens("compare-gradients", "bp", "dgl", *TINY, "--set", "bp.lr=1e33", "--out", "o")
    assert status == 1
    assert re.search("^method +dgl$|^dgl ", out, re.M)
    assert not re.search("^method.* bp|^bp ", out, re.M)
    assert re.search(r"not finished, so not ranked: bp-digits-\S+ \(0 of 10 updates\)", out)
    assert "gradlens: 1 of 2 runs ended before their time: bp: the loss became nan" in err
    for command in (["report", "o"], ["figures", "o"], ["show", "o"]):
        assert gradlens(*command)[0] == 0
    assert "bp" not in Path("o/figures/cosine_heat_map.csv").read_text()


def test_what_a_comparison_replaces_goes_and_nothing_else(gradlens, one_figure):
    Path("mine").mkdir()
    Path("mine/cat.png").touch()
    asked = ["compare-gradients", *TINY, "--model", "mlp", "--epochs", "0", "--out", "mine"]
    status, out, err = gradlens(*asked, "bp")
    assert (status, out) == (2, "")
    assert "mine holds other things and no comparison (cat.png): set another folder with --out, or put" in err
    status, _, err = gradlens(*asked, "bp", "dgl", "--lr-grid", "0.1,0.2", "--overwrite")
    assert status == 0, err
    shutil.copytree(next(Path("mine/runs").glob("dgl*")), "mine/runs/own")
    shutil.copytree("mine/searches", "mine/other")
    assert gradlens("compare-gradients", next(Path("mine/runs").glob("bp*")), "--out", "beside")[0] == 0
    status, _, err = gradlens(*asked, "dgl", "--overwrite")
    assert status == 0
    assert "removed 1 run and 4 search runs of the comparison that was in mine\n" in err
    assert {path.name.split("-")[0] for path in Path("mine/runs").iterdir()} == {"bp", "dgl", "own"}  # the comparison beside it names bp's
    assert [len(list(Path("mine", name).iterdir())) for name in ("searches", "other")] == [0, 4]
    assert Path("mine/cat.png").exists()


def test_rates_chosen_from_a_grid_are_shown_beside_other_runs(gradlens, one_figure):
    assert gradlens("compare-gradients", "bp", *TINY, "--lr-grid", "0.001,0.0001", "--out", "o")[0] == 0
    other = shutil.copytree(shelf.trained(tiny("dgl")).path, "runs/dgl")
    run = next(Path("o/runs").iterdir())
    for words in (["show", "o", other], ["show", run, other], ["compare-gradients", "o", other]):
        assert re.search(r"^lr +0\.00|^bp +0\.00|^method +lr ", gradlens(*words)[1], re.M), words


def test_a_selection_is_drawn_beside_the_figures_of_all_and_no_format_is_left_stale(gradlens, one_figure):
    for method in ("bp", "dgl"):
        shutil.copytree(shelf.trained(tiny(method)).path, Path("runs", method))
    assert gradlens("compare-gradients", "runs", "--out", "o")[0] == 0
    whole = {path.name: path.read_bytes() for path in Path("o/figures").iterdir()}
    for words, name in ((["--layers", "top.out"], "figures-top.out"), (["--methods", "dgl"], "figures-dgl")):
        assert gradlens("figures", "o", *words, "--format", "svg")[0] == 0
        assert Path("o", name, "cosine_heat_map.svg").exists()
    assert {path.name: path.read_bytes() for path in Path("o/figures").iterdir()} == whole
    assert gradlens("figures", "o", "--methods", "dgl")[0] == 0
    assert gradlens("figures", "o", "--format", "svg")[0] == 0
    assert {path.suffix for path in Path("o/figures").iterdir()} == {".svg", ".csv", ".json"}
    listed = json.loads(Path("o/comparison.json").read_text())["figures"]
    assert "figures/cosine_heat_map.svg" in listed
    assert all(Path("o", path).is_file() for path in listed)


def test_settings_that_differ_from_a_run_that_was_given_are_named(gradlens, undrawn):
    for method, lr, decay in (("bp", 1e-3, 0.0), ("dgl", 0.01, 0.1)):
        shutil.copytree(shelf.trained(tiny(method, lr=lr, weight_decay=decay)).path, Path("runs", method))
    _, out, _ = gradlens("compare-gradients", "runs/bp", "runs/dgl")
    assert "different besides the rule: weight decay 0.0 (bp) or 0.1 (dgl)" in out
    assert re.search("^lr +0.001 +0.01$|^bp +0.001 ", out, re.M)


def test_figures_and_pages_replace_what_shows_the_same_runs_and_nothing_else(gradlens, undrawn):
    for name, seed in (("a", 0), ("b", 1)):
        shutil.copytree(shelf.trained(tiny("bp", seed=seed)).path, Path("runs", name))
    for command in (["figures", "runs/a", "--out", "drawn"], ["report", "runs/a", "-o", "page.html"]) * 2:
        assert gradlens(*command)[0] == 0
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    for command, word in (
        (["figures", "runs/b", "--out", "drawn"], "drawn holds figures of other runs (../runs/a)"),
        (["filters", "runs", "--out", "drawn"], "drawn holds figures of other runs"),
        (["figures", "runs/a", "--out", "other"], "other holds what gradlens did not draw (notes.txt)"),
        (["report", "runs", "-o", "page.html"], "page.html is a page of other runs"),
        (["report", "runs/a", "-o", "other/notes.txt"], "other/notes.txt exists"),
        (["compare-gradients", "runs/a", "--figures", "other"], "--figures names another folder"),
    ):
        status, out, err = gradlens(*command)
        assert (status, out) == (2, ""), command
        assert word in err
        assert "--overwrite" in err
    assert gradlens("figures", "runs/b", "--out", "drawn", "--overwrite")[0] == 0
    status, out, err = gradlens("figures", "runs")  # a folder of their own
    assert "runs holds 2 runs: a, b" in err
    assert re.search(r"open figures/bp-digits-[0-9a-f]{6}/cosine_heat_map.png", out)


@pytest.mark.slow
def test_seeds_give_intervals(gradlens):
    status, out, _ = gradlens("compare-gradients", "bp", "dgl", *TINY, "--seeds", "3")
    assert status == 0
    assert "±" in out
    assert len(list(Path().glob("comparisons/*/runs/dgl-*-s[012]-*"))) == 3


def test_resume_with_seeds_goes_on_with_those_there_are_and_begins_the_rest(gradlens):
    assert gradlens("train", "bp", *TINY, "--seed", "1")[0] == 0
    status, out, err = gradlens("train", "bp", *TINY, "--seeds", "2", "--resume")
    assert (status, err) == (0, "")
    assert "finished before, nothing was trained: runs/bp-" in out
    assert len(list(Path("runs").iterdir())) == 2


@pytest.mark.slow
def test_lr_grid_picks_on_held_out_training_images(gradlens):
    status, out, _ = gradlens("compare-gradients", "bp", *WHOLE, "--lr-grid", "1e-9,1e-3", "--out", "o")
    assert status == 0
    assert "bp: lr 0.001 of 1e-09, 0.001" in out
    assert "it is the largest: add 1000,1e+09 to --lr-grid" in out
    assert re.search(r"^lr +0\.001$|^bp +0\.001 ", out, re.M)
    assert len(list(Path("o/runs").iterdir())) == 1
    assert len(load("o").search_paths) == 2
    assert gradlens("show", "o/comparison.json")[0] == 0


@pytest.mark.slow
def test_a_methods_own_option_goes_to_that_method(gradlens):
    status, _, _ = gradlens("compare-gradients", "bp", "dgl", *TINY, "--set", "dgl.lr=0.01", "--set", "head=linear")
    assert status == 0
    rates = {
        p.name.split("-")[0]: json.loads((p / "config.json").read_text())["config"]["lr"] for p in Path().glob("comparisons/*/runs/*-s0-*")
    }
    assert rates == {"bp": 3e-4, "dgl": 0.01}


def test_a_config_file_and_a_runs_config_give_the_same_run(gradlens):
    Path("c.json").write_text(json.dumps({"method": "dni", "width": 8, "epochs": 1, "options": {"target": "mean"}}))
    assert gradlens("train", "--config", "c.json", "--quiet")[0] == 0
    (first,) = Path("runs").iterdir()
    assert gradlens("train", "--config", first / "config.json", "--out", "again", "--quiet")[0] == 0
    assert (Path("again") / first.name / "metrics.csv").read_bytes() == (first / "metrics.csv").read_bytes()
    assert gradlens("train", "--config", "c.json", "--epochs", "2", "--out", "more", "--quiet")[0] == 0
    assert next(Path("more").iterdir()).name != first.name


def test_shipped_configs_are_accepted(monkeypatch, gradlens):
    for file in sorted((ROOT / "analyses" / "configs").glob("*.json")):
        status, _, err = gradlens("train", "--config", file, "--data-dir", "nowhere")
        assert status == 2
        settings = json.loads(file.read_text())
        if settings["method"] == "distil":  # everything but a run to begin from was there
            assert "distil needs --teacher RUN" in err
        elif settings.get("keep_head"):
            assert "it needs --init-from RUN" in err
        elif settings.get("task", "images") != "images":
            assert any(words in err for words in ("does not exist", "there is no such file", "unknown scene"))
        else:
            assert "--download" in err  # everything but the images was there


def test_show_measure_and_figures(gradlens):
    gradlens("train", "bp", *TINY, "--keep-checkpoints", "2")
    (run,) = Path("runs").iterdir()
    status, out, _ = gradlens("measure", run, "--quantity", "projection")
    assert status == 0
    assert "2 steps" in out
    status, out, _ = gradlens("show", run)
    assert status == 0
    assert "finished" in out
    assert "measured.csv" in out
    status, out, _ = gradlens("figures", run, "--out", "drawn", "--format", "svg,pdf", "--layers", "block1*")
    assert status == 0
    assert {p.suffix for p in Path("drawn").iterdir()} == {".svg", ".pdf", ".csv", ".json"}
    assert "open drawn/cosine_heat_map.svg" in out


@pytest.mark.parametrize("what", ["methods", "models", "data", "quantities"])
def test_lists(gradlens, what):
    status, out, _ = gradlens("list", what)
    assert status == 0
    assert len(out.splitlines()) > 4


def test_bench_prints_and_writes_json(gradlens):
    status, out, _ = gradlens("bench", "bp", "dgl", "--width", "4", "--batch-size", "16", "--rounds", "1", "--json", "b.json")
    assert status == 0
    assert "plain" in out
    content = json.loads(Path("b.json").read_text())
    keys = {"method", "record_every", "images_per_s", "time_ratio", "memory_mb", "memory_ratio", "flop_ratio"}
    assert content["model"] == "basic-cnn"
    assert all(keys <= set(row) for row in content["rows"])
    assert {(r["method"], r["record_every"]) for r in content["rows"]} >= {(m, n) for m in ("bp", "dgl") for n in (0, 1, 4, 16, 64)}


def test_epochs_0_is_the_untrained_control(gradlens):
    status, out, _ = gradlens("train", "bp", "--width", "8", "--epochs", "0", "--quiet")
    assert status == 0
    (row,) = [line.split() for line in out.splitlines() if line.startswith("bp ")]
    assert row[2] == "0"  # the best epoch


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "dlg"], ["unknown method 'dlg'", "dgl, "]),
        (["train"], ["which method?"]),
        (["compare-gradients", "bp", "dlg"], ["unknown method 'dlg'", "dgl, "]),
        (["train", "bp", "--model", "vgg61"], ["unknown model", "vgg16, "]),
        (["train", "bp", "--data", "digit"], ["unknown data set", "digits, "]),
        (["train", "bp", "--epoch", "3"], ["no such option --epoch", "--epochs"]),
        (["trian", "bp"], ["trian"]),
        (["train", "dgl", "--set", "hed=mlp"], ["unknown option of dgl 'hed'", "head, "]),
        (["train", "dgl", "--set", "head=mpl"], ["head: unknown value 'mpl'", "mlp, "]),
        (["train", "dgl", "--set", "head"], ["name=value"]),
        (["train", "bp", "--set", "dgl.head=mlp"], ["dgl is not among the methods"]),
        (["train", "bp", "--set", "gdl.head=mlp"], ["unknown method 'gdl'"]),
        (["train", "bp", "--loss", "cee"], ["unknown loss", "ce, "]),
        (["train", "bp", "--activation", "rellu"], ["unknown activation", "relu, "]),
        (["train", "bp", "--normalize", "x"], ["unknown normalize"]),
        (["train", "bp", "--optimizer", "adm"], ["unknown optimizer", "adam, "]),
        (["train", "bp", "--stem", "4"], ["--stem"]),
        (["train", "bp", "--limit", "0"], ["--limit"]),
        (["train", "bp", "--limit", "100000"], ["--limit 100000", "1433"]),
        (["train", "bp", "--epochs", "-1"], ["--epochs"]),
        (["train", "bp", "--epochs", "three"], ["--epochs"]),
        (["train", "bp", "--lr", "-1"], ["--lr"]),
        (["train", "bp", "--lr", "nan"], ["--lr"]),
        (["train", "bp", "--label-noise", "1.5"], ["--label-noise"]),
        (["train", "bp", "--batch-size", "5000"], ["--batch-size 5000", "1433"]),
        (["train", "bp", "--batch-size", "1"], ["--batch-size 1", "batch statistics"]),
        (["train", "bp", "--model", "vgg16"], ["at least 32x32", "8x8"]),
        (["train", "bp", "--depth", "4"], ["at least 16x16"]),
        (["train", "bp", "--model", "mlp", "--stem", "3"], ["mlp has no convolution"]),
        (["train", "dgl", "--model", "mlp", "--set", "head=cnn"], ["[C, H, W]"]),
        (["train", "dgl-async", "--set", "buffer=0"], ["buffer", "greater than or equal to 1", "got 0"]),
        (["train", "overlap", "--set", "window=9"], ["window", "9", "3"]),
        (["train", "chunked", "--set", "chunks=2"], ["chunks=2", "[2,1]"]),
        (["train", "greedy", "--epochs", "2"], ["3 stages", "--epochs 2"]),
        (["train", "dfa", "--set", "skip=exact"], ["skip=exact", "residual"]),
        (["train", "fa", "--compile"], ["--compile", "fa"]),
        (["list", "models", "--long"], ["--long", "models"]),
        (["train", "bp", "--momentum", "0.9"], ["adam"]),
        (["train", "bp", "--nesterov", "--optimizer", "sgd"], ["--momentum"]),
        (["train", "bp", "--data", "cifar10", "--data-dir", "nowhere"], ["--download", "nowhere"]),
        (["train", "bp", "--data", "no/such/folder"], ["does not exist"]),
        (["train", "bp", "--resume"], ["nothing to resume"]),
        (["train", "bp", "--resume", "--overwrite"], ["give one of them"]),
        (["compare-gradients", "runs/typo"], ["runs/typo does not exist"]),
        (["compare-gradients", "--figures", "/dev/null/x"], ["cannot write /dev/null/x"]),
        (["bench", "--json", "/dev/null/x"], ["cannot write /dev/null/x"]),
        (["train", "bp", "--init-from", "nowhere"], ["nowhere does not exist"]),
        (["train", "bp", "--config", "nowhere.json"], ["nowhere.json"]),
        (["train", "bp", "--seeds", "0"], ["--seeds"]),
        (["train", "bp", "--seeds", "2", "--run-name", "x"], ["--run-name"]),
        (["train", "bp", "--run-name", "../x"], ["--run-name"]),
        (["train", "bp", "--threads", "0"], ["--threads"]),
        (["train", "bp", "--device", "gpu"], ["unknown device", "cuda"]),
        (["train", "bp", "--precision", "fp8"], ["unknown precision", "fp32"]),
        (["compare-gradients", "--lr-grid", "a,b"], ["--lr-grid"]),
        (["compare-gradients", "--run-name", "x"], ["--out"]),
        (["show", "nowhere"], ["nowhere does not exist"]),
        (["measure", "nowhere", "--quantity", "cosine"], ["nowhere does not exist"]),
        (["figures", "nowhere"], ["nowhere does not exist"]),
        (["list", "method"], ["unknown list", "methods, "]),
        (["bench", "dlg"], ["unknown method"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in ("train", "compare-gradients", "show", "bench") else None,
)
def test_bad_input_is_one_sentence_and_exit_2(gradlens, arguments, words):
    refuses(gradlens(*arguments), *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_cuda_where_there_is_none(gradlens):
    refuses(gradlens("train", "bp", "--device", "cuda"), "no cuda device")


def images(root: Path, half: str, classes: str, size=(8, 8)):
    for c in classes:
        (root / half / c).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            Image.fromarray(np.full((*size, 3), 20 * i, np.uint8)).save(root / half / c / f"{i}.png")


def test_image_folders_that_cannot_be_used(gradlens):
    root = Path("pictures")
    root.mkdir()
    refuses(gradlens("train", "bp", "--data", root), "no train/")
    images(root, "train", "ab")
    images(root, "test", "a")
    refuses(gradlens("train", "bp", "--data", root), "b missing from test")
    (root / "test" / "b").mkdir()
    refuses(gradlens("train", "bp", "--data", root), "b")
    images(root, "test", "b", size=(9, 8))
    refuses(gradlens("train", "bp", "--data", root), "different sizes", "8x8", "9x8")
    images(root, "test", "b")
    (root / "train" / "a" / "broken.png").write_bytes(b"no image")
    refuses(gradlens("train", "bp", "--data", root), "broken.png")
    (root / "train" / "a" / "broken.png").unlink()
    assert gradlens("train", "bp", "--data", root, "--batch-size", "4", *WHOLE)[0] == 0


def test_what_is_passed_over_is_reported_once_and_stored(gradlens):
    root = Path("pictures")
    for half in ("train", "test"):
        images(root, half, "ab")
    (root / "train" / "a" / "._0.png").write_bytes(b"Mac OS X")
    (root / "train" / "a" / "1.jfif").write_bytes(b"")
    status, out, err = gradlens("train", "bp", "--data", root, "--batch-size", "4", *WHOLE)
    assert status == 0
    said = f"gradlens: {root.absolute()}: passed over 1 .jfif, 1 hidden"
    assert err.splitlines().count(said) == 1
    assert "passed over" not in out
    (run,) = Path("runs").glob("bp-*")
    assert json.loads((run / "config.json").read_text())["passed_over"] == {".jfif": 1, "hidden": 1}
    assert "passed over" not in gradlens("measure", run, "--quantity", "cosine")[2]  # the same process has said it


def test_one_class_is_refused_where_labels_are_learned_and_only_there(gradlens):
    root = Path("pictures")
    for half in ("train", "test"):
        images(root, half, "a")
    flags = ["--data", root, "--batch-size", "4", *WHOLE]
    refuses(gradlens("train", "bp", *flags), "one class only (a)", "bp needs two or more")
    assert not Path("runs").exists()
    assert gradlens("train", "simclr", *flags)[0] == 0


def test_no_cache_keeps_nothing(gradlens, monkeypatch):
    monkeypatch.setenv("GRADLENS_CACHE", str(Path("cache").absolute()))
    root = Path("pictures")
    for half in ("train", "test"):
        images(root, half, "ab")
    flags = ["--data", root, "--batch-size", "4", *WHOLE]
    assert gradlens("train", "bp", *flags, "--run-name", "anew", "--no-cache")[0] == 0
    assert not Path("cache").exists()
    assert gradlens("train", "bp", *flags, "--run-name", "kept")[0] == 0
    assert [p.suffix for p in Path("cache/images").iterdir()] == [".pt"]
    first, second = (json.loads((Path("runs") / name / "config.json").read_text()) for name in ("anew", "kept"))
    assert first["data_fingerprint"] == second["data_fingerprint"]
    assert first["config"] == second["config"]


@pytest.mark.parametrize("quiet", [True, False])
def test_long_reading_is_shown_unless_it_is_to_be_quiet(gradlens, monkeypatch, quiet):
    monkeypatch.setattr("gradlens.runtime.progress.MOMENT", 0.0)
    root = Path("pictures")
    for half in ("train", "test"):
        images(root, half, "ab")
    arguments = [a for a in WHOLE if a != "--quiet"] + ["--quiet"] * quiet
    status, _, err = gradlens("train", "bp", "--data", root, "--batch-size", "4", *arguments)
    assert status == 0
    assert (f"gradlens: reading {root.absolute()}: 16 of 16 images" in err) == (not quiet)


def test_a_run_is_not_overwritten_and_a_differing_config_is_named(gradlens):
    assert gradlens("train", "bp", *TINY, "--run-name", "mine")[0] == 0
    before = {p: p.read_bytes() for p in Path("runs/mine").iterdir()}
    status, _, err = gradlens("train", "bp", *TINY, "--run-name", "mine")
    assert status == 2
    assert "finished run" in err
    assert "--overwrite" in err
    status, _, err = gradlens("train", "bp", *TINY, "--run-name", "mine", "--resume", "--lr", "0.1")
    assert status == 2
    assert "lr 0.0003 there, 0.1 here" in err
    assert {p: p.read_bytes() for p in Path("runs/mine").iterdir()} == before
    status, _, err = gradlens("train", "bp", *TINY, "--resume", "--lr", "0.1")
    assert status == 2
    assert "nothing to resume" in err
    assert "lr 0.0003 there, 0.1 here" in err
    assert gradlens("train", "bp", *TINY, "--run-name", "mine", "--overwrite")[0] == 0


def test_damaged_run_directories(gradlens):
    gradlens("train", "bp", *TINY, "--run-name", "mine")
    run = Path("runs/mine")
    whole = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    status, _, err = gradlens("measure", run, "--quantity", "cosine")
    assert status == 2
    assert "truncated" in err
    torch.save({"weights": torch.ones(2)}, run / "checkpoint.pt")
    status, _, err = gradlens("measure", run, "--quantity", "cosine")
    assert status == 2
    assert "not a checkpoint of gradlens" in err
    (run / "config.json").write_text("{}}")
    status, _, err = gradlens("show", run)
    assert status == 2
    assert "config.json" in err
    assert "Traceback" not in err


def test_what_goes_on_with_an_overwritten_run_is_not_overwriting_it_again(monkeypatch):
    from gradlens.cli.main import _again

    monkeypatch.setattr(sys, "argv", ["gradlens", "train", "bp", "--overwrite", "--out", "my runs"])
    assert _again() == "gradlens train bp --out 'my runs' --resume"


def test_a_foreign_checkpoint_a_damaged_summary_and_options_that_are_none(gradlens):
    gradlens("train", "bp", *TINY, "--run-name", "mine")
    gradlens("train", "bp", *TINY[2:], "--width", "4", "--run-name", "other")
    shutil.copy("runs/other/checkpoint.pt", "runs/mine/checkpoint.pt")
    status, _, err = gradlens("measure", "runs/mine", "--quantity", "cosine", "--quiet")
    assert status == 2
    assert "do not fit this model" in err
    Path("runs/mine/summary.json").write_text("{}}")
    status, _, err = gradlens("show", "runs/mine")
    assert status == 2
    assert "summary.json" in err
    Path("c.json").write_text('{"method": "bp", "options": [1]}')
    status, _, err = gradlens("train", "--config", "c.json")
    assert status == 2
    assert "options" in err


@pytest.mark.slow
def test_the_same_run_named_twice_is_compared_once(gradlens):
    status, _, _ = gradlens("compare-gradients", "bp", "bp", *TINY)
    assert status == 0
    (run,) = Path().glob("comparisons/*/runs/bp-*")
    assert gradlens("compare-gradients", run, "bp", *TINY)[0] == 0


@pytest.mark.slow
def test_images_that_changed_since_a_run_are_noticed(gradlens):
    root = Path("pictures")
    for half in ("train", "test"):
        images(root, half, "ab")
    assert gradlens("compare-gradients", "bp", "--data", root, "--batch-size", "4", *WHOLE)[0] == 0
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(root / "train" / "a" / "0.png")
    status, _, err = gradlens("compare-gradients", "bp", "--data", root, "--batch-size", "4", *WHOLE)
    assert status == 2
    assert "not the ones" in err


def test_an_output_folder_that_cannot_be_written(gradlens):
    Path("file").write_text("")
    status, out, err = gradlens("train", "bp", *TINY, "--out", "file/runs")
    assert (status, out) == (2, "")
    assert "cannot write to file/runs" in err
    if os.geteuid() != 0:  # root may write anywhere
        Path("locked").mkdir(mode=0o500)
        status, _, err = gradlens("train", "bp", *TINY, "--out", "locked")
        assert status == 2
        assert "cannot write to locked" in err
    gradlens("train", "bp", *TINY)
    status, _, err = gradlens("figures", next(Path("runs").iterdir()), "--out", "file/drawn")
    assert status == 2
    assert "cannot write" in err


def test_the_folder_of_figures_among_runs_is_no_mistake(gradlens):
    gradlens("train", "bp", *TINY)
    Path("runs/figures").mkdir()
    found = sorted(Path("runs").iterdir())
    assert Path("runs/figures") in found
    status, _, err = gradlens("doctor", *found)
    assert status in (0, 1), err
    status, _, err = gradlens("doctor", "runs/figures")
    assert status == 2
    assert "is not a run directory" in err
