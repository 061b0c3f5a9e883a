"""Figures of the study of click-through: AUC of each rule on each network, and cosines by layer. Pure functions of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gradlens.reporting.style import LOOK, head, over_seeds, styles


class AucPoint(NamedTuple):
    """A rule's test AUC on one network and log, at the epoch of the best validation AUC."""

    data: str
    net: str
    rule: str
    mean: float
    low: float  # 95 % t-interval over seeds
    high: float
    seeds: int
    logloss: float  # the mean, at the same epoch
    final: float  # mean AUC after the last epoch
    before: float | None  # AUC that a script without gradlens measured; None: it has no such run
    best: float | None  # the highest AUC that any score can expect; None: unknown


class CosinePoint(NamedTuple):
    """The cosine of a rule's error signal with the true one at a block's output, mean over the second half of training."""

    data: str
    net: str
    rule: str
    layer: str
    mean: float
    low: float
    high: float
    seeds: int


NETS = {"deep-cross": "Deep&Cross", "deepfm": "DeepFM", "autoint": "AutoInt", "afn": "AFN"}
APART = 0.16  # distance of two rules beside each other


def in_order(rows: Sequence[AucPoint]) -> bool:
    """Whether bp is above dfa and dfa above shallow, in every cell."""
    mean = {(r.data, r.net, r.rule): r.mean for r in rows}
    cells = {(r.data, r.net) for r in rows}
    return bool(cells) and all(mean[c, n, "bp"] > mean[c, n, "dfa"] > mean[c, n, "shallow"] for c, n in cells)


def auc_title(rows: Sequence[AucPoint]) -> str:
    """The order of the rules, on the logs where it holds in every network."""
    held = [log for log in dict.fromkeys(r.data for r in rows) if in_order([r for r in rows if r.data == log])]
    if held:
        return f"On {' and '.join(held)} direct feedback is below backprop and above frozen layers, in every network"
    return "Direct feedback on click-through, beside backprop and frozen layers"


@style.context(LOOK)
def auc_figure(rows: Sequence[AucPoint], beside: str) -> Figure:
    """AUC of each rule on each network, a panel per log; the earlier script's as open circles, the best possible one as a line.

    Args:
        rows: of all cells.
        beside: how it was trained, in words.

    """
    logs, rules = (list(dict.fromkeys(getattr(r, name) for r in rows)) for name in ("data", "rule"))
    looks = styles(rules)
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots(1, len(logs), squeeze=False)[0]
    for ax, log in zip(axes, logs, strict=True):
        mine = [r for r in rows if r.data == log]
        nets = list(dict.fromkeys(r.net for r in mine))
        for r in mine:
            x, look = nets.index(r.net) + APART * (rules.index(r.rule) - (len(rules) - 1) / 2), looks[r.rule]
            half = [[r.mean - r.low], [r.high - r.mean]] if math.isfinite(r.low) else None
            ax.errorbar([x], [r.mean], yerr=half, color=look.colour, marker=look.marker, markersize=5, capsize=2)
            if r.before is not None:
                ax.plot([x], [r.before], "o", markersize=8, markerfacecolor="none", markeredgecolor=look.colour)
        best = next((r.best for r in mine if r.best is not None), None)
        if best is not None:
            ax.axhline(best, color="0.4", linestyle=":", linewidth=1)
            ax.annotate(
                "the best that is possible", (0.02, best), (0, -3), ("axes fraction", "data"), "offset points", va="top", fontsize=8
            )
        ax.set_xticks(range(len(nets)), [NETS[net] for net in nets])
        ax.set(title=log, ylabel="test AUC" if ax is axes[0] else "", xlim=(-0.5, len(nets) - 0.5))
    shown = [Line2D([], [], color=looks[rule].colour, marker=looks[rule].marker, linestyle="", label=rule) for rule in rules]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(rules))
    over = over_seeds(max(r.seeds for r in rows), "95 % t-interval")
    known = " · ○ measured before, two seeds" if any(r.before is not None for r in rows) else ""
    head(figure, auc_title(rows), f"{beside} · {over}{known}")
    return figure


@style.context(LOOK)
def cosine_figure(rows: Sequence[CosinePoint], beside: str) -> Figure:
    """Cosines by layer, a panel per network; the logs have a line each.

    Args:
        rows: of all rules that are shown.
        beside: how it was trained, in words.

    """
    nets, logs, rules = (list(dict.fromkeys(getattr(r, name) for r in rows)) for name in ("net", "data", "rule"))
    looks = styles(rules)
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    grid = figure.subplots(2, math.ceil(len(nets) / 2), squeeze=False, sharey=True)
    for ax, net in zip(grid.flat, nets, strict=False):
        layers = list(dict.fromkeys(r.layer for r in rows if r.net == net))
        for rule in rules:
            for log, dash in zip(logs, ("-", "--"), strict=False):
                mine = [r for r in rows if (r.net, r.rule, r.data) == (net, rule, log)]
                x, y = [layers.index(r.layer) for r in mine], [r.mean for r in mine]
                ax.plot(x, y, color=looks[rule].colour, marker=looks[rule].marker, linestyle=dash, markersize=4)
                ax.fill_between(x, [r.low for r in mine], [r.high for r in mine], color=looks[rule].colour, alpha=0.15, linewidth=0)
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.set_xticks(range(len(layers)), layers, rotation=45, ha="right", fontsize=7)
        ax.set(title=NETS[net], ylabel="cosine" if ax in grid[:, 0] else "")
    for ax in list(grid.flat)[len(nets) :]:
        ax.set_visible(False)
    shown = [Line2D([], [], color=looks[rule].colour, marker=looks[rule].marker, label=rule) for rule in rules]
    shown += [
        Line2D([], [], color="0.3", linestyle=dash, label=log)  # type: ignore[arg-type]
        for log, dash in zip(logs, ("-", "--"), strict=False)
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown))
    over = over_seeds(max(r.seeds for r in rows), "95 % t-interval")
    head(figure, "Cosine of the error signal with the true one at each block's output", f"{beside} · {over}")
    return figure
