"""Figures of the timeline: the workers' tasks over time, and speed-up and memory over the number of workers. Pure functions of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gradlens.reporting.axes import label_ends
from gradlens.reporting.numbers import DASH, count_cell, number_cell
from gradlens.reporting.style import LOOK, head, styles
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Cell, Table
from gradlens.training.cost.simulation import Bar, Link, ThroughputPoint

COLOURS = {"forward": "#56B4E9", "again": "#0072B2", "backward": "#E69F00", "learn": "#CC79A7", "update": "#009E73"}
TEXTS = {"forward": "forward", "again": "forward again", "backward": "backward", "learn": "learn from the target above", "update": "update"}
WAIT, MESSAGE = "0.93", "0.25"
STACKED = 5  # panels in one column; more are drawn in two


def _tint(colour: str, batch: int) -> str:
    """Make every other batch a little paler, so that the eye can follow one."""
    r, g, b = (0.62 * v + 0.38 for v in to_rgb(colour))
    return to_hex((r, g, b)) if batch % 2 else colour


def _boxes(ax: Axes, bars: Sequence[Bar], until: float, letter: float) -> None:
    """Draw one panel: a row a worker, bottom first; ``letter``: the width of a digit in seconds."""
    for worker in range(bars[0].used):
        mine = [bar for bar in bars if bar.worker == worker and bar.to < 0]
        boxes = [(bar.start, min(bar.end, until) - bar.start) for bar in mine]
        colours = [_tint(COLOURS[bar.kind], bar.batch) for bar in mine]
        ax.broken_barh([(0, until)], (worker - 0.4, 0.8), facecolor=WAIT, linewidth=0)
        ax.broken_barh(boxes, (worker - 0.4, 0.8), facecolors=colours, edgecolor="white", linewidth=0.3)
        for bar, (start, width) in zip(mine, boxes, strict=True):
            text = str(bar.batch + 1)
            if width > letter * (len(text) + 0.5) and bar.kind != "update":
                ax.text(start + width / 2, worker, text, ha="center", va="center", fontsize=6.5, color="0.1")
    sent = [(bar, 0.4 if bar.to > bar.worker else -0.4) for bar in bars if bar.to >= 0]
    lines = [((bar.start, bar.worker + side), (bar.end, bar.to - side)) for bar, side in sent]
    ax.add_collection(LineCollection(lines, colors=MESSAGE, linewidths=0.7, zorder=3))


@style.context(LOOK)
def gantt(bars: Sequence[Bar], seconds: float, *, title: str = "") -> Figure:
    """Draw the workers' tasks over time: a panel a schedule, a row a worker with the first blocks at the bottom; batches are numbered.

    Args:
        bars: from :func:`gradlens.training.cost.simulation.pictured`.
        seconds: where the time axis ends.
        title: what the panels have in common.

    Raises:
        InputError: no bars.

    """
    if not bars:
        raise InputError("no timeline to draw")
    labels = list(dict.fromkeys(bar.schedule for bar in bars))
    columns = 1 if len(labels) <= STACKED else 2
    deep = -(-len(labels) // columns)
    used = [max(bar.used for bar in bars if bar.schedule == label) for label in labels]
    heights = [max(used[i] for i in range(len(labels)) if i % deep == row) for row in range(deep)]
    width = 9.0 if columns == 1 else 13.0
    figure = Figure(figsize=(width, 1.1 + sum(0.2 * h + 0.42 for h in heights)), layout="constrained")
    axes = figure.subplots(deep, columns, sharex=True, squeeze=False, height_ratios=[0.2 * h + 0.42 for h in heights])
    scale, unit = (1e3, "ms") if seconds < 2 else (1.0, "s")
    letter = 0.055 * seconds / (0.88 * width / columns)
    for ax in axes.T.flat[len(labels) :]:
        ax.remove()
    for i, ax in enumerate(axes.T.flat[: len(labels)]):
        mine = [bar for bar in bars if bar.schedule == labels[i]]
        _boxes(ax, mine, seconds, letter)
        ax.set(xlim=(0, seconds), ylim=(-0.6, used[i] - 0.4), yticks=range(used[i]))
        ax.set_yticklabels([f"{w + 1}" for w in range(used[i])])
        ax.set_title(f"{labels[i]}   (waits for: {mine[0].waits})", loc="left", fontsize=9.5, pad=2.5)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
        if i % deep == deep - 1 or i == len(labels) - 1:
            ax.tick_params(labelbottom=True)
            ax.xaxis.set_major_formatter(lambda v, _: f"{v * scale:g}")  # type: ignore[no-untyped-call]
            ax.set_xlabel(f"time ({unit})")
    figure.supylabel("worker, the lowest blocks at the bottom", fontsize=10)
    kinds = [kind for kind in COLOURS if any(bar.kind == kind for bar in bars)]
    handles: list[Any] = [Patch(facecolor=COLOURS[kind], label=TEXTS[kind]) for kind in kinds]
    handles += [Patch(facecolor=WAIT, label="wait"), Line2D([], [], color=MESSAGE, linewidth=1, label="message")]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.4, columnspacing=1.4)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


@style.context(LOOK)
def over_workers(points: Sequence[ThroughputPoint], *, title: str = "") -> Figure:
    """Draw speed-up, and memory of the worker that holds most, over the number of workers, as far as a rule can use them.

    Args:
        points: from :func:`gradlens.training.cost.simulation.throughput_curves`.
        title: what the schedules have in common.

    Raises:
        InputError: no points.

    """
    if not points:
        raise InputError("no timeline to draw")
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    looks = styles(point.schedule for point in points)
    ends: dict[Axes, dict[str, tuple[float, float, str]]] = {left: {}, right: {}}
    for label, look in looks.items():
        mine = sorted((p for p in points if p.schedule == label and p.workers <= p.used), key=lambda p: p.workers)
        for ax, scale, value in ((left, 1.0, "speedup"), (right, 1e6, "memory_bytes")):
            y = [getattr(p, value) / scale for p in mine]
            ax.plot(
                [p.workers for p in mine], y, color=look.colour, linestyle=look.dash, linewidth=1.6, marker=look.marker, markersize=4,
                label=label,
            )  # fmt: skip
            ends[ax][label] = (max(p.used for p in points), y[-1], look.colour)
    last = max(p.used for p in points)
    best = max(p.speedup for p in points)
    ideal = np.linspace(1, best * 1.12, 50)
    left.plot(ideal, ideal, color="0.6", linewidth=1, linestyle=":", zorder=0)
    left.set_ylim(0, best * 1.14)
    left.set_title("speed-up (dotted: by as many)", loc="left")
    right.set_title("memory of the fullest worker (MB)", loc="left")
    right.set_ylim(bottom=0)
    left.yaxis.set_major_locator(MaxNLocator(6))
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ticks = [2**i for i in range(int(np.log2(last)) + 1)]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xlim(right=last)
        ax.minorticks_off()
        ax.set_xlabel("workers")
    head(figure, title)
    figure.draw_without_rendering()  # names need the final limits
    for ax, names in ends.items():
        label_ends(ax, names)
    return figure


def unused_workers_text(points: Sequence[ThroughputPoint]) -> list[str]:
    """Write a sentence for each requested number of workers that some schedules cannot use."""
    short: dict[tuple[int, int], list[str]] = {}
    for p in points:
        if p.used < p.workers:
            short.setdefault((p.workers, p.used), []).append(p.schedule)
    return [
        f"{given} workers requested, {used} used by {', '.join(names)}: layer-parallel, a rule has no more workers than parts of its blocks"
        for (given, used), names in short.items()
    ]


def timeline_table(points: Sequence[ThroughputPoint], link: Link, batch_size: int, examples: str) -> Table:
    """Return the points of one number of workers, to print; a batch has ``batch_size`` of ``examples`` ("images")."""
    caption = (
        f"Simulated from block costs measured on this machine, {points[0].batches} batches of {batch_size} {examples}, with filling and"
        f" draining; links of {link.rate / 1e9:g} GB/s and {link.latency * 1e6:g} us. On: workers with blocks. Speed-up: over one worker"
        " with the same rule; limit: one batch's work / that of the worker with the most of it. Bubble: share of the workers' time in"
        " which they wait. MB/s: sent over all links. MB: memory of the worker that needs most. Delay: batches by which a used value (a"
        " queued input, a target, weights) is older than the batch it is used with."
    )
    printed = Table(notes=[caption])
    printed.add_column("schedule")
    printed.add_column("waits for", align="left")
    for column in ("on", f"{examples}/s", "speed-up", "limit"):
        printed.add_column(column)
    printed.add_column("bubble", "%")
    for column in ("MB/s", "MB", "delay"):
        printed.add_column(column)
    for p in points:
        printed.add_row(
            p.schedule, p.waits, p.used, count_cell(batch_size / p.batch_seconds), number_cell(p.speedup), number_cell(1 / p.busiest),
            number_cell(p.bubble, 0, 100), count_cell(p.sent_bytes_per_s / 1e6), count_cell(p.memory_bytes / 1e6),
            number_cell(p.delay, 1) if p.delay else Cell(DASH, p.delay),
        )  # fmt: skip
    return printed
