"""Their figure, ours: every figure of the reference study has a counterpart that exists, or a reason."""

from pathlib import Path

import pytest

from gradlens.methods import METHODS
from tools.docs.gallery import groups
from tools.docs.their_figures import entries, page

FIGURES = Path(__file__).parents[2] / "figures"
EVERY = [figure for figures in entries().values() for figure in figures]
IN_GALLERY = {f"{group.folder}/{name}" for group in groups() for name in group.figures}


@pytest.mark.parametrize("figure", EVERY, ids=lambda figure: figure["theirs"][:40])
def test_a_figure_has_one_counterpart_or_one_reason(figure):
    assert len({"ours", "draw", "reason"} & set(figure)) == 1
    assert set(figure.get("draw", [])) <= set(METHODS)
    assert set(figure.get("ours", [])) <= IN_GALLERY
    if "ours" in figure:
        assert (Path(__file__).parents[2] / "docs" / "results" / f"{figure['page']}.md").exists()


@pytest.mark.skipif(not FIGURES.is_dir(), reason="figures are not in the source distribution")
def test_pictures_exist():
    assert all((FIGURES / f"{name}.png").exists() for figure in EVERY for name in figure.get("ours", []))


def test_every_figure_of_the_reference_study_is_there():
    """Of its 36 pictures 12 are learning curves (three entries of four), 15 schematics, 8 results of papers, and one is view synthesis."""
    shown = sum(len(figure.get("ours", [])) if len(figure.get("ours", [])) == 4 else 1 for figure in EVERY[:-1])
    assert shown == 12 + 15 + 8 + 1


@pytest.mark.slow
def test_the_page_names_a_command_for_every_schematic(tmp_path):
    text = "\n".join(page(tmp_path))
    assert text.count("`gradlens draw ") == sum("draw" in figure for figure in EVERY)
    assert text.count("**Ours:** none: ") == sum("reason" in figure for figure in EVERY)
    assert len(list((tmp_path / "concepts" / "pictures").glob("*.svg"))) == 2 * sum("draw" in figure for figure in EVERY)
