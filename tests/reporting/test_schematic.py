"""Schematics: nothing is cut off, every arrow of the table is drawn, words say the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
from made_runs import made
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text

from gradlens import Method, Signal, top_signal
from gradlens.analysis.rule_structure import rule_structure
from gradlens.methods import METHODS
from gradlens.reporting.html import schematics
from gradlens.reporting.html.page import make_report_context
from gradlens.reporting.schematic import THEMES, described, links, schematic

SHOWN = ("bp", "cdni", "dni-unlocked", "dfa", "kp", "overlap", "infopro", "dgl-async", "greedy", "context-encoder-local", "squared")


class SquaredOutputs(Method):
    """delta_k = z_k: a local loss that no module of the rule's own reads."""

    depends_on = frozenset({"input"})

    def signal(self, k, passes, received):
        z = passes[k].z
        return top_signal(self.loss, passes[k]) if k == self.num_blocks - 1 else Signal(z.detach(), loss=z.detach().square().sum() / 2)


@pytest.fixture(scope="module")
def structures():
    rules = {name: METHODS[name] for name in SHOWN[:-1]} | {"squared": SquaredOutputs}
    return {name: rule_structure(name, rule) for name, rule in rules.items()}


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_is_cut_off(structures, name):
    figure = drawn(schematic([structures[name]]))
    page = figure.bbox
    for artist in (*figure.findobj(Text), *figure.axes[0].patches):
        if isinstance(artist, Text) and not artist.get_text():
            continue
        box = artist.get_window_extent()
        assert page.x0 <= box.x0, artist
        assert box.x1 <= page.x1, artist
        assert page.y0 <= box.y0, artist
        assert box.y1 <= page.y1, artist


@pytest.mark.parametrize("name", SHOWN)
def test_arrows_are_long_enough_to_be_seen(structures, name):
    figure = drawn(schematic([structures[name]]))
    ax = figure.axes[0]
    boxes = [p.get_window_extent() for p in ax.patches if not isinstance(p, FancyArrowPatch)]
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert arrows
    for arrow in arrows:
        points = arrow.get_path().interpolated(50).vertices  # in data coordinates, from one end to the other
        free = [p for p in ax.transData.transform(points) if not any(b.contains(*p) for b in boxes)]
        assert len(free) > 1, arrow
        length = sum(((a - b) ** 2).sum() ** 0.5 for a, b in pairwise(free))
        assert length >= 0.1 * figure.dpi, (arrow, length)  # a tenth of an inch, a head's length


@pytest.mark.parametrize("name", SHOWN)
def test_words_lie_inside_their_boxes_and_boxes_apart(structures, name):
    figure = drawn(schematic([structures[name]]))
    ax = figure.axes[0]
    boxes = [p.get_window_extent() for p in ax.patches if not isinstance(p, FancyArrowPatch)]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert not (one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1)
    title, *words = ax.texts
    assert title.get_text().startswith(name)
    for text in words:
        middle = text.get_window_extent()
        assert any(b.x0 <= middle.x0 and middle.x1 <= b.x1 and b.y0 <= middle.y0 and middle.y1 <= b.y1 for b in boxes), text


def test_every_arrow_is_in_the_table(structures):
    for structure in structures.values():
        figure = schematic([structure])
        arrows = sum(isinstance(p, FancyArrowPatch) for p in figure.axes[0].patches)
        rows = list(links(structure))
        through_modules = sum(m.gives == "loss" for m in structure.modules)  # their error signal comes in two arrows
        from_losses = sum(
            b.loss and not any(m.block == k and m.gives == "loss" for m in structure.modules) for k, b in enumerate(structure.blocks)
        )
        assert arrows == len(rows) + through_modules + from_losses


def test_a_row_of_rules_and_both_themes(structures):
    figure = schematic(list(structures.values())[:5], theme="dark", columns=2)
    assert len(figure.axes) == 5
    assert figure.get_facecolor()[:3] != (1, 1, 1)
    assert set(THEMES) == {"light", "dark"}


def test_words_say_where_error_signals_come_from(structures):
    assert "block2 to block1 (error signal)" in described(structures["bp"])
    assert "synthesisers.0 to block1 (error signal)" in described(structures["cdni"])
    assert "block2 to synthesisers.0 (learning target)" in described(structures["cdni"])
    assert {link.through for link in links(structures["kp"]) if link.target == "block1" and link.carries == "error signal"} == {
        "feedback matrix"
    }


def test_the_page_draws_each_rule_once_and_names_what_it_cannot_draw():
    runs = [made(method, seed, 0.5, (0.2, 0.6, 1.0, 1.0, 1.0)) for method in ("bp", "dgl") for seed in (0, 1)]
    section = schematics.section(make_report_context(runs))
    assert [picture.name for picture in section.pictures] == ["bp", "dgl"]
    assert all(picture.source.startswith("data:image/svg+xml;base64,") and picture.source != picture.dark for picture in section.pictures)
    assert "loss of block1 to block1" in section.pictures[1].alt
    assert not section.missing
