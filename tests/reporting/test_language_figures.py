"""Cosines by kind of layer over depth, the Pareto front, and the page of language models, from runs with known numbers."""

import math
from dataclasses import replace

import pytest
from made_runs import made, rows

from gradlens.reporting.html.page import page
from gradlens.reporting.layer_kinds import kind_points, over_depth
from gradlens.reporting.pareto import comparable, levels, pareto_figure, pareto_points, pareto_table, updates_to
from gradlens.reporting.training_figures import figure_set
from gradlens.runtime.errors import InputError
from gradlens.training.cost.critical_path import StepCost
from gradlens.training.run_directory import Metric

LAYERS = {"block1.layer.ff1": 0.1, "block1.layer.norm1": 0.2, "block2.ff1": 0.3, "block2.norm1": 0.4, "top.vocabulary": 1.0}


def language(method="bp", seed=0, factor=1.0, losses=(4.0, 2.0, 1.0), sample=None, **settings):
    """A run of the language task: its cosines are those of LAYERS times a factor."""
    run = made(method, seed, task="language", data="a.txt", model="transformer", **settings)
    gradients = [row for step in (0, 10, 20) for layer, value in LAYERS.items() for row in rows(step, layer, cosine=factor * value)]
    metrics = [
        Metric("test", epoch, 15 * epoch, loss, 0.3, math.exp(min(losses[: epoch + 1])), math.exp(loss), "perplexity")
        for epoch, loss in enumerate(losses)
    ]
    summary = {"updates": 30, **({"sample": sample} if sample else {})}
    return replace(run, gradients=gradients, metrics=metrics, summary=summary)


def test_kinds_are_read_over_depth_and_layers_of_one_block_are_left_out():
    points = kind_points([language(), language("dgl", factor=0.5), language("dgl", seed=1, factor=0.7)])
    assert {(p.kind, p.block) for p in points} == {("ff1", 1), ("ff1", 2), ("norm1", 1), ("norm1", 2)}
    at = {(p.label, p.kind, p.block): p for p in points}
    assert at["bp", "ff1", 2].mean == pytest.approx(0.3)
    assert at["dgl", "norm1", 1].mean == pytest.approx(0.6 * 0.2)
    assert at["dgl", "norm1", 1].seeds == 2
    assert [p.kind for p in points] == sorted((p.kind for p in points), key=["ff1", "norm1"].index)
    assert kind_points([made()]) == []  # of images
    with pytest.raises(InputError, match="no kind of layer"):
        over_depth([])


def test_a_panel_a_kind_a_line_a_label():
    figure = over_depth(kind_points([language(), language("dgl", factor=0.5)]), title="a.txt")
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert set(panels) == {"ff1", "norm1"}
    lines = {line.get_label(): line.get_xydata().tolist() for line in panels["ff1"].lines if not line.get_label().startswith("_")}
    assert lines == {"bp": [[1, 0.1], [2, 0.3]], "dgl": [[1, 0.05], [2, 0.15]]}
    assert "cosine_over_depth" in figure_set([language(), language("dgl", factor=0.5)]).drawn
    assert "cosine_over_depth" not in figure_set([made(), made("dgl")]).drawn


def test_updates_to_a_loss_lie_on_the_line_between_two_evaluations():
    run = language()
    assert updates_to(run, 4.0) == 0
    assert updates_to(run, 3.0) == pytest.approx(7.5)
    assert updates_to(run, 1.25) == pytest.approx(15 + 0.75 * 15)
    assert updates_to(run, 0.9) == math.inf
    up = language(losses=(4.0, 5.0, 2.0))
    assert updates_to(up, 3.0) == pytest.approx(15 + 2 / 3 * 15)


def test_the_front_holds_what_no_other_rule_beats_in_both():
    runs = [language(), language("dgl", losses=(4.0, 3.0, 2.0)), language("fa", losses=(4.0, 3.5, 3.0))]
    costs = {"bp": StepCost(1.0, 1.0, 1.0), "dgl": StepCost(1.1, 0.3, 0.2), "fa": StepCost(2.0, 2.0, 2.0)}
    points = {(p.label, p.loss): p for p in pareto_points(runs, costs, [3.0, 2.0])}
    assert points["bp", 3.0].updates == pytest.approx(7.5)
    assert points["dgl", 3.0].total == pytest.approx(15 * 1.1)
    assert points["dgl", 3.0].sequential == pytest.approx(15 * 0.3)
    assert {label for (label, loss), p in points.items() if loss == 3.0 and p.on_front} == {"bp", "dgl"}
    assert math.isnan(points["fa", 2.0].total)
    assert not points["fa", 2.0].on_front
    figure = pareto_figure(list(points.values()))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss 3", "loss 2\nnot: fa"]
    assert points["dgl", 3.0].buffered == pytest.approx(15 * 0.2)
    hollow = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "white"]
    assert hollow == [points["dgl", 3.0].buffered]  # the other rules have no buffers to gain by
    printed = [[cell.text for cell in row] for row in pareto_table(list(points.values())).rows]
    assert printed[0][:3] == ["3", "bp", "8"]
    assert printed[1][-4:] == ["16.5000", "4.5000", "3.0000", "yes"]
    assert printed[-1][-4:] == ["–", "–", "–", ""]
    with pytest.raises(InputError, match="no rule reaches any"):
        pareto_figure([p._replace(total=math.nan) for p in points.values()])


def test_levels_are_round_and_between_the_first_epoch_and_the_best_end():
    runs = [language(losses=(4.0, 2.31, 1.62)), language("dgl", losses=(4.0, 2.52, 1.83)), language("dgl", seed=1, losses=(4.0, 2.4, 1.9))]
    assert levels(runs) == [2.3, 2.1, 1.85, 1.65]  # 2.295, 2.07, 1.845, 1.62, each to the next 0.05 above
    assert levels([language(losses=(1.0,))]) == [1.0]


def test_only_losses_of_one_experiment_are_compared():
    assert [run.config.method for run in comparable([language(), language("dgl")])] == ["bp", "dgl"]
    with pytest.raises(InputError, match="losses of different experiments cannot be compared"):
        comparable([language(), made()])
    with pytest.raises(InputError, match="simclr has an objective of its own and no held-out loss to reach"):
        comparable([made("simclr")])


def test_the_page_shows_text_perplexity_and_kinds_and_escapes_what_was_written():
    text = page([language(sample="to be▸ or <not> & so"), language("dgl", factor=0.5)])
    assert "or &lt;not&gt; &amp; so</pre>" in text
    assert f"bp, seed 0, perplexity {math.exp(1.0):.2f}" in text
    assert "test perplexity" in text
    assert '<section id="samples"' in text
    other = page([made(), made("dgl")])
    assert '<section id="samples"' not in other
