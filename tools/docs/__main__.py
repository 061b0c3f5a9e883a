"""``python -m tools.docs`` writes what ``mkdocs build --strict`` needs beside the pages that lie in ``docs``."""

from __future__ import annotations

import shutil
from pathlib import Path

from tools.docs.contributing import write_contributing
from tools.docs.gallery import write_gallery
from tools.docs.locking import write_locking
from tools.docs.pictures import write_pictures
from tools.docs.reference import write_reference
from tools.docs.rules import write_rules
from tools.docs.their_figures import write_their_figures

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def write_all(docs: Path = DOCS) -> list[Path]:
    """Write all generated pages and pictures; returns the pages."""
    pages = [*write_rules(docs), *write_reference(docs), *write_gallery(docs), *write_their_figures(docs)]
    write_pictures(docs)
    write_locking(docs)
    shutil.copy(ROOT / "CHANGELOG.md", docs / "changelog.md")
    return [*pages, docs / "changelog.md", write_contributing(docs)]


if __name__ == "__main__":
    for page in write_all():
        print(page.relative_to(ROOT))
