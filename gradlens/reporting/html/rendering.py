"""The section of the page on rendered pictures: each method's beside the true ones, PSNR and SSIM."""

from __future__ import annotations

import binascii

import numpy as np

from gradlens.analysis.rendering import unpacked
from gradlens.reporting.html.filters import as_png
from gradlens.reporting.html.parts import Picture, ReportContext, ReportSection, Table, TableCell, mean_cell
from gradlens.reporting.html.stored import Result, stored, value
from gradlens.reporting.statistics import interval
from gradlens.tasks.registry import TASKS
from gradlens.tasks.task import Task

GAP = 1  # white pixels between two pictures


def section(held: ReportContext) -> ReportSection | None:
    """Make the section; None where no run is of a task that makes pictures."""
    if not any(type(TASKS[run.config.task]).colours is not Task.colours for run in held.runs):
        return None
    shown = ReportSection("rendering", "Rendered pictures")
    results = stored(held, shown, "rendering", "gradlens render {}")
    rows = []
    for label, group in held.groups.items():
        mine = [(run, results[run.path]) for run in group if run.path in results]
        for run, result in mine[:1]:
            if drawn := beside_truth(result):
                name = f"{label}, seed {run.config.seed}, {value(result, 'psnr'):.2f} dB"
                about = f"{', '.join(map(str, result.get('shown', [])))}: true, and as rendered by {name}"
                shown.pictures.append(Picture(name, held.place(label), drawn, about))
        if mine:
            scores = [interval(value(result, name) for _, result in mine) for name in ("psnr", "ssim")]
            rows.append([held.named(label), mean_cell(scores[0]), mean_cell(scores[1], 3), TableCell(str(scores[0].n), scores[0].n)])
    if shown.pictures:
        shown.text.append("Left the true picture, right what the network renders; held-out views, one run of each method.")
    if rows:
        note = "Means over pictures, then over seeds, with half a 95 % t-interval. SSIM: gaussian windows of 11x11 pixels, deviation 1.5."
        shown.tables.append(Table("PSNR and SSIM of all held-out pictures", ["method", "PSNR dB", "SSIM", "seeds"], rows, note))
    return shown


def beside_truth(result: Result) -> str:
    """Return stored pictures below each other, the true ones left, as a PNG in a data URI; "" where there are none."""
    try:
        true, made = unpacked(result, "true"), unpacked(result, "made")
        white = ((0, 0), (0, GAP), (0, GAP), (0, 0))
        both = np.concatenate([np.pad(part, white, constant_values=255) for part in (true, made)], 2)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return ""
    return as_png(np.concatenate(list(both))[:-GAP, :-GAP]) if both.size else ""
