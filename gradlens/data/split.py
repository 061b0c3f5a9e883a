"""Define a data set: images as uint8 tensors, their labels, and the fingerprint of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8 and labels [N] int64.

    Attributes:
        images: [N, C, H, W] uint8.
        labels: [N] int64, -1 if unknown.

    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Split:
        """Select images and their labels.

        Args:
            index: [M] whole numbers, or [N] bool.

        Returns:
            M images and labels.

        """
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Split:
        """Copy the split to a device.

        Args:
            device: that of the training.

        Returns:
            a split whose tensors are there.

        """
        return Split(self.images.to(device), self.labels.to(device))


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
    classes: tuple[str, ...]
    test_name: str = "test"  # "validation" in that case
    unlabelled: Tensor | None = None  # [M, C, H, W] uint8: training images with an unknown or hidden label
    passed_over: Mapping[str, int] = field(default_factory=dict)  # kind of skipped file in a folder -> number
    known_fingerprint: str = ""  # if it was computed before
    origin: Origin | None = None

    @cached_property
    def everything(self) -> Split:
        """Return all training images, labelled or not: those without a label have -1."""
        if self.unlabelled is None:
            return self.train
        none = torch.full((len(self.unlabelled),), -1)
        return Split(torch.cat([self.train.images, self.unlabelled]), torch.cat([self.train.labels, none]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of one image."""
        c, h, w = self.train.images.shape[1:]
        return c, h, w

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
        for tensor in (self.train.images, self.train.labels, self.test.images, self.test.labels, *extra):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def label_hash(split: Split) -> str:
    """Hash a split's label vector to 16 hex digits: constant over a run, stored with it."""
    return hashlib.sha256(split.labels.contiguous().numpy().tobytes()).hexdigest()[:16]


Source = tuple[Split, Split, tuple[str, ...]]  # train (label -1: unknown), test, class names
