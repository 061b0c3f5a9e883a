"""Pictures of the concept pages: schematics of a few rules side by side, and cosines beside chance and their noise-corrected values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from gradlens.analysis.rule_structure import RuleStructure, rule_structure
from gradlens.methods import METHODS
from gradlens.reporting.schematic import THEMES, Theme, links, schematic
from gradlens.reporting.style import LOOK, save_figure

SCHEMATICS = {"used-and-true": ("bp", "dgl"), "locking": ("bp", "dgl", "dni", "dfa")}  # picture -> its rules
MEASURED = Path(__file__).parents[2] / "figures" / "all_methods" / "results.json"  # written by python -m analyses.all_methods
LAYER, RULES = "block1.conv", ("bp", "usf", "overlap", "dgl", "dfa", "fa", "dni")


class Cosine(NamedTuple):
    """One rule's cosine at a layer: mean over seeds of what was measured, of chance, and corrected for noise."""

    rule: str
    layer: str
    cosine: float
    chance: float
    corrected: float


def write_pictures(docs: Path) -> list[Path]:
    """Write the pictures below ``docs/concepts/pictures``, light and dark; returns the svg files."""
    folder, written = docs / "concepts" / "pictures", list[Path]()
    for name, rules in SCHEMATICS.items():
        written += draw_rules([rule_structure(rule, METHODS[rule]) for rule in rules], folder, name)
    cosines = list(measured_cosines(json.loads(MEASURED.read_text(encoding="utf-8"))))
    for theme, colours in THEMES.items():
        written += save_figure(chance_figure(cosines, colours), cosines, folder, f"chance-{theme}", formats=("svg",))
    return [path for path in written if path.suffix == ".svg"]


def draw_rules(structures: Sequence[RuleStructure], folder: Path, name: str) -> list[Path]:
    """Draw rules side by side, light and dark; returns the files."""
    rows, written = [link for s in structures for link in links(s)], list[Path]()
    for theme in THEMES:
        written += save_figure(schematic(structures, theme), rows, folder, f"{name}-{theme}", formats=("svg",))
    return written


def measured_cosines(results: dict[str, Any]) -> Iterator[Cosine]:
    """The cosines of ``RULES`` at ``LAYER`` in the table that all_methods stored (means over seeds)."""
    by_rule = {row["method"]: row for row in results["table"]}
    for rule in RULES:
        row = by_rule[rule]
        yield Cosine(rule, LAYER, row["cosine"][LAYER][0], row["null_cosine"][LAYER][0], row["corrected_cosine"][LAYER])


@style.context(LOOK)
def chance_figure(cosines: Sequence[Cosine], colours: Theme) -> Figure:
    """Draw for each rule the measured cosine, that of chance and the noise-corrected one."""
    figure = Figure(figsize=(6.4, 0.42 * len(cosines) + 1.1), layout="constrained", facecolor=colours.page)
    axes = figure.subplots()
    axes.set_facecolor(colours.page)
    rows = range(len(cosines))
    axes.scatter([c.chance for c in cosines], rows, marker="|", s=160, color=colours.faint, label="chance", zorder=3)
    axes.scatter([c.cosine for c in cosines], rows, color=colours.signal, label="cosine", zorder=4)
    corrected = [c.corrected for c in cosines]
    axes.scatter(corrected, rows, marker="D", facecolors="none", edgecolors=colours.ink, label="corrected for noise", zorder=5)
    axes.set_yticks(list(rows), [c.rule for c in cosines], fontfamily="monospace")
    axes.invert_yaxis()
    axes.set_xlim(-0.3, 1.05)
    axes.set_xlabel(f"cosine with the true gradient, {cosines[0].layer}", color=colours.ink)
    axes.tick_params(colors=colours.ink)
    axes.grid(color=colours.faint, alpha=0.3)
    for spine in axes.spines.values():
        spine.set_color(colours.faint)
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, 1.18), ncols=3, labelcolor=colours.ink)
    return figure
