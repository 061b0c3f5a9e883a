"""How analyses/dfa_views.py sets its runs up, and what it tests and draws."""

from argparse import Namespace

import numpy as np
import pytest

from analyses import dfa_views as study
from analyses.verdicts.decision import decide
from gradlens.reporting.rendering import RenderedPanel, rendering_grid
from gradlens.runtime.errors import InputError

SPREADS = {"bp": (-0.1, 0.0, 0.1), "dfa": (0.1, -0.1, 0.05), "shallow": (0.0, 0.1, -0.05)}


def values(**means):
    """Three seeds around a mean for each group."""
    return {"values": {study.PSNR: {study.group(*cell): [means[cell[1]] + d for d in SPREADS[cell[1]]] for cell in study.all_cells()}}}


def test_every_rule_has_the_same_network_and_rays(tmp_path):
    views = study.Views(Namespace(data=str(tmp_path), steps=0))
    for scene in study.SCENES:
        mine = [views.config(scene, rule, 1e-3).as_dict() for rule in study.RULES]
        differ = {name for name in mine[0] if any(one[name] != mine[0][name] for one in mine)}
        assert differ == {"method", "options"}
    chosen = views.config("lego", "bp", 1e-3, **study.CHOOSING)
    assert (chosen.seed, chosen.data.validation) == (100, 0.1)
    assert study.Views(Namespace(data=str(tmp_path), steps=7)).config("solids", "dfa", 1e-3).steps == 7


@pytest.mark.parametrize(("dfa", "holds"), [(20.0, True), (12.0, False)])
def test_the_primary_test_needs_three_decibels(dfa, holds):
    found = {one.test.name: one for one in decide(study.TESTS, values(bp=23.0, dfa=dfa, shallow=11.0))}
    assert (found["views-dfa-shallow"].verdict == "supported") is holds


def test_pictures_of_other_scenes_are_not_drawn_beside_each_other():
    true = np.zeros((2, 4, 6, 3), np.uint8)
    panels = [RenderedPanel(rule, ["a", "b"], true + 9, true) for rule in study.RULES]
    figure = rendering_grid(panels, title="it", credit="author, licence")
    assert len(figure.axes) == 2 * (1 + len(study.RULES))
    assert any("author, licence" in text.get_text() for text in figure.texts)
    with pytest.raises(InputError, match="all runs have the same ones"):
        rendering_grid([panels[0], panels[1]._replace(true=true + 1)])
