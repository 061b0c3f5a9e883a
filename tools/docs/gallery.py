"""Write docs/gallery.md: every figure with the command that makes it and how to read it, from ``gallery.toml``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENTRIES = Path(__file__).with_suffix(".toml")
HEAD = """# Gallery

Every figure of `figures/`, with the command that makes it and how to read it. Each lies beside a csv file of the numbers that it shows. The
pages under [Results](results/index.md) say what the figures mean.
"""


class Group(NamedTuple):
    """The figures of one folder."""

    folder: str  # under figures/
    title: str
    command: str
    page: str  # of docs/results, without its ending
    figures: dict[str, str]  # file name without its ending -> how to read it


def groups() -> list[Group]:
    """The entries of gallery.toml, with the common sentences filled in.

    Raises:
        KeyError: a figure has no sentence of its own and none in ``[common]``.

    """
    entries: dict[str, Any] = tomllib.loads(ENTRIES.read_text(encoding="utf-8"))
    common = entries.pop("common")
    return [
        Group(folder, entry["title"], entry["command"], entry["page"], {n: text or common[n] for n, text in entry["figures"].items()})
        for folder, entry in entries.items()
    ]


def gallery() -> str:
    """The page."""
    parts = [HEAD]
    for group in groups():
        parts.append(f"## {group.title}\n\n`{group.command}` ([results](results/{group.page}.md))\n")
        for name, sentence in group.figures.items():
            parts.append(f"### {name.replace('_', ' ')}\n\n{sentence}\n\n![{sentence}](../figures/{group.folder}/{name}.png)\n")
    return "\n".join(parts)


def write_gallery(docs: Path) -> list[Path]:
    """Write gallery.md; returns its path."""
    path = docs / "gallery.md"
    path.write_text(gallery(), encoding="utf-8")
    return [path]
