"""Data sets: read from small files in their original formats, refused in one sentence, and seeded choices of them."""

import gzip
import hashlib
import os
import pickle
import struct
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import SUPERVISED
from PIL import Image
from sampling import one_in

from gradlens.data import datasets
from gradlens.data.datasets import digits, load
from gradlens.data.split import Split, label_hash
from gradlens.data.subsets import with_label_noise
from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run

CIFAR = os.environ.get("GRADLENS_CIFAR10")
real_cifar = pytest.mark.skipif(not CIFAR, reason="GRADLENS_CIFAR10 names no folder with CIFAR-10's train/ and test/ images")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def refused(name, **settings):
    """The one sentence with which a data set is refused."""
    with pytest.raises(InputError) as caught:
        load(str(name), **settings)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# ------------------------------------------------------------------------------------------------------------ digits


def test_digits_are_all_1797_images_in_two_disjoint_halves():
    from sklearn.datasets import load_digits

    got = load("digits")
    assert got.shape == (1, 8, 8)
    assert got.classes == tuple("0123456789")
    assert (len(got.train), len(got.test)) == (1433, 364)
    assert got.train.images.dtype == torch.uint8
    assert got.train.labels.dtype == torch.int64

    original = load_digits()
    want = sorted(
        (label, (image * 255 / 16).round().astype(np.uint8).tobytes())
        for image, label in zip(original.images, original.target, strict=True)
    )
    have = sorted(
        (int(label), image.numpy().tobytes()) for s in (got.train, got.test) for image, label in zip(s.images, s.labels, strict=True)
    )
    assert have == want  # every image once, with its own label: nothing lost, nothing in both halves


def test_digits_test_half_holds_every_fifth_of_each_class():
    got = load("digits")
    train, test = (torch.bincount(s.labels, minlength=10) for s in (got.train, got.test))
    assert (test == ((train + test) / 5).ceil()).all()


# ----------------------------------------------------------------------------- torchvision's sets, in their own formats


def pixels(n, channels, height, width, seed=0):
    """Random images [N, C, H, W] whose pixel (1, 2, 5) of image 0 is known where there is colour."""
    images = np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    if channels == 3:
        images[0, :, 2, 5] = (200, 100, 50)  # red, green, blue in row 2, column 5
    return images


@pytest.fixture
def any_md5(monkeypatch):
    """Files count as intact when they are there: the test's files have other checksums than the published ones."""
    import torchvision.datasets as sets

    for module in (sets.cifar, sets.svhn, sets.stl10):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


def write_cifar(folder, train_files, label_key, classes, meta):
    folder.mkdir(parents=True)
    parts, labels = [], []
    for i, name in enumerate([*train_files, "test_batch" if label_key == "labels" else "test"]):
        images, y = pixels(4, 3, 32, 32, seed=i), [(3 * i + j) % classes for j in range(4)]
        entry = {"data": images.reshape(4, 3072), label_key: y, "filenames": ["x.png"] * 4}
        (folder / name).write_bytes(pickle.dumps(entry))
        parts.append(images)
        labels.append(y)
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [f"class {c}" for c in range(classes)]}))
    return np.concatenate(parts[:-1]), [label for y in labels[:-1] for label in y], parts[-1], labels[-1]


def write_idx(path, array, compress=False):
    content = struct.pack(">I" + "I" * array.ndim, 0x0800 + array.ndim, *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)


def write_mnist(folder, compress=False):
    made = []
    for i, half in enumerate(("train", "t10k")):
        images, labels = pixels(6 - i, 1, 28, 28, seed=i)[:, 0], np.arange(6 - i, dtype=np.uint8) + i
        end = ".gz" if compress else ""
        write_idx(folder / f"{half}-images-idx3-ubyte{end}", images, compress)
        write_idx(folder / f"{half}-labels-idx1-ubyte{end}", labels, compress)
        made += [images[:, None], labels.tolist()]
    return made


def write_svhn(folder):
    from scipy.io import savemat

    made = []
    for i, half in enumerate(("train", "test")):
        images, labels = pixels(10, 3, 32, 32, seed=i), np.roll(np.arange(1, 11), i)
        savemat(folder / f"{half}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None].astype(np.uint8)})
        made += [images, [label % 10 for label in labels]]  # the file calls the digit 0 "10"
    return made


STL10 = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def write_stl10(folder, unlabelled=6):
    """The original's binary files: images column by column, labels from 1; the images without one in a file of their own."""
    made = []
    folder.mkdir(parents=True)
    for i, half in enumerate(("train", "test")):
        images, labels = pixels(5 + i, 3, 96, 96, seed=i), np.arange(5 + i) * 2 % 10
        (folder / f"{half}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{half}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        made += [images, labels.tolist()]
    if unlabelled:
        (folder / "unlabeled_X.bin").write_bytes(pixels(unlabelled, 3, 96, 96, seed=2).transpose(0, 1, 3, 2).tobytes())
    (folder / "class_names.txt").write_text("\n".join(STL10) + "\n")
    return made


def write_set(name, root):
    """Write a small copy of a named set; returns train images, train labels, test images, test labels, classes."""
    if name == "cifar10":
        files = [f"data_batch_{i}" for i in range(1, 6)]
        made = write_cifar(root / "cifar-10-batches-py", files, "labels", 10, ("batches.meta", "label_names"))
        return *made, [f"class {c}" for c in range(10)]
    if name == "cifar100":
        made = write_cifar(root / "cifar-100-python", ["train"], "fine_labels", 100, ("meta", "fine_label_names"))
        return *made, [f"class {c}" for c in range(100)]
    if name == "svhn":
        return *write_svhn(root), list("0123456789")
    if name == "stl10":
        return *write_stl10(root / "stl10_binary"), STL10
    made = write_mnist(root / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw")
    classes = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    return *made, classes if name == "fashion-mnist" else None


NAMED = [name for name in datasets.DATASETS if name not in ("digits", "hierarchical", "sequences")]  # those need no file


@pytest.mark.parametrize("name", NAMED)
def test_named_sets_are_read_from_their_original_files(name, tmp_path, any_md5):
    x, y, x_test, y_test, classes = write_set(name, tmp_path)
    got = load(name, data_dir=tmp_path)
    for split, images, labels in ((got.train, x, y), (got.test, x_test, y_test)):
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert torch.equal(split.images, torch.from_numpy(images))
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == list(labels)
    assert got.shape == x.shape[1:] == datasets.DATASETS[name].shape
    assert len(got.classes) == datasets.DATASETS[name].classes
    if got.shape[0] == 3:
        assert got.train.images[0, :, 2, 5].tolist() == [200, 100, 50]
    if classes is None:
        assert [c.split(" ")[0] for c in got.classes] == list("0123456789")
    else:
        assert list(got.classes) == classes


@pytest.mark.parametrize("name", NAMED)
def test_a_missing_set_names_the_flag_and_the_folder(name, tmp_path):
    text = refused(name, data_dir=tmp_path)
    assert "--download" in text
    assert str(tmp_path) in text


def test_stl10_brings_its_images_without_a_label_and_does_without_them(tmp_path, any_md5):
    folder = tmp_path / "stl10_binary"
    write_stl10(folder)
    train, _, _ = datasets.read("stl10", tmp_path)
    assert train.labels.tolist() == [0, 2, 4, 6, 8] + [-1] * 6
    got = load("stl10", data_dir=tmp_path)
    assert torch.equal(got.unlabelled, torch.from_numpy(pixels(6, 3, 96, 96, seed=2)))
    (folder / "unlabeled_X.bin").unlink()
    without = load("stl10", data_dir=tmp_path)
    assert without.unlabelled is None
    for a, b in ((without.train, got.train), (without.test, got.test)):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert without.classes == got.classes
    (folder / "train_y.bin").unlink()
    assert "--download" in refused("stl10", data_dir=tmp_path)


@pytest.mark.parametrize("unlabelled", [0, 3])
def test_stl10_files_with_another_checksum_are_not_taken_for_stl10(tmp_path, unlabelled):
    write_stl10(tmp_path / "stl10_binary", unlabelled)
    assert "--download" in refused("stl10", data_dir=tmp_path)


def test_an_stl10_file_cut_short_is_one_sentence(tmp_path, any_md5):
    write_stl10(tmp_path / "stl10_binary")
    file = tmp_path / "stl10_binary" / "unlabeled_X.bin"
    file.write_bytes(file.read_bytes()[:-100])
    text = refused("stl10", data_dir=tmp_path)
    assert "cannot be read" in text
    assert str(tmp_path) in text


def test_a_set_of_which_one_file_is_missing_is_missing(tmp_path, any_md5):
    write_set("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    assert "--download" in refused("cifar10", data_dir=tmp_path)


def test_cifar_files_with_another_checksum_are_not_taken_for_cifar(tmp_path):
    write_set("cifar10", tmp_path)
    assert "--download" in refused("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_file_cut_short_is_one_sentence(name, tmp_path):
    write_set(name, tmp_path)
    (file,) = tmp_path.glob("*/raw/train-images-idx3-ubyte")
    file.write_bytes(file.read_bytes()[:-100])
    text = refused(name, data_dir=tmp_path)
    assert str(tmp_path) in text
    assert "cannot be read" in text


def test_a_file_that_is_no_matlab_file_is_one_sentence(tmp_path, any_md5):
    write_set("svhn", tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"<html>not found</html>" * 20)
    assert str(tmp_path) in refused("svhn", data_dir=tmp_path)


@pytest.mark.parametrize("name", NAMED)
def test_a_failed_download_is_one_sentence(name, tmp_path, monkeypatch, capfd):
    import torchvision.datasets as sets

    monkeypatch.setenv("no_proxy", "*")
    nowhere = "http://127.0.0.1:9/"
    for cls in (sets.CIFAR10, sets.CIFAR100, sets.STL10):
        monkeypatch.setattr(cls, "url", nowhere + "file.tar.gz")
    for cls in (sets.MNIST, sets.FashionMNIST):
        monkeypatch.setattr(cls, "mirrors", [nowhere, nowhere])
    monkeypatch.setattr(sets.SVHN, "split_list", {k: [nowhere + k, f"{k}.mat", "0" * 32] for k in ("train", "test")})
    text = refused(name, data_dir=tmp_path, download=True)
    assert "could not be downloaded" in text
    assert str(tmp_path) in text


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and the address under which it is served."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "mirror").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "mirror")) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "mirror", f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_download_fetches_what_is_missing(served, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    mirror, url = served
    write_mnist(mirror, compress=True)
    monkeypatch.setattr(MNIST, "mirrors", [url])
    monkeypatch.setattr(MNIST, "resources", [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in sorted(mirror.iterdir())])
    got = load("mnist", data_dir=tmp_path / "here", download=True)
    assert (len(got.train), len(got.test)) == (6, 5)
    assert load("mnist", data_dir=tmp_path / "here").fingerprint() == got.fingerprint()


# ------------------------------------------------------------------------------------------------------ image folders


def picture(mode, size, value):
    return Image.new(mode, size, value)


def folder(root, train, test=None):
    """Write ``{class: [image or bytes]}`` for each half; image files are PNG."""
    for half, classes in (("train", train), ("test", train if test is None else test)):
        for name, images in classes.items():
            (root / half / name).mkdir(parents=True)
            for i, image in enumerate(images):
                path = root / half / name / f"{i:03d}.png"
                if isinstance(image, bytes):
                    path.write_bytes(image)
                else:
                    image.save(path)
    return root


RED, GREEN = picture("RGB", (8, 8), (255, 0, 0)), picture("RGB", (8, 8), (0, 255, 0))
DARK, LIGHT = picture("L", (8, 8), 10), picture("L", (8, 8), 250)


def test_colour_images_channels_first_with_labels_by_sorted_class(tmp_path):
    got = load(str(folder(tmp_path, {"b": [RED], "a": [GREEN, GREEN]})))
    assert got.classes == ("a", "b")
    assert got.shape == (3, 8, 8)
    assert got.train.labels.tolist() == [0, 0, 1]
    assert got.train.images[2, :, 3, 4].tolist() == [255, 0, 0]
    assert got.train.images[0, :, 3, 4].tolist() == [0, 255, 0]


def test_grey_images_have_one_channel(tmp_path):
    got = load(str(folder(tmp_path, {"a": [DARK], "b": [LIGHT]})))
    assert got.shape == (1, 8, 8)
    assert got.train.images[:, 0, 0, 0].tolist() == [10, 250]


def test_grey_among_colour_becomes_colour_also_when_only_the_other_half_has_colour(tmp_path):
    got = load(str(folder(tmp_path, {"a": [DARK], "b": [LIGHT]}, {"a": [DARK], "b": [RED]})))
    assert got.shape == (3, 8, 8)
    assert got.train.images[0, :, 0, 0].tolist() == [10, 10, 10]
    assert got.test.images[1, :, 0, 0].tolist() == [255, 0, 0]


def test_palette_and_transparency_are_colour(tmp_path):
    clear = picture("RGBA", (8, 8), (9, 8, 7, 0))
    got = load(str(folder(tmp_path, {"a": [RED.convert("P", palette=Image.Palette.ADAPTIVE)], "b": [clear]})))
    assert got.train.images[:, :, 0, 0].tolist() == [[255, 0, 0], [9, 8, 7]]


def test_non_square_images_keep_height_and_width(tmp_path):
    image = Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12))  # 10 rows of 12
    got = load(str(folder(tmp_path, {"a": [image], "b": [image]})))
    assert got.shape == (1, 10, 12)
    assert got.train.images[0, 0, 3].tolist() == list(range(36, 48))


def test_files_that_are_no_images_by_name_are_passed_over(tmp_path):
    folder(tmp_path, {"a": [DARK], "b": [LIGHT]})
    (tmp_path / "train" / "a" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "README.md").write_text("hello")
    assert len(load(str(tmp_path)).train) == 2


def test_unknown_names_list_the_nearest_and_the_command_that_lists_all(tmp_path):
    text = refused("cifer10")
    assert text.index("cifar10") < text.index("cifar100")
    assert "`gradlens list data`" in text


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_folder_without_a_half(missing, tmp_path):
    folder(tmp_path, {"a": [DARK], "b": [LIGHT]})
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    text = refused(tmp_path)
    assert f"{missing}/" in text
    assert str(tmp_path) in text


def test_paths_that_are_no_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    assert str(file) in refused(file)
    assert "no/such/place" in refused("no/such/place")


def test_a_half_without_classes(tmp_path):
    folder(tmp_path, {"a": [DARK]}, {})
    (tmp_path / "test").mkdir()
    assert str(tmp_path / "test") in refused(tmp_path)


@pytest.mark.parametrize("half", ["train", "test"])
def test_an_empty_class_folder_is_named(half, tmp_path):
    folder(tmp_path, {"full": [DARK], "hollow": [LIGHT]})
    (tmp_path / half / "hollow" / "000.png").unlink()
    text = refused(tmp_path)
    assert "hollow" in text
    assert "full" not in text
    assert half in text


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_a_corrupt_image_is_named(content, tmp_path):
    folder(tmp_path, {"a": [DARK, LIGHT], "b": [LIGHT]})
    bad = tmp_path / "test" / "a" / "001.png"
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    noisy.save(bad)
    bad.write_bytes(bad.read_bytes()[:70] if content is None else content)  # None: a file cut short
    assert str(bad) in refused(tmp_path)


@pytest.mark.parametrize(("half", "other"), [("test", "train"), ("train", "test")])
def test_a_class_missing_from_one_half_is_named(half, other, tmp_path):
    folder(tmp_path, {"ant": [DARK], "bee": [LIGHT], "cat": [DARK]})
    (tmp_path / half / "bee").rename(tmp_path / "bee")
    assert f"bee missing from {half}" in refused(tmp_path)


def test_different_sizes_name_both_files(tmp_path):
    folder(tmp_path, {"a": [DARK, DARK], "b": [LIGHT]}, {"a": [DARK], "b": [picture("L", (9, 8), 0)]})
    text = refused(tmp_path)
    assert f"{tmp_path}/train/a/000.png is 8x8" in text
    assert f"{tmp_path}/test/b/000.png is 8x9" in text


# --------------------------------------------------------------------------------------- limit, validation, label noise


def rows(split):
    """Images and labels as a sorted list, to be compared as multisets."""
    return sorted((x.numpy().tobytes(), int(y)) for x, y in zip(split.images, split.labels, strict=True))


def test_limit_is_a_seeded_choice_of_training_images_with_their_labels():
    full, a, b, c = load("digits"), load("digits", limit=100), load("digits", limit=100), load("digits", limit=100, seed=1)
    assert torch.equal(a.train.images, b.train.images)
    assert torch.equal(a.train.labels, b.train.labels)
    assert rows(a.train) != rows(c.train)
    assert len(set(rows(a.train))) == 100
    assert set(rows(a.train)) <= set(rows(full.train))
    assert rows(a.test) == rows(full.test)


def test_a_smaller_limit_is_part_of_a_larger_one():
    assert set(rows(load("digits", limit=50).train)) < set(rows(load("digits", limit=60).train))


def test_a_limit_of_all_is_all_and_one_more_is_refused():
    assert rows(load("digits", limit=1433).train) == rows(load("digits").train)
    assert "--limit 1434" in refused("digits", limit=1434)
    with pytest.raises(InputError, match="--limit"):
        make_config(limit=0)


def test_validation_is_a_disjoint_part_of_the_training_images_and_the_test_images_are_gone():
    full, got = load("digits"), load("digits", validation=0.2)
    assert got.test_name == "validation"
    assert len(got.test) == round(1433 * 0.2)
    assert sorted(rows(got.train) + rows(got.test)) == rows(full.train)
    assert torch.equal(load("digits", validation=0.2).test.images, got.test.images)
    assert rows(load("digits", validation=0.2, seed=1).test) != rows(got.test)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_validation_share_that_leaves_nothing_is_refused(share):
    assert "validation" in refused("digits", limit=10, validation=share)


def test_labels_held_out_for_validation_are_clean():
    clean, noisy = load("digits", validation=0.5), load("digits", validation=0.5, label_noise=1.0)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    assert not torch.equal(clean.train.labels, noisy.train.labels)


@settings(max_examples=60, deadline=None)
@given(p=st.floats(0, 1), seed=st.integers(0, 2**31), n=st.integers(1, 50), classes=st.integers(1, 12))
def test_noisy_labels_are_labels_and_the_same_each_time(p, seed, n, classes):
    split = Split(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n) % classes)
    a, b = with_label_noise(split, p, classes, seed), with_label_noise(split, p, classes, seed)
    assert torch.equal(a.labels, b.labels)
    assert a.labels.min() >= 0
    assert a.labels.max() < classes
    assert a.labels.dtype == torch.int64
    assert a.images is split.images


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_the_share_of_changed_labels(p):
    """A replaced label is drawn from all ten classes, so a tenth of the replaced ones stay as they were."""
    n = 20_000
    split = Split(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.arange(n) % 10)
    noisy = with_label_noise(split, p, 10, seed=0)
    changed = (noisy.labels != split.labels).double().mean().item()
    expected = 0.9 * p
    assert changed == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5)
    counts = torch.bincount(noisy.labels[noisy.labels != split.labels], minlength=10) / (n * expected)
    assert counts.min() > 0.08  # what is drawn is spread over the classes
    assert counts.max() < 0.12


def test_no_noise_changes_nothing_and_noise_leaves_images_and_test_labels_alone():
    clean, zero, noisy = load("digits"), load("digits", label_noise=0.0), load("digits", label_noise=0.5)
    assert torch.equal(clean.train.labels, zero.train.labels)
    assert torch.equal(clean.train.images, noisy.train.images)
    assert torch.equal(clean.test.labels, noisy.test.labels)
    assert label_hash(noisy.train) == label_hash(load("digits", label_noise=0.5).train)
    hashes = {label_hash(load("digits", label_noise=p, seed=s).train) for p in (0.0, 0.5, 0.6) for s in (0, 1)}
    assert len(hashes) == 5  # p = 0 is the same for both seeds


def test_draws_do_not_touch_the_global_random_stream():
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    load("digits", limit=50, label_noise=0.5, validation=0.2)
    assert torch.equal(torch.rand(3), want)


def test_the_fingerprint_sees_every_image_and_label():
    got = load("digits", limit=30)
    assert load("digits", limit=30).fingerprint() == got.fingerprint()
    for split in (got.train, got.test):
        for tensor in (split.images, split.labels):
            flat = tensor.view(-1)
            flat[3] += 1
            assert load("digits", limit=30).fingerprint() != replace(got).fingerprint()  # computed once for each object
            flat[3] -= 1
    assert load("digits", limit=30).fingerprint() == replace(got).fingerprint()


def test_the_label_hash_is_stored_in_the_run(tmp_path):
    config = make_config(limit=40, batch_size=40, label_noise=0.5, epochs=1, width=4)
    run = train_run(config, RunContext(out=tmp_path))
    assert run.info["label_hash"] == label_hash(load("digits", limit=40, label_noise=0.5).train)
    assert run.info["label_hash"] != label_hash(load("digits", limit=40).train)
    assert run.info["images"] == {"train": 40, "test": 364}


def test_digits_function_ignores_its_folder():
    train, _, _ = digits(Path("/nonexistent"), False)
    assert len(train) == 1433


# ------------------------------------------------------------------------------------------------------- real CIFAR-10


@pytest.fixture(scope="module")
def cifar_images():
    return load(CIFAR)


@real_cifar
def test_cifar10_images_are_all_there(cifar_images):
    got = cifar_images
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert got.classes == names
    assert got.shape == (3, 32, 32)
    assert torch.bincount(got.train.labels).tolist() == [5000] * 10
    assert torch.bincount(got.test.labels).tolist() == [1000] * 10
    means = got.train.images.float().mean((0, 2, 3))  # the set's known channel means: 125.3, 123.0, 113.9
    assert means.tolist() == pytest.approx([125.3, 123.0, 113.9], abs=1)


@real_cifar
@pytest.mark.parametrize("method", one_in(4, [name for name in SUPERVISED if not METHODS[name].has_teacher]))
def test_two_steps_of_the_network_of_the_reference_study_on_cifar10(method, cifar_images, tmp_path):
    config = make_config(method=method, data=CIFAR, limit=512, validation=0.125, batch_size=32, steps=2, record_every=2)
    run = train_run(config, RunContext(out=tmp_path))
    assert run.summary["updates"] == 2
    assert run.info["images"] == {"train": 448, "validation": 64}
    assert {row.step for row in run.gradients} == {0}
    first, *_, last = run.metrics
    assert first.loss == pytest.approx(2.3026, rel=0.02)
    assert last.split == "validation"
    assert last.loss < 10


def test_a_seeded_choice_of_test_images_leaves_the_training_images_alone():
    whole, some = load("digits"), load("digits", limit_test=50, seed=1)
    assert torch.equal(some.train.images, whole.train.images)
    assert len(some.test) == 50
    rows = {(image.numpy().tobytes(), int(label)) for image, label in zip(whole.test.images, whole.test.labels, strict=True)}
    assert all((image.numpy().tobytes(), int(label)) in rows for image, label in zip(some.test.images, some.test.labels, strict=True))
    assert torch.equal(some.test.labels, load("digits", limit_test=50, seed=1).test.labels)
    assert not torch.equal(some.test.labels, load("digits", limit_test=50, seed=2).test.labels)
    with pytest.raises(InputError, match="--limit-test 999 is more than the 364 test images of the data set; set 364 or less"):
        load("digits", limit_test=999)
