"""Image data sets as uint8 tensors in memory. A data set is one function and one line in ``DATASETS``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlens.data_array_file import read_array_file
from gradlens.errors import InputError, unknown
from gradlens.hierarchy import LEVELS, draw
from gradlens.own import data_set, is_reference
from gradlens.seeding import generator

DATA_DIR = Path("~/.cache/gradlens").expanduser()


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8 and labels [N] int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """The images and labels at ``index`` [M]."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Split:
        """The split on a device: the data set lives where the training runs."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """A data set ready for training."""

    train: Split
    test: Split  # the held-out part of the training images where a validation share was asked for
    classes: tuple[str, ...]
    test_name: str = "test"  # "validation" in that case
    unlabelled: Tensor | None = None  # [M, C, H, W] uint8: training images whose label is not known, or not to be told

    @cached_property
    def everything(self) -> Split:
        """All training images, labelled or not: those without a label have -1."""
        if self.unlabelled is None:
            return self.train
        none = torch.full((len(self.unlabelled),), -1)
        return Split(torch.cat([self.train.images, self.unlabelled]), torch.cat([self.train.labels, none]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.train.images.shape[1:]
        return c, h, w

    def fingerprint(self) -> str:
        """16 hex digits of what is trained and tested on, labels as trained (noise included)."""
        digest = hashlib.sha256()
        extra = [] if self.unlabelled is None else [self.unlabelled]
        for tensor in (self.train.images, self.train.labels, self.test.images, self.test.labels, *extra):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def label_hash(split: Split) -> str:
    """16 hex digits of a split's label vector: constant over a run, stored with it."""
    return hashlib.sha256(split.labels.contiguous().numpy().tobytes()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- the data sets

Source = tuple[Split, Split, tuple[str, ...]]  # train (label -1: not known), test, class names


def digits(root: Path, download: bool) -> Source:
    """scikit-learn's 8×8 grey digits: 1,797 real images shipped with the library; every fifth of each class (364) is for test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy((images * 255 / 16).round().astype(np.uint8)).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    test = torch.zeros(len(y), dtype=torch.bool)
    for c in range(10):
        test[(y == c).nonzero()[::5]] = True
    return Split(x[~test], y[~test]), Split(x[test], y[test]), tuple(str(c) for c in range(10))


def hierarchical(root: Path, download: bool) -> Source:
    """Grey 27×27 digits drawn level by level (:mod:`gradlens.hierarchy`): 5,000 and 1,000 for test, always the same."""
    train, test = (draw(n, purpose=f"hierarchical digits, {half}") for n, half in ((5_000, "train"), (1_000, "test")))
    return Split(train.bytes(), train.labels), Split(test.bytes(), test.labels), LEVELS[0].classes


def _torchvision(name: str, **splits: dict[str, Any]) -> Callable[[Path, bool], Source]:
    """A torchvision data set, from ``root``; ``splits`` are the constructor arguments of its train and test halves."""

    def load(root: Path, download: bool) -> Source:
        import torchvision

        return _halves(getattr(torchvision.datasets, name), name, root, download, splits)

    return load


def _halves(cls: Any, name: str, root: Path, download: bool, splits: dict[str, dict[str, Any]]) -> Source:
    try:
        parts = [cls(root, download=download, **splits[s]) for s in ("train", "test")]
    except Exception as error:  # torchvision, pickle, zlib and scipy: each has its own types for a file that is wrong
        said = " ".join(str(error).split())
        if download:
            raise InputError(f"{name} could not be downloaded to {root}: {said}") from error
        if isinstance(error, RuntimeError) and "not found" in said:
            raise InputError(f"no {name} under {root}: --download fetches it, --data-dir names another folder") from error
        raise InputError(f"the files of {name} under {root} cannot be read: {said}") from error
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
    """STL-10: 5,000 training and 8,000 test images of 96×96, and 100,000 images without a label where their file is there."""
    from torchvision.datasets import STL10

    cls, split, unlabelled = STL10, "train+unlabeled", STL10.train_list[2][0]
    if not download and not (root / STL10.base_folder / unlabelled).exists():  # torchvision asks for that file whatever is read
        cls, split = type("STL10", (STL10,), {"train_list": STL10.train_list[:2]}), "train"
    return _halves(cls, "STL10", root, download, {"train": {"split": split}, "test": {"split": "test"}})


PERIODS, LENGTH = (8, 12, 18), 128  # samples, of the sequences below


def sequences(root: Path, download: bool) -> Source:
    """Noisy sawteeth of random phase as images of height 1, generated: 4,000 for training and 1,000 for test, always the same.

    The classes are dynamics: three periods, each with a slow rise and sudden fall or the other way round. Phase (uniform), amplitude
    (0.5 to 1) and noise (standard deviation 1) say nothing of the class, and all class means are the same flat line: of all softmax
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


DATASETS: dict[str, Callable[[Path, bool], Source]] = {
    "digits": digits,
    "hierarchical": hierarchical,
    "sequences": sequences,
    "cifar10": _torchvision("CIFAR10", train={"train": True}, test={"train": False}),
    "cifar100": _torchvision("CIFAR100", train={"train": True}, test={"train": False}),
    "mnist": _torchvision("MNIST", train={"train": True}, test={"train": False}),
    "fashion-mnist": _torchvision("FashionMNIST", train={"train": True}, test={"train": False}),
    "svhn": _torchvision("SVHN", train={"split": "train"}, test={"split": "test"}),
    "stl10": stl10,
}


SHAPES: dict[str, tuple[tuple[int, int, int], int]] = {  # (C, H, W) and classes, known without the files
    "digits": ((1, 8, 8), 10),
    "hierarchical": ((1, 27, 27), 10),
    "sequences": ((1, 1, LENGTH), 2 * len(PERIODS)),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "svhn": ((3, 32, 32), 10),
    "stl10": ((3, 96, 96), 10),
}


def _decode(file: str) -> np.ndarray[Any, Any]:
    """One image file as uint8 [H, W] (grey) or [H, W, 3]."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode.startswith("I"):  # PIL would clip them to white
                raise ValueError("16-bit grey images are not read: convert them to 8 bits")
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except Exception as error:
        raise InputError(f"{file} is not a readable image: {error}") from error


def image_folder(root: Path) -> Source:
    """``root/train/<class>/*`` and ``root/test/<class>/*``, all images of one size; grey only if all are.

    Raises:
        InputError: no such layout, an empty class, a class that only one half has, an unreadable image, unequal sizes.

    """
    from torchvision.datasets import ImageFolder

    halves: list[list[tuple[str, int]]] = []
    names: list[list[str]] = []
    for half in ("train", "test"):
        if not (root / half).is_dir():
            raise InputError(f"{root} is no image folder: it has no {half}/ (wanted: train/<class>/ and test/<class>/ in it)")
        try:
            found = ImageFolder(str(root / half))
        except FileNotFoundError as error:  # torchvision names the empty classes, or says there are none
            raise InputError(f"{root / half}: {str(error).splitlines()[0]}") from error
        halves.append(found.samples)
        names.append(found.classes)
    if names[0] != names[1]:
        train_only, test_only = sorted(set(names[0]) - set(names[1])), sorted(set(names[1]) - set(names[0]))
        where = f"{', '.join(train_only)} missing from test" if train_only else f"{', '.join(test_only)} missing from train"
        raise InputError(f"{root}: train and test have different classes: {where}")
    with ThreadPoolExecutor() as pool:
        decoded = [list(pool.map(_decode, [file for file, _ in samples], chunksize=256)) for samples in halves]
    sizes = {(image.shape[0], image.shape[1]) for half in decoded for image in half}
    if len(sizes) > 1:
        first = halves[0][0][0], decoded[0][0].shape[:2]
        other = next(
            (file, image.shape[:2])
            for samples, half in zip(halves, decoded, strict=True)
            for (file, _), image in zip(samples, half, strict=True)
            if image.shape[:2] != first[1]
        )
        raise InputError(
            f"images of different sizes in {root}: {first[0]} is {first[1][0]}x{first[1][1]},"
            f" {other[0]} is {other[1][0]}x{other[1][1]}; all must have one size"
        )
    grey = all(image.ndim == 2 for half in decoded for image in half)
    splits = []
    for samples, arrays in zip(halves, decoded, strict=True):
        stacked = np.stack([i if grey or i.ndim == 3 else np.repeat(i[:, :, None], 3, 2) for i in arrays])
        x = torch.from_numpy(stacked)
        x = x[:, None] if grey else x.permute(0, 3, 1, 2).contiguous()
        splits.append(Split(x, torch.tensor([label for _, label in samples])))
    return splits[0], splits[1], tuple(names[0])


# ------------------------------------------------------------------------------------------------ choosing, noise, load


def with_label_noise(split: Split, p: float, classes: int, seed: int) -> Split:
    """Each label replaced with probability ``p`` by a uniform draw over all classes, drawn once per (seed, p).

    At p = 1 a tenth of ten classes' labels stay as they were (Zhang et al. 2017).
    """
    rng = generator(seed, f"label noise {p}")
    replaced = torch.rand(len(split), generator=rng) < p
    drawn = torch.randint(classes, (len(split),), generator=rng)
    return replace(split, labels=torch.where(replaced, drawn, split.labels))


def read(name: str, data_dir: Path | None = None, download: bool = False) -> Source:
    """A whole data set by name, or an image folder by path.

    Args:
        name: a key of DATASETS, the path of a folder with ``train/`` and ``test/`` or of an ``.npz`` file of arrays
            (:mod:`gradlens.data_array_file`), or ``FILE.py:build`` (see :func:`own.data_set`).
        data_dir: where the named sets are looked for and downloaded to.
        download: fetch a named set that is missing.

    Raises:
        InputError: anything that cannot be loaded, in one sentence.

    """
    if name in DATASETS:
        return DATASETS[name](data_dir or DATA_DIR, download)
    if is_reference(name):
        return data_set(name)
    if Path(name).is_dir():
        return image_folder(Path(name))
    if name.endswith(".npz") and Path(name).is_file():
        return read_array_file(Path(name))
    if "/" in name or Path(name).exists():
        raise InputError(f"{name} is no image folder: wanted a folder that holds train/<class>/ and test/<class>/, or an .npz file")
    raise unknown("data set", name, DATASETS)


def _some(split: Split, limit: int, what: str, flag: str, rng: torch.Generator) -> Split:
    """A random choice of a split's images, in random order."""
    if limit > len(split):
        raise InputError(f"{flag} {limit} asks for more than the {len(split)} {what} images there are")
    return split.take(torch.randperm(len(split), generator=rng)[:limit])


def _labelled_share(split: Split, share: float, classes: Sequence[str], seed: int) -> tuple[Split, Tensor]:
    """A share of each class's images with their labels, and the other images. The smaller share is part of the larger one.

    Raises:
        InputError: a class is left without an image.

    """
    order = torch.randperm(len(split), generator=generator(seed, "labelled share"))
    told = torch.zeros(len(split), dtype=torch.bool)
    for c, name in enumerate(classes):
        mine = order[split.labels[order] == c]
        wanted = round(share * len(mine))
        if len(mine) and not wanted:
            raise InputError(f"--labels {share:g} leaves class {name} without a labelled image: it has {len(mine)} training images")
        told[mine[:wanted]] = True
    return split.take(told.nonzero()[:, 0]), split.images[~told]


def choose(
    source: Source,
    limit: int | None = None,
    label_noise: float = 0.0,
    validation: float = 0.0,
    seed: int = 0,
    limit_test: int | None = None,
    labels: float | None = None,
) -> Data:
    """What is trained and tested on, of a whole data set.

    Args:
        source: the data set.
        limit: this many training images, a seeded choice; of images without labels no more than that too.
        label_noise: probability that a training label is replaced by a random one.
        validation: this share of the training images (after ``limit``) is held out and takes the place of the test images.
        seed: names the draws above.
        limit_test: this many test images, a seeded choice; not of held-out training images.
        labels: this share of each class's training images (after ``limit`` and ``validation``) keep their labels, the others
            are images without a label. A smaller share is part of a larger one.

    Raises:
        InputError: more images asked for than there are, or a share that leaves nothing.

    """
    train, test, classes = source
    known = train.labels >= 0
    extra: Tensor | None = None
    if not known.all():
        train, extra = train.take(known.nonzero()[:, 0]), train.images[~known]
    if limit is not None:
        train = _some(train, limit, "training", "--limit", generator(seed, "limit"))
        if extra is not None and limit < len(extra):
            extra = extra[torch.randperm(len(extra), generator=generator(seed, "limit unlabelled"))[:limit]]
    if limit_test is not None:
        test = _some(test, limit_test, "test", "--limit-test", generator(seed, "limit test"))
    test_name = "test"
    if validation:
        order = torch.randperm(len(train), generator=generator(seed, "validation"))
        held = round(len(train) * validation)
        if not 0 < held < len(train):
            raise InputError(f"a validation share of {validation} of {len(train)} images leaves nothing on one side")
        train, test, test_name = train.take(order[held:]), train.take(order[:held]), "validation"
    if labels is not None and labels < 1:
        train, hidden = _labelled_share(train, labels, classes, seed)
        extra = hidden if extra is None else torch.cat([hidden, extra])
    if label_noise:
        train = with_label_noise(train, label_noise, len(classes), seed)
    return Data(train, test, classes, test_name, extra)


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    limit: int | None = None,
    label_noise: float = 0.0,
    validation: float = 0.0,
    seed: int = 0,
    limit_test: int | None = None,
    labels: float | None = None,
) -> Data:
    """A data set, read (:func:`read`) and chosen from (:func:`choose`)."""
    return choose(read(name, data_dir, download), limit, label_noise, validation, seed, limit_test, labels)
