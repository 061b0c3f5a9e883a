"""What analyses/certificates.py searches, counts and draws; its trainings are not run here."""

import numpy as np
import pytest
import torch

from analyses import certificates as study
from analyses.figures.certificate_figures import n_star_figure, regret_figure
from analyses.verdicts.decision import decide
from gradlens.analysis.linear_separability import UNDECIDED, certify_separability


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_search_finds_where_separability_ends():
    """Points of a line, alternating from the 13th on: all prefixes up to there are separable, none beyond."""
    x = torch.arange(40, dtype=torch.float64)[:, None]
    y = (x[:, 0] >= 10).long()
    y[13:] = torch.arange(27) % 2
    found = study.largest_separable(x, y)
    assert (found["separable"], found["not_separable"], found["undecided"]) == (13, 14, 0)


def test_the_search_agrees_with_a_certificate_for_every_number_of_points():
    x, y = points(120, 6), torch.randint(2, (120,), generator=torch.Generator().manual_seed(1))
    found = study.largest_separable(x, y)
    last = max(n for n in range(7, 60) if certify_separability(x[:n], y[:n]).verdict == "separable")
    assert found["separable"] <= last < found["not_separable"]
    assert found["not_separable"] - found["separable"] <= max(1, 0.02 * found["separable"]) + 1


def test_points_that_are_all_separable_have_no_upper_end():
    x = points(50, 4)
    found = study.largest_separable(x, (x[:, 0] > 0).long())
    assert (found["separable"], found["not_separable"]) == (50, None)
    assert study.doublings([found]) == pytest.approx(np.log2(50))


def test_a_certificate_that_decides_nothing_counts_as_not_separable_and_is_counted(monkeypatch):
    class Undecided:
        verdict = UNDECIDED

    monkeypatch.setattr(study, "certify_separability", lambda *_, **__: Undecided())
    found = study.largest_separable(points(50, 4), torch.arange(50) % 2)
    assert found["undecided"] == found["asked"] > 0
    assert found["separable"] == 5
    net = {"blocks": {block: {"true": [found], "dealt": [found]} for block in study.BLOCKS}}
    assert study.decided_share(net) == 0


def test_dealt_labels_are_lost_at_covers_capacity():
    lost = [
        study.largest_separable(points(200, 16, s), torch.randint(2, (200,), generator=torch.Generator().manual_seed(s))) for s in range(8)
    ]
    assert study.doublings(lost) == pytest.approx(np.log2(study.CAPACITY), abs=0.25)


def test_halves_of_the_classes_are_the_same_for_all_rules_and_differ_by_seed():
    mine = study.parts(10, 3)
    assert all(len(set(half.tolist())) == 5 for half in mine)
    assert all(torch.equal(a, b) for a, b in zip(mine, study.parts(10, 3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(mine, study.parts(10, 4), strict=True))


def made_net(n_star):
    one = {"separable": n_star, "not_separable": n_star, "undecided": 0, "asked": 5}
    return {
        "blocks": {b: {"true": [one] * study.PARTS, "dealt": [{**one, "separable": 34, "not_separable": 34}]} for b in study.BLOCKS},
        "seconds": 1.0,
    }


def made_rows(growth):
    """Regrets that grow like a power of the rounds."""
    return [
        {"block": block, "learner": learner, "rounds": t, "regret_high": t**growth, "regret_low": t**growth, "bound": 40.0 * t**0.5}
        for block in study.BLOCKS
        for learner in ("ogd", "adagrad")
        for t in (1, 2, 4, 8, 16, 32, 64, 128, 135)
    ]


def made(growth=0.4):
    return {rule: [made_net(32 + s) for s in range(3)] for rule in study.RULES}, {
        rule: [made_rows(growth)] * 3 for rule in study.REGRET_RULES
    }


def test_every_test_finds_its_values():
    values = study.values(*made())
    for test in study.TESTS:
        assert set(test.contrast) <= set(values[test.metric]), test.name
    assert values["log2 N* of dealt labels over capacity"]["bp block1"] == pytest.approx([0, 0, 0])
    assert values["certificates that decide"]["fa"] == [100, 100, 100]
    assert values["largest share of the bound"]["bp"][0] == pytest.approx(1 / 40)


def test_every_run_must_stay_below_its_bound():
    (test,) = [test for test in study.TESTS if test.every]
    values = study.values(*made())
    (found,) = decide([test], {"values": values})
    assert (found.verdict, found.seeds, found.held) == ("supported", 12, 12)
    nets, online = made()
    online["fa"] = [*online["fa"][:2], [{**row, "regret_high": 1.01 * row["bound"]} for row in made_rows(0.4)]]
    (broken,) = decide([test], {"values": study.values(nets, online)})
    assert (broken.verdict, broken.held, broken.effect.mean) == ("not supported", 11, pytest.approx(1.01))


@pytest.mark.parametrize(("growth", "holds"), [(0.3, True), (0.7, False)])
def test_growth_faster_than_the_root_is_seen(growth, holds):
    assert (study.slowing(made_rows(growth)) > 0) == holds


def test_figures_show_every_rule_and_block():
    nets, online = made()
    n_star, regret = study.n_star_points(nets), study.regret_points(online)
    assert [p.mean for p in n_star if p.labels == "true"] == pytest.approx([(32 * 33 * 34) ** (1 / 3)] * 15)
    left, right = n_star_figure(n_star, study.CAPACITY, "beside").axes
    assert [t.get_text() for t in left.get_xticklabels()] == list(study.BLOCKS)
    assert {"bp", "dgl", "greedy", "fa", "untrained"} <= {t.get_text() for t in right.texts}
    panels = regret_figure(regret, "beside").axes
    assert [panel.get_title(loc="left") for panel in panels] == list(study.BLOCKS)
    assert list(panels[0].lines[0].get_ydata()) == pytest.approx([t**0.4 for t in (1, 2, 4, 8, 16, 32, 64, 128, 135)])
