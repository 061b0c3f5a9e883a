"""A hook of mkdocs that brings the figures which pages name into the site.

Pages link ``../../figures/NAME``, which works on GitHub and in an editor, but mkdocs serves only what lies in ``docs``. The hook adds the
named files to the build and shortens the links by one folder. Nothing is copied into the tree, and no symbolic link is needed: Windows
checks those out as text files, and an archive may hold what they point to twice. Where ``figures`` is missing, as in the source
distribution, an image is replaced by its description.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parents[2] / "figures"
LINK = re.compile(r"\]\((?:\.\./)+figures/([\w./-]+)\)")
WHOLE_LINK = re.compile(r"!?\[([^\]]*)" + LINK.pattern)


def on_config(config: Any) -> Any:
    """Leave out ``404.html``: its links are from a server's root, and the site also lies in a folder."""
    config.theme.static_templates.discard("404.html")
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the figures that pages name to the files of the build."""
    from mkdocs.structure.files import File  # tests of this module run without mkdocs

    named = {name for page in files.documentation_pages() for name in LINK.findall(page.content_string)}
    for name in sorted(named):
        if (FIGURES / name).is_file():
            files.append(File.generated(config, f"figures/{name}", abs_src_path=str(FIGURES / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point a page's links to figures at the files that were added."""
    return in_site(markdown, page.file.src_uri)


def in_site(markdown: str, uri: str) -> str:
    """The Markdown of the page at ``uri`` with its links to figures as the site needs them."""
    if not FIGURES.is_dir():
        return WHOLE_LINK.sub(r"\1", markdown)
    up = "../" * uri.count("/")
    return LINK.sub(rf"]({up}figures/\1)", markdown)
