"""Decoupled neural interfaces against the published loop, its limits (an oracle, zero, BP(lambda)) and its closed form."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracles import Case, assert_near, assert_same_bits, batches, case, frozen, grads, interfaces_by_hand, nll, rule, step, uncut
from torch import nn

from gradlens.gradients.backward import backward
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods import METHODS
from gradlens.models.block_boundaries import output_shapes
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import make_config
from gradlens.training.step import Recording, training_step

BOTH = pytest.mark.parametrize("name", ["dni", "cdni"])
TARGETS = pytest.mark.parametrize("target", ["sum", "mean"])
NETWORKS = pytest.mark.parametrize("network", ["basic-cnn", "mlp"])


def dni_by_hand(name, model, synthesisers, x, y, target, lam=0.0):
    """One step as the reference does it, with ``backward()``: fills ``.grad`` of both; returns L_S and g of each interface.

    h_k.backward(S_k(h_k)) for every block; when g_k arrives at the input of block k+1, L_S = 1/N sum_n ||S_k(h_k)_n - g_n||².
    """
    onehot = torch.eye(10, dtype=x.dtype)[y] if name == "cdni" else None
    ins, outs = [], []
    h = x
    for block in model:
        ins.append(h.detach().requires_grad_())
        h = block(ins[-1])
        outs.append(h)
    nll(outs[-1], y).backward()
    return interfaces_by_hand(ins, outs, synthesisers, onehot, y, target, lam)


@TARGETS
@NETWORKS
@BOTH
def test_one_step_equals_the_reference_loop(name, network, target):
    c = case(network)
    method = rule(name, c, target=target)
    model, synthesisers = copy.deepcopy(c.model), copy.deepcopy(method.synthesisers)
    losses, _ = dni_by_hand(name, model, synthesisers, c.x, c.y, target)
    _, updates = step(method, c)
    for k, u in updates.items():
        assert_near(u.grad.params, grads(model[k]))
        if k < len(losses):
            assert_near({n.split(".", 2)[2]: g for n, g in u.aux_grads.items()}, grads(synthesisers[k]))
            assert method.quantities(u)["synth_loss"] == pytest.approx(losses[k], rel=1e-10)
    assert updates[len(losses)].aux_grads == {}
    assert method.quantities(updates[len(losses)]) == {}
    assert_near(frozen(c.model), frozen(model), 0)  # BatchNorm of the blocks saw the batch once
    assert_near(frozen(method.synthesisers), frozen(synthesisers), 1e-12)  # and that of the synthesisers too


@TARGETS
@BOTH
def test_several_steps_equal_the_reference_loop(name, target):
    c = case("basic-cnn")
    method = rule(name, c, target=target)
    model, synthesisers = copy.deepcopy(c.model), copy.deepcopy(method.synthesisers)
    theirs = torch.optim.Adam([*model.parameters(), *synthesisers.parameters()], lr=0.003)
    ours = torch.optim.Adam(method.param_groups(c.blocks), lr=0.003)
    pair = ModelAndMethod(c.model, method)
    for x, y in batches(c, 5):
        theirs.zero_grad()
        dni_by_hand(name, model, synthesisers, x, y, target)
        theirs.step()
        training_step(pair, ours, x, y)

    # the biases before a BatchNorm have a gradient of rounding noise only, which Adam turns into steps: compared by what they do
    def noise(n):
        return n.endswith(("conv.bias", "first.bias", "middle.bias", "context.bias", "running_mean"))

    for got, want in ((c.model, model), (method.synthesisers, synthesisers)):
        assert_near({n: t for n, t in frozen(got).items() if not noise(n)}, {n: t for n, t in frozen(want).items() if not noise(n)}, 1e-8)
    c.model.eval(), model.eval()
    torch.testing.assert_close(c.model(c.x), model(c.x), rtol=1e-8, atol=1e-8)


@TARGETS
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.9])
def test_bp_lambda_mixes_the_synthetic_gradient_with_what_came_from_above(lam, target):
    c = case("mlp")
    method = rule("dni", c, target=target, bp_lambda=lam)
    model, synthesisers = copy.deepcopy(c.model), copy.deepcopy(method.synthesisers)
    dni_by_hand("dni", model, synthesisers, c.x, c.y, target, lam)
    _, updates = step(method, c)
    for k, u in updates.items():
        assert_near(u.grad.params, grads(model[k]))
        if k < 4:
            assert_near({n.split(".", 2)[2]: g for n, g in u.aux_grads.items()}, grads(synthesisers[k]))


@NETWORKS
@BOTH
def test_bp_lambda_1_is_backprop_bit_for_bit(name, network):
    c = case(network, torch.float32)
    twin = uncut(c.model, c.x, c.y)
    _, updates = step(rule(name, c, bp_lambda=1), c)
    for k, u in updates.items():
        assert_same_bits(u.grad.params, twin.gradients(k))


# ------------------------------------------------------------------------------------------------------------- an oracle


class Given(nn.Module):
    """A synthesiser that answers one fixed tensor, and counts how often it is asked."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer.clone())
        self.asked = 0

    def forward(self, h, context=None):
        self.asked += 1
        return self.answer * 1


@TARGETS
@NETWORKS
@BOTH
def test_an_oracle_synthesiser_makes_it_backprop_and_is_its_own_fixed_point(name, network, target):
    c = case(network)
    twin = uncut(c.model, c.x, c.y)
    method = rule(name, c, target=target)
    scale = len(c.y) if target == "sum" else 1
    for k in range(len(c.model) - 1):
        method.synthesisers[k] = Given(scale * twin.outputs[k].grad)
    _, updates = step(method, c, lazily=True)
    for k, u in updates.items():
        assert_near(u.grad.params, twin.gradients(k))
        for g in u.aux_grads.values():  # its regression is solved: what it is told is rounding noise
            assert g.abs().max() <= 1e-10 * twin.outputs[k].grad.abs().max() * scale
        if u.k < len(c.model) - 1:
            found = method.quantities(u)
            assert found["synth_loss"] == pytest.approx(0, abs=1e-20)
            assert found["synth_explained_variance"] == pytest.approx(1, abs=1e-12)


@TARGETS
def test_a_synthesiser_n_times_off_scale_gives_gradients_n_times_off(target):
    """sum regresses N·delta and divides by N; mean regresses delta: the same answer means other gradients."""
    c = case("mlp")
    twin = uncut(c.model, c.x, c.y)
    method = rule("dni", c, target=target)
    for k in range(4):
        method.synthesisers[k] = Given(twin.outputs[k].grad)
    _, updates = step(method, c)
    ratio = len(c.y) if target == "sum" else 1
    assert_near({n: g * ratio for n, g in updates[2].grad.params.items()}, twin.gradients(2))


@TARGETS
def test_the_regressions_gradient_is_its_formula(target):
    """dL_S/dS = 2/N (S - g): with g = N·delta for sum and delta for mean. A fixed answer's gradient is that very tensor."""
    c = case("basic-cnn")
    method = rule("dni", c, target=target)
    g = torch.Generator().manual_seed(8)
    for k, shape in enumerate(output_shapes(c.model, c.shape)[:-1]):
        method.synthesisers[k] = Given(torch.randn(len(c.y), *shape, generator=g, dtype=torch.float64))
    _, updates = step(method, c)
    n = len(c.y)
    for k in range(len(c.model) - 1):
        answer = method.synthesisers[k].answer.detach()
        delta = updates[k].received[0]
        goal = n * delta if target == "sum" else delta
        assert_near(dict(updates[k].aux_grads), {f"synthesisers.{k}.answer": 2 * (answer - goal) / n}, 1e-12)


def test_the_regression_is_the_mean_over_all_rows_also_those_without_a_target():
    """A graph has few labelled nodes: divided by their number alone, the regression's gradient would grow with the graph."""
    c = case("mlp")
    c.y[1:] = -1  # one item in six rows
    method = rule("dni", c)
    with torch.no_grad():
        for p in method.synthesisers[0].parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    passes, updates = step(method, c)
    h, (received,) = passes[0].z.detach(), updates[0].received
    loss = sum((row - g).square().sum() for row, g in zip(method.synthesisers[0](h), received, strict=True)) / 6
    want = torch.autograd.grad(loss, list(method.synthesisers[0].parameters()))
    names = [f"synthesisers.0.{name}" for name, _ in method.synthesisers[0].named_parameters()]
    assert_near({name: updates[0].aux_grads[name] for name in names}, dict(zip(names, want, strict=True)), 1e-12)
    torch.testing.assert_close(method.quantities(updates[0])["synth_loss"], loss.detach())


def test_targets_are_bootstrapped():
    """Block k's target is the pull-back of the synthetic gradient above; only the last interface sees the true one."""
    c = case("mlp")
    method = rule("dni", c, target="mean")
    passes, updates = step(method, c)
    twin = uncut(c.model, c.x, c.y)
    assert_near({"g": updates[3].received[0]}, {"g": twin.outputs[3].grad}, 1e-12)
    for k in range(3):
        block, z = copy.deepcopy(c.model[k + 1]), passes[k].z.detach().clone().requires_grad_()
        s = copy.deepcopy(method.synthesisers[k + 1])(passes[k + 1].h.detach())
        (block(z) * s.detach()).sum().backward()
        assert_near({"g": updates[k].received[0]}, {"g": z.grad}, 1e-12)
        assert not torch.allclose(updates[k].received[0], twin.outputs[k].grad)


# --------------------------------------------------------------------------------------------------------- the first step


@NETWORKS
@BOTH
def test_started_at_zero_every_block_gradient_of_the_first_step_is_exactly_zero_and_the_heads_is_not(name, network):
    c = case(network)
    method = rule(name, c, warmed_up=False)
    _, updates = step(method, c)
    top = len(c.model) - 1
    for k, u in updates.items():
        for g in u.grad.params.values():
            assert bool(g.any()) == (k == top)
    learns = [k for k, u in updates.items() if any(bool(g.any()) for g in u.aux_grads.values())]
    assert learns == [top - 1]  # the others' targets are zero too: knowledge of the loss goes down one interface a step
    changed = [n for n, g in updates[top - 1].aux_grads.items() if bool(g.any())]
    assert all(".rest.last." in n for n in changed)
    assert len(changed) == 2


@NETWORKS
@BOTH
def test_the_references_bias_makes_the_first_block_gradients_non_zero(name, network):
    c = case(network)
    method = rule(name, c, warmed_up=False, zero_bias=False)
    _, updates = step(method, c)
    for k, u in updates.items():
        assert all(bool(g.any()) for n, g in u.grad.params.items() if n.endswith("weight"))
        if k < len(c.model) - 1:  # a constant per channel: the bias itself
            bias = method.synthesisers[k].rest.last.bias
            want = (bias / len(c.y)).reshape(-1, *[1] * (u.signal.delta.ndim - 2)).expand(u.signal.delta.shape)
            assert_near({"delta": u.signal.delta}, {"delta": want}, 1e-12)
    zeroed, other = rule(name, c, warmed_up=False), frozen(rule(name, c, warmed_up=False, zero_bias=False))
    for n, t in zeroed.state_dict().items():
        assert torch.equal(t, other[n]) == (not n.endswith("rest.last.bias"))  # zero_bias changes nothing else


# ----------------------------------------------------------------------------------------------------------------- warm-up


@TARGETS
@BOTH
def test_during_warm_up_blocks_get_the_true_gradient_and_synthesisers_learn_from_it(name, target):
    c = case("mlp")
    method = rule(name, c, synth_warmup=2, target=target)
    twin = uncut(c.model, c.x, c.y)
    scale = len(c.y) if target == "sum" else 1
    onehot = F.one_hot(c.y, 10).double() if name == "cdni" else None
    for at in range(4):
        method.start(1, at)
        synthesisers = copy.deepcopy(method.synthesisers)
        _, updates = step(method, c)
        if at >= 2:
            assert not torch.equal(updates[3].signal.delta, twin.outputs[3].grad)
            continue
        for k, u in updates.items():
            assert_same_bits(u.grad.params, twin.gradients(k))
            if k == 4:
                continue
            s = synthesisers[k](twin.outputs[k].detach(), onehot)
            (s - scale * twin.outputs[k].grad).square().flatten(1).sum(1).mean().backward()
            assert_near({n.split(".", 2)[2]: g for n, g in u.aux_grads.items()}, grads(synthesisers[k]))


def test_warm_up_holds_from_the_first_step_and_is_off_by_default():
    c = case("mlp")
    assert rule("dni", c, warmed_up=False, synth_warmup=1).warming
    assert not rule("dni", c).warming
    method = rule("dni", c)
    method.start(1, 0)
    assert not method.warming


# --------------------------------------------------------------------------------------------------------------- isolation


@BOTH
def test_the_regression_reaches_no_block_and_the_block_gets_nothing_but_the_synthetic_gradient(name):
    c = case("basic-cnn")
    method = rule(name, c)
    passes, updates = step(method, c)
    blocks = list(c.model.parameters())
    inputs = [t for p in passes for t in (p.z, p.h)]
    for k in range(len(passes) - 1):
        kept = method.signal(k, dict(enumerate(passes)), updates[k].received).saved.synthetic
        reached = torch.autograd.grad(kept.sum(), [*blocks, *inputs], allow_unused=True, retain_graph=True)
        assert all(g is None for g in reached)
        names = [n for n, _ in method.named_parameters()]
        got = torch.autograd.grad(kept.sum(), list(method.parameters()), allow_unused=True)
        assert {n.split(".")[1] for n, g in zip(names, got, strict=True) if g is not None} == {str(k)}
        # the block's gradient is the pull-back of S and of nothing else
        block, s = copy.deepcopy(c.model[k]), kept.detach() / len(c.y)
        (block(passes[k].x.detach()) * s).sum().backward()
        assert_near(updates[k].grad.params, grads(block))


def test_a_block_of_dni_has_the_same_error_signal_whatever_the_loss_says():
    c = case("basic-cnn")
    other = c._replace(y=(c.y + 3) % 10)
    for name, same in (("dni", True), ("cdni", False)):
        method = rule(name, c)
        (_, a), (_, b) = step(method, c), step(method, other)
        for k in range(len(c.model) - 1):
            assert all(torch.equal(a[k].grad.params[n], b[k].grad.params[n]) for n in a[k].grad.params) == same
        assert not torch.equal(a[2].received[0], b[2].received[0])  # the labels do enter: the last interface's target is the true gradient


@pytest.mark.parametrize("record", [None, 0])
@pytest.mark.parametrize("options", [{}, {"bp_lambda": 0.5}, {"bp_lambda": 1.0}, {"synth_warmup": 1}])
@BOTH
def test_each_synthesiser_is_evaluated_once_a_step(name, options, record):
    c = case("mlp", torch.float32)
    method = rule(name, c, **options)
    asked = dict.fromkeys(range(4), 0)

    def count(k):
        def hook(module, args, out):
            asked[k] += 1

        return hook

    for k, s in enumerate(method.synthesisers):
        s.register_forward_hook(count(k))
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.01)
    for i in range(3):
        training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y, None if record is None else Recording(record))
        assert asked == dict.fromkeys(range(4), i + 1)
        assert int(method.synthesisers[0].rest.norm1.num_batches_tracked) == i + 1


# ------------------------------------------------------------------------------------------------------------- closed form


class Linear(nn.Module):
    """S(h) = A h + b."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n, dtype=torch.float64)

    def forward(self, h, context=None):
        return self.linear(h)


@TARGETS
def test_a_linear_synthesiser_on_a_frozen_net_with_squared_loss_reaches_least_squares(target):
    """One interface, full batch, the rule's own gradient and nothing else: S goes to lstsq of g on [h, 1]."""
    n, width = 40, 4
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, width), nn.Linear(width, 10)).double()
    c = Case(model, torch.randn(n, 6, generator=g, dtype=torch.float64), torch.randint(0, 10, (n,), generator=g))
    net = NetworkInfo(c.blocks, [torch.Size([width]), torch.Size([10])], 10, width, LOSSES["mse"], 0)
    method = METHODS["dni"](net, METHODS["dni"].Options(target=target))
    method.synthesisers[0] = Linear(width)
    h = model[0](c.x).detach()
    # by hand: L = 1/N sum ½||W h + b - e_y||², so dL/dh_n = 1/N Wᵀ(W h_n + b - e_y)
    w, b = model[1].weight.detach(), model[1].bias.detach()
    goal = (h @ w.T + b - torch.eye(10, dtype=torch.float64)[c.y]) @ w / n * (n if target == "sum" else 1)
    design = torch.cat([h, torch.ones(n, 1, dtype=torch.float64)], 1)
    closed = torch.linalg.lstsq(design, goal).solution  # [width + 1, width]
    before = frozen(model)
    # on a quadratic with curvature 2/N DᵀD, heavy-ball descent with this step converges
    curvature = torch.linalg.eigvalsh(2 * design.T @ design / n)
    low, high = curvature[0].sqrt(), curvature[-1].sqrt()
    optimizer = torch.optim.SGD(method.parameters(), lr=float((2 / (low + high)) ** 2), momentum=float(((high - low) / (high + low)) ** 2))
    for _ in range(400):
        for u in backward(method, method.forward(c.blocks, c.x, c.y)):
            for name, grad in u.aux_grads.items():
                method.get_parameter(name).grad = grad
        optimizer.step()
    found = method.synthesisers[0].linear
    assert_near({"A": found.weight.detach().T, "b": found.bias.detach()}, {"A": closed[:-1], "b": closed[-1]}, 1e-8)
    assert_same_bits(frozen(model), before)
    _, updates = step(method, c)
    residual, spread = (goal - design @ closed).square().sum(), (goal - goal.mean(0)).square().sum()
    found = method.quantities(updates[0])
    assert found["synth_loss"] == pytest.approx((residual / n).item(), rel=1e-8)
    assert found["synth_explained_variance"] == pytest.approx((1 - residual / spread).item(), rel=1e-8)
    assert 0.05 < found["synth_explained_variance"] < 0.9999  # the labels keep it from being exact


# -------------------------------------------------------------------------------------------------- the documents' synthesiser


def test_the_synthesisers_have_the_size_of_the_reference_study():
    model = build("basic-cnn", ModelSpec((3, 32, 32), 10))
    net = NetworkInfo(list(model), output_shapes(model, (3, 32, 32)), 10, 256, LOSSES["ce"], 0)
    for name, each in (("cdni", 1_231_104), ("dni", 1_231_104 - 10 * 128 - 128)):
        method = METHODS[name](net, METHODS[name].Options())
        assert [sum(p.numel() for p in s.parameters()) for s in method.synthesisers] == [each] * 3


def test_interfaces_lie_after_every_block_but_the_top():
    for network, blocks in (("basic-cnn", 4), ("mlp", 5), ("vgg11", 9)):
        c = case(network)
        assert len(rule("dni", c).synthesisers) == len(c.model) - 1 == blocks - 1


# -------------------------------------------------------------------------------------------- interfaces after some blocks only


def cut_coarser(model, at):
    """The same blocks (not copies) as units that end after the blocks ``at``, counted from 1: what lies between two interfaces is one."""
    bounds = [0, *at, len(model)]
    return nn.Sequential(*(nn.Sequential(*list(model)[a:b]) for a, b in pairwise(bounds)))


@pytest.mark.parametrize("at", [[2], [1, 3], [4], [1, 2, 3, 4]])
@TARGETS
@BOTH
def test_interfaces_after_some_blocks_are_the_reference_loop_on_a_net_cut_there_alone(name, target, at):
    c = case("mlp")
    method = rule(name, c, target=target, at=at)
    model, chosen = copy.deepcopy(c.model), nn.ModuleList(copy.deepcopy(method.synthesisers[k - 1]) for k in at)
    losses, targets = dni_by_hand(name, cut_coarser(model, at), chosen, c.x, c.y, target)
    _, updates = step(method, c)
    for k, u in updates.items():
        assert_near(u.grad.params, grads(model[k]))
        if k + 1 not in at:
            assert u.aux_grads == {} == method.quantities(u)
            continue
        i = at.index(k + 1)
        assert_near({n.split(".", 2)[2]: g for n, g in u.aux_grads.items()}, grads(chosen[i]))
        assert_near({"g": u.received[0]}, {"g": targets[i]})
        assert method.quantities(u)["synth_loss"] == pytest.approx(losses[i], rel=1e-10)


@NETWORKS
@BOTH
def test_without_an_interface_it_is_backprop_and_with_all_of_them_it_is_the_default_bit_for_bit(name, network):
    c = case(network, torch.float32)
    twin = uncut(c.model, c.x, c.y)
    none = rule(name, c, at=[])
    assert list(none.parameters()) == []
    for k, u in step(none, copy.deepcopy(c))[1].items():
        assert_same_bits(u.grad.params, twin.gradients(k))
    every, default = rule(name, c, at=list(range(1, len(c.model)))), rule(name, c)
    assert_same_bits(frozen(every), frozen(default))
    (_, a), (_, b) = step(every, copy.deepcopy(c)), step(default, copy.deepcopy(c))
    for k, u in b.items():
        assert_same_bits(a[k].grad.params, u.grad.params)
        assert_same_bits(dict(a[k].aux_grads), dict(u.aux_grads))


@BOTH
def test_nothing_crosses_an_interface_but_the_regressions_target(name):
    """Blocks up to an interface are told the same whatever the blocks above it are, and by autograd their gradient hangs on S alone."""
    c = case("mlp")
    method = rule(name, c, at=[2])
    _, before = step(method, copy.deepcopy(c))
    changed = copy.deepcopy(c)
    with torch.no_grad():
        for p in nn.Sequential(*changed.blocks[2:]).parameters():
            p.mul_(-3)
    _, after = step(method, changed)
    for k in (0, 1):
        assert_same_bits(after[k].grad.params, before[k].grad.params)
    assert not torch.equal(after[1].received[0], before[1].received[0])
    # between the interface and the loss: the true gradient, bit for bit
    twin = uncut(c.model, c.x, c.y)
    for k in (2, 3, 4):
        assert_same_bits(before[k].grad.params, twin.gradients(k))
    assert not torch.allclose(before[1].grad.params["linear.weight"], twin.gradients(1)["linear.weight"])


@pytest.mark.parametrize("at", [[0], [5], [-1], [2, 7]])
def test_an_interface_where_there_is_none_is_refused(at):
    with pytest.raises(InputError, match=rf"^at: {at[-1]} is no block before the output block; set blocks of 1 to 4$"):
        rule("dni", case("mlp"), at=at)


# ------------------------------------------------------------------------------------------------ a synthesiser without hidden layers


@pytest.mark.parametrize("network", ["mlp", "basic-cnn"])
@BOTH
def test_a_linear_synthesiser_is_affine_starts_at_zero_and_is_trained_as_the_reference_does(name, network):
    c = case(network)
    for s in rule(name, c, warmed_up=False, linear=True).synthesisers:
        assert not any(bool(p.any()) for p in s.parameters())
    method = rule(name, c, linear=True)
    model, synthesisers = copy.deepcopy(c.model), copy.deepcopy(method.synthesisers)
    dni_by_hand(name, model, synthesisers, c.x, c.y, "sum")
    passes, updates = step(method, c)
    for k, u in updates.items():
        assert_near(u.grad.params, grads(model[k]))
        if k < len(synthesisers):
            assert_near({n.split(".", 2)[2]: g for n, g in u.aux_grads.items()}, grads(synthesisers[k]))
    s, h, context = method.synthesisers[1], passes[1].h.detach(), method.context(c.y)
    mixed = None if context is None else 0.3 * context + 0.7 * context.roll(1, 0)
    want = 0.3 * s(h, context) + 0.7 * s(h.roll(1, 0), None if context is None else context.roll(1, 0))
    torch.testing.assert_close(s(0.3 * h + 0.7 * h.roll(1, 0), mixed), want, rtol=1e-12, atol=1e-12)


def test_a_linear_synthesiser_has_no_hidden_layers_to_be_wide():
    with pytest.raises(InputError, match="width sets hidden layers of the synthesiser"):
        make_config(method="cdni", options={"linear": True, "width": 8})


def test_cdni_without_its_context_is_dni():
    c = case("basic-cnn")
    plain, conditional = rule("dni", c), rule("cdni", c)
    state = {n: t for n, t in conditional.state_dict().items() if ".context." not in n}
    plain.load_state_dict(state)
    with torch.no_grad():
        for s in conditional.synthesisers:
            s.context.weight.zero_()
            s.context.bias.zero_()
    (_, a), (_, b) = step(plain, c), step(conditional, c)
    for k, u in a.items():
        assert_near(b[k].grad.params, u.grad.params, 1e-12)


def test_options_are_checked_where_they_enter():
    for name, value in [("bp_lambda", 1.5), ("bp_lambda", -0.1), ("synth_warmup", -1), ("target", "median"), ("width", 0)]:
        with pytest.raises(InputError, match=name):
            make_config(method="dni", options={name: value})
