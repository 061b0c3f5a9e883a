"""Figures of analyses.first_layer_filters: the filters that a Gabor fits best, and how far their numbers moved. Pure functions of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradlens.analysis.filter_measures import luminance
from gradlens.analysis.gabor import Gabor
from gradlens.reporting.filters import FilterNumber
from gradlens.reporting.style import LOOK, head

BEST = 8  # filters of a rule


class FittedFilter(NamedTuple):
    """One filter's luminance, and the Gabor that is nearest to it."""

    label: str
    rank: int  # among the label's filters, by how well the Gabor fits
    r2: float
    patch: str  # k·k values, row by row, with spaces between them
    fit: str


def gabor_image(gabor: Gabor, k: int) -> NDArray[np.float64]:
    """Return the k·k pixels of a Gabor."""
    y, x = np.mgrid[:k, :k] - (k - 1) / 2
    turn = math.radians(gabor.orientation)
    u = (x - gabor.x) * math.cos(turn) + (y - gabor.y) * math.sin(turn)
    v = (y - gabor.y) * math.cos(turn) - (x - gabor.x) * math.sin(turn)
    envelope = np.exp(-(u**2) / (2 * gabor.along**2) - v**2 / (2 * gabor.across**2))
    wave: NDArray[np.float64] = gabor.amplitude * envelope * np.cos(2 * math.pi * gabor.frequency * u + math.radians(gabor.phase))
    return wave


def fitted_filters(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[FittedFilter]:
    """The best fitted filters of each label's first run.

    Args:
        results: label -> contents of ``filters.json``, one a seed.

    """
    rows = []
    for label, (first, *_) in results.items():
        fits = {i: Gabor(**fit) for i, fit in enumerate(first["gabor"]) if fit is not None}
        grey = luminance(np.asarray(first["weights"]))
        for rank, i in enumerate(sorted(fits, key=lambda i: -fits[i].r2)[:BEST]):
            texts = (" ".join(f"{v:.4g}" for v in image.ravel()) for image in (grey[i], gabor_image(fits[i], first["kernel"])))
            rows.append(FittedFilter(label, rank, fits[i].r2, *texts))
    return rows


@style.context(LOOK)
def gabor_figure(rows: Sequence[FittedFilter], shares: Mapping[str, float], title: str) -> Figure:
    """Two lines of squares a label: the luminance of its best fitted filters, and below each the Gabor that fits it.

    Args:
        rows: from :func:`fitted_filters`.
        shares: label -> share of all its filters that a Gabor fits, in %.
        title: what the networks have in common.

    """
    labels = list(dict.fromkeys(row.label for row in rows))
    figure = Figure(figsize=(7.2, 0.9 + 1.25 * len(labels)), layout="constrained")
    grid = figure.subplots(2 * len(labels), BEST, squeeze=False)
    for ax in grid.ravel():
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    for row in rows:
        reach = max(abs(float(v)) for v in row.patch.split())
        for below, text in enumerate((row.patch, row.fit)):
            values = np.array(text.split(), float)
            k = math.isqrt(len(values))
            grid[2 * labels.index(row.label) + below, row.rank].imshow(values.reshape(k, k), cmap="gray", vmin=-reach, vmax=reach)
        grid[2 * labels.index(row.label) + 1, row.rank].set_xlabel(f"R² {row.r2:.2f}", fontsize=9, labelpad=2)
    for i, label in enumerate(labels):
        words = f"{label}\n{shares[label]:.0f} % fitted"
        grid[2 * i, 0].set_ylabel(words, rotation=0, ha="right", va="center")
        grid[2 * i + 1, 0].set_ylabel("Gabor", rotation=0, ha="right", va="center", color="0.35")
    most = max(shares, key=lambda label: shares[label])
    message = f"A Gabor fits {shares[most]:.0f} % of {most}'s filters and {shares['bp']:.0f} % of backprop's"
    head(figure, message, f"luminance of each rule's {BEST} best fitted filters, first seed, and the Gabor below", title)
    return figure


def moved_furthest(rows: Sequence[FilterNumber]) -> str:
    """In how many of the numbers which label is furthest from its untrained filters."""
    names = [name for name in dict.fromkeys(r.number for r in rows) if any(r.number == name and math.isfinite(r.mean) for r in rows)]
    names = [name for name in names if any(r.mean != r.untrained for r in rows if r.number == name)]
    first = []
    for name in names:
        mine = [r for r in rows if r.number == name]
        first.append(max(mine, key=lambda r: abs(r.mean - (0 if math.isnan(r.untrained) else r.untrained))).label)
    label = max(first, key=first.count)
    return f"{label}'s first filters are furthest from the untrained ones in {first.count(label)} of {len(names)} numbers"
