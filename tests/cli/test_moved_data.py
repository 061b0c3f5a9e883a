"""Commands on runs whose images have moved, defaults that do not fit small data, and what is said of runs that are there already."""

import json
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradlens.runtime.terminal import notice
from gradlens.training import loop

MLP = ("--model", "mlp", "--width", "4", "--record-every", "0", "--quiet")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, few_pixels):
    """Each test runs in an empty folder whose name has a blank, on one thread."""
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    torch.set_num_threads(1)
    notice.cache_clear()  # a process says a line once


@pytest.fixture
def gradlens(program):
    """Run the program in this process: (exit status, stdout, stderr)."""
    return program


def birds(root="my birds", seed=0, train=12):
    """An image folder of two classes, random grey 8x8 images."""
    rng = np.random.default_rng(seed)
    for half, n in (("train", train), ("test", 12)):
        for c in "ab":
            folder = Path(root) / half / c
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(folder / f"{i:02}.png")
    return root


def one_run(pattern="*"):
    (found,) = [path.parent for path in Path("runs").glob(f"{pattern}/config.json")]
    return found


def config_of(run):
    return json.loads((run / "config.json").read_text())["config"]


# ------------------------------------------------------------------------------------------------------------ moved data


READERS = {
    "measure": ("--quantity", "cosine"),
    "doctor": (),
    "filters": (),
    "probe": ("--no-controls", "--separability", "0"),
    "representations": ("--images", "12", "--information-steps", "0"),
    "inpaint": ("--images", "2"),
    "memorize": (),
}
CHEAP = ("measure",)


@pytest.mark.parametrize("command", [c if c in CHEAP else pytest.param(c, marks=pytest.mark.slow) for c in READERS])
def test_every_command_that_reads_images_again_finds_them_where_they_are_now(gradlens, command):
    rule = {"inpaint": "context-encoder", "memorize": "bp"}.get(command, "dgl")
    noise = ("--label-noise", "0.5", "--evaluate-train") if command == "memorize" else ()
    flags = ("--width", "4", "--depth", "2", "--epochs", "1", "--record-every", "0", *noise, "--quiet")
    assert gradlens("train", rule, "--data", birds(), *flags)[0] == 0
    run = one_run()
    Path("my birds").rename("elsewhere")
    status, _, err = gradlens(command, run, *READERS[command])
    if command != "doctor":  # which makes its other checks without images
        assert status == 2
        assert "my birds, the data of" in err
        assert "are not there: set --data PATH to where they are now" in err
    birds("other", train=14)
    status, out, err = gradlens(command, run, *READERS[command], "--data", "other")
    assert "train images in all: 24 then, 28 now" in out + err
    assert status == 2 or command == "doctor"
    status, out, err = gradlens(command, run, *READERS[command], "--data", "elsewhere")
    assert status == 0 or command == "doctor", err
    assert "not there" not in out + err


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("cifar10", "--data cifar10: a named data set has no path that changes; set --data-dir to the folder of its files"),
        ("nowhere/birds", "nowhere/birds does not exist"),
        ("gone.npz", "--data gone.npz: there is no such file"),
        ("gone.py:build", "--data gone.py:build: there is no such file"),
    ],
)
def test_a_place_that_is_none_is_refused_at_once(gradlens, place, said):
    Path("runs/r").mkdir(parents=True)
    Path("runs/r/config.json").write_text("{}")
    status, _, err = gradlens("probe", "runs/r", "--data", place)
    assert status == 2
    assert said in err


def test_a_run_copied_to_another_machine_goes_on_there(gradlens, monkeypatch):
    """Stopped within its first epoch, copied, its folder under another name: shown, and trained to the end in the same directory."""
    flags = ("--batch-size", "8", "--epochs", "2", *MLP)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "make_update", interrupted_at(2))
        status, _, err = gradlens("train", "bp", "--data", birds(), *flags)
    assert status == 130
    assert shlex.split(err.split("`")[1]) == ["gradlens", "train", "bp", "--data", "my birds", *flags, "--resume"]
    assert "unfinished, 0 of 2 epochs, 2 updates" in gradlens("show", one_run())[1]
    there = Path("machine 2").absolute()
    shutil.copytree("runs", there / "runs")
    Path("my birds").rename(there / "pictures")
    monkeypatch.chdir(there)
    status, _, err = gradlens("train", "bp", "--data", "pictures", *flags)
    assert status == 2
    assert "holds an unfinished run: --resume continues it" in err
    status, out, err = gradlens("train", "bp", "--data", "pictures", *flags, "--resume")
    assert status == 0, err
    assert f"run: {one_run()}" in out
    assert "finished, 2 of 2 epochs, 6 updates" in gradlens("show", one_run())[1]


def interrupted_at(step):
    """The making of updates, with Ctrl-C within one of them."""
    made = loop.make_update

    def make_update(state, at, *rest):
        if at == step - 1:
            signal.raise_signal(signal.SIGINT)
        return made(state, at, *rest)

    return make_update


# -------------------------------------------------------------------------------------------------------- what is advised


def test_ctrl_c_while_images_are_read_advises_a_command_that_works(gradlens, monkeypatch):
    from gradlens.data import image_folder

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(image_folder, "_decoded", stopped)
        status, _, err = gradlens("train", "bp", "--data", birds(), "--epochs", "1", *MLP)
    assert status == 130
    program, *words = shlex.split(err.split("`")[1])
    assert (program, words[:4]) == ("gradlens", ["train", "bp", "--data", "my birds"])
    status, _, err = gradlens(*words)
    assert status == 0, err


@pytest.mark.slow
def test_what_is_advised_after_training_quotes_blanks(gradlens):
    status, out, _ = gradlens("train", "bp", "--limit", "40", "--out", "my runs", "--epochs", "1", *MLP)
    assert status == 0
    program, *words = shlex.split(out.split("next: ")[1])
    assert (program, words[0]) == ("gradlens", "figures")
    assert gradlens(*words)[0] == 0
    status, _, err = gradlens("train", "bp", "--limit", "40", "--out", "my runs", "--epochs", "1", *MLP)
    assert status == 2
    assert "holds a finished run: --overwrite starts over" in err


def test_a_finished_run_that_is_requested_again_says_so(gradlens):
    flags = ("--limit", "40", "--epochs", "1", *MLP)
    assert "finished before" not in gradlens("train", "bp", *flags)[1]
    status, out, _ = gradlens("train", "bp", *flags, "--resume")
    assert status == 0
    assert f"finished before, nothing was trained: {one_run()} (--overwrite trains anew)" in out
    assert "finished before" not in gradlens("train", "bp", *flags, "--overwrite")[1]
    status, out, _ = gradlens("train", "bp", *flags, "--seeds", "2")
    assert status == 0
    assert f"finished before, nothing was trained: {one_run('*-s0-*')} (--overwrite" in out


def test_an_edited_config_is_reported(gradlens):
    gradlens("train", "bp", "--limit", "40", "--epochs", "1", *MLP)
    assert "was changed after" not in gradlens("show", one_run())[1]
    file = one_run() / "config.json"
    file.write_text(file.read_text().replace('"lr": 0.0003', '"lr": 0.1'))
    assert f"{file} was changed after the run began" in gradlens("show", one_run())[1]


# --------------------------------------------------------------------------------------------------- batches of small data


@pytest.mark.parametrize(
    ("flags", "batch"),
    [
        (("bp", "--limit", "40"), 40),
        pytest.param(("bp", "--limit", "300"), 256, marks=pytest.mark.slow),
        pytest.param(("bp", "--limit", "50", "--validation", "0.2"), 40, marks=pytest.mark.slow),
        pytest.param(("bp", "--limit", "100", "--labels", "0.5"), None, marks=pytest.mark.slow),  # half of each class: rounded by class
        (("simclr", "--data", "my birds", "--labels", "0.5"), 24),  # a rule without labels learns from all
        (("dgl", "--data", "my birds"), 24),
    ],
)
def test_a_default_batch_is_no_larger_than_the_images(gradlens, flags, batch):
    birds()
    status, _, err = gradlens("train", *flags, "--epochs", "1", *MLP)
    assert status == 0, err
    used = config_of(one_run())["batch_size"]
    assert used == batch or (batch is None and 40 < used < 60)
    said = f"{'simclr has' if flags[0] == 'simclr' else 'there are'} {used} images to learn from: --batch-size {used} in place of 256"
    assert (said in err) == (used != 256)


def test_an_explicit_batch_above_the_images_is_refused(gradlens):
    status, _, err = gradlens("train", "bp", "--limit", "40", "--batch-size", "41", "--epochs", "1", *MLP)
    assert status == 2
    assert err == "gradlens: --batch-size 41 is larger than the 40 training images there are\n"
    Path("c.json").write_text('{"method": "bp", "limit": 40, "batch_size": 41}')
    assert "--batch-size 41 is larger" in gradlens("train", "--config", "c.json", *MLP)[2]
    assert not Path("runs").exists()


@pytest.mark.slow
def test_learning_rates_are_chosen_with_batches_of_what_is_not_held_out(gradlens):
    flags = ("--limit", "40", "--epochs", "1", "--lr-grid", "1e-3,1e-2", *MLP)
    status, _, err = gradlens("compare-gradients", "bp", "dgl", *flags)
    assert status == 0, err
    assert err.count("--batch-size") == 1  # not of each method and search
    configs = [config_of(path.parent) for path in Path("comparisons").glob("*/*/*/config.json")]
    batches = {config["validation"] > 0: config["batch_size"] for config in configs}
    assert batches[False] == 40
    assert batches[True] < 40


def test_steps_in_no_epoch_are_refused(gradlens):
    for words in (("--epochs", "0", "--steps", "3"), ("--config", "c.json")):
        Path("c.json").write_text('{"method": "bp", "epochs": 0, "steps": 3, "batch_size": 8, "limit": 40}')
        status, _, err = gradlens("train", "bp", *words)
        assert status == 2
        assert "--steps 3 with --epochs 0: the untrained control makes no updates" in err
    assert gradlens("train", "bp", "--epochs", "0", "--steps", "0", "--limit", "40", *MLP)[0] == 0


@pytest.mark.parametrize("task", ["graphs", "links"])
def test_a_graph_in_a_file_is_found_from_another_folder(gradlens, monkeypatch, task):
    rng = np.random.default_rng(0)
    edges, nodes = rng.integers(0, 40, (160, 2)), np.arange(40)
    features = rng.random((40, 5), np.float32)
    np.savez("graph.npz", features=features, edges=edges, y=nodes % 2, train=nodes[:20], val=nodes[20:30], test=nodes[30:])
    flags = ("--task", task, "--data", "graph.npz", "--width", "4", "--epochs", "1", "--quiet")
    assert gradlens("train", "bp", *flags)[0] == 0
    run = str(Path(one_run()).absolute())
    Path("other").mkdir()
    monkeypatch.chdir("other")
    assert gradlens("measure", run, "--quantity", "cosine")[0] == 0
