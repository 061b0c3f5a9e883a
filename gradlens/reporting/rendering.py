"""Rendered pictures of several runs: PSNR and SSIM over seeds, the printed table, the pictures beside the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradlens.analysis.rendering import unpacked
from gradlens.reporting.analysis_report import Figures, Results, results_by_label
from gradlens.reporting.numbers import mean_cell
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, head
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Table
from gradlens.training.run_directory import Run

Pixels = NDArray[np.uint8]
INCHES = 1.45  # width of a picture in the figure


class RenderingRow(NamedTuple):
    """PSNR and SSIM of the pictures of one group of runs, means over pictures, then over seeds."""

    label: str
    psnr: float  # dB
    psnr_low: float  # 95 % t-interval
    psnr_high: float
    ssim: float
    ssim_low: float
    ssim_high: float
    seeds: int


class RenderedPanel(NamedTuple):
    """Pictures as one label's network makes them, and the true ones: each [K, H, W, 3]."""

    label: str
    names: Sequence[str]
    made: Pixels
    true: Pixels


def rendering_rows(runs: Sequence[Run], results: Results) -> list[RenderingRow]:
    """Return means and 95 % t-intervals over seeds, by label."""
    found = []
    for label, mine in results_by_label(runs, results).items():
        psnr, ssim = (interval(one[name] for one in mine) for name in ("psnr", "ssim"))
        found.append(RenderingRow(label, *psnr[:3], *ssim[:3], len(mine)))
    return found


def panels(runs: Sequence[Run], results: Results) -> list[RenderedPanel]:
    """Return the pictures of each label's first seed."""
    return [
        RenderedPanel(label, first["shown"], unpacked(first, "made"), unpacked(first, "true"))
        for label, (first, *_) in results_by_label(runs, results).items()
    ]


@style.context(LOOK)
def rendering_grid(shown: Sequence[RenderedPanel], *, text: str = "", title: str = "", credit: str = "") -> Figure:
    """Draw pictures, a row each: the true one, right of it each label's.

    Args:
        shown: one a label, all of the same pictures.
        text: the figure's title.
        title: what the runs have in common.
        credit: author and licence of what is shown, below the pictures.

    Raises:
        InputError: no pictures, or not the same ones.

    """
    if not shown or any(not np.array_equal(panel.true, shown[0].true) for panel in shown):
        raise InputError("pictures are drawn beside each other where all runs have the same ones: give runs on the same data, and some")
    rows, tall = len(shown[0].true), shown[0].true.shape[1] / shown[0].true.shape[2]
    columns = [("true", shown[0].true), *((panel.label, panel.made) for panel in shown)]
    wide, above, below = INCHES * len(columns), 0.95, 0.3 if credit else 0.05
    wide = max(wide, 4.4)
    height = above + below + rows * tall * wide / len(columns)
    figure = Figure(figsize=(wide, height))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=below / height, top=1 - above / height, wspace=0.04, hspace=0.04)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for j, (label, pictures) in enumerate(columns):
        for i, picture in enumerate(pictures):
            ax = axes[i][j]
            ax.imshow(picture, interpolation="nearest", aspect="equal")
            ax.set_axis_off()
        axes[0][j].set_title(fill(label, 18), fontsize=9)
    if credit:
        figure.text(0.01, 0.06 / height, credit, fontsize=7)
    head(figure, text or "Held-out pictures as photographed and as each network renders them", title)
    return figure


def tables(runs: Sequence[Run], results: Results) -> list[Table]:
    """Return what `gradlens render` prints."""
    printed = Table("rendered pictures")
    for name, unit in (("method", ""), ("PSNR", "dB"), ("SSIM", "")):
        printed.add_column(name, unit)
    for row in rendering_rows(runs, results):
        psnr = mean_cell(row.psnr, row.psnr_low, 2, high=row.psnr_high)
        printed.add_row(row.label, psnr, mean_cell(row.ssim, row.ssim_low, 3, high=row.ssim_high))
    return [printed]


def figures(runs: Sequence[Run], results: Results, title: str) -> Figures:
    """Return what `gradlens render` draws: pictures of each label's first seed; PSNR and SSIM are its table."""
    return {"rendering": (rendering_grid(panels(runs, results), title=title), rendering_rows(runs, results))}
