"""The gallery holds every figure, and the site shows those that pages name."""

from types import SimpleNamespace

import pytest

from tools.docs import figures
from tools.docs.gallery import gallery, groups

ROOT = figures.FIGURES.parent
needs_figures = pytest.mark.skipif(not figures.FIGURES.is_dir(), reason="figures are not in the source distribution")


@needs_figures
def test_every_figure_has_an_entry_and_every_entry_a_figure():
    there = {path.relative_to(figures.FIGURES).with_suffix("").as_posix() for path in figures.FIGURES.rglob("*.png")}
    assert {f"{group.folder}/{name}" for group in groups() for name in group.figures} == there


def test_every_entry_names_a_script_and_a_page():
    for group in groups():
        script = group.command.split()[2].replace(".", "/")
        assert (ROOT / f"{script}.py").exists(), group.command
        assert (ROOT / "docs" / "results" / f"{group.page}.md").exists(), group.page
        assert all(text.endswith(".") for text in group.figures.values()), group.folder
    assert gallery().count("\n### ") == sum(len(group.figures) for group in groups())


@needs_figures
def test_links_to_figures_lead_to_files_from_the_page_and_in_the_site():
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for found in figures.LINK.finditer(text):
            link = found[0][2:-1]
            assert (page.parent / link).resolve().is_file(), f"{page}: {link}"
            named += 1
    assert named > 40
    assert figures.in_site("![a](../../figures/b/c.png)", "results/x.md") == "![a](../figures/b/c.png)"
    assert figures.in_site("[a](../figures/b.png) [c](../figures.md)", "gallery.md") == "[a](figures/b.png) [c](../figures.md)"


def test_without_the_figures_a_page_keeps_their_descriptions(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="results/x.md"))
    assert figures.on_page_markdown("![a](../../figures/b.png), [c](../../figures/d.png)", page) == "a, c"
