"""Use a folder of images as a data set: listed at once, decoded on use, and only once for all commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor

from gradlens.data.decoded_cache import Decoded, forget_decoded, read_decoded, read_grey, write_decoded, write_grey
from gradlens.data.folder_listing import Listing, list_images, sentence
from gradlens.data.image_file import DecodedImage, decode, is_grey
from gradlens.data.split import Data, Source, Split
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import reading_progress
from gradlens.runtime.terminal import notice

CHUNK = 64  # files that one thread reads at a time
DARK = 16  # of 255: darker maxima are nearly always images of 12 bits in files of 16
Found = TypeVar("Found")


class ImageFolder:
    """``root/train/<class>/**`` and ``root/test/<class>/**``: images of one size, grey only if all are.

    Args:
        root: the folder.
        cache: read decoded images from the user's cache folder, and write them there.
        listing: contents of the folder, if it was listed already.

    Raises:
        InputError: see :func:`gradlens.data.folder_listing.list_images`.

    """

    def __init__(self, root: Path, cache: bool = True, listing: Listing | None = None) -> None:
        self.root, self.cache, self.listing = root, cache, listing or list_images(root)
        self.files = [file.path for half in self.listing.files for file in half]
        self._decoded: Decoded | None = None  # all images

    def positions(self) -> Source:
        """Return the data set with each image replaced by its index: selections from it decode nothing."""
        train, test = (torch.tensor(labels) for labels in self.listing.labels)
        numbers = torch.arange(len(self.files))
        return Split(numbers[: len(train)], train), Split(numbers[len(train) :], test), self.listing.classes

    def whole(self) -> Source:
        """Decode the whole data set."""
        train, test, classes = self.positions()
        data = self.read(Data(train, test, classes))
        return data.train, data.test, classes

    def read(self, chosen: Data) -> Data:
        """Decode a selection from :meth:`positions`: replace indices by images.

        Raises:
            InputError: an image that cannot be read, unequal sizes.

        """
        halves = [chosen.train.images, chosen.test.images] + ([] if chosen.unlabelled is None else [chosen.unlabelled])
        rows = torch.from_numpy(np.unique(torch.cat(halves).numpy()))
        found = self._all(rows)
        at = rows
        if found is None:
            found = self._some(rows)
            at = torch.arange(len(rows))
        train, test, *rest = (_taken(found.images, at[torch.searchsorted(rows, half)]) for half in halves)
        passed = self.listing.passed_over | ({"files' later frames": found.frames} if found.frames else {})
        if text := sentence(self.root, passed):
            notice(text)
        origin = chosen.origin
        if origin is not None and origin.of_all is not None:  # that of the indices
            origin = replace(origin, of_all=partial(str, found.fingerprint))
        return Data(
            Split(train, chosen.train.labels),
            Split(test, chosen.test.labels),
            chosen.classes,
            chosen.test_name,
            rest[0] if rest else None,
            passed,
            found.fingerprint if self._is_whole(chosen) else "",
            origin,
        )

    def _is_whole(self, chosen: Data) -> bool:
        """Return whether a selection has all images in order with their labels."""
        pairs = zip(self.positions()[:2], (chosen.train, chosen.test), strict=True)
        return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)

    def _all(self, rows: Tensor) -> Decoded | None:
        """Return all images, if they are cached or if ``rows`` are more than half of them; those at ``rows`` are verified."""
        if self._decoded is None and self.cache:
            self._decoded = read_decoded(self.listing)
        if self._decoded is not None and not self._decoded.is_intact(rows):
            forget_decoded(self.listing)
            self._decoded = None
        if self._decoded is None and 2 * len(rows) > len(self.files):
            everything = torch.arange(len(self.files))
            self._decoded = self._some(everything)
            if self.cache:
                train, test, classes = self.positions()
                images = self._decoded.images
                data = Data(Split(images[: len(train)], train.labels), Split(images[len(train) :], test.labels), classes)
                self._decoded = write_decoded(self.listing, self._decoded._replace(fingerprint=data.fingerprint()))
        return self._decoded

    def _some(self, rows: Tensor) -> Decoded:
        """Decode the images at ``rows`` [M]."""
        wanted = rows.tolist()
        files = [self.files[row] for row in wanted]
        decoded = _decoded(files, str(self.root))
        _must_be_of_one_size(self.root, files, decoded)
        _must_not_be_dark(self.root, decoded)
        colour = any(image.pixels.ndim == 3 for image in decoded) or not self._others_are_grey(wanted)
        height, width = decoded[0].pixels.shape[:2]
        images = np.empty((len(files), 3 if colour else 1, height, width), np.uint8)
        frames = sum(image.frames for image in decoded)
        for i in reversed(range(len(files))):  # free each copied image: all are in memory once
            pixels = decoded.pop().pixels
            images[i] = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
        return Decoded(torch.from_numpy(images), "", frames)

    def _others_are_grey(self, chosen: Sequence[int]) -> bool:
        """Return whether all images but ``chosen`` are grey; checked once for all commands."""
        others = [self.files[row] for row in sorted(set(range(len(self.files))) - set(chosen))]
        if not others:
            return True
        known = read_grey(self.listing) if self.cache else None
        if known is not None:
            return known
        grey = all(_of_parts(lambda part: all(is_grey(file) for file in part), others, str(self.root)))
        if self.cache:
            write_grey(self.listing, grey)
        return grey


def _taken(images: Tensor, rows: Tensor) -> Tensor:
    """Return ``images[rows]``; a view if the rows are consecutive, so that memory-mapped images are read on use."""
    first = int(rows[0]) if len(rows) else 0
    if torch.equal(rows, torch.arange(first, first + len(rows))):
        return images[first : first + len(rows)]
    return images[rows]


def _of_parts(work: Callable[[Sequence[str]], Found], files: Sequence[str], folder: str) -> Iterator[Found]:
    """Yield ``work`` of one part of the files after the other, in several threads; progress is reported."""
    progress, parts = reading_progress(), [files[first : first + CHUNK] for first in range(0, len(files), CHUNK)]
    done = 0
    with catch_warnings(), ThreadPoolExecutor() as pool:
        simplefilter("ignore")  # Pillow warns of every odd tag; unreadable files are errors
        for part, found in zip(parts, pool.map(work, parts), strict=True):
            done += len(part)
            progress(done, len(files), folder)
            yield found


def _decoded(files: Sequence[str], folder: str) -> list[DecodedImage]:
    """Decode files in several threads."""
    return [image for part in _of_parts(lambda part: [decode(file) for file in part], files, folder) for image in part]


def _must_be_of_one_size(root: Path, files: Sequence[str], decoded: Sequence[DecodedImage]) -> None:
    sizes = ["x".join(map(str, image.pixels.shape[:2])) for image in decoded]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"images of different sizes in {root}: {files[0]} is {sizes[0]}, {file} is {size} (HxW); all must have one size"
            )


def _must_not_be_dark(root: Path, decoded: Sequence[DecodedImage]) -> None:
    """Reject nearly black images: files of 16 bits often have 10 or 12 bits, and floats may have another range than 0 to 1."""
    brightest = max((int(image.pixels.max()) for image in decoded if image.scaled), default=255)
    if brightest < DARK:
        raise InputError(
            f"the images of 16 bits or floats in {root} are black, at most {brightest} of 255 as 8 bits:"
            " scale them to 0 to 65535, floats to 0 to 1, or save 8 bits"
        )
