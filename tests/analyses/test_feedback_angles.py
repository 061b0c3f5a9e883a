"""The simulated networks of analyses/feedback_angles.py: one by one in a plain loop, by gradlens's own rules, and by a conservation law."""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from analyses import feedback_angles as demo
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


@pytest.mark.parametrize("rule", demo.GRID)
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
            told = sum(way_back[i, k] * e[k] for k in range(10))
            for k in range(10):
                w[k, i] += LR * e[k] * h[i]
            for j in range(30):
                a[i, j] += LR * told * x[j]
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


def test_angles_are_signed_and_taken_before_the_update():
    a = np.array([[3.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(demo.angle(a, np.array([[-2.0, 0.0], [0.0, 5.0]])), [180, 45])
    nets, xs, moments = simulated("fa", demo.LR)
    seen = demo.follow(nets, xs, (0, 7, 30))
    for n, i in enumerate(seen.looks):
        w, e = moments[i].w[WHICH], moments[i].e[WHICH]
        told = nets.b[WHICH] @ e
        for to, other in (("backprop", w.T @ e), ("pseudo-backprop", np.linalg.lstsq(w, e, rcond=None)[0])):
            cosine = told @ other / (np.linalg.norm(told) * np.linalg.norm(other))
            assert seen.of(to)[(n, *WHICH)] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-6)


def test_nse_is_the_error_on_white_inputs_and_its_shallow_least_is_that_of_the_best_readout():
    nets = demo.stack(SEEDS, SCALES)
    t, a, w, _ = (part[WHICH] for part in nets)
    x = torch.randn(30, 200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64).numpy()
    wanted = ((t @ x - w @ (a @ x)) ** 2).sum() / ((t @ x) ** 2).sum()
    assert demo.nse(*nets[:3])[WHICH] == pytest.approx(wanted, rel=0.01)
    best = np.linalg.lstsq(a.T, t.T, rcond=None)[0].T
    assert demo.least_shallow(nets)[WHICH] == pytest.approx(demo.nse(t, a, best), rel=1e-9)


def made_up(b, c):
    """Angles that stay at b and c degrees at every scale, a little apart between two networks."""
    looks = demo.LOOKS
    spread = np.array([-0.5, 0.5]) * np.ones((len(looks), len(demo.SCALES), 2))
    return demo.Followed(looks, np.stack([b + spread, c + spread]), np.ones_like(spread))


def test_verdicts_say_how_far_ours_is_from_the_documents_range():
    for r in demo.compared(made_up(59.0, 62.0)):
        theirs, ours = r.documents, 59.0 if r.to == "backprop" else 62.0
        assert r.ours == pytest.approx(ours)
        assert r.off == pytest.approx(max(theirs[0] - ours, ours - theirs[1], 0))
        assert r.verdict == ("within" if r.off <= 5 else "outside")
    at_end = {(r.to, r.scale): r.verdict for r in demo.compared(made_up(61.0, 71.0)) if r.when == "end"}
    assert at_end["backprop", "0.25"] == at_end["pseudo-backprop", "0.15"] == "within"
    assert at_end["pseudo-backprop", "0.1"] == "outside"


def test_a_dip_is_looked_for_at_the_start_and_the_rise_after_it():
    seen = made_up(23.0, 0.0)
    for first, last, angle in ((0, 250, 90.0), (250, 600, 20.0), (600, 6_000, 42.0), (6_000, 8_000, 15.0)):
        seen.angles[0, seen.since(first) : seen.since(last)] = angle
    ours = {r.when: r.ours for r in demo.compared(seen) if r.to == "backprop" and r.scale in ("1e-4", demo.SMALLEST)}
    assert ours == {"first dip": pytest.approx(20), "rise after it": pytest.approx(42), "end": pytest.approx(23)}


def drawn(figure):
    """All that a figure shows of its table."""
    lines = [line.get_xydata() for ax in figure.axes for line in ax.lines]
    return np.concatenate(lines + [path.vertices for ax in figure.axes for band in ax.collections for path in band.get_paths()])


def test_figures_are_drawn_from_their_tables_alone(tmp_path):
    seen = made_up(30.0, 60.0)
    readings = demo.compared(seen)
    errors = np.geomspace(1, 1e-6, demo.RACE)[:, None] * [1.0, 2.0]
    points = [p for rule in demo.GRID for p in demo.race_rows(rule, 0.1, errors, 90 * errors)]
    for rows, draw in ((demo.angle_rows(seen), lambda rows: demo.angle_figure(rows, readings)), (points, demo.race_figure)):
        write_csv(tmp_path / "table.csv", rows)
        again = read_csv(tmp_path / "table.csv", type(rows[0]))
        assert again == rows
        np.testing.assert_array_equal(drawn(draw(again)), drawn(draw(rows)))
    angles = demo.angle_figure(demo.angle_rows(seen), readings)
    assert [{line.get_ydata()[0] for line in ax.lines[: len(demo.SCALES)]} for ax in angles.axes] == [{30.0}, {60.0}]
