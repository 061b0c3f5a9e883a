"""Total against sequential compute to reach a loss: the table of the Pareto front of rules, and its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from gradlens.reporting.numbers import DASH, count_cell, number_cell
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, Style, head, in_lines, joined, line_handles, panels, styles
from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import Table
from gradlens.training.metrics import held_out
from gradlens.training.run_groups import experiments, group_runs
from gradlens.training.run_progress import split_finished, unfinished_text

if TYPE_CHECKING:  # these import torch
    from gradlens.training.cost.critical_path import StepCost
    from gradlens.training.run_directory import Run


LEVELS = 4  # losses of the front, if none are given


class ParetoPoint(NamedTuple):
    """What a rule needs to reach a held-out loss; NaN where a seed does not reach it."""

    label: str
    loss: float
    updates: float  # mean over seeds
    total: float  # seconds of one worker
    sequential: float  # seconds with a worker for each window of blocks
    buffered: float  # seconds where these also work on different batches at the same time, with buffers between them
    on_front: bool  # no other rule that reaches this loss needs less of both
    seeds: int


def updates_to(run: Run, loss: float) -> float:
    """Return the updates at which a run's held-out loss first is no higher, on lines between its evaluations; infinite if it never is."""
    curve = _curve(run)
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= loss:
            return float(step) if before is None else step - (loss - value) / (before[1] - value) * (step - before[0])
        before = step, value
    return math.inf


def _curve(run: Run) -> list[tuple[int, float]]:
    """Return a run's held-out losses over its updates."""
    return sorted((m.step, m.loss) for m in held_out(run.metrics))


def comparable(runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs, whose losses can be compared: of one experiment, each of a rule that descends the held-out loss.

    Raises:
        InputError: none is finished, they are of several experiments, or a rule has no held-out loss.

    """
    finished, _ = split_finished(runs)
    if not finished:
        raise InputError(f"no finished run to compare: {unfinished_text(runs)}")
    if len(parts := experiments(finished)) > 1:
        raise InputError(
            f"losses of different experiments cannot be compared ({'; '.join(part.heading for part in parts)}): name runs of one"
        )
    if other := next((run for run in finished if not run.config.rule.classifies), None):
        raise InputError(f"{other.config.method} has an objective of its own and no held-out loss to reach: leave {other.path} out")
    return finished


def levels(runs: Sequence[Run], number: int = LEVELS) -> list[float]:
    """Return losses, high to low: evenly from the highest after a first epoch to the lowest that all seeds of a rule reach."""
    curves = {label: [[loss for _, loss in _curve(run)] for run in group] for label, group in group_runs(runs).items()}
    high = max(curve[min(1, len(curve) - 1)] for group in curves.values() for curve in group)
    low = min(max(min(curve) for curve in group) for group in curves.values())
    if not low < high:
        return [high]
    unit = 10 ** math.floor(math.log10((high - low) / number)) / 2  # of a round number
    return sorted({round(unit * math.ceil((high + (low - high) * i / number) / unit), 9) for i in range(1, number + 1)}, reverse=True)


def pareto_table(points: Sequence[ParetoPoint]) -> Table:
    """Return the points to print: a row for each loss and rule."""
    printed = Table(
        notes=[
            "Seconds until a held-out loss is reached: of one worker; with a worker for each window of blocks; and where these also work on"
            f" different batches, with buffers between them. Front: no other rule needs less of the first two. {DASH}: a seed fails."
        ]
    )
    printed.add_column("loss")
    printed.add_column("method", align="left")
    for column in ("updates", "total s", "sequential s", "buffered s"):
        printed.add_column(column)
    printed.add_column("front", align="left")
    for p in points:
        seconds = [number_cell(value, 4) for value in (p.total, p.sequential, p.buffered)]
        printed.add_row(f"{p.loss:g}", p.label, count_cell(p.updates), *seconds, "yes" if p.on_front else "")
    return printed


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
            total, sequential, buffered = (mean * seconds for seconds in cost)
            rows.append(ParetoPoint(label, loss, mean, total, sequential, buffered, False, len(each)))
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

    An open marker beside a rule's is the same with buffers between its windows, which then work on different batches at the same time.

    Args:
        points: from :func:`pareto_points`.
        title: what the runs have in common.
        look: from :func:`gradlens.reporting.style.styles`; default: of these points' labels.

    Raises:
        InputError: no rule reaches any of the losses by training.

    """
    if not any(0 < p.total < math.inf for p in points):
        raise InputError("no Pareto front to draw: no rule reaches any of the losses by training")
    look = look or styles(p.label for p in points)
    losses = sorted({p.loss for p in points}, reverse=True)
    figure = Figure(figsize=(min(8.0, 1.2 + 2.6 * len(losses)), 3.6), layout="constrained")
    grid = panels(figure, len(losses), 4, sharex=True, sharey=True)
    for ax, loss in zip(grid, losses, strict=True):
        here = [p for p in points if p.loss == loss and 0 < p.total < math.inf]  # of 0 there is no logarithm
        front = sorted((p.sequential, p.total) for p in here if p.on_front)
        ax.step([s for s, _ in front], [t for _, t in front], where="post", color="0.6", linewidth=1, zorder=1)
        for p in here:
            colour, _, marker = look[p.label]
            ax.plot(p.sequential, p.total, marker=marker, color=colour, markersize=7, linestyle="", zorder=3)
            if p.buffered < 0.999 * p.sequential:
                ax.plot([p.buffered, p.sequential], [p.total, p.total], color=colour, linewidth=0.8, zorder=2)
                ax.plot(p.buffered, p.total, marker=marker, color=colour, markersize=6, markerfacecolor="white", linestyle="", zorder=3)
        missing = [p.label for p in points if p.loss == loss and not math.isfinite(p.total)]
        at_once = [p.label for p in points if p.loss == loss and p.total == 0]
        notes = [fill(f"{what}: {', '.join(labels)}", 20) for what, labels in (("not", missing), ("untrained", at_once)) if labels]
        ax.set_title("\n".join([f"loss {loss:g}", *notes]), loc="left", pad=3)
        ax.set(xscale="log", yscale="log", xlabel="sequential (s)")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(EngFormatter(sep=""))
    grid[0].set_ylabel("total (s)")
    handles = line_handles((name, look[name]) for name in look if any(p.label == name for p in points))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    seeds, buffers = max(p.seeds for p in points), any(p.buffered < 0.999 * p.sequential for p in points)
    head(
        figure,
        "Compute to reach a held-out loss: in all, and on the critical path with a worker for each window",
        *in_lines(
            (
                title,
                joined(
                    f"mean of {seeds} seeds" if seeds > 1 else "one seed",
                    "grey: the front",
                    *["open: with buffers between windows"] * buffers,
                ),
            ),
            figure.get_figwidth(),
        ),
    )
    return figure
