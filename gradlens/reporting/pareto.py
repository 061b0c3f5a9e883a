"""Total against sequential compute to reach a loss: the table of the Pareto front of rules, and its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, Style, head, in_lines, joined, line_handles, panels, styles
from gradlens.runtime.errors import InputError
from gradlens.training.run_groups import group_runs

if TYPE_CHECKING:  # these import torch
    from gradlens.training.cost.critical_path import StepCost
    from gradlens.training.run_directory import Run


class ParetoPoint(NamedTuple):
    """What a rule needs to reach a held-out loss; NaN where a seed does not reach it."""

    label: str
    loss: float
    updates: float  # mean over seeds
    total: float  # seconds of one worker
    sequential: float  # seconds with a worker for each window of blocks
    on_front: bool  # no other rule that reaches this loss needs less of both
    seeds: int


def updates_to(run: Run, loss: float) -> float:
    """Return the updates at which a run's held-out loss first is no higher, on lines between its evaluations; infinite if it never is."""
    curve = sorted((m.step, m.loss) for m in run.metrics if m.split in ("test", "validation"))
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= loss:
            return float(step) if before is None else step - (loss - value) / (before[1] - value) * (step - before[0])
        before = step, value
    return math.inf


def pareto_points(runs: Sequence[Run], costs: Mapping[str, StepCost], losses: Sequence[float]) -> list[ParetoPoint]:
    """Return what each group of runs needs to reach each loss.

    Args:
        runs: several methods, several seeds each.
        costs: label of a group -> what one of its updates costs.
        losses: held-out losses, as 2.0.

    """
    found: list[ParetoPoint] = []
    for loss in losses:
        rows = []
        for label, group in group_runs(runs).items():
            each = [updates_to(run, loss) for run in group]
            mean = math.nan if math.inf in each else interval(each).mean
            cost = costs[label]
            rows.append(ParetoPoint(label, loss, mean, mean * cost.total, mean * cost.sequential, False, len(each)))
        found += [row._replace(on_front=_on_front(row, rows)) for row in rows]
    return found


def _on_front(point: ParetoPoint, rows: Sequence[ParetoPoint]) -> bool:
    """Return whether no other point is at most as far in both, and nearer in one."""
    if math.isnan(point.total):
        return False
    mine = point.total, point.sequential
    others = [(row.total, row.sequential) for row in rows if row is not point and not math.isnan(row.total)]
    return not any(a <= mine[0] and b <= mine[1] and (a, b) != mine for a, b in others)


@style.context(LOOK)
def pareto_figure(points: Sequence[ParetoPoint], *, title: str = "", look: Mapping[str, Style] | None = None) -> Figure:
    """Draw total against sequential seconds, a panel a loss: one marker a rule, the front as steps; rules that do not reach it are named.

    Args:
        points: from :func:`pareto_points`.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`; default: of these points' labels.

    Raises:
        InputError: no rule reaches any of the losses.

    """
    if not any(math.isfinite(p.total) for p in points):
        raise InputError("no Pareto front to draw: no rule reaches any of the losses")
    look = look or styles(p.label for p in points)
    losses = sorted({p.loss for p in points}, reverse=True)
    figure = Figure(figsize=(min(9.0, 1.2 + 2.6 * len(losses)), 3.6), layout="constrained")
    grid = panels(figure, len(losses), 4, sharex=True, sharey=True)
    for ax, loss in zip(grid, losses, strict=True):
        here = [p for p in points if p.loss == loss and math.isfinite(p.total)]
        front = sorted((p.sequential, p.total) for p in here if p.on_front)
        ax.step([s for s, _ in front], [t for _, t in front], where="post", color="0.6", linewidth=1, zorder=1)
        for p in here:
            colour, _, marker = look[p.label]
            ax.plot(p.sequential, p.total, marker=marker, color=colour, markersize=7, linestyle="", zorder=3)
        missing = [p.label for p in points if p.loss == loss and not math.isfinite(p.total)]
        note = fill(f"not: {', '.join(missing)}", 26) if missing else ""
        ax.set_title("\n".join(part for part in (f"loss {loss:g}", note) if part), loc="left", pad=3)
        ax.set(xscale="log", yscale="log", xlabel="sequential (s)")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(EngFormatter(sep=""))
    grid[0].set_ylabel("total (s)")
    handles = line_handles((name, look[name]) for name in look if any(p.label == name for p in points))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    seeds = max(p.seeds for p in points)
    head(
        figure,
        "Compute to reach a held-out loss: in all, and on the critical path with a worker for each window",
        *in_lines((title, joined(f"mean of {seeds} seeds" if seeds > 1 else "one seed", "grey: the front")), figure.get_figwidth()),
    )
    return figure
