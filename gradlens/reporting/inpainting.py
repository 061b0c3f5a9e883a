"""Inpainting by context encoders of several runs: errors over seeds, the printed table, the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradlens.analysis.inpainting import unpacked
from gradlens.reporting.analysis_report import Figures, Results, results_by_label
from gradlens.reporting.numbers import mean_cell, number_cell
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, head
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Table
from gradlens.training.run_directory import Run


class InpaintingRow(NamedTuple):
    """Errors on the dropped pixels (in the controls: all) of held-out images, of one group of runs; grey scale 0 … 1, mean over seeds."""

    label: str
    l1: float  # mean absolute error
    l2: float  # mean squared error
    l2_low: float  # 95 % t-interval
    l2_high: float
    psnr: float  # dB, of the mean squared error
    mean_patch_l1: float  # the same for the mean of the training images
    mean_patch_l2: float
    mean_patch_psnr: float
    seeds: int


class InpaintingPanel(NamedTuple):
    """Some images, the network's input made of them, and its output: each [K, C, H, W] of grey values 0 … 255."""

    label: str
    original: NDArray[np.uint8]
    corrupted: NDArray[np.uint8]
    output: NDArray[np.uint8]


# -------------------------------------------------------------------------------------------------------- over seeds


def inpainting_rows(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[InpaintingRow]:
    """Return the errors by label.

    Args:
        runs: several labels, several seeds each.
        results: what :func:`gradlens.analysis.inpainting.inpaint_run` gave for each.

    """
    found = []
    for label, mine in results_by_label(runs, results).items():

        def mean(of: str, name: str, mine: Sequence[Mapping[str, Any]] = mine) -> float:
            return interval(one["errors"][of][name] for one in mine).mean

        l2, *ends = interval(one["errors"]["network"]["l2"] for one in mine)[:3]
        patch = mean("mean_patch", "l1"), mean("mean_patch", "l2"), mean("mean_patch", "psnr")
        found.append(InpaintingRow(label, mean("network", "l1"), l2, ends[0], ends[1], mean("network", "psnr"), *patch, len(mine)))
    return found


def inpainting_table(found: Sequence[InpaintingRow]) -> Table:
    """Return the errors to print, in per cent of the grey scale as in the paper."""
    table = Table(title="predicted pixels of held-out images")
    table.add_column("method")
    for name, unit in (("L1", "%"), ("L2", "%"), ("PSNR", "dB")):
        table.add_column(name, unit)
    for name, unit in (("L1", "%"), ("L2", "%"), ("PSNR", "dB")):
        table.add_column(f"mean patch {name}", unit, apart=name == "L1")
    for r in found:
        l1, m1, m2 = (number_cell(share, scale=100) for share in (r.l1, r.mean_patch_l1, r.mean_patch_l2))
        psnr, patch_psnr = number_cell(r.psnr, 1), number_cell(r.mean_patch_psnr, 1)
        table.add_row(r.label, l1, mean_cell(r.l2, r.l2_low, scale=100, high=r.l2_high), psnr, m1, m2, patch_psnr)
    return table


# ----------------------------------------------------------------------------------------------------------- figures


def _strip(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return [K, C, H, W] one above the other with white between them: [*, W, 3]; images that are not of three channels are their mean."""
    colour = images if images.shape[1] == 3 else np.repeat(images.mean(1, keepdims=True).round().astype(np.uint8), 3, 1)
    gap = max(1, images.shape[2] // 16)
    spaced = np.pad(np.moveaxis(colour, 1, -1), ((0, 0), (0, gap), (0, 0), (0, 0)), constant_values=255)
    return np.concatenate(list(spaced), 0)[:-gap]


@style.context(LOOK)
def inpainting_grid(panels: Sequence[InpaintingPanel], *, title: str = "") -> Figure:
    """Draw held-out images, a row each: in the first column the images, right of it each label's network input and output.

    Args:
        panels: one a label.
        title: what the runs have in common.

    Raises:
        InputError: no panels.

    """
    if not panels:
        raise InputError("no inpainted images to draw")
    strips: list[tuple[str, str, NDArray[np.uint8]]] = []  # label above a pair of columns, name of a column, its images
    shown: NDArray[np.uint8] | None = None
    for panel in panels:
        if shown is None or not np.array_equal(shown, panel.original):
            shown = panel.original
            strips.append(("", "images", _strip(shown)))
        strips += [(panel.label, "input", _strip(panel.corrupted)), ("", "output", _strip(panel.output))]
    tall = max(strip.shape[0] / strip.shape[1] for *_, strip in strips)
    wide, above = min(8.0, max(0.87 * len(strips), 6.2)), 1.3  # inches; above the images two lines of title, three of a label and a name
    height = above + 0.83 * tall * wide / (0.87 * len(strips))
    figure = Figure(figsize=(wide, height))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - above / height, wspace=0.07)
    axes = figure.subplots(1, len(strips), squeeze=False).ravel()
    for ax, (label, name, strip) in zip(axes, strips, strict=True):
        ax.imshow(strip, interpolation="nearest", aspect="equal")
        ax.set_xticks([]), ax.set_yticks([])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_title(name, fontsize=9)
        ax.set_anchor("N")
        if label:  # over its two columns
            ax.annotate(fill(label, 15), (1.03, 1), xytext=(0, 17), xycoords="axes fraction", textcoords="offset points", ha="center")
    text = "Held-out images, the network's input, and its prediction where pixels are missing"
    head(figure, text, title)
    return figure


def tables(runs: Sequence[Run], results: Results) -> list[Table]:
    """Return what `gradlens inpaint` prints."""
    return [inpainting_table(inpainting_rows(runs, results))]


def figures(runs: Sequence[Run], results: Results, title: str) -> Figures:
    """Return what `gradlens inpaint` draws: the pictures of each label's first seed; the errors are its table."""
    panels = [
        InpaintingPanel(label, *(unpacked(first, name) for name in ("original", "corrupted", "output")))
        for label, (first, *_) in results_by_label(runs, results).items()
    ]
    return {"inpainting": (inpainting_grid(panels, title=title), inpainting_rows(runs, results))}
