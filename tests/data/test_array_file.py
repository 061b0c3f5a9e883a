"""Data sets as one .npz file: what is read is what was meant, what is wrong is named."""

import numpy as np
import pytest
import torch

from gradlens.data.array_file import read_array_file, write_array_file
from gradlens.data.datasets import read
from gradlens.data.image_folder import ImageFolder
from gradlens.runtime.errors import InputError
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run

RNG = np.random.default_rng(0)


def arrays(n=6, m=4, shape=(8, 8, 3), **changes):
    found = {
        "train_images": RNG.integers(0, 256, (n, *shape), dtype=np.uint8),
        "train_labels": np.arange(n) % 3,
        "test_images": RNG.integers(0, 256, (m, *shape), dtype=np.uint8),
        "test_labels": np.arange(m) % 3,
    }
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def saved(tmp_path, **content):
    path = tmp_path / "images.npz"
    np.savez(path, **content)
    return path


@pytest.mark.parametrize(("shape", "order"), [((8, 8, 3), (2, 0, 1)), ((3, 8, 8), (0, 1, 2)), ((8, 8, 1), (2, 0, 1)), ((8, 8), None)])
def test_images_in_any_usual_order(tmp_path, shape, order):
    content = arrays(shape=shape)
    train, test, classes = read(str(saved(tmp_path, **content)))
    wanted = content["train_images"][:, None] if order is None else content["train_images"].transpose(0, *(i + 1 for i in order))
    assert torch.equal(train.images, torch.from_numpy(np.ascontiguousarray(wanted)))
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert test.images.dtype == torch.uint8
    assert classes == ("0", "1", "2")


@pytest.mark.parametrize("shape", [(3, 8, 3), (1, 8, 1), (3, 8, 1), (1, 8, 3), (3, 3, 3)])
def test_an_order_that_nobody_can_guess_is_requested(tmp_path, shape):
    content = arrays(shape=shape)
    with pytest.raises(InputError, match=r"train_images of shape .* can be read in two ways: add an array layout='NCHW' or layout='NHWC'"):
        read_array_file(saved(tmp_path, **content))
    first = read_array_file(saved(tmp_path, **content, layout="NCHW"))[0].images
    last = read_array_file(saved(tmp_path, **content, layout="NHWC"))[0].images
    assert torch.equal(first, torch.from_numpy(content["train_images"]))
    assert torch.equal(last, torch.from_numpy(content["train_images"]).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [("HWCN", (3, 8, 8), "layout is 'HWCN'; wanted NCHW or NHWC"), ("NHWC", (3, 8, 8), r"1 or 3 channels, got the shape .* as NHWC")],
)
def test_an_order_that_cannot_be(tmp_path, layout, shape, words):
    with pytest.raises(InputError, match=words):
        read_array_file(saved(tmp_path, **arrays(shape=shape), layout=layout))


@pytest.mark.parametrize("shape", [(3, 8, 3), (1, 1, 8), (1, 8, 1)])
def test_what_is_written_is_read_whatever_its_shape(tmp_path, shape):
    source = read_array_file(saved(tmp_path, **arrays(shape=shape), layout="NCHW"))
    write_array_file(tmp_path / "again.npz", source)
    assert torch.equal(read_array_file(tmp_path / "again.npz")[0].images, source[0].images)


def test_written_and_read_again(tmp_path):
    path = saved(tmp_path, **arrays(), classes=np.array(["ant", "bee", "fly"]))
    source = read_array_file(path)
    write_array_file(tmp_path / "again.npz", source, note="mine")
    again = read_array_file(tmp_path / "again.npz")
    for half in range(2):
        assert torch.equal(source[half].images, again[half].images)
        assert torch.equal(source[half].labels, again[half].labels)
    assert again[2] == ("ant", "bee", "fly")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_training_on_one(tmp_path):
    path = saved(tmp_path, **arrays(n=12, m=6))
    run = train_run(make_config(data=str(path), model="mlp", width=4, batch_size=4, epochs=1), RunContext(out=tmp_path / "runs"))
    assert run.finished
    assert "images" in run.path.name


def test_an_image_without_a_label(tmp_path):
    path = saved(tmp_path, **arrays(train_labels=np.array([0, 1, 2, -1, -1, 0])))
    assert read_array_file(path)[0].labels.tolist() == [0, 1, 2, -1, -1, 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_labels": None}, "lacks the array test_labels"),
        ({"train_images": RNG.random((6, 8, 8, 3))}, "got float64"),
        ({"train_images": np.zeros((6, 8, 8, 3), np.float32)}, "got float32"),
        ({"train_images": np.zeros((6, 8, 8, 3), np.uint16)}, "got uint16"),
        ({"train_images": np.zeros((6, 8, 8, 3), np.int64)}, "got int64"),
        ({"train_images": np.zeros((6, 8, 8, 3), bool)}, "got bool"),
        ({"train_images": np.full((6, 8, 8, 3), np.nan)}, "got float64"),
        ({"train_images": np.zeros((6, 0, 8, 3), np.uint8)}, r"got uint8 \[6, 0, 8, 3\]"),
        ({"train_images": np.zeros((6, 8), np.uint8)}, r"got uint8 \[6, 8\]"),
        ({"train_images": np.zeros((6, 8, 8, 4), np.uint8)}, "1 or 3 channels"),
        ({"train_labels": np.arange(5)}, "6 whole numbers"),
        ({"train_labels": np.arange(6) / 2}, "whole numbers"),
        ({"train_labels": np.array([0, 1, 2, -2, 0, 0])}, "holds -2"),
        ({"test_images": np.zeros((4, 9, 8, 3), np.uint8)}, "both must have one shape"),
        ({"classes": np.array(["a", "b"])}, "label 2, but classes names only 2"),
        ({"train_images": np.zeros((0, 8, 8, 3), np.uint8)}, "must be uint8 images"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        read_array_file(saved(tmp_path, **arrays(**changes)))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_a_file_that_is_none(tmp_path, content):
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not an .npz file of arrays"):
        read_array_file(path)


def test_a_pickle_inside_is_not_run(tmp_path):
    path = saved(tmp_path, **arrays(classes=np.array([{"a": 1}, {"b": 2}], dtype=object)))
    with pytest.raises(InputError, match="not an .npz file of arrays"):
        read_array_file(path)


def test_a_folder_and_its_file_are_one_data_set(tmp_path):
    from PIL import Image

    for half in ("train", "test"):
        for c in ("cat", "dog"):
            (tmp_path / "f" / half / c).mkdir(parents=True)
            Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "f" / half / c / "0.png")
    source = ImageFolder(tmp_path / "f", cache=False).whole()
    write_array_file(tmp_path / "f.npz", source)
    assert torch.equal(read_array_file(tmp_path / "f.npz")[0].images, source[0].images)


@pytest.mark.parametrize("name", ["nothing.npz", "./nothing.npz"])
def test_a_file_that_is_not_there_is_reported_to_be_missing(name):
    with pytest.raises(InputError, match=r"nothing\.npz: there is no such file"):
        read(name)
