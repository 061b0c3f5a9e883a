"""CIFAR-10 for the list: the original arrays, or a JPEG copy (archive or image folder) that is decoded once to one uint8 file."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import numpy as np

from gradlens.data.array_file import write_array_file
from gradlens.data.datasets import DATASETS
from gradlens.data.image_folder import ImageFolder
from gradlens.runtime.errors import InputError


def decoded(given: str, cache: Path) -> tuple[str, str]:
    """What ``--data`` becomes: (the setting ``data`` of a config, what figures call the images).

    Args:
        given: a named data set, an ``.npz`` file, an image folder, or a ``.tar.gz`` archive that holds one.
        cache: folder of the decoded file.

    Raises:
        InputError: none of these.

    """
    path = Path(given)
    if given in DATASETS:
        return given, {"cifar10": "CIFAR-10"}.get(given, given)
    if path.suffix == ".npz":
        return given, "CIFAR-10 (JPEG copy)" if "jpeg" in path.name else path.stem
    archive = given.endswith((".tar.gz", ".tgz", ".tar"))
    if not (path.is_file() if archive else path.is_dir()):
        raise InputError(f"--data {given}: no such data set, image folder, .npz file or .tar.gz archive")
    files = [path] if archive else sorted(p for p in path.rglob("*") if p.is_file())
    stamp = f"{path.name}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes"
    target = cache.resolve() / "cifar10-jpeg-uint8.npz"
    if not target.exists() or _stamp(target) != stamp:
        cache.mkdir(parents=True, exist_ok=True)
        if archive:
            with tempfile.TemporaryDirectory(dir=cache) as folder, tarfile.open(path) as tar:
                tar.extractall(folder, filter="data")
                source = ImageFolder(_root(Path(folder), given), cache=False).whole()
        else:
            source = ImageFolder(path, cache=False).whole()
        write_array_file(target, source, decoded_from=stamp)
    return str(target), "CIFAR-10 (JPEG copy)"


def _root(folder: Path, given: str) -> Path:
    """The folder in an unpacked archive that holds train/ and test/."""
    for train in sorted(folder.rglob("train")):
        if (train.parent / "test").is_dir():
            return train.parent
    raise InputError(f"--data {given}: no folder in it holds train/<class>/ and test/<class>/")


def _stamp(file: Path) -> str:
    """What a decoded file says it was made from; empty where it cannot be read."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return str(arrays["decoded_from"])
    except (OSError, ValueError, KeyError):
        return ""
