"""Regret of the online probes of runs, as figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.reporting.analysis_report import Figures, Results
from gradlens.reporting.style import COLOURS, LOOK
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import Run

LEARNER_WORDS = {  # name in online.csv -> in the legend
    "ogd": "projected gradient descent, ball of radius 10",
    "adagrad": "AdaGrad, ball of radius 2",
    "newton": "online Newton step, ball of radius 1, ≤ 64 features",
}


@style.context(LOOK)
def regret_figure(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Draw cumulative regret of a run's online probe against rounds, a panel a block, and each learner's theoretical bound (thin, dotted).

    Both axes are logarithmic: a line of slope ½ grows like √T, one of slope 1 has learned nothing. A learner that followed a changing
    block has done better than every fixed probe where its regret is not above zero; such points are hollow, at the panel's lower edge.

    Args:
        rows: the ``rows`` of a run's ``online.json``, from :func:`gradlens.training.online_probe.regret.regret_rows`.
        title: of the figure.

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
        Line2D([], [], color="0.35", linewidth=1.1, linestyle=(0, (1, 1.5)), label="theoretical bound on the line of its colour")
    )
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=2 if width > 8 else 1)
    return figure


class RegretRow(NamedTuple):
    """One row of a regret figure's table."""

    block: str
    learner: str
    rounds: int
    loss: float  # cumulative, nats
    best_in_hindsight: float
    regret: float
    regret_low: float
    regret_high: float
    bound: float  # of the learner's theorem


def figures(runs: Sequence[Run], results: Results, title: str) -> Figures:
    """Draw one figure a run: regrets of different streams are not to be averaged."""
    drawn = {}
    alone = len({(run.config.method, run.config.seed) for run in runs}) == len(runs)
    for run, result in zip(runs, results, strict=True):
        name = f"regret-{run.config.method}-s{run.config.seed}" if alone else f"regret-{run.path.name}"
        rows = [RegretRow(**{field: row[field] for field in RegretRow._fields}) for row in result["rows"]]
        drawn[name] = (regret_figure(result["rows"], title=run.path.name), rows)
    return drawn
