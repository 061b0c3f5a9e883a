"""What an image folder holds: its classes, its image files in order, and what is passed over, counted."""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import NamedTuple

from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import reason

HALVES = ("train", "test")
TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
SYSTEM = {  # what systems leave in folders under names that are not hidden everywhere; in lower case
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found"),
    *("$recycle.bin", "system volume information", "__pycache__"),
}
MOST_TYPES = 5  # unknown types that are counted by name


class ImageFile(NamedTuple):
    """A file, and what changes when its contents do."""

    path: str
    size: int
    modified: int  # ns
    changed: int  # ns; of the inode: tools that keep a file's time of modification do not keep this


@dataclass(frozen=True)
class Listing:
    """The images of a folder."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[list[ImageFile], list[ImageFile]]  # train, test
    labels: tuple[list[int], list[int]]
    passed_over: dict[str, int]  # what -> how many

    @cached_property
    def stamp(self) -> str:
        """64 hex digits of the files' paths below the folder, sizes and times, and of their labels: what is known without reading them."""
        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.root)))
        for half, files, labels in zip(HALVES, self.files, self.labels, strict=True):
            above = len(str(self.root / half)) - len(half)  # the same folder may be named in several ways
            for file, label in zip(files, labels, strict=True):
                digest.update(os.fsencode(file.path[above:]) + f"\0{file[1:]}{label}\0".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class FilesState:
    """What is known of a data set's files without reading them."""

    stamp: str  # another one where reading may give other images than before
    listing: Listing | None = field(default=None, compare=False)  # of an image folder


class _Half(NamedTuple):
    classes: list[str]
    files: list[ImageFile]
    labels: list[int]


def must_be_folder(name: str) -> None:
    """Refuse a path at which there is no folder.

    Raises:
        InputError: there is none, or it may not be looked at.

    """
    if not _is_folder(Path(name)):
        raise InputError(f"{name} is no image folder: wanted a folder that holds train/<class>/ and test/<class>/, or an .npz file")


def list_images(root: Path) -> Listing:
    """List ``root/train/<class>/**`` and ``root/test/<class>/**``: classes by name, files by folder and name.

    Hidden files and folders, those of systems, types that are not read and links that lead back up or to themselves are
    passed over. The two halves' class names may be composed and decomposed (Macs); the training half's are given.

    Raises:
        InputError: no such layout, an empty class, a class that only one half has, a folder that cannot be read.

    """
    passed: Counter[str] = Counter()
    for half in HALVES:
        if not _is_folder(root / half):
            raise InputError(f"{root} is no image folder: it has no {half}/ (wanted: train/<class>/ and test/<class>/ in it)")
    train, test = (_half(root / half, passed) for half in HALVES)
    ours, theirs = (_composed(root / name, half.classes) for name, half in zip(HALVES, (train, test), strict=True))
    if set(ours) != set(theirs):
        train_only, test_only = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
        where = f"{', '.join(train_only)} missing from test" if train_only else f"{', '.join(test_only)} missing from train"
        raise InputError(f"{root}: train and test have different classes: {where}")
    label = {name: i for i, name in enumerate(ours)}
    order = sorted(range(len(test.files)), key=lambda i: label[theirs[test.labels[i]]])  # stable: as listed within each class
    labels = [label[theirs[test.labels[i]]] for i in order]
    return Listing(root, tuple(train.classes), (train.files, [test.files[i] for i in order]), (train.labels, labels), dict(passed))


def sentence(root: Path, passed_over: dict[str, int]) -> str:
    """Return one line that counts what was passed over; empty where nothing was.

    >>> sentence(Path("birds"), {"hidden": 2, ".heic": 20, ".txt": 1})
    'birds: passed over 20 .heic, 2 hidden, 1 .txt'
    """
    if not passed_over:
        return ""
    by_number = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    types = [name for name, _ in by_number if name.startswith(".")]
    rest = sum(passed_over[name] for name in types[MOST_TYPES:])
    said = [f"{n} {name}" for name, n in by_number if name not in types[MOST_TYPES:]] + [f"{rest} of other types"] * bool(rest)
    return f"{root}: passed over {', '.join(said)}"


def _composed(folder: Path, names: list[str]) -> list[str]:
    """Class names in their composed form (NFC), in which they are compared.

    Raises:
        InputError: two of them are one name.

    """
    composed = [unicodedata.normalize("NFC", name) for name in names]
    if twice := sorted({name for name in composed if composed.count(name) > 1}):
        raise InputError(f"{folder} holds two folders whose names read {', '.join(twice)} (composed and decomposed): merge them")
    return composed


def _half(folder: Path, passed: Counter[str]) -> _Half:
    """Return the classes of one half and their images."""
    above = (os.path.realpath(folder),)
    entries = list(_shown(str(folder), passed))
    found = [e for e, is_folder in entries if is_folder and not _leads_back(e, above, passed)]
    loose = sum(e.name.lower().endswith(TYPES) for e, is_folder in entries if not is_folder)
    if not found:
        images = f", but {loose} images: they belong into folders, one for each class" if loose else ""
        raise InputError(f"{folder} holds no class folders{images}")
    if beside := sum(not is_folder for _, is_folder in entries):
        passed["beside the class folders"] += beside
    half, empty = _Half([], [], []), []
    for label, entry in enumerate(sorted(found, key=lambda e: e.name)):
        others: Counter[str] = Counter()
        images_ = sorted(_images(entry.path, above, others))
        passed.update(others)
        if not images_:
            empty.append(entry.name + (f" (but {', '.join(f'{n} {what}' for what, n in others.most_common(3))})" if others else ""))
        half.classes.append(entry.name)
        half.files.extend(image for _, _, image in images_)
        half.labels.extend([label] * len(images_))
    if empty:
        raise InputError(f"{folder}: no images in {', '.join(empty)}; types that are read: {' '.join(TYPES)}")
    return half


def _unreadable(path: str | Path, error: OSError) -> InputError:
    """Return the refusal of what is there and cannot be looked at."""
    return InputError(f"{path} cannot be read: {reason(error)}")


def _is_folder(there: os.DirEntry[str] | Path) -> bool | None:
    """Return whether something is a folder, links followed; None of a link that leads to itself.

    Raises:
        InputError: that may not be known.

    """
    try:
        return there.is_dir()
    except NotADirectoryError:  # a link to something below a file: to nothing
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise _unreadable(os.fspath(there), error) from error


def _shown(folder: str, passed: Counter[str]) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """What a folder holds for the eye, and whether that is a folder.

    Raises:
        InputError: it cannot be read.

    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    passed["hidden"] += 1
                elif entry.name.lower() in SYSTEM:
                    passed["of the system"] += 1
                elif (is_folder := _is_folder(entry)) is None:
                    passed["in a loop of links"] += 1
                else:
                    yield entry, is_folder
    except OSError as error:
        raise _unreadable(folder, error) from error


def _leads_back(entry: os.DirEntry[str], above: tuple[str, ...], passed: Counter[str]) -> bool:
    """Return whether a folder is a link to one that it lies in: following it would never end."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    if back := any(PurePath(folder).is_relative_to(target) for folder in above):
        passed["in a loop of links"] += 1
    return back


def _images(folder: str, above: tuple[str, ...], passed: Counter[str]) -> Iterator[tuple[str, str, ImageFile]]:
    """Yield the images in a folder and those below it: (folder, name, file)."""
    above = (*above, os.path.realpath(folder))
    for entry, is_folder in _shown(folder, passed):
        if is_folder:
            if not _leads_back(entry, above, passed):
                yield from _images(entry.path, above, passed)
        elif not entry.name.lower().endswith(TYPES):
            passed[PurePath(entry.name).suffix.lower() or "without a type"] += 1
        elif (entry.is_symlink() and not os.path.exists(entry.path)) or entry.is_file():
            yield folder, entry.name, _file(entry)
        else:
            passed["special (pipe, device)"] += 1  # reading one may never end


def _file(entry: os.DirEntry[str]) -> ImageFile:
    try:
        state = entry.stat()
    except OSError:  # a link to nothing: decoding it says so
        return ImageFile(entry.path, -1, -1, -1)
    return ImageFile(entry.path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
