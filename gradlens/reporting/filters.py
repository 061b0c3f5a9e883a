"""First-layer filters of several runs: numbers over seeds, the printed table, the pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gradlens.analysis.first_layer_filters import DECIDES
from gradlens.methods import BY_REACH, SHIPPED
from gradlens.reporting.analysis_report import Figures, Results, results_by_label
from gradlens.reporting.numbers import mean_cell, number_cell, short_number
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import GREY, LOOK, head, joined, over_seeds, panels, styles
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Cell, Table
from gradlens.training.run_directory import Run

FILTERS_SHOWN = 49  # in a panel, the first ones of the layer, as in the reference study's 7x7
FILTER_ORDER = "luminance by frequency, then colour by hue"
FILTER_NUMBERS = {  # name in filters.json -> (at the axis, factor)
    "gabor_share": ("Gabors (%)", 100),
    "frequency_entropy": ("entropy (bits)", 1),
    "frequency": ("frequency (cycles/pixel)", 1),
    "colour_share": ("colour (%)", 100),
    "effective_rank": ("effective rank", 1),
    "dead_share": ("dead (%)", 100),
    "moved": ("distance moved (norms)", 1),
}
DIGITS = {"gabor_share": 0, "frequency_entropy": 2, "frequency": 3, "colour_share": 1, "effective_rank": 1, "dead_share": 0, "moved": 2}


class FilterPanel(NamedTuple):
    """The filters of one network, in the order in which they are shown."""

    label: str
    filters: list[Any]  # [n][C][k][k]


class FilterNumber(NamedTuple):
    """One number of the filters of one group of runs."""

    label: str
    number: str  # a key of FILTER_NUMBERS
    mean: float  # over seeds; NaN: undecided, or not defined
    low: float
    high: float
    seeds: int
    untrained: float  # the same number for the untrained stems, mean over seeds
    random: float  # for filters drawn at random


# -------------------------------------------------------------------------------------------------------- over seeds


def side_by_side(labels: Iterable[str]) -> list[str]:
    """Sort labels in the reference study's order (by how far a gradient reaches), others after them; of one method in the given order."""
    known = [*BY_REACH, *SHIPPED]
    unique = list(dict.fromkeys(labels))
    return sorted(unique, key=lambda label: known.index(m) if (m := label.split(" ")[0]) in known else len(known))


def filter_numbers(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[FilterNumber]:
    """Return the table behind :func:`filter_dots`: mean and 95 % t-interval over seeds of each number of each label.

    Args:
        results: label -> contents of ``filters.json``, one a seed.

    """

    def values(group: Sequence[Mapping[str, Any]], name: str, of: str) -> list[float]:
        return [math.nan if (v := one["numbers"][name][of]) is None else float(v) for one in group]

    return [
        FilterNumber(
            label,
            name,
            *interval(values(results[label], name, "trained")),
            interval(values(results[label], name, "untrained")).mean,
            interval(values(results[label], name, "random")).mean,
        )
        for label in side_by_side(results)
        for name in FILTER_NUMBERS
    ]


def filter_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Return label × number: mean over seeds with half its 95 % interval, the untrained stems' mean in brackets, chance in the last lines.

    Args:
        results: from :func:`gradlens.reporting.analysis_report.results_by_label`.

    """
    cells: dict[str, list[Cell]] = {}
    for row in filter_numbers(results):
        digits, factor = DIGITS[row.number], FILTER_NUMBERS[row.number][1]
        control = "" if np.isnan(row.untrained) or row.number == "moved" else f" ({short_number(row.untrained, digits, scale=factor)})"
        undecided = row.number == "gabor_share" and results[row.label][0]["kernel"] < DECIDES
        cell = mean_cell(row.mean, row.low, digits, factor, high=row.high)
        cells.setdefault(row.label, []).append(cell._replace(text="undecided" if undecided else cell.text + control))
    shapes = {(one["filters"], one["channels"], one["kernel"]): one for group in results.values() for one in group}
    title = "first-layer filters (the untrained stem of the same seeds)"
    printed = Table(title=title)
    printed.add_column("method")
    for axis, _ in FILTER_NUMBERS.values():
        printed.add_column(axis)
    for label, line in cells.items():
        printed.add_row(label, *line)
    for (count, _, k), one in shapes.items():
        chance = [one["numbers"][name]["random"] for name in FILTER_NUMBERS]
        shown = [number_cell(v, DIGITS[n], FILTER_NUMBERS[n][1]) for n, v in zip(FILTER_NUMBERS, chance, strict=True)]
        printed.add_row(f"{count} random {k}x{k}", *shown)
    return printed


# ----------------------------------------------------------------------------------------------------------- figures


def filter_panels(results: Mapping[str, Sequence[Mapping[str, Any]]], change: bool = False) -> list[FilterPanel]:
    """Return what :func:`filter_grid` shows of each label's first run, and of the untrained stem of each kernel size.

    Args:
        results: label -> contents of ``filters.json``, one a seed.
        change: show what training added to the untrained filters, and no untrained ones.

    """
    panels: list[FilterPanel] = []
    untrained: dict[str, list[Any]] = {}
    kernels = {group[0]["kernel"] for group in results.values()}
    for label in side_by_side(results):
        first = results[label][0]
        size = f" {first['kernel']}x{first['kernel']}" if len(kernels) > 1 else ""
        if change:
            added = np.asarray(first["weights"]) - np.asarray(first["untrained_weights"])
            panels.append(FilterPanel(label, _in_order(added.tolist(), first["untrained_order"])))
            continue
        panels.append(FilterPanel(label, _in_order(first["weights"], first["order"])))
        untrained.setdefault(f"untrained{size}", _in_order(first["untrained_weights"], first["untrained_order"]))
    return panels + [FilterPanel(label, filters) for label, filters in untrained.items()]


def _in_order(weights: Sequence[Any], order: Iterable[int]) -> list[Any]:
    return [weights[i] for i in order if i < min(len(weights), FILTERS_SHOWN)]


def _pixels(one: Any) -> NDArray[np.float64]:
    """Return a filter [C, k, k] as colours [k, k, 3] from 0 to 1 over all its channels together; grey unless it has three channels."""
    w = np.asarray(one, dtype=float)
    w = w if len(w) == 3 else np.repeat(w.mean(0, keepdims=True), 3, 0)
    reach = w.max() - w.min()
    return np.moveaxis((w - w.min()) / reach if reach > 0 else np.full_like(w, 0.5), 0, -1)


def _tiled(filters: Sequence[Any]) -> NDArray[np.float64]:
    """Return the filters side by side in a square, row by row, a white pixel between them."""
    k, side = len(filters[0][0]), math.ceil(math.sqrt(len(filters)))
    canvas = np.ones((math.ceil(len(filters) / side) * (k + 1) - 1, side * (k + 1) - 1, 3))
    for i, one in enumerate(filters):
        top, left = i // side * (k + 1), i % side * (k + 1)
        canvas[top : top + k, left : left + k] = _pixels(one)
    return canvas


@style.context(LOOK)
def filter_grid(panels: Sequence[FilterPanel], *, what: str = "First-layer filters", order: str = FILTER_ORDER, title: str = "") -> Figure:
    """Draw first-layer filters, a panel a network, each filter scaled to its own range over its three channels together.

    Args:
        panels: from :func:`filter_panels`.
        what: is shown.
        order: of the filters in each panel, in words.
        title: what the networks have in common.

    Raises:
        InputError: no panels.

    """
    if not panels:
        raise InputError("no filters to draw")
    columns = len(panels) if len(panels) <= 3 else 3 if len(panels) <= 6 else 4
    rows = math.ceil(len(panels) / columns)
    side = min(2.6, 8.0 / columns)
    figure = Figure(figsize=(max(4.5, columns * side), rows * (side + 0.22) + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels, strict=False):
        ax.imshow(_tiled(panel.filters), interpolation="nearest", vmin=0, vmax=1)
        ax.set_anchor("N")
        ax.set_title(fill(panel.label, int(11 * side)), loc="left", pad=3)
    k = len(panels[0].filters[0][0])
    same = all(len(panel.filters[0][0]) == k for panel in panels)
    text = f"{what}{f', {k}x{k}' if same else ''}, each scaled to its own range; {order}"
    head(figure, text, title)
    return figure


@style.context(LOOK)
def filter_dots(rows: Sequence[FilterNumber], *, title: str = "") -> Figure:
    """Draw the filters' numbers, a panel a number and a line a label; dashed what the untrained stem has, dotted what chance gives.

    Args:
        rows: from :func:`filter_numbers`; numbers that no label has are left out.
        title: what the runs have in common.

    Raises:
        InputError: no row with a number.

    """
    there = {name: [r for r in rows if r.number == name and math.isfinite(r.mean)] for name in FILTER_NUMBERS}
    alive = not any(r.mean or r.untrained for r in there["dead_share"])
    names = [name for name, some in there.items() if some and not (name == "dead_share" and alive)]
    if not names:
        raise InputError("no number of the filters to draw")
    labels = side_by_side(r.label for r in rows)
    look = styles(labels)
    columns = 3 if 4 < len(names) <= 6 else min(4, len(names))
    lines = math.ceil(len(names) / columns)
    width = 8.0 if columns > 2 else 6.4
    figure = Figure(figsize=(width, lines * (0.75 + 0.24 * len(labels)) + 0.85), layout="constrained")
    for ax, name in zip(panels(figure, len(names), columns, sharey=True), names, strict=True):
        axis, factor = FILTER_NUMBERS[name]
        for row in (r for r in rows if r.number == name):
            at = labels.index(row.label)
            for reference, dashes in ((row.untrained, "--"), (row.random, ":")):
                ax.plot([factor * reference] * 2, [at - 0.5, at + 0.5], dashes, color=GREY, linewidth=1.1, zorder=1)
            half = factor * (row.mean - row.low)
            ax.errorbar(
                factor * row.mean, at, xerr=half if math.isfinite(half) else None, color=look[row.label].colour,
                marker=look[row.label].marker, markersize=5, elinewidth=1.2, capsize=2.5, linestyle="",
            )  # fmt: skip
        ax.set_title(axis, loc="left", pad=4)
        ax.set(ylim=(len(labels) - 0.5, -0.5), yticks=range(len(labels)), yticklabels=labels)
        ax.margins(x=0.1)
        ax.locator_params(axis="x", nbins=4)
        ax.grid(visible=False, axis="y")
    seeds = max(r.seeds for r in rows)
    notes = [title, over_seeds(seeds, "95 % t-intervals")]
    if "gabor_share" not in names and any(r.number == "gabor_share" for r in rows):
        notes.append("Gabors undecided: the kernel is too small")
    if alive and there["dead_share"]:
        notes.append("no dead filters")
    head(figure, joined(*notes))
    handles = [
        Line2D([], [], color=GREY, linestyle="--", linewidth=1.1, label="untrained stem of the same seeds"),
        Line2D([], [], color=GREY, linestyle=":", linewidth=1.1, label="random filters"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return figure


def filter_figures(results: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> dict[str, tuple[Figure, list[FilterNumber]]]:
    """Return the figures of some runs' filters: the filters, what training added to them, and the numbers.

    Args:
        results: from :func:`gradlens.reporting.analysis_report.results_by_label`.
        title: what the runs have in common.

    """
    rows = filter_numbers(results)
    first = title + (" · first seed" if len(max(results.values(), key=len)) > 1 else "")
    change = filter_grid(
        filter_panels(results, change=True),
        what="What training added to first-layer filters",
        order="in the order of the untrained ones",
        title=first,
    )
    drawn = {"grid": filter_grid(filter_panels(results), title=first), "change": change, "numbers": filter_dots(rows, title=title)}
    return {f"filter_{part}": (figure, rows) for part, figure in drawn.items()}


def tables(runs: Sequence[Run], results: Results) -> list[Table]:
    """Return what `gradlens filters` prints."""
    return [filter_table(results_by_label(runs, results))]


def figures(runs: Sequence[Run], results: Results, title: str) -> Figures:
    """Return what `gradlens filters` draws."""
    return filter_figures(results_by_label(runs, results), title)
