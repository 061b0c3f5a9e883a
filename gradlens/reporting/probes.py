"""Linear probes of several runs: accuracies over seeds, the printed tables, the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.analysis.linear_probe import PIXELS, TRAINED, UNTRAINED
from gradlens.analysis.linear_separability import SEPARABLE, UNDECIDED
from gradlens.analysis.probe_block import PERMUTED, TRUE, ProbeRecord
from gradlens.reporting.analysis_report import Figures, Results, results_by_label
from gradlens.reporting.numbers import DASH, NONE, mean_cell, number_cell
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import GREY, LOOK, Style, band, head, joined, line_handles, over_seeds, panels, styles
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Cell, Table
from gradlens.training.metrics import TRAIN
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import group_runs

OWN = "own"  # the network's own prediction, beside its probes
SHORT = 4  # lines of LINES that a first look prints, which fits on a screen
LINES = (  # (network, labels, half, what it is called), in the order of the table
    (TRAINED, TRUE, "test", "{}"),
    (OWN, TRUE, "test", "the network's own prediction"),
    (PIXELS, TRUE, "test", "raw pixels"),
    (UNTRAINED, TRUE, "test", "{}, untrained"),
    (TRAINED, PERMUTED, "test", "{}, permuted"),
    (TRAINED, PERMUTED, "train", "{}, permuted, training images"),
)
PROBE_CONTROLS = (  # (network, labels) -> dash, marker and name of a grey line
    ("untrained", "true", (0, (4, 2)), "x", "untrained network"),
    ("trained", "permuted", (0, (1, 1.5)), "", "permuted labels"),
    ("pixels", "true", (0, (6, 1.5, 1.2, 1.5)), "", "raw pixels"),
)
SEPARABILITY = (
    "strictly linearly separable, proven? (yes: with its margin; ?: undecided, with a bound on it)\n"
    "of as many images as Cover's capacity, half of all two-class labellings are separable, of fewer, most"
)


class ProbePoint(NamedTuple):
    """A probe's accuracy on one block of one group of runs; a share, mean over seeds with its 95 % t-interval."""

    label: str
    network: str  # trained, untrained, pixels; own: the network's own prediction
    labels: str  # true, permuted
    block: str
    step: int
    half: str  # test, train
    mean: float
    low: float
    high: float
    seeds: int


# -------------------------------------------------------------------------------------------------------- over seeds


def own_accuracy(run: Run) -> float:
    """Return the network's own accuracy on the held-out images at its last evaluation; NaN where there was none."""
    return next((m.accuracy for m in reversed(run.metrics) if not m.split.startswith(TRAIN)), math.nan)


def probe_points(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[ProbePoint]:
    """Return the rows of runs' ``probe.json``, and the networks' own accuracy, as means over seeds.

    Args:
        runs: the runs.
        results: their contents of ``probe.json``.

    """
    found: list[ProbePoint] = []
    groups = group_runs(runs)
    for label, mine in results_by_label(runs, results).items():
        cells: dict[tuple[str, str, str, int, str], list[float]] = {}
        last = 0
        for result in mine:
            for row in result["rows"]:
                last = max(last, row["step"])
                for half in ("test", "train"):
                    cells.setdefault((row["network"], row["labels"], row["block"], row["step"], half), []).append(float(row[half]))
        found += [ProbePoint(label, *key, *interval(values)) for key, values in cells.items()]
        found.append(ProbePoint(label, OWN, TRUE, OWN, last, "test", *interval(own_accuracy(run) for run in groups[label])))
    return found


def last_probed(points: Sequence[ProbePoint]) -> list[ProbePoint]:
    """Return the controls, and of each label's trained network the last step."""
    last = {p.label: max(q.step for q in points if q.label == p.label) for p in points}
    return [p for p in points if p.network != TRAINED or p.step == last[p.label]]


# ------------------------------------------------------------------------------------------------------------ tables


def probe_table(points: Sequence[ProbePoint], short: bool = False) -> Table:
    """Return a row a block and control, a column a method: accuracy in %; ``short``: without permuted labels, and closely set."""
    shown = Table(title="linear probe: test accuracy in %")
    shown.add_column("block")
    labels = list(dict.fromkeys(p.label for p in points))
    for label in labels:
        shown.add_column(label)
    rows = last_probed(points)
    for network, kind, half, called in LINES[:SHORT] if short else LINES:
        mine = [p for p in rows if (p.network, p.labels, p.half) == (network, kind, half)]
        for block in dict.fromkeys(p.block for p in mine):
            cells = {p.label: mean_cell(p.mean, p.low, 1, 100, high=p.high) for p in mine if p.block == block}
            shown.add_row(called.format(block), *(cells.get(label, NONE) for label in labels))
        if not short:
            shown.add_section()
    return shown


def _called(network: str, labels: str, block: str) -> str:
    """Return a block and what is special about it, in words."""
    return ", ".join([block, *([UNTRAINED] if network == UNTRAINED else []), *([PERMUTED] if labels == PERMUTED else [])])


def probe_detail(result: Mapping[str, Any]) -> Table:
    """Return what stands behind one run's numbers: features, l2, accuracies, and how near the optimum each probe is."""
    shown = Table(title="linear probes at the last weights")
    shown.add_column("block")
    for name, unit in (("features", ""), ("l2", ""), ("train", "%"), ("held out", "%"), ("test", "%"), ("nats above minimum ≤", "")):
        shown.add_column(name, unit)
    last = max(row["step"] for row in result["rows"])
    for row in result["rows"]:
        if (row["network"] == TRAINED and row["step"] != last) or (row["network"], row["labels"]) == (UNTRAINED, PERMUTED):
            continue
        name = _called(row["network"], row["labels"], row["block"])
        accuracies = (number_cell(row[half], 1, 100) for half in ("train", "validation", "test"))
        l2, bound = Cell(f"{row['l2']:g}", row["l2"]), Cell(f"{row['bound']:.0e}", row["bound"])
        shown.add_row(name, row["features"], l2, *accuracies, bound)
    return shown


def _verdict(rows: Sequence[ProbeRecord]) -> str:
    """State for how many seeds' points separability is proven; for one seed with the margin."""
    verdicts = [row["verdict"] for row in rows]
    yes, undecided = verdicts.count(SEPARABLE), verdicts.count(UNDECIDED)
    if len(rows) > 1:
        return f"{yes} of {len(rows)}" + (f", ? {undecided}" if undecided else "")
    return f"yes {rows[0]['margin']:.1g}" if yes else "no" if not undecided else f"? <{rows[0]['gap'][1]:.0e}"


def separability_table(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> Table:
    """Return whether a few training images are strictly separable, beside what the numbers of points and features alone make likely.

    Args:
        runs: the runs.
        results: their contents of ``probe.json``.

    """
    shown = Table(title=SEPARABILITY)
    for name in ("block", "images", "per feature", "Cover's capacity"):
        shown.add_column(name)
    labels = results_by_label(runs, results)
    for label in labels:
        shown.add_column(label)
    cells: dict[tuple[str, str, str], dict[str, list[ProbeRecord]]] = {}
    for label, mine in labels.items():
        for result in mine:
            for row in result["separability"]:
                cells.setdefault((row["network"], row["labels"], row["block"]), {}).setdefault(label, []).append(row)
    for key, found in cells.items():
        if key[:2] == (UNTRAINED, PERMUTED):  # stored, not printed: long enough
            continue
        one = next(iter(found.values()))[0]
        name = _called(*key)
        counts = (one["n"], Cell(f"{one['n_per_feature']:.2g}", one["n_per_feature"]), one["cover_capacity"])
        shown.add_row(name, *counts, *(_verdict(found[label]) if label in found else DASH for label in labels))
    return shown


# ----------------------------------------------------------------------------------------------------------- figures


def _over_labels(points: Sequence[ProbePoint]) -> dict[str, float]:
    """Return a dict block -> mean in % over all labels: one line of a control for the whole figure."""
    means: dict[str, list[float]] = {}
    for p in points:
        means.setdefault(p.block, []).append(100 * p.mean)
    return {block: sum(values) / len(values) for block, values in means.items()}


def _probe_head(figure: Figure, what: str, title: str, rows: Sequence[ProbePoint]) -> None:
    head(figure, what, joined(title, over_seeds(max(p.seeds for p in rows), "95 % t-interval")))


@style.context(LOOK)
def separability_by_depth(points: Sequence[ProbePoint], *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Draw the test accuracy of the linear probe by block, a line a label; its controls in grey; the network's own accuracy as a star.

    Args:
        points: from :func:`probe_points`, of one step a label.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`.

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
        else:
            band(ax, x, low, high, colour, 0.12)
        for p in (p for p in tests if (p.label, p.network) == (name, "own")):
            ax.plot(len(blocks) + aside, 100 * p.mean, "*", color=colour, markersize=10, markeredgecolor="white", zorder=4)
    if any(p.network == "own" for p in tests):
        drawn.append(Line2D([], [], linestyle="", marker="*", markersize=10, color="0.2", label="the network's own prediction"))
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
    """Draw the test accuracy of the linear probe over updates: a panel a block, a line a label, the untrained network in grey.

    Args:
        points: from :func:`probe_points`.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`.

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
    grid = panels(figure, len(blocks), columns, sharex=True, sharey=True)
    untrained = _over_labels([p for p in tests if p.network == "untrained"])
    for ax, block in zip(grid, blocks, strict=True):
        if block in untrained:
            ax.axhline(untrained[block], color=GREY, linestyle=(0, (4, 2)), linewidth=1.3)
        for name in names:
            mine = sorted((p for p in rows if (p.label, p.block) == (name, block)), key=lambda p: p.step)
            colour, dash, marker = look[name]
            x = [p.step for p in mine]
            ax.plot(x, [100 * p.mean for p in mine], color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=1.6)
            band(ax, x, [100 * p.low for p in mine], [100 * p.high for p in mine], colour, 0.12)
        ax.set_title(block, loc="left")
        ax.set_xlabel("updates")
        ax.margins(x=0.05)
    means = [100 * p.mean for p in tests if p.network in ("trained", "untrained")]
    grid[0].set_ylim(max(0, min(means) - 4), min(100, max(means) + 4))
    for ax in grid[::columns]:
        ax.set_ylabel("test accuracy (%)")
    handles = line_handles((name, look[name]) for name in names)
    if untrained:
        handles.append(Line2D([], [], color=GREY, linestyle=(0, (4, 2)), label="untrained network"))
    figure.legend(handles=handles, loc="outside right center", handlelength=3.2)
    _probe_head(figure, "A linear probe on each block's frozen output, over training", title, rows)
    return figure


def probe_figures(points: Sequence[ProbePoint], title: str = "") -> dict[str, tuple[Figure, Sequence[ProbePoint]]]:
    """Return the figures: by depth, and over training where there are snapshots.

    Raises:
        InputError: nothing to draw.

    """
    shown = last_probed(points)
    drawn: dict[str, tuple[Figure, Sequence[ProbePoint]]] = {"separability_by_depth": (separability_by_depth(shown, title=title), shown)}
    if len({(p.label, p.step) for p in points if p.network == TRAINED}) > len({p.label for p in points}):
        drawn["separability_over_training"] = (separability_over_training(points, title=title), points)
    return drawn


def tables(runs: Sequence[Run], results: Results) -> Iterator[Table]:
    """Make the tables of `gradlens probe`: accuracies by block; with separability also permuted labels, and of one run the details."""
    certified = any(result["separability"] for result in results)
    if certified and len(runs) == 1:
        yield probe_detail(results[0])
    yield probe_table(probe_points(runs, results), short=not certified)
    if certified:
        yield separability_table(runs, results)


def figures(runs: Sequence[Run], results: Results, title: str) -> Figures:
    """Return what `gradlens probe` draws."""
    return probe_figures(probe_points(runs, results), title)
