"""Select training and test images and labels from a whole data set, by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradlens.data.image_folder import ImageFolder
from gradlens.data.split import Data, Origin, Source, Split
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator


def with_label_noise(split: Split, p: float, classes: int, seed: int) -> Split:
    """Replace each label with probability ``p`` by a uniform draw over all classes, drawn once per (seed, p).

    At p = 1 a tenth of ten classes' labels do not change (Zhang et al. 2017, arXiv 1611.03530).
    """
    rng = generator(seed, f"label noise {p}")
    replaced = torch.rand(len(split), generator=rng) < p
    drawn = torch.randint(classes, (len(split),), generator=rng)
    return replace(split, y=torch.where(replaced, drawn, split.labels))


def _some(split: Split, limit: int, what: str, flag: str, rng: torch.Generator) -> Split:
    """Select random images of a split, in random order."""
    if limit > len(split):
        raise InputError(f"{flag} {limit} is more than the {len(split)} {what} images of the data set; set {len(split)} or less")
    return split.take(torch.randperm(len(split), generator=rng)[:limit])


def _labelled_share(split: Split, share: float, classes: Sequence[str], seed: int) -> tuple[Split, Tensor]:
    """Return a share of each class's images with their labels, and the other images. A smaller share is a subset of a larger one.

    Raises:
        InputError: a class would have no labelled image.

    """
    order = torch.randperm(len(split), generator=generator(seed, "labelled share"))
    labelled = torch.zeros(len(split), dtype=torch.bool)
    for c, name in enumerate(classes):
        mine = order[split.labels[order] == c]
        wanted = round(share * len(mine))
        if len(mine) and not wanted:
            raise InputError(f"--labels {share:g} leaves class {name} without a labelled image: it has {len(mine)} training images")
        labelled[mine[:wanted]] = True
    return split.take(labelled.nonzero()[:, 0]), split.images[~labelled]


def choose(
    source: Source | ImageFolder,
    limit: int | None = None,
    label_noise: float = 0.0,
    validation: float = 0.0,
    seed: int = 0,
    limit_test: int | None = None,
    labels: float | None = None,
) -> Data:
    """Select training and test images from a whole data set.

    Args:
        source: the data set; of an image folder only the selection is decoded.
        limit: number of training images, a seeded selection; also the maximum number of images without labels.
        label_noise: probability that a training label is replaced by a random one.
        validation: share of the training images (after ``limit``) that is held out and replaces the test images.
        seed: keys the selections.
        limit_test: number of test images, a seeded selection; not of held-out training images.
        labels: share of each class's training images (after ``limit`` and ``validation``) that keep their labels, the others
            become images without a label. A smaller share is a subset of a larger one.

    Raises:
        InputError: more images than there are, or a share that leaves an empty part.

    """
    if isinstance(source, ImageFolder):
        return source.read(choose(source.positions(), limit, label_noise, validation, seed, limit_test, labels))
    train, test, classes = source
    chosen = any(share is not None for share in (limit, limit_test, labels)) or label_noise or validation
    origin = Origin(len(train), len(test), (lambda: choose(source).fingerprint()) if chosen else None)
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
            raise InputError(f"a validation share of {validation} of {len(train)} images leaves an empty train or validation split")
        train, test, test_name = train.take(order[held:]), train.take(order[:held]), "validation"
    if labels is not None and labels < 1:
        train, hidden = _labelled_share(train, labels, classes, seed)
        extra = hidden if extra is None else torch.cat([hidden, extra])
    if label_noise:
        train = with_label_noise(train, label_noise, len(classes), seed)
    return Data(train, test, classes, test_name, extra, origin=origin)
