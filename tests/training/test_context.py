"""Data as a training gets them: loaded once while the files stay as they are, and anew when they change."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import together

from gradlens.data.datasets import DATASETS, files_state
from gradlens.data.folder_listing import FilesState
from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import ProcessGroup
from gradlens.training import context
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.runs.train_run import prepare, train_run


@pytest.fixture(autouse=True)
def nothing_loaded():
    torch.set_num_threads(1)
    context.clear_data_cache()
    yield
    context.clear_data_cache()


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def folder(root):
    for half in ("train", "test"):
        for i, name in enumerate("ab"):
            for j in range(4):
                picture(root / half / name / f"{j}.png", 60 * i + j)
    return root


def array_file(path, value=0):
    images, labels = np.full((4, 8, 8), value, np.uint8), np.arange(4) % 2
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def changed(root, how):
    if how == "an image replaced":
        picture(root / "train" / "a" / "0.png", 200)
    elif how == "an image replaced by one of the same size":
        file = root / "test" / "b" / "1.png"
        size = file.stat().st_size
        picture(file, 63)
        assert file.stat().st_size == size
    elif how == "an image more":
        picture(root / "train" / "a" / "9.png", 7)
    elif how == "a label":
        (root / "train" / "a" / "0.png").rename(root / "train" / "b" / "zero.png")
    else:
        (root / "test" / "b" / "1.png").unlink()


HOW = ["an image replaced", "an image replaced by one of the same size", "an image more", "a label", "an image less"]


@pytest.mark.parametrize("how", HOW)
def test_images_that_change_are_read_again(tmp_path, how):
    """In a notebook, where no command begins anew."""
    config, context = make_config(data=str(folder(tmp_path))), RunContext()
    first = load_data(config, context)
    assert load_data(config, context) is first
    assert load_data(config.replace(seed=1), context) is first  # nothing is drawn
    for file in tmp_path.rglob("*.png"):  # as the files of a folder are, older than this test: a clock may tick slowly
        os.utime(file, ns=(10**18, 10**18))
    before = load_data(config, context)
    changed(tmp_path, how)
    after = load_data(config, context)
    assert after is not before
    assert after.fingerprint() != before.fingerprint()


def test_an_array_file_and_a_python_file_that_change_are_read_again(tmp_path):
    arrays, code = tmp_path / "images.npz", tmp_path / "images.py"
    array_file(arrays)
    text = (
        "import torch\ndef build():\n    half = torch.full((4, 1, 8, 8), VALUE).byte(), [0, 1, 0, 1]\n    return half, half, ['a', 'b']\n"
    )
    code.write_text(text.replace("VALUE", "3"))
    for name, change in (
        (str(arrays), lambda: array_file(arrays, 9)),
        (f"{code}:build", lambda: code.write_text(text.replace("VALUE", "4"))),
    ):
        config = make_config(data=name)
        first = load_data(config, RunContext())
        assert load_data(config, RunContext()) is first
        change()
        assert not torch.equal(load_data(config, RunContext()).train.images, first.train.images)


def test_named_sets_need_no_look_at_files():
    assert files_state("cifar10") == FilesState("")


def test_a_run_says_of_which_images_it_is_if_they_change_while_it_is_prepared(tmp_path):
    small = {"model": "mlp", "width": 4, "batch_size": 4, "epochs": 1, "record_every": 0}
    config, context = make_config(data=str(folder(tmp_path / "images")), **small), RunContext(out=tmp_path / "runs")
    training = prepare(config, context)
    before = load_data(config, context).fingerprint()
    picture(tmp_path / "images" / "train" / "a" / "0.png", 200)
    run = train_run(config, context, state=training)
    assert run.info["data_fingerprint"] == before != load_data(config, context).fingerprint()


def downloaded(world: ProcessGroup, root: Path) -> list[str]:
    """Two data sets fetched by ranks that share a run, one of them in vain: what was said of it, and by whom what was done."""
    digits = DATASETS["digits"]

    def fetched(root: Path, download: bool):
        if download and not (root / "whole").exists():
            (root / "half").touch(exist_ok=False)
            time.sleep(0.5)
            (root / "half").rename(root / "whole")
            (root / f"by rank {world.rank}").touch()
        return digits.load(root, download)

    def lost(root: Path, download: bool):
        raise InputError("the server does not answer")

    settings = {"width": 4, "limit": 96, "batch_size": 32, "model": "mlp", "ranks": 2, "parallel": "data"}
    here = RunContext(data_dir=root, download=True, ranks=world)
    DATASETS["digits"] = digits._replace(load=fetched)
    prepare(make_config(**settings), here)
    DATASETS["digits"] = digits._replace(load=lost)
    context.clear_data_cache()
    with pytest.raises(InputError) as refused:
        prepare(make_config(**settings), here)
    return [str(refused.value), *sorted(file.name for file in root.iterdir())]


@pytest.mark.torchrun
def test_one_rank_downloads_while_the_others_wait(tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    assert together(2, downloaded, out, root) == [["rank 0: the server does not answer", "by rank 0", "whole"]] * 2


def test_a_context_takes_paths_as_text_and_refuses_what_is_none(tmp_path):
    typed = RunContext(out=str(tmp_path), data_dir="files", device="cpu")
    assert typed == RunContext(out=tmp_path, data_dir=Path("files"), device=torch.device("cpu"))
    for given, said in (({"out": None}, "^out of a RunContext must be a path, got a NoneType"), ({"data_dir": 3}, "^data_dir .*an int")):
        with pytest.raises(InputError, match=said):
            RunContext(**given)
    for given, said in ((({"method": "bp"}, typed), "^train_run.. trains a Config, got a dict"), ((make_config(), "runs"), "got a str")):
        with pytest.raises(InputError, match=said):
            train_run(*given)
    assert list(tmp_path.iterdir()) == []
