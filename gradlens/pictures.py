"""Figures of what finished runs have learned; each is a pure function of saved rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from gradlens.errors import InputError
from gradlens.plots import COLOURS, LOOK, MARKERS, METHODS, PATTERNS, Style, curve, styles
from gradlens.tables import CurvePoint, interval
from gradlens.training_metrics import TRAIN_EVAL

if TYPE_CHECKING:  # imports torch
    from gradlens.hierarchy import Drawn
    from gradlens.memorization import BlockPoint
    from gradlens.probes import ProbePoint
    from gradlens.representations import Cell, DepthPoint, RdmRow

# ------------------------------------------------------------------------------------------------- first-layer filters

FILTERS_SHOWN = 49  # in a panel, the first ones of the layer, as in the documents' 7x7
FILTER_ORDER = "luminance by frequency, then colour by hue"
BESIDE_BP = ("bp", "chunked", "overlap", "dgl")  # the documents' order of panels
FILTER_NUMBERS = {  # name in filters.json -> (at the axis, factor)
    "gabor_share": ("Gabors (%)", 100),
    "frequency_entropy": ("entropy (bits)", 1),
    "frequency": ("cycles a pixel", 1),
    "colour_share": ("colour (%)", 100),
    "effective_rank": ("effective rank", 1),
    "dead_share": ("dead (%)", 100),
    "moved": ("moved (norms)", 1),
}


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


def side_by_side(labels: Iterable[str]) -> list[str]:
    """Labels in the documents' order (bp, chunked, overlap, dgl), others after them; of one method as they came."""
    known = [*BESIDE_BP, *METHODS]
    unique = list(dict.fromkeys(labels))
    return sorted(unique, key=lambda label: known.index(m) if (m := label.split(" ")[0]) in known else len(known))


def filter_panels(results: Mapping[str, Sequence[Mapping[str, Any]]], change: bool = False) -> list[FilterPanel]:
    """What :func:`filter_grid` shows of each label's first run, and of the untrained stem of each kernel size.

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


def filter_numbers(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[FilterNumber]:
    """The table behind :func:`filter_dots`: mean and 95 % t-interval over seeds of each number of each label.

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


def _pixels(one: Any) -> NDArray[np.float64]:
    """A filter [C, k, k] as colours [k, k, 3] from 0 to 1 over all its channels together; grey unless it has three channels."""
    w = np.asarray(one, dtype=float)
    w = w if len(w) == 3 else np.repeat(w.mean(0, keepdims=True), 3, 0)
    reach = w.max() - w.min()
    return np.moveaxis((w - w.min()) / reach if reach > 0 else np.full_like(w, 0.5), 0, -1)


def _tiled(filters: Sequence[Any]) -> NDArray[np.float64]:
    """Filters side by side in a square, row by row, a white pixel between them."""
    k, side = len(filters[0][0]), math.ceil(math.sqrt(len(filters)))
    canvas = np.ones((math.ceil(len(filters) / side) * (k + 1) - 1, side * (k + 1) - 1, 3))
    for i, one in enumerate(filters):
        top, left = i // side * (k + 1), i % side * (k + 1)
        canvas[top : top + k, left : left + k] = _pixels(one)
    return canvas


@style.context(LOOK)
def filter_grid(panels: Sequence[FilterPanel], *, what: str = "First-layer filters", order: str = FILTER_ORDER, title: str = "") -> Figure:
    """First-layer filters, a panel a network, each filter scaled to its own range over its three channels together.

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
    side = min(2.9, 9.0 / columns)
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
    head = f"{what}{f', {k}x{k}' if same else ''}, each scaled to its own range; {order}"
    figure.suptitle(head + (f"\n{title}" if title else ""), x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


@style.context(LOOK)
def filter_dots(rows: Sequence[FilterNumber], *, title: str = "") -> Figure:
    """The filters' numbers, a panel a number and a line a label; dashed what the untrained stem has, dotted what chance gives.

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
    width = 9.0 if columns > 2 else 6.4
    figure = Figure(figsize=(width, lines * (0.75 + 0.24 * len(labels)) + 0.85), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for ax in axes[len(names) :]:
        ax.remove()
    for ax, name in zip(axes, names, strict=False):
        axis, factor = FILTER_NUMBERS[name]
        for row in (r for r in rows if r.number == name):
            at = labels.index(row.label)
            for reference, dashes in ((row.untrained, "--"), (row.random, ":")):
                ax.plot([factor * reference] * 2, [at - 0.5, at + 0.5], dashes, color="0.45", linewidth=1.1, zorder=1)
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
    notes = [title, "one seed" if seeds == 1 else f"mean of {seeds} seeds, 95 % t-intervals"]
    if "gabor_share" not in names and any(r.number == "gabor_share" for r in rows):
        notes.append("Gabors undecided: the kernel is too small")
    if alive and there["dead_share"]:
        notes.append("no dead filters")
    figure.suptitle(" · ".join(note for note in notes if note), x=0.1 / width, ha="left", fontsize=10)
    handles = [
        Line2D([], [], color="0.45", linestyle="--", linewidth=1.1, label="untrained stem of the same seeds"),
        Line2D([], [], color="0.45", linestyle=":", linewidth=1.1, label="random filters"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return figure


# ------------------------------------------------------------------------------------------------------- memorization


@style.context(LOOK)
def memorization_curve(points: Sequence[CurvePoint], chance: float, *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Accuracy of the training images, labels as given, in eval mode over epochs, with what guessing gives.

    Args:
        points: from :func:`gradlens.memorization.curves`.
        chance: accuracy of a guess, a share.
        title: what the runs have in common.
        look: from :func:`gradlens.plots.styles`.

    Raises:
        InputError: nothing to draw.

    """
    figure = curve(points, TRAIN_EVAL, "accuracy", title=title, look=look)
    ax = figure.axes[0]
    ax.axhline(chance, color="0.45", linewidth=0.9, linestyle=(0, (1, 2)))
    ax.annotate(
        "chance", (1, chance), xycoords=("axes fraction", "data"), xytext=(0, -3), textcoords="offset points",
        ha="right", va="top", color="0.35", fontsize=9,
    )  # fmt: skip
    ax.set(ylim=(0, 1.02), ylabel="accuracy of the training images (%)")
    return figure


@style.context(LOOK)
def noise_by_block(
    points: Sequence[BlockPoint], words: Mapping[str, str], chance: float, *, title: str = "", look: Mapping[str, Style] | None = None
) -> Figure:
    """What a linear probe reads on each block where some labels are random: a panel a quantity, a line a label.

    Thin dotted lines are the same probe on the untrained networks; the point on the right is the network's own answer.

    Args:
        points: from :func:`gradlens.memorization.block_points`.
        words: quantity -> the panel's title, in order.
        chance: accuracy of a guess, a share.
        title: what the runs have in common.
        look: from :func:`gradlens.plots.styles`.

    Raises:
        InputError: nothing to draw.

    """
    rows = [p for p in points if math.isfinite(p.mean)]
    if not rows:
        raise InputError("no block was probed: the runs have no partial label noise")
    look = look or styles(p.label for p in rows)
    names = [name for name in look if any(p.label == name for p in rows)]
    blocks = list(dict.fromkeys(p.block for p in rows))
    figure = Figure(figsize=(1.2 + 2.0 * len(words), 3.6), layout="constrained")
    grid = figure.subplots(1, len(words), sharey=True, squeeze=False)[0]
    for ax, (quantity, text) in zip(grid, words.items(), strict=True):
        ax.axhline(chance, color="0.45", linewidth=0.9, linestyle=(0, (1, 2)))
        for label in names:
            mine = [p for p in rows if (p.label, p.quantity) == (label, quantity)]
            probes, own = [p for p in mine if p.block != "network"], [p for p in mine if p.block == "network"]
            colour, dash, marker = look[label]
            at = [blocks.index(p.block) for p in probes]
            ax.plot(at, [p.untrained for p in probes], color=colour, linewidth=0.9, linestyle=(0, (1, 1.5)), alpha=0.8)
            ax.plot(at, [p.mean for p in probes], color=colour, linewidth=1.7, linestyle=dash, marker=marker, markersize=4)
            if any(math.isfinite(p.low) for p in probes):
                ax.fill_between(at, [p.low for p in probes], [p.high for p in probes], color=colour, alpha=0.16, linewidth=0)
            for p in own:
                half = p.mean - p.low if math.isfinite(p.low) else 0.0
                ax.errorbar(blocks.index(p.block), p.mean, yerr=half, color=colour, marker=marker, markersize=5, elinewidth=0.9, capsize=2)
        ax.set_title("\n".join(text.split(", ", 1)), loc="left")
        ax.set_xticks(range(len(blocks)), blocks, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_ylim(0, 1.02)
    grid[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    grid[0].set_ylabel("accuracy (%)")
    handles = [Line2D([], [], color=c, linestyle=d, marker=m, markersize=4, label=k) for k in names for c, d, m in [look[k]]]
    handles.append(Line2D([], [], color="0.4", linewidth=0.9, linestyle=(0, (1, 1.5)), label="untrained network"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    seeds = sorted({p.seeds for p in rows})
    over = "one seed" if seeds[-1] == 1 else f"mean of {seeds[-1]} seeds, 95 % t-intervals"
    what = "Linear probe on each block, fitted to the labels as given"
    text = what + "\n" + " · ".join(part for part in (title, over) if part)
    figure.suptitle(text, x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


# ------------------------------------------------------------------------------------------------------ representations


@style.context(LOOK)
def representation_by_depth(
    points: Sequence[DepthPoint], words: Mapping[str, str], *, title: str = "", look: Mapping[str, Style] | None = None
) -> Figure:
    """What a block's activations are like, over depth: a panel a quantity, a line a label with its band, untrained networks dashed grey.

    Args:
        points: from :func:`gradlens.representations.depth_points`.
        words: quantity -> the panel's title, in order; those without a finite value are left out.
        title: what the runs have in common.
        look: from :func:`gradlens.plots.styles`.

    Raises:
        InputError: nothing to draw.

    """
    rows = [p for p in points if math.isfinite(p.mean) and p.quantity in words]
    if not rows:
        raise InputError("no finite number of any block to draw")
    panels = [q for q in words if any(p.quantity == q for p in rows)]
    look = look or styles(p.label for p in rows if p.network == "trained")
    blocks = list(dict.fromkeys(p.block for p in rows))
    lines = [(name, look[name]) for name in look if any(p.label == name for p in rows)]
    controls = list(dict.fromkeys(p.label for p in rows if p.network != "trained"))
    lines += [(name, Style(f"{0.35 + 0.4 * i / max(1, len(controls)):.2f}", (0, (2, 1.5)), "x")) for i, name in enumerate(controls)]
    figure = Figure(figsize=(max(6.4, 2.35 * len(panels)), 3.3), layout="constrained")
    for ax, quantity in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, (colour, dash, marker) in lines:
            mine = sorted((p for p in rows if (p.label, p.quantity) == (name, quantity)), key=lambda p: blocks.index(p.block))
            at = [blocks.index(p.block) for p in mine]
            ax.plot(at, [p.mean for p in mine], color=colour, linewidth=1.6, linestyle=dash, marker=marker, markersize=4)
            if any(math.isfinite(p.low) for p in mine):
                ax.fill_between(at, [p.low for p in mine], [p.high for p in mine], color=colour, alpha=0.13, linewidth=0)
        means = [p.mean for p in rows if p.quantity == quantity]
        room = 0.15 * (max(means) - min(means) or abs(means[0]) or 1.0)  # wide bands of few seeds must not flatten the lines
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, min(means) - room), min(high, max(means) + room))
        if low < 0 <= min(means):
            ax.set_ylim(bottom=0)
        ax.set_title(words[quantity], loc="left")
        ax.set_xticks(range(len(blocks)), blocks, rotation=40, ha="right", rotation_mode="anchor")
    handles = [Line2D([], [], color=c, linestyle=d, marker=m, markersize=4, label=name) for name, (c, d, m) in lines]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    seeds = max(p.seeds for p in rows)
    over = "one seed" if seeds == 1 else f"mean of {seeds} seeds, band: 95 % t-interval (cut at the panel)"
    text = "each block's output on held-out images\n" + " · ".join(part for part in (title, over) if part)
    figure.suptitle(text, x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


@style.context(LOOK)
def cka(cells: Sequence[Cell], *, title: str = "") -> Figure:
    """Linear CKA of all blocks of a network with all blocks of others: a panel for each other network, values written out.

    Args:
        cells: from :func:`gradlens.representations.cells`, of one run.
        title: what the runs have in common.

    Raises:
        InputError: nothing to draw.

    """
    if not cells:
        raise InputError("no pair of networks to draw")
    others = list(dict.fromkeys(c.other for c in cells))
    columns = min(4, len(others))
    lines = math.ceil(len(others) / columns)
    most = max(len({c.other_block for c in cells}), len({c.block for c in cells}))
    wide = max(1.75, 0.42 * most)
    figure = Figure(figsize=(max(5.6, 0.9 + wide * columns + 0.7), 0.9 + (wide + 0.55) * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in grid[len(others) :]:
        ax.remove()
    for i, (ax, other) in enumerate(zip(grid, others, strict=False)):
        mine = [c for c in cells if c.other == other]
        rows, across = (list(dict.fromkeys(names)) for names in ([c.block for c in mine], [c.other_block for c in mine]))
        values = np.full((len(rows), len(across)), math.nan)
        for c in mine:
            values[rows.index(c.block), across.index(c.other_block)] = c.cka
        mesh = ax.pcolormesh(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
        for (row, column), value in np.ndenumerate(values):
            text = f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−") if math.isfinite(value) else "–"
            ink = "0.1" if value > 0.6 else "white" if math.isfinite(value) else "0.25"
            if most <= 10:
                ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=8)
        ax.set_xticks(np.arange(len(across)) + 0.5, across, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(np.arange(len(rows)) + 0.5, rows if i % columns == 0 else [""] * len(rows))
        ax.set(title=other, aspect="equal")
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    figure.colorbar(mesh, ax=list(grid[: len(others)]), label="linear CKA", aspect=22, pad=0.02).outline.set_visible(False)  # type: ignore[operator]
    parts = (f"blocks of {cells[0].run} (upward) and of each network (across)", title)
    figure.suptitle("\n".join(part for part in parts if part), x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


@style.context(LOOK)
def rdm(rows: Sequence[RdmRow], *, title: str = "") -> Figure:
    """Dissimilarity matrices of samples sorted by label: a line of panels a run, a panel a block, bottom block on the left.

    Args:
        rows: from :func:`gradlens.representations.rdm_rows`.
        title: what the runs have in common.

    Raises:
        InputError: nothing to draw.

    """
    if not rows:
        raise InputError("no dissimilarity matrix to draw")
    runs, blocks = (list(dict.fromkeys(names)) for names in ([r.run for r in rows], [r.block for r in rows]))
    figure = Figure(figsize=(max(5.6, 0.9 + 1.45 * len(blocks) + 0.7), 0.9 + 1.5 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), len(blocks), squeeze=False)
    matrices = {
        key: np.array([[float(v) for v in r.dissimilarities.split()] for r in rows if (r.run, r.block) == key])
        for key in dict.fromkeys((r.run, r.block) for r in rows)
    }
    top = max([float(np.nanmax(m)) for m in matrices.values() if np.isfinite(m).any()], default=2.0) or 2.0
    for (i, j), ax in np.ndenumerate(grid):
        key = runs[i], blocks[j]
        if key not in matrices:
            ax.remove()
            continue
        image = ax.imshow(np.ma.masked_invalid(matrices[key]), cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
        labels = [r.label for r in rows if (r.run, r.block) == key]
        borders = [at - 0.5 for at in range(1, len(labels)) if labels[at] != labels[at - 1]]
        ax.set_xticks(borders, [""] * len(borders))
        ax.set_yticks(borders, [""] * len(borders))
        ax.tick_params(length=2)
        ax.grid(visible=False)
        if i == 0:
            ax.set_title(blocks[j])
        if j == 0:
            ax.set_ylabel(runs[i])
    figure.colorbar(image, ax=list(grid.ravel()), label="1 − correlation", aspect=22, pad=0.02).outline.set_visible(False)  # type: ignore[operator]
    count = len({r.sample for r in rows})
    parts = (f"dissimilarity of {count} held-out images, sorted by label (ticks between classes)", title)
    figure.suptitle("\n".join(part for part in parts if part), x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


# -------------------------------------------------------------------------------------------------------- online probe

LEARNER_WORDS = {  # name in online.csv -> in the legend
    "ogd": "projected gradient descent, ball of radius 10",
    "adagrad": "AdaGrad, ball of radius 2",
    "newton": "online Newton step, ball of radius 1, ≤ 64 features",
}


@style.context(LOOK)
def regret(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Cumulative regret of a run's online probe against rounds, a panel a block, and the bound of each learner's theorem (thin, dotted).

    Both axes are logarithmic: a line of slope ½ grows like √T, one of slope 1 has learned nothing. A learner that followed a changing
    block has done better than every fixed probe where its regret is not above zero; such points are hollow, at the panel's lower edge.

    Args:
        rows: the ``rows`` of a run's ``online.json``, from :func:`gradlens.training_online_probe_regret.regret_rows`.
        title: whose.

    Raises:
        InputError: nothing to draw.

    """
    if not rows:
        raise InputError("no regret to draw: no run was trained with --online-probe")
    blocks = list(dict.fromkeys(str(row["block"]) for row in rows))
    known = [name for name in LEARNER_WORDS if any(row["learner"] == name for row in rows)]
    columns = min(len(blocks), 4)
    lines = math.ceil(len(blocks) / columns)
    width, height, head, gap = max(6.4, 2.35 * columns), 1.7, 0.85, 0.35  # inches
    foot = 1.05 if width > 8 else 1.45  # the legend is two lines high or four
    total = head + lines * height + (lines - 1) * gap + foot
    figure = Figure(figsize=(width, total))
    places = {"left": 0.75 / width, "right": 1 - 0.15 / width, "top": 1 - head / total, "bottom": foot / total}
    places |= {"hspace": gap / height, "wspace": 0.1}
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=places).ravel().tolist()
    floor = min([float(row["regret_high"]) for row in rows if row["regret_high"] > 0], default=0.1) / 2
    for ax, block in zip(grid, blocks, strict=False):
        for name, colour in zip(known, COLOURS, strict=False):
            mine = [row for row in rows if (row["block"], row["learner"]) == (block, name)]
            x = [row["rounds"] for row in mine]
            above = [row["regret"] if row["regret"] > 0 else math.nan for row in mine]
            ax.plot(x, above, color=colour, marker="o", markersize=3.5, linewidth=1.6)
            ax.plot(x, [row["bound"] for row in mine], color=colour, linewidth=1.1, linestyle=(0, (1, 1.5)))
            below = [row["rounds"] for row in mine if row["regret"] <= 0]
            ax.plot(
                below, [floor] * len(below), color=colour, marker="o", markersize=4, linewidth=0, markerfacecolor="white", clip_on=False
            )
        ax.set(xscale="log", yscale="log", title=block)
    for i, ax in enumerate(grid):
        if i >= len(blocks):
            ax.remove()
        elif i + columns >= len(blocks):
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("rounds")
        if i % columns == 0:
            ax.set_ylabel("cumulative regret (nats)")
    heading = "Online probe: regret against the best fixed probe in hindsight" + (f"\n{title}" if title else "")
    figure.suptitle(heading, fontsize=11, y=1 - 0.1 / total, va="top")
    handles = [Line2D([], [], color=c, marker="o", markersize=3.5, label=LEARNER_WORDS[k]) for k, c in zip(known, COLOURS, strict=False)]
    handles.append(
        Line2D([], [], color="0.35", linewidth=1.1, linestyle=(0, (1, 1.5)), label="the theorem's bound on the line of its colour")
    )
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=2 if width > 8 else 1)
    return figure


# ------------------------------------------------------------------------------------------------------ linear probes

GREY = "0.45"
PROBE_CONTROLS = (  # (network, labels) -> dash, marker and name of a grey line
    ("untrained", "true", (0, (4, 2)), "x", "untrained network"),
    ("trained", "permuted", (0, (1, 1.5)), "", "permuted labels"),
    ("pixels", "true", (0, (6, 1.5, 1.2, 1.5)), "", "raw pixels"),
)


def _over_labels(points: Sequence[ProbePoint]) -> dict[str, float]:
    """Block -> mean in % over all labels: one line of a control for the whole figure."""
    means: dict[str, list[float]] = {}
    for p in points:
        means.setdefault(p.block, []).append(100 * p.mean)
    return {block: sum(values) / len(values) for block, values in means.items()}


def _probe_head(figure: Figure, what: str, title: str, rows: Sequence[ProbePoint]) -> None:
    seeds = max(p.seeds for p in rows)
    over = "one seed" if seeds == 1 else f"mean of {seeds} seeds, 95 % t-interval"
    text = what + "\n" + " · ".join(part for part in (title, over) if part)
    figure.suptitle(text, x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)


@style.context(LOOK)
def separability_by_depth(points: Sequence[ProbePoint], *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Test accuracy of the linear probe by block, a line a label; its controls in grey; the network's own accuracy as a star.

    Args:
        points: from :func:`gradlens.probes.probe_points`, of one step a label.
        title: what the runs have in common.
        look: from :func:`gradlens.plots.styles`.

    Raises:
        InputError: no probe of a trained network to draw.

    """
    tests = [p for p in points if p.half == "test" and math.isfinite(p.mean)]
    rows = [p for p in tests if (p.network, p.labels) == ("trained", "true")]
    if not rows:
        raise InputError("no probe of a trained network to draw")
    look = look or styles(p.label for p in rows)
    names = [name for name in look if any(p.label == name for p in rows)]
    blocks = list(dict.fromkeys(p.block for p in rows))
    figure = Figure(figsize=(max(7.4, 3.8 + 0.85 * len(blocks)), max(4.2, 1.4 + 0.23 * (len(names) + 4))), layout="constrained")
    ax = figure.subplots()
    shown = [100 * p.mean for p in tests if p.labels == "true" and p.network != "untrained"]
    lowest, highest = max(0.0, min(shown) - 4), min(100.0, max(shown) + 4)  # what lies at chance must not flatten the rest
    drawn, many = [], len(names) > 4  # bands of many labels hide each other: then whiskers, side by side
    for i, name in enumerate(names):
        colour, dash, marker = look[name]
        mine = sorted((p for p in rows if p.label == name), key=lambda p: blocks.index(p.block))
        aside = 0.4 * ((i + 0.5) / len(names) - 0.5) if many else 0.0
        x, y = [blocks.index(p.block) + aside for p in mine], [100 * p.mean for p in mine]
        drawn += ax.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=1.5, label=name)
        low, high = [100 * p.low for p in mine], [100 * p.high for p in mine]
        if many:
            ax.vlines(x, low, high, color=colour, linewidth=0.8, alpha=0.6)
        elif np.isfinite(low).any():
            ax.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        for p in (p for p in tests if (p.label, p.network) == (name, "own")):
            ax.plot(len(blocks) + aside, 100 * p.mean, "*", color=colour, markersize=10, markeredgecolor="white", zorder=4)
    if any(p.network == "own" for p in tests):
        drawn.append(Line2D([], [], linestyle="", marker="*", markersize=10, color="0.2", label="the network's own answer"))
    for network, labels, dash, marker, called in PROBE_CONTROLS:
        if mean := _over_labels([p for p in tests if (p.network, p.labels) == (network, labels)]):
            at = {i: mean["pixels" if network == "pixels" else b] for i, b in enumerate(blocks) if network == "pixels" or b in mean}
            below = f", {min(at.values()):.0f}–{max(at.values()):.0f} %" if max(at.values()) < lowest else ""
            line: dict[str, Any] = {
                "color": GREY,
                "linestyle": dash,
                "marker": marker,
                "markersize": 4,
                "linewidth": 1.3,
                "label": called + below,
            }
            drawn += ax.plot(list(at), list(at.values()), **line) if not below else [Line2D([], [], **line)]
    ax.set_ylim(lowest, highest)
    ax.set_xticks(range(len(blocks) + 1), [*blocks, "own"])
    ax.set(ylabel="test accuracy (%)")
    ax.legend(handles=drawn, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, handlelength=3.2)
    _probe_head(figure, "A linear probe on each block's frozen output", title, rows)
    return figure


@style.context(LOOK)
def separability_over_training(points: Sequence[ProbePoint], *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Test accuracy of the linear probe over updates: a panel a block, a line a label, the untrained network in grey.

    Args:
        points: from :func:`gradlens.probes.probe_points`.
        title: what the runs have in common.
        look: from :func:`gradlens.plots.styles`.

    Raises:
        InputError: no probe of a trained network to draw.

    """
    tests = [p for p in points if p.half == "test" and p.labels == "true" and math.isfinite(p.mean)]
    rows = [p for p in tests if p.network == "trained"]
    if not rows:
        raise InputError("no probe of a trained network to draw")
    look = look or styles(p.label for p in rows)
    names = [name for name in look if any(p.label == name for p in rows)]
    blocks = list(dict.fromkeys(p.block for p in rows))
    columns = min(4, len(blocks))
    lines = math.ceil(len(blocks) / columns)
    figure = Figure(figsize=(2.6 + 2.1 * columns, 0.9 + 2.3 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    for ax in grid[len(blocks) :]:
        ax.remove()
    untrained = _over_labels([p for p in tests if p.network == "untrained"])
    for ax, block in zip(grid, blocks, strict=False):
        if block in untrained:
            ax.axhline(untrained[block], color=GREY, linestyle=(0, (4, 2)), linewidth=1.3)
        for name in names:
            mine = sorted((p for p in rows if (p.label, p.block) == (name, block)), key=lambda p: p.step)
            colour, dash, marker = look[name]
            x = [p.step for p in mine]
            ax.plot(x, [100 * p.mean for p in mine], color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=1.6)
            if any(math.isfinite(p.low) for p in mine):
                ax.fill_between(x, [100 * p.low for p in mine], [100 * p.high for p in mine], color=colour, alpha=0.12, linewidth=0)
        ax.set_title(block, loc="left")
        ax.set_xlabel("updates")
        ax.margins(x=0.05)
    means = [100 * p.mean for p in tests if p.network in ("trained", "untrained")]
    grid[0].set_ylim(max(0, min(means) - 4), min(100, max(means) + 4))
    for ax in grid[: len(blocks) : columns]:
        ax.set_ylabel("test accuracy (%)")
    handles = [Line2D([], [], color=c, linestyle=d, marker=m, markersize=4, label=name) for name in names for c, d, m in [look[name]]]
    if untrained:
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 2)), label="untrained network"))
    figure.legend(handles=handles, loc="outside right center", handlelength=3.2)
    _probe_head(figure, "A linear probe on each block's frozen output, over training", title, rows)
    return figure


# --------------------------------------------------------------------------------------------------------- inpainting


class InpaintingPanel(NamedTuple):
    """Some images, what a network saw of them, and what it made of that: each [K, C, H, W] of grey values 0 … 255."""

    label: str
    original: NDArray[np.uint8]
    corrupted: NDArray[np.uint8]
    output: NDArray[np.uint8]


def _strip(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[K, C, H, W] side by side with white between them: [H, *, 3]; images that are not of three channels are their mean."""
    colour = images if images.shape[1] == 3 else np.repeat(images.mean(1, keepdims=True).round().astype(np.uint8), 3, 1)
    gap = max(1, images.shape[3] // 16)
    spaced = np.pad(np.moveaxis(colour, 1, -1), ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(spaced), 1)[:, :-gap]


@style.context(LOOK)
def inpainting_grid(panels: Sequence[InpaintingPanel], *, title: str = "") -> Figure:
    """Held-out images in columns; of each label what the network saw and what it made of it, under the images as they are.

    Args:
        panels: one a label.
        title: what the runs have in common.

    Raises:
        InputError: no panels.

    """
    if not panels:
        raise InputError("no inpainted images to draw")
    strips: list[tuple[str, NDArray[np.uint8]]] = []
    shown: NDArray[np.uint8] | None = None
    for panel in panels:
        if shown is None or not np.array_equal(shown, panel.original):
            shown = panel.original
            strips.append(("images", _strip(shown)))
        strips += [(f"{fill(panel.label, 14)}\nseen", _strip(panel.corrupted)), ("made", _strip(panel.output))]
    wide = 6.6
    heights = [wide * strip.shape[0] / strip.shape[1] for _, strip in strips]
    figure = Figure(figsize=(wide + 2.6, sum(heights) + 0.08 * len(strips) + 0.6), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.02, w_pad=0.04)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(len(strips), 1, squeeze=False, gridspec_kw={"height_ratios": heights}).ravel()
    for ax, (name, strip) in zip(axes, strips, strict=True):
        ax.imshow(strip, interpolation="nearest", aspect="equal")
        ax.set_xticks([]), ax.set_yticks([])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.set_anchor("E")  # what the fixed aspect leaves over goes to the labels
    head = "Held-out images, what the network sees of them, and what it makes where pixels are missing"
    figure.suptitle(head + (f"\n{title}" if title else ""), x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


# ------------------------------------------------------------------------------------- digits generated level by level

LEARNERS = ("bp", "layerwise", "shuffled", "pixels", "templates", "whitened", "random")  # of analyses.provable; each keeps its colour
LEARNER_NAMES = {
    "bp": "a CNN by backpropagation",
    "layerwise": "layerwise: gradient step, clustering",
    "shuffled": "… on shuffled labels",
    "pixels": "no step: clusters of pixels",
    "templates": "… a cluster a template",
    "whitened": "… of whitened pixels",
    "random": "… of random projections",
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
    figure = Figure(figsize=(0.9 + 0.84 * len(digits), 0.5 + 0.87 * len(levels)), layout="constrained")
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
    head = "Each cell of a level becomes one of its class's templates in the next; a distractor is a plus in a blank cell"
    figure.suptitle(head + (f" · {title}" if title else ""), x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


@style.context(LOOK)
def layerwise_sweep(rows: Sequence[LearnerPoint], default: tuple[float, float], *, title: str = "") -> Figure:
    """Purity of each level and accuracy, over noise (above) and over distractors (below), a line a learner.

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
        ("noise (standard deviation)", "noise", [r for r in rows if r.distractors == distractors]),
        ("probability of a distractor", "distractors", [r for r in rows if r.noise == noise]),
    )
    quantities = [q for q in dict.fromkeys(r.quantity for r in rows) if q != "accuracy"] + ["accuracy"]
    figure = Figure(figsize=(9.3, 5.6), layout="constrained")
    grid = figure.subplots(2, len(quantities), squeeze=False, sharey=True)
    names = [name for name in LEARNERS if any(r.learner == name for r in rows)]
    for line, (label, varied, here) in zip(grid, sweeps, strict=True):
        for ax, quantity in zip(line, quantities, strict=True):
            shown = sorted((r for r in here if r.quantity == quantity), key=attrgetter(varied))
            floor = sorted({(float(getattr(r, varied)), 100 * r.floor) for r in shown})
            ax.plot(*zip(*floor, strict=True), ":", color=GREY, linewidth=1.3)
            for name in names:
                mine = [r for r in shown if r.learner == name]
                look = _learner_style(name)
                x, y = [float(getattr(r, varied)) for r in mine], [100 * r.mean for r in mine]
                ax.plot(x, y, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=4, linewidth=1.6)
                if any(math.isfinite(r.low) for r in mine):
                    low, high = [max(0.0, 100 * r.low) for r in mine], [min(100.0, 100 * r.high) for r in mine]
                    ax.vlines(x, low, high, color=look.colour, linewidth=0.9, alpha=0.6)
            ax.set_title("test accuracy" if quantity == "accuracy" else f"purity: {quantity}", loc="left")
            ax.set(xlabel=label, ylim=(0, 103))
    for line in grid:
        line[0].set_ylabel("%")
    handles = [
        Line2D([], [], color=s.colour, linestyle=s.dash, marker=s.marker, markersize=4, label=LEARNER_NAMES[name])
        for name in names
        for s in [_learner_style(name)]
    ]
    handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1.3, label="one cluster; chance"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=3.2)
    head = f"Hierarchical digits · distractors {distractors:g} above, noise {noise:g} below" + (f" · {title}" if title else "")
    figure.suptitle(f"{head} · bars: 95 % interval", x=0.1 / figure.get_figwidth(), ha="left", fontsize=10)
    return figure


def _learner_style(name: str) -> Style:
    """The colour, dashes and marker of a learner."""
    i = LEARNERS.index(name)
    return Style(COLOURS[i % len(COLOURS)], (0, PATTERNS[i % len(PATTERNS)] or None), MARKERS[i % len(MARKERS)])
