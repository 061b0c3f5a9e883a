"""Define a data set: examples (images as uint8 tensors, or a task's own), their targets, and the fingerprint of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Examples and their targets, a row each: images [N, C, H, W] uint8 with labels [N] int64, or those of another task.

    Attributes:
        x: [N, *] of any type.
        y: [N, *] targets; of classes int64, -1 if unknown.
        context: tensors that belong to all examples together (the edges of a graph), by name; they are not selected from.

    """

    x: Tensor
    y: Tensor
    context: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def images(self) -> Tensor:
        """Return x as it is called of images.

        Returns:
            [N, C, H, W] uint8.

        """
        return self.x

    @property
    def labels(self) -> Tensor:
        """Return y as it is called of images.

        Returns:
            [N] int64, -1 if unknown.

        """
        return self.y

    def take(self, index: Tensor) -> Split:
        """Select examples and their targets.

        Args:
            index: [M] whole numbers, or [N] bool.

        Returns:
            M examples and targets, with the same context.

        """
        return Split(self.x[index], self.y[index], self.context)

    def to(self, device: torch.device) -> Split:
        """Copy the split to a device.

        Args:
            device: that of the training.

        Returns:
            a split whose tensors are there.

        """
        return Split(self.x.to(device), self.y.to(device), {name: t.to(device) for name, t in self.context.items()})


@dataclass(frozen=True)
class Origin:
    """The whole data set that training and test images were chosen from."""

    train: int  # number of images
    test: int
    of_all: Callable[[], str] | None = None  # fingerprint of all images and labels, "" if unknown; None: all were selected


@dataclass(frozen=True)
class Data:
    """A data set ready for training."""

    train: Split
    test: Split  # the held-out part of the training images with a validation share
    classes: tuple[str, ...]  # of which the network's output says how likely each is: of images their names, of text its symbols
    test_name: str = "test"  # "validation" in that case
    unlabelled: Tensor | None = None  # [M, C, H, W] uint8: training images with an unknown or hidden label
    passed_over: Mapping[str, int] = field(default_factory=dict)  # kind of skipped file in a folder -> number
    known_fingerprint: str = ""  # if it was computed before
    origin: Origin | None = None
    inputs: tuple[int, ...] | None = None  # what a network is built for where that is not the shape of x: of each column how many values
    first: Tensor | None = (
        None  # x of the first test example in the order of the data, where :meth:`Task.sample` begins, whatever was chosen
    )
    selection: Split | None = None  # validation examples beside the test ones: the best epoch is chosen on them

    @cached_property
    def everything(self) -> Split:
        """Return all training images, labelled or not: those without a label have -1."""
        if self.unlabelled is None:
            return self.train
        none = torch.full((len(self.unlabelled),), -1)
        return Split(torch.cat([self.train.images, self.unlabelled]), torch.cat([self.train.labels, none]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one example, of an image (C, H, W); or what a network is built for instead."""
        return tuple(self.train.x.shape[1:]) if self.inputs is None else self.inputs

    def fingerprint(self) -> str:
        """Hash the training and test images and their labels (noise included) to 16 hex digits."""
        return self.known_fingerprint or self._computed_fingerprint

    def source_fingerprint(self) -> str:
        """Hash all images and labels of the whole data set, regardless of the selection, to 16 hex digits; empty if unknown."""
        if self.origin is None:
            return ""
        return self.fingerprint() if self.origin.of_all is None else self.origin.of_all()

    @cached_property
    def _computed_fingerprint(self) -> str:
        digest = hashlib.sha256()
        extra = [] if self.unlabelled is None else [self.unlabelled]
        splits = [self.train, self.test, *([] if self.selection is None else [self.selection])]
        of_all = [t for split in splits for t in (split.x, split.y, *split.context.values())]
        for tensor in (*of_all, *extra):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def label_hash(split: Split) -> str:
    """Hash a split's label vector to 16 hex digits: constant over a run, stored with it."""
    return hashlib.sha256(split.labels.contiguous().numpy().tobytes()).hexdigest()[:16]


Source = tuple[Split, Split, tuple[str, ...]]  # train (label -1: unknown), test, class names
