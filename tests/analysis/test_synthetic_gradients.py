"""Laws of synthetic gradients as one dynamical system (Czarnecki et al. 2017), in float64, against plain loops and closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from gradlens.analysis.theory.synthetic_gradients import (
    affine,
    exact_linear_synthesiser,
    field_twist,
    implied_loss,
    least_squares_loss,
    settle_synthesisers,
    small_pair,
    stationarity,
)
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod

N, D, C = 30, 4, 3


def toy(seed=0):
    """White, centred inputs and noisy labels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=g, dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / N)).T
    y = (x[:, :C] + torch.randn(N, C, generator=g, dtype=torch.float64)).argmax(1)
    return x, y


def net(name, sizes, seed=0, **options):
    """Orthogonal linear layers of these sizes; a synthesiser after each but the last, or on the answer of the only one."""
    torch.manual_seed(seed)
    blocks = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    for block in blocks:
        nn.init.orthogonal_(block.weight)
    return small_pair([*blocks, *([nn.Identity()] if len(blocks) == 1 else [])], sizes[0], sizes[-1], name, linear=True, **options)


def true_gradients(model, x, y):
    """By ``backward()`` on the loss written out: 1/N Σ ½‖z − e_y‖²."""
    for p in model.parameters():
        p.grad = None
    z = model(x)
    sum(0.5 * ((z[n] - torch.eye(C, dtype=torch.float64)[y[n]]) ** 2).sum() for n in range(len(x))).div(len(x)).backward()
    return [p.grad.clone() for p in model.parameters()]


def norm(tensors):
    return math.sqrt(sum(float((t**2).sum()) for t in tensors))


def put(synthesiser, a, b, c):
    with torch.no_grad():
        synthesiser.map.weight.copy_(a)
        synthesiser.map.bias.copy_(c)
        synthesiser.context.weight.copy_(b)


# ------------------------------------------------------------------------------------------------------- implied losses


def test_the_implied_loss_of_a_true_gradient_is_the_loss():
    """Softmax cross-entropy along a bent path: trapezoids come as near as their step squared."""
    y, found = 1, []
    for points in (201, 401):
        t = torch.linspace(-2, 3, points, dtype=torch.float64)
        path = torch.stack([t, t.square() / 3, t.sin()], 1)
        wanted = torch.stack([h.exp().sum().log() - h[y] for h in path])
        implied = implied_loss(lambda h: h.softmax(1) - torch.eye(3, dtype=torch.float64)[y], path)
        assert implied[0] == 0
        found.append(float((implied - (wanted - wanted[0])).abs().max()))
    assert found[0] < 1e-3
    assert found[1] == pytest.approx(found[0] / 4, rel=0.02)


def test_the_implied_loss_of_an_affine_field_is_its_parabola_exactly_on_any_grid():
    g = torch.Generator().manual_seed(1)
    a, c, u = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 3), (3,), (3,)))
    t = torch.tensor([-1.0, -0.9, 0.5, 2.0], dtype=torch.float64)
    wanted = [(s**2 * (u @ a @ u) / 2 + s * (c @ u)).item() for s in t]
    implied = implied_loss(lambda h: h @ a.T + c, t[:, None] * u)
    assert implied.tolist() == pytest.approx([w - wanted[0] for w in wanted], abs=1e-12)
    assert implied.dtype == torch.float64


def test_an_implied_loss_of_maps_sums_over_all_of_a_point():
    path = torch.linspace(0, 1, 5)[:, None, None, None] * torch.ones(2, 3, 3)
    assert implied_loss(lambda h: 2 * h, path).tolist() == pytest.approx([18 * t**2 for t in (0, 0.25, 0.5, 0.75, 1)])


def test_a_path_is_two_points_at_least():
    with pytest.raises(InputError, match="two points or more, got 1"):
        implied_loss(lambda h: h, torch.zeros(1, 3))


def test_true_gradients_have_no_twist_a_rotation_is_all_twist_and_the_integral_round_a_loop_says_the_same():
    point = torch.tensor([0.3, -1.0], dtype=torch.float64)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert field_twist(lambda h: h.softmax(1), point) == pytest.approx(0, abs=1e-12)
    assert field_twist(lambda h: h @ turn, point) == pytest.approx(1)
    mixed = field_twist(lambda h: 2 * h + h @ turn, point)
    assert mixed == pytest.approx(1 / math.sqrt(5))  # J = 2 I + R: ‖R‖ / ‖J‖ = √2 / √10
    assert math.isnan(field_twist(lambda h: torch.zeros_like(h) * h, point))
    loop = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], dtype=torch.float64)
    assert implied_loss(lambda h: 2 * h, loop)[-1] == pytest.approx(0, abs=1e-12)
    assert abs(implied_loss(lambda h: h @ turn, loop)[-1]) == pytest.approx(2)  # Green: curl × area


# ---------------------------------------------------------------------------------------------------------- exact solutions


@pytest.mark.parametrize("sizes", [(D, C), (D, 5, C)])
def test_with_the_exact_linear_synthesiser_every_state_is_told_its_true_gradient(sizes):
    x, y = toy()
    pair = net("cdni", sizes)
    found = exact_linear_synthesiser(list(pair.model)[1:], sizes[1])
    if len(sizes) == 2:
        eye = torch.eye(C, dtype=torch.float64)
        assert torch.equal(found.a, eye)
        assert torch.equal(found.b, -eye)
        assert not found.c.any()
    put(pair.method.synthesisers[0], *found)
    state = stationarity(pair, x, y)
    assert state.synth_loss == pytest.approx(0, abs=1e-20)
    assert state.regression == pytest.approx(0, abs=1e-10)
    assert state.blocks == pytest.approx(norm(true_gradients(pair.model, x, y)), rel=1e-10)
    assert state.true == pytest.approx(state.blocks, rel=1e-10)
    assert state.blocks > 0.1


def test_a_synthesiser_trained_on_a_frozen_net_goes_to_the_closed_form_in_both_scalings():
    """cdni's own regression and nothing else; B and c are compared together, since one-hot labels sum to one."""
    x, y = toy()
    for target, share in (("sum", 1), ("mean", N)):
        pair = net("cdni", (D, C), target=target)
        s = pair.method.synthesisers[0]
        settle_synthesisers(pair, torch.optim.SGD(s.parameters(), lr=0.3, momentum=0.9), x, y, 1500, 1e-10 / share)
        eye = torch.eye(C, dtype=torch.float64)
        torch.testing.assert_close(share * s.map.weight.detach(), eye, rtol=0, atol=1e-7)
        torch.testing.assert_close(share * (s.context.weight + s.map.bias[:, None]).detach(), -eye, rtol=0, atol=1e-7)
        assert stationarity(pair, x, y).synth_loss < 1e-12


def test_the_affine_map_of_layers_is_found_and_others_are_refused():
    torch.manual_seed(0)
    layers = [nn.Linear(3, 5).double(), nn.Linear(5, 2).double()]
    weight, bias = affine(layers, 3)
    torch.testing.assert_close(weight, layers[1].weight @ layers[0].weight)
    torch.testing.assert_close(bias, layers[1].weight @ layers[0].bias + layers[1].bias)
    with pytest.raises(InputError, match="affine blocks only"):
        exact_linear_synthesiser([nn.Linear(3, 5), nn.ReLU()], 3)


def test_least_squares_is_the_normal_equations():
    x, y = toy()
    design = torch.cat([x, torch.ones(N, 1, dtype=torch.float64)], 1)
    goal = torch.eye(C, dtype=torch.float64)[y]
    best = torch.linalg.inv(design.T @ design) @ design.T @ goal
    assert least_squares_loss(x, y, C) == pytest.approx(float(0.5 * ((design @ best - goal) ** 2).sum() / N), rel=1e-12)


# ------------------------------------------------------------------------------------------------------------ fixed points


@pytest.mark.parametrize("sizes", [(D, C), (D, 4, C)])
def test_where_label_reading_linear_synthesisers_rest_the_true_gradient_is_zero_and_the_loss_is_least_squares(sizes):
    x, y = toy()
    pair = net("cdni", sizes)
    optimizer = torch.optim.SGD(pair.method.param_groups(list(pair.model)), lr=0.2)
    losses = settle_synthesisers(pair, optimizer, x, y, 4000, 1e-9)
    state = stationarity(pair, x, y)
    assert max(state.blocks, state.regression) < 1e-8
    assert norm(true_gradients(pair.model, x, y)) < 1e-6
    assert losses[-1] == pytest.approx(least_squares_loss(x, y, C), abs=1e-10)
    assert losses[0] > losses[-1] + 0.05


def test_critical_points_of_the_loss_are_fixed_points_saddles_too():
    """Deep linear, all weights zero and the mean answered: a saddle of the loss. S exact there is S = 0."""
    x, y = toy()
    pair = net("cdni", (D, 5, C))
    with torch.no_grad():
        for p in pair.model.parameters():
            p.zero_()
        pair.model[1].bias.copy_(torch.eye(C, dtype=torch.float64)[y].mean(0))
    put(pair.method.synthesisers[0], *exact_linear_synthesiser([pair.model[1]], 5))
    state = stationarity(pair, x, y)
    assert norm(true_gradients(pair.model, x, y)) == pytest.approx(0, abs=1e-14)
    assert max(state.blocks, state.regression, state.synth_loss) == pytest.approx(0, abs=1e-12)
    assert state.loss > least_squares_loss(x, y, C) + 0.05


@pytest.mark.parametrize("rank", range(D + 1))
def test_a_synthesiser_that_does_not_see_the_label_has_fixed_points_that_are_none_of_the_loss(rank):
    """W least squares on some directions of white x, zero on the others; S = 0. Spurious unless all directions are used; then L_S > 0."""
    x, y = toy()
    goal = torch.eye(C, dtype=torch.float64)[y]
    pair = net("dni", (D, C))
    with torch.no_grad():
        pair.model[0].weight.copy_(goal.T @ x / N)
        pair.model[0].weight[:, rank:] = 0
        pair.model[0].bias.copy_(goal.mean(0))
    state = stationarity(pair, x, y)
    assert max(state.blocks, state.regression) < 1e-12
    assert state.true == pytest.approx(norm(true_gradients(pair.model, x, y)), abs=1e-12)
    assert (state.true > 1e-3) == (rank < D)
    z = pair.model(x).detach()
    assert state.synth_loss == pytest.approx(sum(float(((z[n] - goal[n]) ** 2).sum()) for n in range(N)) / N)
    assert state.synth_loss > 0.1
    # seen together with the label, the same state is no fixed point: the regression has work to do
    reading = net("cdni", (D, C))
    reading.model.load_state_dict(pair.model.state_dict())
    assert stationarity(reading, x, y).regression > 0.1


def test_stationarity_trains_nothing_and_wants_synthesisers():
    x, y = toy()
    pair = net("cdni", (D, 5, C))
    before = {n: t.clone() for n, t in [*pair.model.state_dict().items(), *pair.method.state_dict().items()]}
    stationarity(pair, x, y)
    after = dict([*pair.model.state_dict().items(), *pair.method.state_dict().items()])
    assert all(torch.equal(after[n], t) for n, t in before.items())
    plain: ModelAndMethod = small_pair([nn.Linear(D, C), nn.Identity()], D, C, "bp")
    with pytest.raises(InputError, match="has no synthesisers"):
        stationarity(plain, x, y)


def test_settling_stops_at_rest_and_tells_each_update():
    x, y = toy()
    pair = net("cdni", (D, C))
    seen: list[int] = []
    optimizer = torch.optim.SGD(pair.method.param_groups(list(pair.model)), lr=0.2)
    losses = settle_synthesisers(pair, optimizer, x, y, 5, see=seen.append)
    assert len(losses) == 5
    assert seen == [0, 1, 2, 3, 4, 5]
    assert len(settle_synthesisers(pair, optimizer, x, y, 5, tolerance=1e9)) == 1
    with torch.no_grad():
        want = 0.5 * (pair.model(x) - torch.eye(C, dtype=torch.float64)[y]).square().sum() / N
    assert settle_synthesisers(pair, optimizer, x, y, 1) == [pytest.approx(float(want))]
