"""The figures of all rules beside each other: accuracies in rows, cosines by layer, feedback that turns to the weights or does not.

Pure functions of the rows that analyses.all_methods saves; a rule is named where it is drawn, so no legend has 18 entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.figures.drawing import title_where
from analyses.overview import CONTROL, FAMILIES, family_legend
from gradlens.cli.listing import family
from gradlens.methods import METHODS
from gradlens.reporting.aggregate import FinalValue, LayerPoint
from gradlens.reporting.axes import spread
from gradlens.reporting.heat_map import heat_map
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import GREY, LOOK, band, head, save_figure

TURNED = ("kp", "brsf", "frsf", "fa")  # rules whose feedback is a matrix of its own
COLOURS_OF = {"kp": "#0072B2", "brsf": "#D55E00", "frsf": "#009E73", "fa": "#000000"}


class Placed(NamedTuple):
    """A rule's accuracy."""

    method: str
    mean: float  # final test accuracy in %
    low: float  # 95 % t-interval over seeds
    high: float
    seeds: int


def placed(values: Mapping[str, Sequence[float]]) -> list[Placed]:
    """Rules by their accuracy, the best first."""
    return sorted((Placed(name, *interval(seeds)) for name, seeds in values.items()), key=lambda row: -row.mean)


def setting_of(data: str, settings: Mapping[str, Any]) -> str:
    """What all runs share, in a line."""
    return f"{data}, {settings['limit']:,} images · BasicCNN, width {settings['width']} · {settings['epochs']} epochs (greedy 15)"


NEAR = 2.0  # points below backprop's accuracy


def accuracy_message(rows: Sequence[Placed]) -> str:
    """How many rules are as accurate as backprop, and which are no better than untrained blocks."""
    of = {row.method: row.mean for row in rows}
    rules = {name: mean for name, mean in of.items() if name not in ("bp", CONTROL)}
    near = sum(mean >= of["bp"] - NEAR for mean in rules.values())
    low = [name for name, mean in rules.items() if mean < of.get(CONTROL, -math.inf)]
    rest = f"; {', '.join(low)} below untrained blocks" if low else ""
    return f"{near} of {len(rules)} rules end above backprop or within {NEAR:g} points of it{rest}"


@style.context(LOOK)
def accuracies(rows: Sequence[Placed], setting: str) -> Figure:
    """One rule a row, the best on top, coloured by family; the dashed line is a network whose blocks are not trained."""
    figure = Figure(figsize=(7.8, 1.7 + 0.27 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for at, row in enumerate(rows):
        colour = FAMILIES[family(METHODS[row.method])][1]
        half = row.high - row.mean if math.isfinite(row.high) else 0.0
        ax.errorbar(row.mean, at, xerr=half, fmt="o", ms=5.5, lw=1.6, color=colour)
        ax.annotate(f"n = {row.seeds}", (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=9, color="0.35")
    for control in (row for row in rows if row.method == CONTROL):
        ax.axvline(control.mean, color=GREY, linestyle="--", linewidth=1, zorder=0)
        ax.annotate(" only the top trained", (control.mean, -0.75), va="center", fontsize=9, color="0.3")
    ax.set_yticks(range(len(rows)), [row.method for row in rows])
    for label, row in zip(ax.get_yticklabels(), rows, strict=True):
        label.set_color(FAMILIES[family(METHODS[row.method])][1])
    ax.set_ylim(len(rows) - 0.4, -1.1)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("final test accuracy on 10,000 images (%), mean and 95 % t-interval over n seeds")
    family_legend(figure, [row.method for row in rows])
    head(figure, accuracies_title(rows), setting)
    return figure


def accuracies_title(rows: Sequence[Placed]) -> str:
    """What the accuracies say, in general or by count; a rule keeps up that ends less than five points below backprop."""
    mean = {row.method: row.mean for row in rows}
    kept = {name: value > mean["bp"] - 5 for name, value in mean.items()} if "bp" in mean else {}
    families = {name: family(METHODS[name]) for name in kept}
    local, synthetic = ([kept[name] for name in kept if families[name] == kind] for kind in ("local", "synthetic gradients"))
    random = [kept[name] for name in ("fa", "dfa") if name in kept]
    return title_where(
        all(local) and not any([*synthetic, *random]) and bool(local and synthetic and random),
        "Local losses end within five points of backprop; random feedback and synthetic gradients do not",
        accuracy_message(rows),
    )


def cosines_of(table: Sequence[Mapping[str, Any]], seeds: int) -> list[FinalValue]:
    """The cosines of a results file's table as rows of a heat map."""
    return [
        FinalValue(row["method"], layer, "weight", "cosine", *_three(bounds), seeds, 0)
        for row in table
        for layer, bounds in row["cosine"].items()
    ]


def _three(bounds: Sequence[float | None]) -> tuple[float, float, float]:
    mean, low, high = (math.nan if v is None else v for v in bounds)
    return mean, low, high


def nearest(rows: Sequence[FinalValue], most: int = 3) -> str:
    """The rules whose worst layer is nearest to the true gradient, with that layer's cosine."""
    lowest = {name: min(r.mean for r in rows if r.label == name) for name in dict.fromkeys(r.label for r in rows)}
    first = sorted((name for name in lowest if name != "bp" and math.isfinite(lowest[name])), key=lambda name: -lowest[name])[:most]
    return f"Nearest to the true gradient in every layer: {', '.join(f'{name} ({lowest[name]:.2f} or more)' for name in first)}"


def cosine_map(rows: Sequence[FinalValue], setting: str) -> Figure:
    """Cosine of each layer's gradient with the true one, a rule a row."""
    figure = heat_map(rows, "cosine")
    head(
        figure,
        nearest(rows),
        f"Cosine of the weight gradient with the true one, final weights, up to {max(row.seeds for row in rows)} seeds",
        setting.replace(" (greedy 15)", ""),
    )
    return figure


def turned_by(points: Sequence[LayerPoint], name: str) -> float:
    """The most by which a layer's angle fell over training, in degrees."""
    of_layer: dict[str, list[LayerPoint]] = {}
    for p in sorted((p for p in points if p.label == name), key=lambda p: p.step):
        of_layer.setdefault(p.layer, []).append(p)
    return max((line[0].mean - line[-1].mean for line in of_layer.values()), default=math.nan)


@style.context(LOOK)
def turning(points: Sequence[LayerPoint], setting: str) -> Figure:
    """Angle between each layer's feedback matrix and its weights' transpose over training, a panel a layer."""
    layers = list(dict.fromkeys(p.layer for p in points))
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for ax, layer in zip(axes, layers, strict=True):
        for name in TURNED:
            mine = sorted((p for p in points if (p.layer, p.label) == (layer, name)), key=lambda p: p.step)
            if not mine:
                continue
            x, colour = [p.step for p in mine], COLOURS_OF[name]
            ax.plot(x, [p.mean for p in mine], color=colour, linewidth=1.8)
            band(ax, x, [p.low for p in mine], [p.high for p in mine], colour, 0.15)
        ax.axhline(90, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
        ax.set_title(layer, loc="left")
        ax.set_xlabel("updates")
    ends = {name: mine[-1] for name in TURNED if (mine := [p for p in points if (p.layer, p.label) == (layers[-1], name)])}
    for (name, end), y in zip(ends.items(), spread([end.mean for end in ends.values()], 4.0), strict=True):
        said = f" {name} (n = {end.seeds})"
        axes[-1].annotate(said, (end.step, y), color=COLOURS_OF[name], va="center", fontsize=9.5, annotation_clip=False)
    axes[0].set_ylabel("angle to the weights' transpose (°)")
    head(figure, turning_title(points), f"{setting.replace(' (greedy 15)', '')} · band: 95 % t-interval")
    return figure


def turning_title(points: Sequence[LayerPoint]) -> str:
    """What the angles say: at the end all of kp's are below 80 degrees, and none of fa's."""
    ends = {(p.label, p.layer): p.mean for p in sorted(points, key=lambda p: p.step)}
    kp, fa = ([angle for (label, _), angle in ends.items() if label == name] for name in ("kp", "fa"))
    return title_where(
        bool(kp and fa) and max(kp) < 80 <= min(fa),
        "kp's feedback turns to the weights, fa's hardly does",
        f"Angle between feedback and the weights' transpose: it falls by up to {turned_by(points, 'kp'):.0f}° for kp",
    )


def draw(results: Mapping[str, Any], turned: Sequence[LayerPoint], data: str, folder: Path) -> None:
    """Write the figures that the results allow.

    Args:
        results: of analyses.all_methods.
        turned: angles of feedback matrices.
        data: what was trained on.
        folder: where they go.

    """
    setting, finals = setting_of(data, results["settings"]), results["values"]["final accuracy"]
    rows = placed(finals)
    save_figure(accuracies(rows, setting), rows, folder, "accuracies")
    cosines = cosines_of(results["table"], min(3, max(map(len, finals.values()))))
    save_figure(cosine_map(cosines, setting), cosines, folder, "cosine_heat_map")
    own = [p for p in turned if p.label in TURNED]
    if own:
        save_figure(turning(own, setting), own, folder, "feedback_transpose")
