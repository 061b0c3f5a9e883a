"""Cache decoded images of image folders between commands: one memory-mapped file per folder, in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from gradlens.data.folder_listing import Listing
from gradlens.runtime.terminal import notice

FORMAT = 1  # version of the files and of decoding: a higher one decodes everything again
UNUSED = 60 * 86_400.0  # seconds without a read after which a file is removed, when another is written
ABANDONED = 86_400.0  # the same for an incomplete file
COARSE = 1_000_000_000  # ns: resolution of times of some file systems
OURS = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}(?:\.pt|\.json|[a-z0-9_]{8}\.tmp)")  # names of our files: no other is removed
GREY = {b'{"grey": true}\n': True, b'{"grey": false}\n': False}  # content of a .json file


class Decoded(NamedTuple):
    """All images of a folder, the training images first."""

    images: Tensor  # [N, C, H, W] uint8
    fingerprint: str  # of a data set of all images and labels (Data.fingerprint)
    frames: int  # number of files with more than one image
    checksums: Tensor | None = None  # [N]: crc32 of each image, if read from a file

    def is_intact(self, rows: Tensor) -> bool:
        """Return whether the images at ``rows`` [M] are those that were written."""
        if self.checksums is None:
            return True
        return torch.equal(_checksums(self.images, rows), self.checksums[rows])


def _checksums(images: Tensor, rows: Tensor) -> Tensor:
    """Compute the crc32 of the images at ``rows`` [M]."""
    pixels = images.numpy()
    return torch.tensor([zlib.crc32(pixels[row].data) for row in rows.tolist()])


def cache_folder() -> Path:
    """Return ``images`` in ``$GRADLENS_CACHE``, or ``gradlens/images`` in ``$XDG_CACHE_HOME`` (``~/.cache``)."""
    if named := os.environ.get("GRADLENS_CACHE"):
        return Path(named) / "images"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "gradlens" / "images"


def cache_file(listing: Listing) -> Path:
    """Return the cache file of a listing: its name depends on the folder, and its files' paths, sizes and times."""
    from PIL import __version__ as pillow  # another decoder may decode to other pixels

    folder = hashlib.sha256(os.fsencode(os.path.realpath(listing.root))).hexdigest()
    state = hashlib.sha256(f"{FORMAT} {pillow} {listing.stamp}".encode()).hexdigest()
    return cache_folder() / f"{folder[:16]}-{state[:32]}.pt"


def may_change_unseen(listing: Listing) -> bool:
    """Return whether an image changed so recently that a change may not show in its times: if they are whole seconds (FAT, old NFS)."""
    newest = max(file.changed for half in listing.files for file in half)
    return newest % COARSE == 0 and abs(time.time_ns() - newest) < 2 * COARSE


def read_decoded(listing: Listing) -> Decoded | None:
    """Return the decoded images of a listing, memory-mapped; None if there are none, or incomplete ones."""
    path, n = cache_file(listing), sum(len(files) for files in listing.files)
    if not os.path.exists(path):  # Path.exists raises if the folder may not be searched
        return None
    try:
        found = Decoded(**torch.load(path, mmap=True, weights_only=True))
        whole = found.checksums is not None and found.images.dtype == torch.uint8 and len(found.images) == len(found.checksums) == n
    except Exception:  # noqa: BLE001 - torch and pickle raise many types for a damaged file
        whole = False
    if not whole:
        forget_decoded(listing)
        return None
    with suppress(OSError):
        os.utime(path)  # time of the last use
    return found


def forget_decoded(listing: Listing) -> None:
    """Remove a damaged file, so that it is written again."""
    with suppress(OSError):
        cache_file(listing).unlink()


def write_decoded(listing: Listing, decoded: Decoded) -> Decoded:
    """Write decoded images and return them memory-mapped; if they cannot be written, print a line and return them unchanged."""
    if may_change_unseen(listing):
        return decoded
    checksums = _checksums(decoded.images, torch.arange(len(decoded.images)))
    content = decoded._replace(checksums=checksums)._asdict()
    kept = _keep(cache_file(listing), lambda file: torch.save(content, file), f"the decoded images of {listing.root} are")
    return (read_decoded(listing) if kept else None) or decoded


def read_grey(listing: Listing) -> bool | None:
    """Return whether all images of a listing are grey; None if unknown."""
    path = cache_file(listing).with_suffix(".json")
    try:
        content = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):
        if content not in GREY:  # damaged
            path.unlink()
        else:
            os.utime(path)
    return GREY.get(content)


def write_grey(listing: Listing, grey: bool) -> None:
    """Store whether all images of a listing are grey; print a line if that fails."""
    if may_change_unseen(listing):
        return
    (content,) = (text for text, known in GREY.items() if known == grey)
    _keep(cache_file(listing).with_suffix(".json"), lambda file: file.write(content), f"whether {listing.root} is all grey is")


def _keep(path: Path, save: Callable[[IO[bytes]], Any], what: str) -> bool:
    """Write a file, remove old ones and return True; if it cannot be written, print a line about ``what`` and return False."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_old(path)
        _write(path, save)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
        why = next((e.strerror for e in (error, error.__context__) if isinstance(e, OSError)), None) or " ".join(str(error).split())
        notice(f"{what} not kept in {path.parent}: {why.lower()} (--no-cache does not try)")
        return False
    return True


def _write(path: Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Write a file atomically. The first of several writers wins: others may have mapped its file."""
    handle, temporary = tempfile.mkstemp(".tmp", path.stem, path.parent)
    try:
        with open(handle, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process has written the same images meanwhile
        except OSError:  # a file system without links
            os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _remove_old(path: Path) -> None:
    """Remove our files of earlier states of the image folder, and those that have not been used for long.

    Mappings in other processes remain valid; other files in the folder stay.
    """
    now, (folder, _, _) = time.time(), path.stem.partition("-")
    for other in [file for file in path.parent.iterdir() if OURS.fullmatch(file.name)]:
        with suppress(OSError):
            age, begun = now - other.stat().st_mtime, other.suffix == ".tmp"
            earlier = not begun and other.stem != path.stem and other.stem.startswith(f"{folder}-")
            if earlier or age > (ABANDONED if begun else UNUSED):
                other.unlink()
