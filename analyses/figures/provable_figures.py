"""Figures of digits that are generated level by level and learned layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib import style
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from analyses.figures.drawing import title_where
from gradlens.reporting.axes import label_ends
from gradlens.reporting.style import COLOURS, GREY, LOOK, MARKERS, PATTERNS, Style, head, joined
from gradlens.runtime.errors import InputError

if TYPE_CHECKING:
    from gradlens.data.hierarchical_digits import Drawn


LEARNERS = ("bp", "layerwise", "shuffled", "pixels", "templates", "whitened", "random")  # of analyses.provable; each keeps its colour
LEARNER_NAMES = {
    "bp": "CNN, backpropagation",
    "layerwise": "gradient step, clustering",
    "shuffled": "the same, shuffled labels",
    "pixels": "clusters of pixels",
    "templates": "pixels, a cluster a template",
    "whitened": "clusters of whitened pixels",
    "random": "clusters of projections",
}


class LearnerPoint(NamedTuple):
    """What one learner reached at one noise and one probability of distractors."""

    noise: float
    distractors: float
    learner: str  # of LEARNERS
    quantity: str  # accuracy, or the level whose purity it is
    mean: float  # over seeds, a share
    low: float
    high: float
    seeds: int
    floor: float  # accuracy by chance; purity of one cluster that holds everything


class DrawnGrid(NamedTuple):
    """One level of one generated digit."""

    digit: int
    level: str  # strokes, parts or pixels
    cells: list[list[float]]  # class numbers, or brightness from 0 to 1


def grids_of(drawn: Drawn) -> list[DrawnGrid]:
    """The levels of the first image of each digit."""
    rows = []
    for digit in sorted({int(label) for label in drawn.labels}):
        i = int((drawn.labels == digit).nonzero()[0, 0])
        rows += [
            DrawnGrid(digit, "strokes", drawn.levels[1][i].tolist()),
            DrawnGrid(digit, "parts", drawn.levels[2][i].tolist()),
            DrawnGrid(digit, "pixels", (drawn.bytes()[i, 0] / 255).tolist()),
        ]
    return rows


@style.context(LOOK)
def hierarchical_digits(rows: Sequence[DrawnGrid], *, title: str = "") -> Figure:
    """Digits as they are generated: a row a level, a column a digit; blank is white, each class of a level has a colour.

    Args:
        rows: from :func:`grids_of`.
        title: what is said beside the head.

    Raises:
        InputError: nothing to draw.

    """
    if not rows:
        raise InputError("no generated digit to draw")
    levels, digits = list(dict.fromkeys(r.level for r in rows)), list(dict.fromkeys(r.digit for r in rows))
    figure = Figure(figsize=(1.0 + 0.7 * len(digits), 0.5 + 0.76 * len(levels)), layout="constrained")
    grid = figure.subplots(len(levels), len(digits), squeeze=False)
    colours = ListedColormap(["white", *COLOURS, "0.55", "0.8"])
    for line, level in zip(grid, levels, strict=True):
        for ax, digit in zip(line, digits, strict=True):
            (row,) = (r for r in rows if (r.level, r.digit) == (level, digit))
            grey = level == "pixels"
            ax.imshow(row.cells, cmap="gray" if grey else colours, vmin=0, vmax=1 if grey else colours.N - 1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set(visible=not grey, color="0.8")
        side = f"{len(row.cells)}×{len(row.cells)}"
        line[0].set_ylabel(f"{level}\n{side}", rotation=0, ha="right", va="center")
    for ax, digit in zip(grid[0], digits, strict=True):
        ax.set_title(str(digit))
    text = "Each cell of a level becomes one of its class's templates in the next; a distractor is a plus in a blank cell"
    head(figure, joined(text, title))
    return figure


@style.context(LOOK)
def layerwise_sweep(rows: Sequence[LearnerPoint], default: tuple[float, float], *, title: str = "") -> Figure:
    """Test accuracy over noise and over distractors, a line a learner, named at its end; purities are in the table.

    Args:
        rows: the table.
        default: noise and distractors at which the other one is varied.
        title: images and seeds.

    Raises:
        InputError: nothing to draw.

    """
    if not rows:
        raise InputError("nothing was learned on generated digits: there is nothing to draw")
    noise, distractors = default
    sweeps = (
        ("noise", f"noise (s.d.) at {distractors:g} distractors", [r for r in rows if r.distractors == distractors]),
        ("distractors", f"probability of a distractor, noise {noise:g}", [r for r in rows if r.noise == noise]),
    )
    figure = Figure(figsize=(8.0, 4.4), layout="constrained")
    names = [name for name in LEARNERS if any(r.learner == name for r in rows)]
    for ax, (varied, label, here) in zip(figure.subplots(1, 2, sharey=True), sweeps, strict=True):
        shown = sorted((r for r in here if r.quantity == "accuracy"), key=attrgetter(varied))
        ax.axhline(100 * shown[0].floor, color=GREY, linewidth=1.2, linestyle=":")
        ends: dict[str, tuple[float, float, str]] = {}
        for name in names:
            mine = [r for r in shown if r.learner == name]
            look = _learner_style(name)
            x, y = [float(getattr(r, varied)) for r in mine], [100 * r.mean for r in mine]
            ax.plot(x, y, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=4, linewidth=1.6)
            if any(math.isfinite(r.low) for r in mine):
                low, high = [max(0.0, 100 * r.low) for r in mine], [min(100.0, 100 * r.high) for r in mine]
                ax.vlines(x, low, high, color=look.colour, linewidth=0.9, alpha=0.6)
            ends[LEARNER_NAMES[name]] = (x[-1], y[-1], look.colour)
        ax.set(xlabel=label, ylim=(0, 104))
    figure.axes[0].set_ylabel("test accuracy (%)")
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "left"}
    figure.axes[0].annotate("chance", (0, 100 * shown[0].floor), (4, -11), **at)
    label_ends(figure.axes[1], ends)
    head(figure, sweep_title(rows), joined(title, "bars: 95 % interval"))
    return figure


def sweep_title(rows: Sequence[LearnerPoint]) -> str:
    """What the accuracies say; 95 % is finding them."""
    found = [r.mean for r in rows if (r.learner, r.quantity) == ("layerwise", "accuracy")]
    return title_where(
        min(found, default=0) >= 0.95,
        "With a gradient step before it, clustering layer by layer finds the generated digits, in noise too",
        "Test accuracy on generated digits over noise and distractors",
    )


def _learner_style(name: str) -> Style:
    """The colour, dashes and marker of a learner."""
    i = LEARNERS.index(name)
    return Style(COLOURS[i % len(COLOURS)], (0, PATTERNS[i % len(PATTERNS)] or None), MARKERS[i % len(MARKERS)])
