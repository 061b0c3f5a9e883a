"""CONTRIBUTING.md as a page of the site: its links lead from where the page lies."""

from __future__ import annotations

import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "CONTRIBUTING.md"
HERE = "extending"  # the folder below docs that the page is written to


def contributing(text: str) -> str:
    """The page; links to ``docs/extending`` lose that folder, links to other pages climb out of it."""
    return re.sub(r"\]\(docs/", "](../", text.replace(f"](docs/{HERE}/", "]("))


def write_contributing(docs: Path) -> Path:
    """Write docs/extending/contributing.md; returns it."""
    path = docs / HERE / "contributing.md"
    path.write_text(contributing(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
    return path
