"""The networks of analyses.theory.linear_demonstration, one by one in a plain loop and by gradlens's own rules; and the study of them."""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from analyses import feedback_angles as study
from analyses.figures import feedback_figures as figures
from analyses.theory import linear_demonstration as demo
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods import METHODS
from gradlens.runtime.csv_tables import read_csv, write_csv
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import training_step

SCALES, SEEDS, STEPS, LR = (1e-3, 0.1, 0.25), (3, 4), 50, 0.01
WHICH = (1, 1)  # scale 0.1, seed 4


def simulated(rule, lr=LR):
    """All moments of a few networks, and where those start."""
    nets, xs = demo.stack(SEEDS, SCALES), demo.examples(SEEDS, STEPS)
    return nets, xs, list(demo.online(nets, xs, lr, rule))


def off(a, b):
    return np.abs(a - b).max()


@pytest.mark.parametrize("rule", study.GRID)
def test_each_network_is_what_a_plain_loop_over_its_examples_gives(rule):
    nets, xs, moments = simulated(rule)
    t, a, w, b = (part[WHICH].copy() for part in nets)
    for x, moment in zip(xs[:, WHICH[1]], moments, strict=True):
        assert off(moment.w0[WHICH], a) < 1e-12
        assert off(moment.w[WHICH], w) < 1e-12
        h = [sum(a[i, j] * x[j] for j in range(30)) for i in range(20)]
        e = [sum(t[k, j] * x[j] for j in range(30)) - sum(w[k, i] * h[i] for i in range(20)) for k in range(10)]
        assert off(moment.e[WHICH], np.array(e)) < 1e-12
        way_back = {"fa": b, "bp": w.T.copy(), "shallow": np.zeros((20, 10))}[rule]
        for i in range(20):
            signal = sum(way_back[i, k] * e[k] for k in range(10))
            for k in range(10):
                w[k, i] += LR * e[k] * h[i]
            for j in range(30):
                a[i, j] += LR * signal * x[j]
    assert off(moments[-1].w[WHICH], nets.w[WHICH]) > 0.01


def half_squared_error(z, y):
    return 0.5 * (z - y).square().sum() / len(y)


@pytest.mark.parametrize("rule", ["fa", "bp"])
def test_gradlens_rules_train_the_same_network_step_by_step(rule):
    nets, xs, moments = simulated(rule)
    t, a, w, b = (torch.tensor(part[WHICH]) for part in nets)
    hidden, out = (nn.Sequential(nn.Linear(n, m, bias=False)) for n, m in ((30, 20), (20, 10)))
    model = nn.Sequential(OrderedDict(hidden=hidden, out=out)).double()
    with torch.no_grad():
        hidden[0].weight.copy_(a)
        out[0].weight.copy_(w)
    net = NetworkInfo([hidden, out], [torch.Size([20]), torch.Size([10])], 10, 20, half_squared_error, 0, ["hidden", "out"])
    method = METHODS[rule](net, METHODS[rule].Options()).double()
    if rule == "fa":
        method.held("out.0").copy_(b.T)  # kept in W's own shape
    optimizer = torch.optim.SGD(model.parameters(), LR)
    for x, moment in zip(xs[:, WHICH[1]], moments, strict=True):
        assert off(hidden[0].weight.detach().numpy(), moment.w0[WHICH]) < 1e-12
        assert off(out[0].weight.detach().numpy(), moment.w[WHICH]) < 1e-12
        x = torch.tensor(x)[None]
        training_step(ModelAndMethod(model, method), optimizer, x, x @ t.T)


def test_feedback_alignment_conserves_what_the_paper_says():
    """BW + WᵀBᵀ changes by what W0W0ᵀ does, less lr² dW0 dW0ᵀ; backprop does not."""
    for rule, holds in (("fa", True), ("bp", False)):
        nets, _, moments = simulated(rule)
        for now, later in pairwise(moments):
            change = nets.b @ (later.w - now.w)
            left = change + change.swapaxes(-1, -2)
            right = later.w0 @ later.w0.swapaxes(-1, -2) - now.w0 @ now.w0.swapaxes(-1, -2)
            right = right - LR**2 * now.dw0 @ now.dw0.swapaxes(-1, -2)
            assert (off(left, right) < 1e-10) == holds
            assert np.abs(left).max() > 1e-6


def test_every_learning_rate_of_a_grid_is_run_by_itself():
    nets, xs = demo.stack(SEEDS, [0.1, 0.1]), demo.examples(SEEDS, STEPS)
    both = list(demo.online(nets, xs, np.reshape([0.01, 0.002], (2, 1, 1, 1)), "fa"))[-1]
    for i, lr in enumerate((0.01, 0.002)):
        alone = list(demo.online(demo.stack(SEEDS, [0.1]), xs, lr, "fa"))[-1]
        assert off(both.w[i], alone.w[0]) < 1e-12


def test_scales_differ_in_nothing_but_the_scale_and_seeds_in_all():
    nets, xs = demo.stack(SEEDS, SCALES), demo.examples(SEEDS, STEPS)
    for weight in (nets.w0, nets.w):
        np.testing.assert_allclose(weight[0] / SCALES[0], weight[2] / SCALES[2], rtol=1e-12)
        assert np.abs(weight[2]).max() <= 0.25
        assert not np.isclose(weight[:, 0], weight[:, 1]).any()
    for part in (nets.teacher, nets.b):
        np.testing.assert_array_equal(part[0], part[2])
    assert 0.49 < np.abs(nets.b).max() <= 0.5
    assert not np.isclose(xs[:, 0], xs[:, 1]).any()
    np.testing.assert_array_equal(demo.stack((4,), (0.25,)).w[0, 0], nets.w[2, 1])
    wider = demo.stack(SEEDS, SCALES, ratio=10)
    np.testing.assert_allclose(wider.w, 10 * nets.w, rtol=1e-12)
    for part in ("teacher", "w0", "b"):
        np.testing.assert_array_equal(getattr(wider, part), getattr(nets, part))


def test_angles_are_signed_and_taken_before_the_update():
    a = np.array([[3.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(demo.angle(a, np.array([[-2.0, 0.0], [0.0, 5.0]])), [180, 45])
    nets, xs, moments = simulated("fa", 1e-3)
    seen = study.follow(nets, xs, (0, 7, 30), 1e-3)
    for n, i in enumerate(seen.looks):
        w, e = moments[i].w[WHICH], moments[i].e[WHICH]
        signal = nets.b[WHICH] @ e
        for to, other in (("backprop", w.T @ e), ("pseudo-backprop", np.linalg.lstsq(w, e, rcond=None)[0])):
            cosine = signal @ other / (np.linalg.norm(signal) * np.linalg.norm(other))
            assert seen.of(to)[(n, *WHICH)] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-6)


def test_a_network_that_diverges_has_no_angle_and_leaves_the_others_alone():
    nets, xs = demo.stack(SEEDS, SCALES), demo.examples(SEEDS, STEPS)
    both = study.follow(nets, xs, (5, STEPS - 1), np.reshape([1e-3, 1e30], (2, 1, 1, 1, 1)))
    alone = study.follow(nets, xs, (5, STEPS - 1), 1e-3)
    for to in study.TO:
        np.testing.assert_allclose(both.of(to)[:, 0], alone.of(to))
        assert np.isnan(both.of(to)[1, 1]).all()


def test_nse_is_the_error_on_white_inputs_and_its_shallow_least_is_that_of_the_best_readout():
    nets = demo.stack(SEEDS, SCALES)
    t, a, w, _ = (part[WHICH] for part in nets)
    x = torch.randn(30, 200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    wanted = ((t @ x - w @ (a @ x)) ** 2).sum() / ((t @ x) ** 2).sum()
    assert demo.nse(*nets[:3])[WHICH] == pytest.approx(wanted, rel=0.01)
    best = np.linalg.lstsq(a.T, t.T, rcond=None)[0].T
    assert demo.least_shallow(nets)[WHICH] == pytest.approx(demo.nse(t, a, best), rel=1e-9)


def made_up(b, c):
    """Angles that stay at b and c degrees, one a scale or one for all, half a degree apart from their mean between two networks."""
    looks = study.LOOKS
    spread = np.array([-0.5, 0.5]) * np.ones((len(looks), len(study.SCALES), 2))
    return study.Followed(looks, np.stack([np.reshape(b, (-1, 1)) + spread, np.reshape(c, (-1, 1)) + spread]), np.ones_like(spread))


def test_readings_are_compared_scale_by_scale():
    readings = study.compared("as written", made_up(59.0, 62.0))
    assert [r.figure for r in readings] == [*study.FIGURE["backprop"], *study.FIGURE["pseudo-backprop"]]
    assert [r.scale for r in readings] == 2 * list(study.SCALES)
    for r in readings:
        assert r.ours == pytest.approx(59.0 if r.to == "backprop" else 62.0)
        assert r.sd == pytest.approx(2**-0.5)
    agreement = study.of_means(readings)
    off = [r.figure - r.ours for r in readings]
    assert agreement["rms"] == pytest.approx(np.sqrt(np.mean(np.square(off))))
    assert agreement["within_two_sd"] == sum(abs(d) <= 2 * 2**-0.5 for d in off) == 2


def test_a_figure_that_one_more_network_could_have_given_is_as_near_as_another_network():
    exact = made_up(*(np.array(study.FIGURE[to]) for to in study.TO))
    np.testing.assert_allclose(study.rms(exact), 0.5)
    np.testing.assert_allclose(study.nearness(exact), 0.5)  # the networks are a degree apart, the figure half a degree from each
    far = made_up(*(np.array(study.FIGURE[to]) + 20 for to in study.TO))
    assert (study.nearness(far) < -18).all()


def test_the_values_that_are_tested():
    values = study.angle_values({name: made_up(30.0 + np.arange(9), 1.0) for name in study.SETTINGS})
    assert values["below 90°"]["any w"] == pytest.approx([52.5, 51.5])
    assert values["angle to pseudo-backprop"]["w=0.0001"] == pytest.approx([0.5, 1.5])
    for test in study.TESTS:
        if test.metric in values:
            assert set(test.contrast) <= set(values[test.metric])
    assert {t.metric for t in study.TESTS} - set(values) == {"decades below the best shallow", "examples to 1 %"}


def drawn(figure):
    """All that a figure shows of its table."""
    lines = [line.get_xydata() for ax in figure.axes for line in ax.lines]
    return np.concatenate(lines + [path.vertices for ax in figure.axes for band in ax.collections for path in band.get_paths()])


def test_figures_are_drawn_from_their_tables_alone(tmp_path):
    seen = made_up(30.0, 60.0)
    words = {name: name for name in study.SETTINGS}
    readings = [r for name in words for r in study.compared(name, seen)]
    errors = np.geomspace(1, 1e-6, study.RACE)[:, None] * [1.0, 2.0]
    points = [p for rule in study.GRID for p in study.race_rows(rule, 0.1, errors, 90 * errors)]
    angles = [row for name in words for row in study.angle_rows(name, seen)]
    for rows, draw in ((angles, lambda rows: figures.angle_figure(rows, readings, words)), (points, figures.race_figure)):
        write_csv(tmp_path / "table.csv", rows)
        again = read_csv(tmp_path / "table.csv", type(rows[0]))
        assert again == rows
        np.testing.assert_array_equal(drawn(draw(again)), drawn(draw(rows)))
    shown = figures.angle_figure(angles, readings, words)
    assert [{line.get_ydata()[0] for line in ax.lines[: len(study.SCALES)]} for ax in shown.axes] == 2 * [{30.0}, {60.0}]
    assert [list(ax.lines[-1].get_ydata()) for ax in shown.axes[:2]] == [list(study.FIGURE[to]) for to in study.TO]
