"""Write docs/their-figures.md: every figure of the reference study beside ours, or why there is none, from ``their_figures.toml``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradlens.analysis.rule_structure import rule_structure
from gradlens.methods import METHODS
from gradlens.reporting.schematic import THEMES, described, links, schematic
from gradlens.reporting.style import save_figure
from tools.docs.gallery import groups

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENTRIES = Path(__file__).with_suffix(".toml")
PICTURES = "concepts/pictures"  # below docs
HEAD = """# Their figure, ours

Every figure of the [reference study](results/index.md#the-reference-study), most of which are from the papers that it discusses, beside
ours: a picture that a committed script made, a schematic that `gradlens draw` made from the rule itself, or the reason why there is none.
"""


def entries() -> dict[str, list[dict[str, Any]]]:
    """Paper -> its figures: what theirs shows, and ours, draw or reason."""
    return {paper: group["figures"] for paper, group in tomllib.loads(ENTRIES.read_text(encoding="utf-8")).items()}


def write_their_figures(docs: Path) -> list[Path]:
    """Write the page and its schematics; returns the page's path."""
    path = docs / "their-figures.md"
    path.write_text("\n".join(page(docs)), encoding="utf-8")
    return [path]


def page(docs: Path) -> Iterator[str]:
    """The page's lines; its schematics are drawn on the way."""
    yield HEAD
    how = {f"{group.folder}/{name}": sentence for group in groups() for name, sentence in group.figures.items()}
    for paper, figures in entries().items():
        yield f"## {paper}\n"
        for figure in figures:
            yield f"**Theirs:** {figure['theirs']}.\n"
            if "draw" in figure:
                yield from _drawn(figure["draw"], docs)
            elif "ours" in figure:
                differs = f" What differs: {figure['differs']}." if "differs" in figure else ""
                yield f"**Ours** ([results](results/{figure['page']}.md)):{differs}\n"
                yield from (f"![{how[name]}](../figures/{name}.png)\n" for name in figure["ours"])
            else:
                yield f"**Ours:** none: {figure['reason']}.\n"


def _drawn(rules: list[str], docs: Path) -> Iterator[str]:
    """A schematic of rules side by side, light and dark."""
    structures = [rule_structure(rule, METHODS[rule]) for rule in rules]
    rows, name = [link for s in structures for link in links(s)], "-".join(["drawn", *rules])
    for theme in THEMES:
        save_figure(schematic(structures, theme), rows, docs / PICTURES, f"{name}-{theme}", formats=("svg",))
    words = " ".join(described(s) for s in structures).replace("[", "(").replace("]", ")")
    yield f"**Ours:** `gradlens draw {' '.join(rules)}`\n"
    yield f"![{words}]({PICTURES}/{name}-light.svg#only-light)\n![{words}]({PICTURES}/{name}-dark.svg#only-dark)\n"
