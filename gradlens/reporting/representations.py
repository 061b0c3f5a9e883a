"""What the blocks of several runs represent: numbers over seeds, the printed tables, the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from gradlens.analysis.of_runs.representations import Representations
from gradlens.analysis.representations import TRAINED, UNTRAINED, RepresentationRecord
from gradlens.reporting.aggregate import LayerPoint
from gradlens.reporting.analysis_report import Figures, Results
from gradlens.reporting.axes import label_ends
from gradlens.reporting.numbers import NONE, mean_cell, short_number
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, Style, band, head, joined, over_seeds, panels, styles, text_width
from gradlens.reporting.training_figures import over_training
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Cell, Table
from gradlens.training.run_directory import Run, load_result
from gradlens.training.run_groups import run_labels as labels_of

NUMBERS: dict[str, tuple[str, int, float]] = {  # of a row -> a table's column, digits, scale
    "effective_rank": ("eff.\nrank", 1, 1),
    "participation_ratio": ("part.\nratio", 1, 1),
    "fisher": ("betw./\nwithin", 2, 1),
    "reconstruction_r2": ("image\nR²", 2, 1),
    "information_y_bits": ("label\nbits", 2, 1),
    "head_accuracy": ("head\n%", 1, 100),
}
REPRESENTATION_QUANTITIES = {  # of a row -> a figure's panel
    "effective_rank": "effective rank\n",
    "fisher": "class scatter,\nbetween ÷ within",
    "reconstruction_r2": "I(h, x), a decoder's\nR² on the images",
    "information_y_bits": "I(h, y), a head's\nlower bound (bits)",
}


class DepthPoint(NamedTuple):
    """One number of one block, over seeds."""

    label: str  # the runs', or untrained
    network: str  # trained, untrained
    block: str
    quantity: str
    mean: float
    low: float
    high: float
    seeds: int


class SimilarityCell(NamedTuple):
    """A block of one network beside a block of another."""

    run: str
    other: str
    block: str
    other_block: str
    cka: float
    rdm_correlation: float


class RdmRow(NamedTuple):
    """One row of a dissimilarity matrix."""

    run: str
    block: str
    sample: int  # in the order of labels
    label: int
    dissimilarities: str  # to every sample, two digits, with spaces between them; empty matrices hold none


# -------------------------------------------------------------------------------------------------------- over seeds


def named(runs: Sequence[Run]) -> list[str]:
    """Return each run's label and seed."""
    return [f"{label} s{run.config.seed}" for run, label in zip(runs, labels_of(runs), strict=True)]


def _number(value: Any) -> float:
    """Return a number as it was stored: null is NaN."""
    return math.nan if value is None else float(value)


def _last(result: Mapping[str, Any], network: str) -> list[RepresentationRecord]:
    """Return a result's rows of one network, the trained one at its last step."""
    rows = [row for row in result["rows"] if row["network"] == network]
    return [row for row in rows if row["step"] == max(r["step"] for r in rows)]


def _untrained_name(run: Run, runs: Sequence[Run], label: str) -> str:
    """Name the untrained network of a label: runs of one network share one; else each label has its own."""

    def net(r: Run) -> tuple[Any, ...]:
        shared = {"model", "width", "depth", "stem", "activation", "attention", "cut", "normalize"}
        return tuple(r.config.as_dict(include=shared).values())

    return UNTRAINED if all(net(r) == net(run) for r in runs) else f"{label} {UNTRAINED}"


def depth_points(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[DepthPoint]:
    """Summarise runs' blocks: mean and 95 % t-interval over seeds of every stored quantity, and of the untrained networks."""
    by_seed: dict[tuple[str, str, str, str], dict[int, float]] = {}
    for run, result, label in zip(runs, results, labels_of(runs), strict=True):
        for network in (TRAINED, UNTRAINED):
            name = label if network == TRAINED else _untrained_name(run, runs, label)
            for row in _last(result, network):
                for quantity in (q for q in NUMBERS if q in row):
                    by_seed.setdefault((name, network, row["block"], quantity), {})[run.config.seed] = _number(row[quantity])
    points = [DepthPoint(*key, *interval(values.values())) for key, values in by_seed.items()]
    return [p for network in (TRAINED, UNTRAINED) for p in points if p.network == network]


def over_steps(runs: Sequence[Run], results: Sequence[Mapping[str, Any]], quantity: str) -> list[LayerPoint]:
    """Return one quantity of the blocks at every saved step, from the untrained network on, over seeds."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for result, label in zip(results, labels_of(runs), strict=True):
        for row in (row for row in result["rows"] if quantity in row):
            found.setdefault((label, row["block"], row["step"]), []).append(_number(row[quantity]))
    points = []
    for (label, block, step), values in sorted(found.items(), key=lambda item: item[0][2]):
        mean, low, high, n = interval(values)
        points.append(LayerPoint(label, block, "block", quantity, step, mean, low, high, n, len(values) - n))
    return points


def similarity_cells(result: Mapping[str, Any], run: str) -> list[SimilarityCell]:
    """Return all pairs of blocks of what :func:`gradlens.analysis.network_similarity.compare_run` found about a run."""
    names = _names_of(result)
    return [
        SimilarityCell(run, names[i], a, b, _number(entry["matrix"][p][q]), _number(entry["rdm_correlation"][p][q]))
        for i, entry in enumerate(result["with"])
        for (p, a), (q, b) in product(enumerate(entry["blocks"]), enumerate(entry["with_blocks"]))
    ]


def _names_of(result: Mapping[str, Any]) -> list[str]:
    """Return the names of the other networks of a comparison."""
    return [e["label"] if e["network"] == UNTRAINED else f"{e['label']} s{e['seed']}" for e in result["with"]]


def rdm_rows(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[RdmRow]:
    """Return the stored dissimilarity matrices of the first run of each label."""
    found: list[RdmRow] = []
    seen: set[str] = set()
    for name, result, label in zip(named(runs), results, labels_of(runs), strict=True):
        if label in seen:
            continue
        seen.add(label)
        for block, matrix in result["rdm"].items():
            for i, (row, digit) in enumerate(zip(matrix, result["rdm_labels"], strict=True)):
                text = " ".join("nan" if v is None else f"{v:.2f}" for v in row)
                found.append(RdmRow(name, block, i, digit, text))
    return found


# ------------------------------------------------------------------------------------------------------------ tables


def representation_table(points: Sequence[DepthPoint]) -> Table:
    """Return label × block: what the blocks came to."""
    shown = Table(title="blocks on held-out images: mean ± half of the 95 % interval over seeds")
    shown.add_column("network")
    shown.add_column("block", align="left")
    there = [q for q in NUMBERS if any(p.quantity == q for p in points)]
    for quantity in there:
        shown.add_column(NUMBERS[quantity][0])
    values = {(p.label, p.block, p.quantity): p for p in points}
    for label in dict.fromkeys(p.label for p in points):
        for i, block in enumerate(dict.fromkeys(p.block for p in points if p.label == label)):
            texts = []
            for quantity in there:
                _, digits, scale = NUMBERS[quantity]
                p = values.get((label, block, quantity))
                texts.append(mean_cell(p.mean, p.low, digits, scale, high=p.high) if p else NONE)
            shown.add_row(Cell("" if i else label, label), block, *texts)
        shown.add_section()
    return shown


def pair_table(result: Mapping[str, Any], run: str) -> Table:
    """Return the diagonals of a comparison: the same block in both networks, linear CKA and in brackets the rank correlation of RDMs."""
    shown = Table(title=f"linear CKA (rank correlation of RDMs) of {run} with …, the same block in both")
    shown.add_column("network")
    blocks = list(dict.fromkeys(block for entry in result["with"] for block in entry["blocks"] if block in entry["with_blocks"]))
    for block in blocks:
        shown.add_column(block)
    for name, entry in zip(_names_of(result), result["with"], strict=True):
        texts = []
        for block in blocks:
            if block not in entry["blocks"] or block not in entry["with_blocks"]:
                texts.append(NONE)
                continue
            at = entry["blocks"].index(block), entry["with_blocks"].index(block)
            cka, rank = (_number(entry[key][at[0]][at[1]]) for key in ("matrix", "rdm_correlation"))
            texts.append(Cell(f"{short_number(cka)} ({short_number(rank)})", cka))
        shown.add_row(name + (" (another seed)" if entry["other_seed"] else ""), *texts)
    return shown


# ----------------------------------------------------------------------------------------------------------- figures


@style.context(LOOK)
def representation_by_depth(
    points: Sequence[DepthPoint], words: Mapping[str, str], *, title: str = "", look: Mapping[str, Style] | None = None
) -> Figure:
    """Draw quantities of blocks' activations over depth: a panel a quantity, a line a label with its band, untrained networks dashed grey.

    Args:
        points: from :func:`depth_points`.
        words: quantity -> the panel's title, in order; those without a finite value are left out.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`.

    Raises:
        InputError: nothing to draw.

    """
    rows = [p for p in points if math.isfinite(p.mean) and p.quantity in words]
    if not rows:
        raise InputError("no finite number of any block to draw")
    shown = [q for q in words if any(p.quantity == q for p in rows)]
    look = look or styles(p.label for p in rows if p.network == "trained")
    blocks = list(dict.fromkeys(p.block for p in rows))
    lines = [(name, look[name]) for name in look if any(p.label == name for p in rows)]
    controls = list(dict.fromkeys(p.label for p in rows if p.network != "trained"))
    lines += [(name, Style(f"{0.35 + 0.4 * i / max(1, len(controls)):.2f}", (0, (2, 1.5)), "x")) for i, name in enumerate(controls)]
    figure = Figure(figsize=(max(6.4, 2.35 * len(shown)), 3.3), layout="constrained")
    for ax, quantity in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for name, (colour, dash, marker) in lines:
            mine = sorted((p for p in rows if (p.label, p.quantity) == (name, quantity)), key=lambda p: blocks.index(p.block))
            at = [blocks.index(p.block) for p in mine]
            ax.plot(at, [p.mean for p in mine], color=colour, linewidth=1.6, linestyle=dash, marker=marker, markersize=4)
            band(ax, at, [p.low for p in mine], [p.high for p in mine], colour, 0.13)
        means = [p.mean for p in rows if p.quantity == quantity]
        room = 0.15 * (max(means) - min(means) or abs(means[0]) or 1.0)  # wide bands of few seeds must not flatten the lines
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, min(means) - room), min(high, max(means) + room))
        if low < 0 <= min(means):
            ax.set_ylim(bottom=0)
        ax.set_title(words[quantity], loc="left")
        turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        crowded = sum(text_width(f"{block} ", 9) for block in blocks) > 0.8 * figure.get_figwidth() / len(shown)
        ax.set_xticks(range(len(blocks)), blocks, **(turned if crowded else {}))
        ends = {
            name: (blocks.index(mine[-1].block), mine[-1].mean, look.colour)
            for name, look in lines
            if (mine := [p for p in rows if (p.label, p.quantity) == (name, quantity)])
        }
    seeds = over_seeds(max(p.seeds for p in rows), "band: 95 % t-interval (cut at the panel)")
    head(figure, "each block's output on held-out images", joined(title, seeds))
    figure.draw_without_rendering()  # names need the final limits
    label_ends(ax, ends)
    return figure


@style.context(LOOK)
def cka_figure(cells: Sequence[SimilarityCell], *, title: str = "") -> Figure:
    """Draw linear CKA of all blocks of a network with all blocks of others: a panel for each other network, values written out.

    Args:
        cells: from :func:`similarity_cells`, of one run.
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
    wide = max(1.6, 0.4 * most)
    figure = Figure(figsize=(max(5.6, 0.9 + wide * columns + 0.7), 0.9 + (wide + 0.55) * lines), layout="constrained")
    grid = panels(figure, len(others), columns)
    for i, (ax, other) in enumerate(zip(grid, others, strict=True)):
        mine = [c for c in cells if c.other == other]
        rows, across = (list(dict.fromkeys(names)) for names in ([c.block for c in mine], [c.other_block for c in mine]))
        values = np.full((len(rows), len(across)), math.nan)
        for c in mine:
            values[rows.index(c.block), across.index(c.other_block)] = c.cka
        mesh = ax.pcolormesh(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
        for (row, column), value in np.ndenumerate(values):
            text = short_number(value)
            ink = "0.1" if value > 0.6 else "white" if math.isfinite(value) else "0.25"
            if most <= 10:
                ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=8.5)
        ax.set_xticks(np.arange(len(across)) + 0.5, across, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(np.arange(len(rows)) + 0.5, rows if i % columns == 0 else [""] * len(rows))
        ax.set(title=other, aspect="equal")
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    figure.colorbar(mesh, ax=grid, label="linear CKA", aspect=22, pad=0.02).outline.set_visible(False)  # type: ignore[operator]
    head(figure, f"blocks of {cells[0].run} (upward) and of each network (across)", title)
    return figure


@style.context(LOOK)
def rdm_figure(rows: Sequence[RdmRow], *, title: str = "") -> Figure:
    """Draw dissimilarity matrices of samples sorted by label: a line of panels a run, a panel a block, bottom block on the left.

    Args:
        rows: from :func:`rdm_rows`.
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
    head(figure, f"dissimilarity of {count} held-out images, sorted by label (ticks between classes)", title)
    return figure


def _pairs(runs: Sequence[Run], results: Results) -> Mapping[str, Any]:
    """Return what the first run was compared with: by the command that is printing, or as it is stored."""
    return results[0].get("comparison") or load_result(runs[0].path, Representations.comparison) or {"with": []}


def tables(runs: Sequence[Run], results: Results) -> list[Table]:
    """Return what `gradlens representations` prints."""
    return [representation_table(depth_points(runs, results)), pair_table(_pairs(runs, results), named(runs)[0])]


def figures(runs: Sequence[Run], results: Results, title: str) -> Figures:
    """Return what `gradlens representations` draws: by depth, dissimilarities, CKA, and over training where there are snapshots."""
    points = [p for p in depth_points(runs, results) if p.quantity in REPRESENTATION_QUANTITIES]
    matrices, dissimilar = similarity_cells(_pairs(runs, results), named(runs)[0]), rdm_rows(runs, results)
    drawn: dict[str, tuple[Figure, Sequence[Any]]] = {
        "representation_by_depth": (representation_by_depth(points, REPRESENTATION_QUANTITIES, title=title), points),
    }
    if dissimilar:
        drawn["rdm"] = (rdm_figure(dissimilar, title=title), dissimilar)
    if matrices:
        drawn["cka"] = (cka_figure(matrices, title=title), matrices)
    for quantity in REPRESENTATION_QUANTITIES:
        rows = over_steps(runs, results, quantity)
        if len({row.step for row in rows}) > 2:
            drawn[f"{quantity}_over_training"] = (over_training(rows, quantity, title=title), rows)
    return drawn
