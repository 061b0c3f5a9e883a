"""The site fetches nothing from elsewhere and its search runs over file://: shown by a site of two pages with the same settings."""

import re
import shutil
from pathlib import Path

import pytest
from browser import WAIT, open_chromium

ROOT = Path(__file__).parents[2]
TRIES = 12  # a page listens to keys from when its script has run
FETCHED = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?([^"'\s>]+)|<link\b[^>]*\bhref=["']?([^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page at the top and one in a folder, built with the settings of the repository."""
    config = pytest.importorskip("mkdocs.config", reason="no mkdocs: pip install 'gradlens-toolkit[docs]'")
    pytest.importorskip("material", reason="no mkdocs-material: pip install 'gradlens-toolkit[docs]'")
    from mkdocs.commands.build import build

    docs, made = tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("site")
    for folder in ("javascripts", "stylesheets"):
        shutil.copytree(ROOT / "docs" / folder, docs / folder)
    (docs / "rules").mkdir()
    (docs / "index.md").write_text("# Home\n\n[a rule](rules/bp.md)\n", encoding="utf-8")
    (docs / "rules" / "bp.md").write_text("# bp\n\nA synthesiser predicts nothing here.\n", encoding="utf-8")
    settings = config.load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(made), nav=["index.md", "rules/bp.md"])
    build(settings)
    return made


def test_no_page_fetches_anything_from_elsewhere(site):
    pages = [site / "index.html", site / "rules" / "bp.html"]
    for page in pages:
        links = [script or style for script, style in FETCHED.findall(page.read_text(encoding="utf-8"))]
        assert any(link.endswith("javascripts/iframe-worker.js") for link in links)
        assert [link for link in links if re.match("(?:https?:)?//", link)] == []
        local = [link.partition("?")[0].partition("#")[0] for link in links if not link.startswith("data:")]
        assert [link for link in local if link != "." and not (page.parent / link).exists()] == []


def typed(page, word):
    """The first result for a word, typed key by key, and anew where the page's script was not listening yet."""
    from playwright.sync_api import TimeoutError as TooLate

    field, result = page.locator("input.md-search__input"), page.locator("a.md-search-result__link").first
    for _ in range(TRIES):
        field.fill("", timeout=WAIT)
        field.press_sequentially(word)
        try:
            result.wait_for(timeout=WAIT / TRIES)
        except TooLate:
            continue
        return result
    raise AssertionError(f"no result for {word!r} after {TRIES} tries")


@pytest.mark.browser
@pytest.mark.parametrize("page", ["index.html", "rules/bp.html"])
def test_search_finds_a_page_over_file_without_a_network(site, page):
    with open_chromium() as browser:
        context = browser.new_context(offline=True)
        shown, asked = context.new_page(), []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto((site / page).as_uri())
        result = typed(shown, "synthesiser")
        assert "rules/bp.html" in result.get_attribute("href")
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
