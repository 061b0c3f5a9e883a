"""Load image data sets as uint8 tensors. A data set is one function and one entry of ``DATASETS``; no other module names one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gradlens.data.array_file import read_array_file
from gradlens.data.custom import data_set
from gradlens.data.folder_listing import FilesState, Listing, list_images, must_be_folder, unknown_data_set
from gradlens.data.hierarchical_digits import LEVELS, draw
from gradlens.data.image_folder import ImageFolder
from gradlens.data.split import Data, Source, Split
from gradlens.data.subsets import choose
from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import is_folder, is_there
from gradlens.runtime.rng import generator
from gradlens.runtime.user_code import file_and_name, fingerprint, is_reference

DATA_DIR = Path("~/.cache/gradlens").expanduser()


# ---------------------------------------------------------------------------------------------------- the data sets


def digits(root: Path, download: bool) -> Source:
    """Load scikit-learn's 8×8 grey digits: 1,797 real images shipped with the library; every fifth of each class (364) is for test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy((images * 255 / 16).round().astype(np.uint8)).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    test = torch.zeros(len(y), dtype=torch.bool)
    for c in range(10):
        test[(y == c).nonzero()[::5]] = True
    return Split(x[~test], y[~test]), Split(x[test], y[test]), tuple(str(c) for c in range(10))


def hierarchical(root: Path, download: bool) -> Source:
    """Generate grey 27×27 digits level by level (:mod:`gradlens.data.hierarchical_digits`): 5,000 and 1,000 for test, always the same."""
    train, test = (draw(n, purpose=f"hierarchical digits, {half}") for n, half in ((5_000, "train"), (1_000, "test")))
    return Split(train.bytes(), train.labels), Split(test.bytes(), test.labels), LEVELS[0].classes


def _torchvision(name: str, **splits: dict[str, Any]) -> Callable[[Path, bool], Source]:
    """Make a loader of a torchvision data set; ``splits`` are the constructor arguments of its train and test halves."""

    def load(root: Path, download: bool) -> Source:
        import torchvision

        return _halves(getattr(torchvision.datasets, name), name, root, download, splits)

    return load


def _halves(cls: Any, name: str, root: Path, download: bool, splits: dict[str, dict[str, Any]]) -> Source:
    try:
        parts = [cls(root, download=download, **splits[s]) for s in ("train", "test")]
    except Exception as error:  # torchvision, pickle, zlib and scipy raise different types for a damaged file
        reason = " ".join(str(error).split())
        if download:
            raise InputError(f"{name} could not be downloaded to {root}: {reason}") from error
        if isinstance(error, RuntimeError) and "not found" in reason:
            raise InputError(f"no {name} under {root}: --download fetches it, --data-dir names another folder") from error
        raise InputError(f"the files of {name} under {root} cannot be read: {reason}") from error
    halves = []
    for part in parts:
        x = torch.as_tensor(np.asarray(part.data))
        if x.ndim == 3:  # MNIST: [N, H, W]
            x = x[:, None]
        elif x.shape[-1] == 3:  # CIFAR: [N, H, W, C]
            x = x.permute(0, 3, 1, 2)
        y = torch.as_tensor(np.asarray(getattr(part, "targets", None) if hasattr(part, "targets") else part.labels))
        halves.append(Split(x.contiguous(), y.long()))
    names = getattr(parts[0], "classes", None) or range(int(halves[0].labels.max()) + 1)
    return halves[0], halves[1], tuple(str(c) for c in names)


def stl10(root: Path, download: bool) -> Source:
    """Load STL-10: 5,000 training and 8,000 test images of 96×96, and 100,000 images without a label if their file exists."""
    from torchvision.datasets import STL10

    cls, split, unlabelled = STL10, "train+unlabeled", STL10.train_list[2][0]
    if not download and not (root / STL10.base_folder / unlabelled).exists():  # torchvision requires that file in any case
        cls, split = type("STL10", (STL10,), {"train_list": STL10.train_list[:2]}), "train"
    return _halves(cls, "STL10", root, download, {"train": {"split": split}, "test": {"split": "test"}})


PERIODS, LENGTH = (8, 12, 18), 128  # of the sequences below, in samples


def sequences(root: Path, download: bool) -> Source:
    """Generate noisy sawteeth of random phase as images of height 1: 4,000 for training and 1,000 for test, always the same.

    The classes are dynamics: three periods, each with a slow rise and sudden fall or the other way round. Phase (uniform), amplitude
    (0.5 to 1) and noise (standard deviation 1) are independent of the class, and all class means are the same flat line: of all softmax
    regressions on the samples a constant has the lowest expected loss.
    """
    n, train = 5000, 4000
    rng = generator(0, "sequences")
    labels = torch.randint(2 * len(PERIODS), (n,), generator=rng)
    period = torch.tensor(PERIODS)[labels // 2, None]
    phase, amplitude = torch.rand(2, n, 1, generator=rng)
    rising = 2 * ((torch.arange(LENGTH) / period + phase) % 1) - 1
    clean = (0.5 + 0.5 * amplitude) * torch.where(labels[:, None] % 2 == 0, rising, -rising)
    noisy = clean + torch.randn(n, LENGTH, generator=rng)
    x = (127.5 + 40 * noisy).round().clamp(0, 255).to(torch.uint8).reshape(n, 1, 1, LENGTH)
    names = tuple(f"{way} {p}" for p in PERIODS for way in ("rise", "fall"))
    return Split(x[:train], labels[:train]), Split(x[train:], labels[train:]), names


class DataSet(NamedTuple):
    """A named data set: its loader, and its facts that need no files."""

    load: Callable[[Path, bool], Source]  # (folder of its files, whether to download them) -> train, test, class names
    shape: tuple[int, int, int]  # (C, H, W) of an image
    classes: int
    sentence: str  # its line of `gradlens list data`


DATASETS: dict[str, DataSet] = {
    "digits": DataSet(digits, (1, 8, 8), 10, "8x8 grey digits shipped with scikit-learn: 1,433 for training, 364 for test"),
    "hierarchical": DataSet(
        hierarchical,
        (1, 27, 27),
        10,
        "27x27 grey digits drawn level by level, with noise and distractors: 5,000 for training, 1,000 for test",
    ),
    "sequences": DataSet(
        sequences,
        (1, 1, LENGTH),
        2 * len(PERIODS),
        "noisy sawteeth of random phase, 1x1x128, 6 classes of dynamics, generated: 4,000 for training, 1,000 for test",
    ),
    "cifar10": DataSet(
        _torchvision("CIFAR10", train={"train": True}, test={"train": False}),
        (3, 32, 32),
        10,
        "32x32 colour, 10 classes, 50,000 + 10,000 (torchvision)",
    ),
    "cifar100": DataSet(
        _torchvision("CIFAR100", train={"train": True}, test={"train": False}),
        (3, 32, 32),
        100,
        "32x32 colour, 100 classes, 50,000 + 10,000 (torchvision)",
    ),
    "mnist": DataSet(
        _torchvision("MNIST", train={"train": True}, test={"train": False}),
        (1, 28, 28),
        10,
        "28x28 grey digits, 60,000 + 10,000 (torchvision)",
    ),
    "fashion-mnist": DataSet(
        _torchvision("FashionMNIST", train={"train": True}, test={"train": False}),
        (1, 28, 28),
        10,
        "28x28 grey clothes, 10 classes, 60,000 + 10,000 (torchvision)",
    ),
    "svhn": DataSet(
        _torchvision("SVHN", train={"split": "train"}, test={"split": "test"}),
        (3, 32, 32),
        10,
        "32x32 colour house numbers, 10 classes, 73,257 + 26,032 (torchvision)",
    ),
    "stl10": DataSet(stl10, (3, 96, 96), 10, "96x96 colour, 10 classes, 5,000 + 8,000, and 100,000 without a label (torchvision)"),
}
DEFAULT = "digits"  # the default data set: needs no download


# ------------------------------------------------------------------------------------------------------ reading by name


def source_of(
    name: str, data_dir: Path | None = None, download: bool = False, cache: bool = True, listing: Listing | None = None
) -> Source | ImageFolder:
    """Open a data set by name, or an image folder by path, of which nothing is decoded yet.

    Args:
        name: a key of DATASETS, the path of a folder with ``train/`` and ``test/`` or of an ``.npz`` file of arrays
            (:mod:`gradlens.data.array_file`), or ``FILE.py:build`` (:func:`gradlens.data.custom.data_set`).
        data_dir: folder of the named sets, also for downloads.
        download: download a named set that is missing.
        cache: keep an image folder's decoded images in the user's cache folder.
        listing: contents of an image folder, if it was listed already.

    Raises:
        InputError: anything that cannot be loaded.

    """
    if name in DATASETS:
        return DATASETS[name].load(data_dir or DATA_DIR, download)
    if is_reference(name):
        return data_set(name)
    if name.endswith(".npz") and not is_folder(name):
        return read_array_file(Path(name))
    if "/" in name or is_there(name):
        must_be_folder(name)
        return ImageFolder(Path(name), cache, listing)
    raise unknown_data_set(name, DATASETS)


def files_state(name: str) -> FilesState:
    """Return the state of a data set's files without reading them; its stamp changes if :func:`read` may return other images.

    For a folder the paths, sizes and times of its images, for an ``.npz`` file its size and times, for ``FILE.py:build`` the file's
    contents (not those of files that it reads); for a named set, whose files do not change, nothing.
    """
    if name in DATASETS:
        return FilesState("")
    if is_reference(name):
        return FilesState(fingerprint(file_and_name("data", name)[0]))
    if is_folder(name):
        listing = list_images(Path(name))
        return FilesState(listing.stamp, listing)
    with suppress(OSError):  # a missing file is reported by `read`
        state = os.stat(name)
        return FilesState(f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}")
    return FilesState("")


def read(name: str, data_dir: Path | None = None, download: bool = False, cache: bool = True) -> Source:
    """Read a whole data set into memory; see :func:`source_of`."""
    source = source_of(name, data_dir, download, cache)
    return source.whole() if isinstance(source, ImageFolder) else source


def load(name: str, *, data_dir: Path | None = None, download: bool = False, cache: bool = True, **choice: Any) -> Data:
    """Load a selection of a data set; ``choice`` are the arguments of :func:`gradlens.data.subsets.choose`."""
    return choose(source_of(name, data_dir, download, cache), **choice)
