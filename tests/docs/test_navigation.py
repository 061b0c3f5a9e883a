"""The navigation of the site leads to every page, and CONTRIBUTING is one of them."""

import re
from pathlib import Path

from gradlens.methods import METHODS
from tools.docs.contributing import SOURCE, contributing

ROOT = Path(__file__).parents[2]
NAV = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2], re.M))


def test_every_page_and_every_rule_is_in_the_navigation():
    written = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert written | {f"rules/{name}.md" for name in METHODS} <= NAV


def test_links_of_contributing_lead_from_its_page_to_pages():
    assert contributing("[a](docs/extending/rule.md#b), [c](docs/results/index.md)") == "[a](rule.md#b), [c](../results/index.md)"
    page = contributing(SOURCE.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page) if not link.startswith("http")]
    assert links
    assert all((ROOT / "docs" / "extending" / link).resolve().is_file() for link in links), links
