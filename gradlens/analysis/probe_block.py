"""A linear probe of one block: its l2 chosen on held-out images, its control with permuted labels, strict separability."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlens.analysis.linear_separability import certify_separability, row_of
from gradlens.analysis.logistic_regression import Fitting, LogisticProbe, Standard, fit_logistic_regression
from gradlens.analysis.of_runs.options import GRID
from gradlens.runtime.rng import generator

HELD_OUT = 5  # one training image in so many chooses l2
CERTIFICATE_SECONDS = 5.0  # for the verdict on one block's separability
TRUE, PERMUTED = "true", "permuted"
ProbeRecord = dict[str, Any]


class L2Choice(NamedTuple):
    """The l2 that a validation split chose."""

    l2: float
    accuracy: float  # on the split
    tried: list[tuple[float, float]]  # (l2, accuracy), strong to weak
    theta: Tensor  # the weights there, to continue from


def choose_l2(x: Tensor, y: Tensor, held: Tensor, y_held: Tensor, classes: int, grid: Sequence[float] = GRID) -> L2Choice:
    """Return the l2 of a grid with the best accuracy on held-out images, the strongest of equals.

    Args:
        x: [N, d] features to fit to.
        y: [N] their labels.
        held: [M, d] features held out.
        y_held: [M] their labels.
        classes: how many there are.
        grid: strong to weak; left once accuracy is two standard errors below the best so far.

    Raises:
        InputError: as :class:`gradlens.analysis.logistic_regression.Fitting`.

    """
    standard = Standard.of(x)
    fitting, held = Fitting(standard(x), y, classes), standard(held)
    best: L2Choice | None = None
    tried: list[tuple[float, float]] = []
    for l2 in grid:
        accuracy = fitting.solve(l2).accuracy(held, y_held)
        tried.append((l2, accuracy))
        if best is None or accuracy > best.accuracy:
            best = L2Choice(l2, accuracy, tried, fitting.theta)
        if accuracy < best.accuracy - 2 * math.sqrt(best.accuracy * (1 - best.accuracy) / len(y_held)):
            break
    assert best is not None
    return best


class ProbeFeatures(NamedTuple):
    """One block's features, the held-out part of the training images last."""

    train: Tensor  # [N, d]
    y: Tensor  # [N]
    test: Tensor  # [M, d]
    y_test: Tensor  # [M]
    classes: int
    seed: int

    @property
    def fitted(self) -> int:
        """Count the training images that l2 is not chosen on."""
        return len(self.y) - len(self.y) // HELD_OUT

    def digest(self) -> str:
        """Return 16 hex digits of everything here."""
        digest = hashlib.sha256(repr((self.classes, self.seed)).encode())
        for tensor in self[:4]:
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def permuted(self) -> Tensor:
        """Return the training labels, permuted over images."""
        return self.y[torch.randperm(len(self.y), generator=generator(self.seed, "permuted labels")).to(self.y.device)]


def probe_block(given: ProbeFeatures, grid: Sequence[float] = GRID, controls: bool = True) -> list[ProbeRecord]:
    """Return a block's rows: with true labels, and (a control) with permuted ones at the same l2.

    Raises:
        InputError: as :class:`gradlens.analysis.logistic_regression.Fitting`.

    """
    start, m = time.monotonic(), given.fitted
    choice = choose_l2(given.train[:m], given.y[:m], given.train[m:], given.y[m:], given.classes, grid)
    standard = Standard.of(given.train)
    train, test = standard(given.train), standard(given.test)
    fitting = Fitting(train, given.y, given.classes)
    if choice.theta.shape == fitting.theta.shape:  # the same classes occur
        fitting.theta = choice.theta
    rows = [_row(fitting.solve(choice.l2), train, given.y, test, given.y_test, TRUE, choice.accuracy, start)]
    if controls:
        start, labels = time.monotonic(), given.permuted()
        rows.append(
            _row(fit_logistic_regression(train, labels, choice.l2, given.classes), train, labels, test, given.y_test, PERMUTED, None, start)
        )
    return rows


def _row(
    probe: LogisticProbe, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor, labels: str, validation: float | None, start: float
) -> ProbeRecord:
    return {
        "labels": labels,
        "l2": probe.l2,
        "train": probe.accuracy(train, y),
        "validation": validation,
        "test": probe.accuracy(test, y_test),
        "loss": probe.loss,
        "gradient_norm": probe.gradient_norm,
        "bound": probe.bound,
        "passes": probe.passes,
        "seconds": round(time.monotonic() - start, 3),
    }


def certificates(given: ProbeFeatures, images: int, controls: bool = True) -> list[ProbeRecord]:
    """Return whether the first training images are strictly separable by this block's features, with true labels and with permuted ones."""
    n = min(images, len(given.y))
    x = Standard.of(given.train)(given.train[:n])
    labels = {TRUE: given.y, **({PERMUTED: given.permuted()} if controls else {})}
    return [
        row_of(certify_separability(x, y[:n], seconds=CERTIFICATE_SECONDS), labels=name)
        for name, y in labels.items()
        if len(torch.unique(y[:n])) > 1
    ]
