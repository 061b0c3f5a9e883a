"""A run is of its data and not of their path: data moved, renamed, touched and changed, of every kind that a path can name."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gradlens.data.array_file import write_array_file
from gradlens.data.datasets import DATASETS, load
from gradlens.data.split import Split
from gradlens.runtime.errors import InputError, Stopped
from gradlens.tasks.registry import TASKS
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.run_data import data_info, others
from gradlens.training.run_directory import load_run
from gradlens.training.runs.remeasure import measure_run
from gradlens.training.runs.train_run import find_run, train_or_reuse, train_run

SMALL = {"model": "mlp", "width": 4, "batch_size": 8, "epochs": 2, "record_every": 0, "lr": 1e-2}
CLASSES = ("a", "b")
CODE = """
import torch
from pathlib import Path
def build():
    train, test = torch.load(Path(__file__).with_name("images.pt"))
    return train, test, ["a", "b"]
"""


def halves(seed=0, train=16, test=8):
    """Training and test images, grey and random, half of them of each class."""
    rng = torch.Generator().manual_seed(seed)
    return [Split(torch.randint(256, (n, 1, 8, 8), generator=rng).byte(), torch.arange(n) * 2 // n) for n in (train, test)]


def folder_at(where: Path, **what) -> str:
    shutil.rmtree(where, ignore_errors=True)
    for half, split in zip(("train", "test"), halves(**what), strict=True):
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            file = where / half / CLASSES[label] / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(file)
    return str(where)


def arrays_at(where: Path, **what) -> str:
    where.mkdir(parents=True, exist_ok=True)
    write_array_file(where / "images.npz", (*halves(**what), CLASSES))
    return str(where / "images.npz")


def code_at(where: Path, **what) -> str:
    where.mkdir(parents=True, exist_ok=True)
    (where / "mine.py").write_text(f"{CODE}# {what}\n")  # what a file reads is seen by the next process only
    torch.save([(split.images, split.labels) for split in halves(**what)], where / "images.pt")
    return f"{where / 'mine.py'}:build"


KINDS = {"folder": folder_at, "npz": arrays_at, "py": code_at}


@pytest.fixture(params=["folder", "py", pytest.param("npz", marks=pytest.mark.slow)])
def made(request):
    """Makes data of a kind at a place, and gives their name."""
    return KINDS[request.param]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config_of(data, **changes):
    return make_config(**{**SMALL, "data": data, **changes})


def moved(name: str, old: Path, new: Path) -> str:
    """The name of data whose folder has another name now."""
    old.rename(new)
    return name.replace(str(old), str(new))


def interrupted(config, context):
    def watch(event, numbers):
        if event == "step" and numbers["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        train_run(config, context, watch)


def test_moved_data_are_read_measured_and_trained_on_by_the_same_run(made, tmp_path):
    old, new, out = tmp_path / "old", tmp_path / "new place", RunContext(out=tmp_path / "runs")
    name = made(old)
    run, before = train_run(config_of(name), out), load_data(config_of(name), RunContext())
    name = moved(name, old, new)
    with pytest.raises(InputError, match=r"are not there: set --data PATH to where they are now$"):
        run.data()
    for read in (run.data(name), load_run(run.path, data=name).data()):
        assert torch.equal(read.train.images, before.train.images)
        assert torch.equal(read.test.labels, before.test.labels)
    assert measure_run(load_run(run.path, data=name), ("cosine",), RunContext())
    assert find_run(config_of(name), out.out, out).path == run.path
    (again,) = train_or_reuse([config_of(name)], out, lambda config: pytest.fail("trained anew"))
    assert again.path == run.path
    with pytest.raises(InputError, match=f"{run.path} holds a finished run"):
        train_run(config_of(name), out)
    assert [p.name for p in out.out.iterdir()] == [run.path.name]


def test_an_interrupted_run_goes_on_with_moved_data_to_the_same_bits(made, tmp_path):
    old, out = tmp_path / "old", RunContext(out=tmp_path / "runs")
    name = made(old)
    whole = train_run(config_of(name), replace(out, name="whole"))
    shutil.move(whole.path, tmp_path / "elsewhere")
    interrupted(config_of(name), out)
    name = moved(name, old, tmp_path / "new")
    run = train_run(config_of(name), replace(out, resume=True))
    assert [p.name for p in out.out.iterdir()] == [run.path.name]
    assert (run.path / "metrics.csv").read_bytes() == (tmp_path / "elsewhere" / "metrics.csv").read_bytes()
    assert load_run(run.path, data=name).checkpoint()["config_digest"] == run.config.digest()


def test_a_later_time_is_no_other_data(made, tmp_path):
    name, out = made(tmp_path / "old"), RunContext(out=tmp_path / "runs")
    run = train_run(config_of(name), out)
    for file in (tmp_path / "old").rglob("*"):
        os.utime(file, ns=(2 * 10**18, 2 * 10**18))
    assert run.data().fingerprint() == run.info["data_fingerprint"]
    assert train_or_reuse([config_of(name)], out, lambda config: pytest.fail("trained anew"))[0].path == run.path


def test_changed_data_are_refused_wherever_they_lie(made, tmp_path):
    name, out = made(tmp_path / "old"), RunContext(out=tmp_path / "runs")
    run = train_run(config_of(name), out)
    other = made(tmp_path / "other", train=18)
    said = r"are not the ones .* was trained on \(train images in all: 16 then, 18 now\)"
    with pytest.raises(InputError, match=said):
        run.data(other)
    with pytest.raises(InputError, match=said):
        measure_run(load_run(run.path, data=other), ("cosine",), RunContext())
    assert find_run(config_of(other), out.out, out) is None
    made(tmp_path / "old", seed=1)
    with pytest.raises(InputError, match=r"\(as many images with the same labels, but other pixels\)$"):
        run.data()
    with pytest.raises(InputError, match=r"other pixels\); --overwrite trains it anew"):
        train_or_reuse([config_of(name)], out, lambda config: pytest.fail("trained"))
    with pytest.raises(InputError, match="it cannot be resumed"):
        train_run(config_of(name), replace(out, resume=True))


def test_a_relative_path_is_found_from_another_folder_and_on_another_machine(made, tmp_path, monkeypatch):
    made(Path("images"))
    name = made(Path("images"))
    run = train_run(config_of(name), RunContext(out=tmp_path / "runs"))
    assert run.config.data.name == name  # as it was typed: run names depend on it
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert len(run.data().train) == 16
    there = tmp_path / "machine"  # with the same folders below another one
    shutil.copytree(tmp_path / "runs", there / "runs")
    (tmp_path / "images").rename(there / "images")
    monkeypatch.chdir(there)
    assert len(load_run(Path("runs") / run.path.name).data().train) == 16


def test_named_sets_move_with_data_dir(tmp_path, monkeypatch):
    def read(root, download):
        return (*torch.load(root / "set.pt", weights_only=False), CLASSES)

    monkeypatch.setitem(DATASETS, "svhn", DATASETS["svhn"]._replace(load=read))
    for place in ("here", "there", "changed"):
        (tmp_path / place).mkdir()
        torch.save(halves(seed=int(place == "changed")), tmp_path / place / "set.pt")
    run = train_run(config_of("svhn"), RunContext(out=tmp_path / "runs", data_dir=tmp_path / "here"))
    shutil.rmtree(tmp_path / "here")
    assert len(run.data(context=RunContext(data_dir=tmp_path / "there")).test) == 8
    with pytest.raises(InputError, match="other pixels"):
        run.data(context=RunContext(data_dir=tmp_path / "changed"))
    with pytest.raises(InputError, match="svhn, which has no path: set --data-dir to the folder of its files"):
        run.data(tmp_path / "there")


# --------------------------------------------------------------------------------------------------------- fingerprints


def test_the_source_has_a_fingerprint_of_its_own(made, tmp_path):
    name, out = made(tmp_path / "old"), RunContext(out=tmp_path / "runs")
    info = train_run(config_of(name), out).info
    assert info["source_fingerprint"] == info["data_fingerprint"] == load(name).fingerprint()
    some = [train_run(config_of(name, limit=n), out).info for n in (8, 12)]
    assert [i["source_fingerprint"] for i in some] == [info["source_fingerprint"]] * 2
    assert len({i["data_fingerprint"] for i in (info, *some)}) == 3
    assert all(i["source"] == info["source"] for i in some)
    assert info["source"] | {"path": None} == {"path": None, "train": 16, "test": 8, "image": [1, 8, 8], "classes": ["a", "b"]}
    assert info["source"]["path"] == name


def test_of_a_folder_that_was_decoded_in_part_the_source_is_counted_only(tmp_path):
    name = folder_at(tmp_path / "images")
    info = train_run(config_of(name, limit=8, limit_test=1), RunContext(out=tmp_path / "runs", cache=False)).info
    assert "source_fingerprint" not in info
    assert (info["source"]["train"], info["source"]["test"], info["images"]) == (16, 8, {"train": 8, "test": 1})


def test_runs_of_earlier_versions_have_one_fingerprint_and_are_read_all_the_same(tmp_path):
    run = train_run(config_of(arrays_at(tmp_path / "old")), RunContext(out=tmp_path / "runs"))
    content = json.loads((run.path / "config.json").read_text())
    del content["source"], content["source_fingerprint"]
    (run.path / "config.json").write_text(json.dumps(content))
    new = moved(run.config.data.name, tmp_path / "old", tmp_path / "new")
    assert len(load_run(run.path, data=new).data().train) == 16
    with pytest.raises(InputError, match=r"\(train images: 16 then, 18 now\)"):
        load_run(run.path).data(arrays_at(tmp_path / "other", train=18))


def test_the_first_difference_is_named():
    train, test = halves()

    def info(train=train, test=test, classes=CLASSES):
        return data_info("digits", load_of(train, test, classes))

    def load_of(train, test, classes):
        from gradlens.data.subsets import choose

        return choose((train, test, classes))

    then = info()
    wide = [Split(half.images.repeat(1, 3, 1, 1), half.labels) for half in (train, test)]
    assert others(then, info(*wide), TASKS["images"]) == "images of C x H x W: 1x8x8 then, 3x8x8 now"
    assert others(then, info(test=test.take(torch.arange(5))), TASKS["images"]) == "test images in all: 8 then, 5 now"
    assert others(then, info(classes=("a", "b", "c")), TASKS["images"]) == "number of classes: 2 then, 3 now"
    assert others(then, info(classes=("a", "z")), TASKS["images"]) == "class 1: b then, z now"
    turned = Split(train.images, 1 - train.labels)
    assert others(then, info(turned), TASKS["images"]) == "as many images, with other labels or in another order"
    assert (
        others(then, info(Split(255 - train.images, train.labels)), TASKS["images"])
        == "as many images with the same labels, but other pixels"
    )
    drawn = {**then, "data_fingerprint": "0", "images": then["images"]}
    assert others(then, drawn, TASKS["images"]) == "it is the same data set, from which other images were chosen then"


# -------------------------------------------------------------------------------------------------- an edited config.json


def test_an_edited_config_is_noticed(tmp_path, capsys):
    out = RunContext(out=tmp_path / "runs")
    config = make_config(**SMALL, limit=32, limit_test=8)
    interrupted(config, out)
    path = out.path_of(config)
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace('"lr": 0.01', '"lr": 0.02'))
    load_run(path).checkpoint()
    said = f"{path / 'config.json'} was changed after the run began"
    assert said in capsys.readouterr().err
    with pytest.raises(InputError, match=f"{said}.*undo the change, or --overwrite starts over"):
        train_run(config.replace(lr=0.02), replace(out, resume=True, name=path.name))
    (path / "config.json").write_text(text)
    assert train_run(config, replace(out, resume=True)).finished
