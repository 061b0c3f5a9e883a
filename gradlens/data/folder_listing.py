"""List an image folder: its classes, its image files in order, and the number of skipped files by kind."""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import NamedTuple

from gradlens.runtime.errors import ALIKE, InputError, nearest, unknown
from gradlens.runtime.paths import is_there, reason

HALVES = ("train", "test")
TYPES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
SYSTEM = {  # files and folders of operating systems that are not hidden everywhere; in lower case
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found"),
    *("$recycle.bin", "system volume information", "__pycache__"),
}
MOST_TYPES = 5  # unknown types that are counted by name


class ImageFile(NamedTuple):
    """A file, with properties that change with its contents."""

    path: str
    size: int
    modified: int  # ns
    changed: int  # ns; of the inode: not preserved by tools that preserve the time of modification


@dataclass(frozen=True)
class Listing:
    """The images of a folder."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[list[ImageFile], list[ImageFile]]  # train, test
    labels: tuple[list[int], list[int]]
    passed_over: dict[str, int]  # kind of skipped file -> number

    @cached_property
    def stamp(self) -> str:
        """Hash the files' paths below the folder, sizes, times and labels to 64 hex digits, without reading the files."""
        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.root)))
        for half, files, labels in zip(HALVES, self.files, self.labels, strict=True):
            above = len(str(self.root / half)) - len(half)  # the same folder may have several paths
            for file, label in zip(files, labels, strict=True):
                digest.update(os.fsencode(file.path[above:]) + f"\0{file[1:]}{label}\0".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class FilesState:
    """The state of a data set's files, without reading them."""

    stamp: str  # changes if reading may return other images
    listing: Listing | None = field(default=None, compare=False)  # that of an image folder


class _Half(NamedTuple):
    classes: list[str]
    files: list[ImageFile]
    labels: list[int]


def must_be_folder(name: str) -> None:
    """Reject a path that is no folder.

    Raises:
        InputError: it is no folder, or is not accessible.

    """
    if not is_there(name):
        near = "; nearest: " * bool(alike := _alike(Path(name))) + ", ".join(alike)
        raise InputError(f"{name} does not exist: wanted a folder that holds train/<class>/ and test/<class>/, or an .npz file{near}")
    if not _is_folder(Path(name)):
        raise InputError(f"{name} is no image folder: wanted a folder that holds train/<class>/ and test/<class>/, or an .npz file")


def unknown_data_set(name: str, known: Iterable[str]) -> InputError:
    """Make the error for a bare word that is neither a data set nor a path; a folder or file of arrays may be what was meant."""
    said = str(unknown("data set", name, known)).replace("; nearest: ", ", and no such folder or file here; nearest: ", 1)
    shown = "".join(f"{path} ({'folder' if path[-1] == '/' else 'file'}), " for path in _alike(Path(name)))
    return InputError(said.replace("nearest: ", f"nearest: {shown}", 1))


def _alike(path: Path) -> list[str]:
    """List folders (with a slash at the end) and files of arrays beside a path with a name like its own."""
    with suppress(OSError):
        entries = [entry for entry in path.parent.iterdir() if not entry.name.startswith(".")]
        there = {e.name: f"{e}/" if _is_folder(e) else f"{e}" for e in entries if _is_folder(e) or e.suffix == ".npz"}
        return [there[entry] for entry in nearest(path.name, there, ALIKE)]
    return []


def list_images(root: Path) -> Listing:
    """List ``root/train/<class>/**`` and ``root/test/<class>/**``: classes by name, files by folder and name.

    Hidden files and folders, those of operating systems, unknown file types and circular links are skipped. The two halves'
    class names may be composed and decomposed (Macs); the training half's are returned.

    Raises:
        InputError: another layout, an empty class, a class in one half only, a folder that cannot be read.

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
    """Write one line that counts skipped files; empty if there are none.

    >>> sentence(Path("birds"), {"hidden": 2, ".heic": 20, ".txt": 1})
    'birds: passed over 20 .heic, 2 hidden, 1 .txt'
    """
    if not passed_over:
        return ""
    by_number = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    types = [name for name, _ in by_number if name.startswith(".")]
    rest = sum(passed_over[name] for name in types[MOST_TYPES:])
    counts = [f"{n} {name}" for name, n in by_number if name not in types[MOST_TYPES:]] + [f"{rest} of other types"] * bool(rest)
    return f"{root}: passed over {', '.join(counts)}"


def _composed(folder: Path, names: list[str]) -> list[str]:
    """Normalise class names to their composed form (NFC), for comparison.

    Raises:
        InputError: two of them are equal.

    """
    composed = [unicodedata.normalize("NFC", name) for name in names]
    if twice := sorted({name for name in composed if composed.count(name) > 1}):
        raise InputError(f"{folder} has two folders with the name {', '.join(twice)} (composed and decomposed): merge them")
    return composed


def _half(folder: Path, passed: Counter[str]) -> _Half:
    """List the classes of one half and their images."""
    above = (os.path.realpath(folder),)
    entries = list(_shown(str(folder), passed))
    found = [e for e, is_folder in entries if is_folder and not _leads_back(e, above, passed)]
    loose = sum(e.name.lower().endswith(TYPES) for e, is_folder in entries if not is_folder)
    if not found:
        images = f", but {loose} images: put them into folders, one for each class" if loose else ""
        raise InputError(f"{folder} has no class folders{images}")
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
    """Make the error for an inaccessible path."""
    return InputError(f"{path} cannot be read: {reason(error)}")


def _is_folder(there: os.DirEntry[str] | Path) -> bool | None:
    """Return whether a path is a folder, links followed; None for a circular link.

    Raises:
        InputError: it is not accessible.

    """
    try:
        return there.is_dir()
    except NotADirectoryError:  # a broken link to a path below a file
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise _unreadable(os.fspath(there), error) from error


def _shown(folder: str, passed: Counter[str]) -> Iterator[tuple[os.DirEntry[str], bool]]:
    """Yield the visible entries of a folder, and whether each is a folder.

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
    """Return whether a folder is a link to one that contains it: following it would never end."""
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
    except OSError:  # a broken link: reported when it is decoded
        return ImageFile(entry.path, -1, -1, -1)
    return ImageFile(entry.path, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
