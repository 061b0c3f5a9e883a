"""The rows of a recorded step, and `compare` in anybody's own code."""

import math

import pytest
import torch
from oracles import SUPERVISED, case, nll, rows_of, rule, step, uncut
from torch import nn

import gradlens
from gradlens.gradients.alignment import QUANTITIES, RECORDED
from gradlens.gradients.compare import compare
from gradlens.gradients.layer_names import parameter_kind
from gradlens.gradients.method import Step
from gradlens.gradients.rows import Measurement, pair_rows, step_rows
from gradlens.gradients.true_gradient import true_gradients


def direct(g, t):
    """What the recorded quantities are, in float64 on flat copies."""
    g, t = g.detach().double().flatten(), t.detach().double().flatten()
    cos = (g @ t / g.norm() / t.norm()).item() if g.any() and t.any() else math.nan
    alive = t != 0
    return {
        "cosine": cos,
        "angle": math.degrees(math.acos(max(-1, min(1, cos)))) if cos == cos else math.nan,
        "norm_ratio": (g.norm() / t.norm()).item() if t.any() else math.nan,
        "sign_agreement": (g.sign() == t.sign())[alive].double().mean().item() if alive.any() else math.nan,
        "norm": g.norm().item(),
        "true_norm": t.norm().item(),
        "zeros": (g == 0).double().mean().item(),
        "true_zeros": (t == 0).double().mean().item(),
    }


def assert_rows(rows, want):
    """The rows of one pair: every recorded quantity once, in order, with the direct values."""
    assert [r.quantity for r in rows] == list(RECORDED)
    for r in rows:
        value = want[r.quantity]
        if math.isnan(value):
            assert math.isnan(r.value), r
        else:
            assert r.value == pytest.approx(value, rel=1e-9, abs=1e-5 if r.quantity == "angle" else 1e-12), r


def recorded(name, network="basic-cnn", **options):
    c = case(network)
    method = rule(name, c, **options)
    passes, updates = step(method, c)
    truth = uncut(c.model, c.x, c.y)
    names = [n for n, _ in c.model.named_children()]
    run = Step(c.blocks, c.x, c.y, passes, updates)
    return step_rows(7, names, method, run, true_gradients(method, run)), names, updates, truth, method


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("name", SUPERVISED)
def test_rows_hold_every_parameter_block_and_output_once_with_the_direct_values(name, network):
    rows, names, updates, truth, _ = recorded(name, network)
    assert {r.step for r in rows} == {7}
    (reference,) = {r.reference for r in rows}
    assert reference.endswith("loss, same passes") or name in ("dgl-async", "dni-unlocked")
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for r in rows:
        groups.setdefault((r.layer, r.kind), []).append(r)
    seen = set()
    for k, block in enumerate(names):
        used, true = updates[k].grad, truth.gradients(k)
        for n, t in true.items():
            layer, kind = f"{block}.{n}".rsplit(".", 1)
            if t.abs().max() > 1e-12:  # not a bias before a BatchNorm, whose gradient is rounding noise
                assert_rows(groups[layer, kind], direct(used.params.get(n, torch.zeros_like(t)), t))
            seen.add((layer, kind))
        told = torch.zeros_like(truth.outputs[k]) if used.delta is None else used.delta
        assert_rows(groups[block, "activation"], direct(told.detach(), truth.outputs[k].grad))
        whole = [torch.cat([v.get(n, torch.zeros_like(t)).flatten() for n, t in true.items()]) for v in (used.params, true)]
        assert_rows(groups[block, "parameters"], direct(*whole))
        seen |= {(block, "activation"), (block, "parameters")}
    rule_rows = {key for key in groups if key[1] == "rule"}
    assert set(groups) == seen | rule_rows


def test_rows_of_the_rules_own_are_its_loss_and_its_synthesisers_errors():
    own = {}
    for name in SUPERVISED:
        rows, _, updates, truth, _method = recorded(name)
        own[name] = {(r.layer, r.quantity): r.value for r in rows if r.kind == "rule"}
        if name != "dni-unlocked":  # whose top reads another input
            assert own[name]["top", "loss"] == pytest.approx(nll(truth.outputs[-1], updates[0].p.y).item())
    assert set(own["bp"]) == {("top", "loss")}
    assert set(own["dgl"]) == {("block1", "loss"), ("block2", "loss"), ("top", "loss")}
    synth = {(f"block{i}", q) for i in (1, 2, 3) for q in ("synth_loss", "synth_explained_variance")}
    assert set(own["dni"]) == set(own["cdni"]) == {("top", "loss")} | synth


@pytest.mark.parametrize("target", ["sum", "mean"])
def test_a_synthesisers_error_is_in_the_units_it_regresses(target):
    rows, names, updates, _, _ = recorded("dni", target=target)
    own = {(r.layer, r.quantity): r.value for r in rows if r.kind == "rule"}
    for k, block in enumerate(names[:-1]):
        n = len(updates[k].p.y)
        goal = updates[k].received[0] * (n if target == "sum" else 1)
        s = updates[k].signal.delta * (n if target == "sum" else 1)
        residual = ((s - goal) ** 2).sum()
        spread = sum(((goal[i] - goal.mean(0)) ** 2).sum() for i in range(n))
        assert own[block, "synth_loss"] == pytest.approx((residual / n).item(), rel=1e-9)
        assert own[block, "synth_explained_variance"] == pytest.approx((1 - residual / spread).item(), rel=1e-9)


def test_the_quantities_requested_are_the_ones_written():
    c = case("mlp")
    method = rule("dgl", c)
    rows = rows_of(method, c, quantities=("projection", "relative_error"))
    assert {r.quantity for r in rows if r.kind != "rule"} == {"projection", "relative_error"}
    assert set(QUANTITIES) > set(RECORDED)


def test_recording_writes_no_grad_and_frees_the_graphs():
    c = case("mlp")
    method = rule("bp", c)
    passes, updates = step(method, c)
    names = [n for n, _ in c.model.named_children()]
    run = Step(c.blocks, c.x, c.y, passes, updates)
    step_rows(0, names, method, run, true_gradients(method, run))
    assert all(p.grad is None for p in (*c.model.parameters(), *method.parameters()))
    with pytest.raises(RuntimeError, match="second time"):
        passes[0].h.sum().backward()


def test_names_split_into_layer_and_kind():
    assert parameter_kind("block1.conv.weight") == ("block1.conv", "weight")
    assert parameter_kind("scale") == ("", "scale")


def test_a_missing_gradient_counts_as_exactly_zero():
    rows = {r.quantity: r.value for r in pair_rows(0, {}, {"a.weight": torch.ones(3)}, "loss")}
    assert rows["zeros"] == 1
    assert rows["norm"] == 0
    assert math.isnan(rows["cosine"])
    assert rows["sign_agreement"] == 0


# ---------------------------------------------------------------------------------------------------------------- compare


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


@pytest.fixture
def loss(net):
    torch.manual_seed(2)
    return net(torch.randn(6, 5, dtype=torch.float64)).square().mean()


def true(net, loss):
    return dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters()), retain_graph=True), strict=True))


def by_parameter(rows):
    groups: dict[str, list[Measurement]] = {}
    for r in rows:
        groups.setdefault(f"{r.layer}.{r.kind}", []).append(r)
    return groups


def test_compare_gives_the_direct_values_and_is_public(net, loss):
    assert gradlens.compare is compare
    truth = true(net, loss)
    mine = {n: t + 0.5 * torch.randn_like(t) for n, t in truth.items()}
    rows = by_parameter(compare(net, loss, mine))
    assert list(rows) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for n, group in rows.items():
        assert_rows(group, direct(mine[n], truth[n]))
        assert {(r.step, r.reference) for r in group} == {(0, "loss")}


def test_compare_leaves_the_graph_usable_and_grad_untouched(net, loss):
    truth, weights = true(net, loss), {n: p.detach().clone() for n, p in net.named_parameters()}
    compare(net, loss, truth)
    assert all(p.grad is None for p in net.parameters())
    loss.backward()
    mine = {n: p.grad for n, p in net.named_parameters()}
    assert all(torch.equal(mine[n], truth[n]) and torch.equal(p, weights[n]) for n, p in net.named_parameters())


def test_compare_reads_grad_when_no_gradients_are_given(net, loss):
    loss.backward(retain_graph=True)
    net[0].weight.grad.mul_(-3)
    net[2].bias.grad = None
    before = net[0].weight.grad.clone()
    with pytest.warns(UserWarning, match=r"no gradient given for 2\.bias; not compared \(their \.grad is None"):
        found = {(r.layer, r.kind, r.quantity): r.value for r in compare(net, loss)}
    assert found["0", "weight", "cosine"] == pytest.approx(-1)
    assert found["0", "weight", "norm_ratio"] == pytest.approx(3)
    assert found["0", "bias", "cosine"] == pytest.approx(1)
    assert ("2", "bias") not in {(layer, kind) for layer, kind, _ in found}
    assert torch.equal(net[0].weight.grad, before)


def test_compare_leaves_out_and_lists_what_was_not_given(net, loss):
    loss.backward(retain_graph=True)
    with pytest.warns(UserWarning, match=r"no gradient given for 0\.weight, 0\.bias, 2\.weight, 2\.bias; not compared \(give zeros"):
        assert compare(net, loss, {}) == []
    with pytest.warns(UserWarning, match=r"no gradient given for 0\.weight, 0\.bias, 2\.weight; not"):
        rows = compare(net, loss, {"2.bias": torch.zeros(net[2].bias.shape, dtype=torch.float64)})
    assert {(r.layer, r.kind) for r in rows} == {("2", "bias")}


def test_compare_leaves_frozen_parameters_out_and_gives_unused_ones_a_zero_truth(net):
    net[0].weight.requires_grad_(False)
    net.extra = nn.Linear(2, 2).double()
    loss = net[:3](torch.randn(6, 5, dtype=torch.float64)).square().mean()
    mine = {"extra.bias": torch.ones(2, dtype=torch.float64), "0.bias": torch.ones(net[0].bias.shape, dtype=torch.float64)}
    with pytest.warns(UserWarning, match=r"for 2\.weight, 2\.bias, extra\.weight"):
        rows = by_parameter(compare(net, loss, mine))
    assert list(rows) == ["0.bias", "extra.bias"]
    unused = {r.quantity: r.value for r in rows["extra.bias"]}
    assert unused["true_zeros"] == 1
    assert unused["norm"] == pytest.approx(math.sqrt(2))
    assert math.isnan(unused["cosine"])


def test_compare_refuses_names_and_shapes_that_do_not_fit(net, loss):
    with pytest.raises(ValueError, match=r"not trainable parameters of the model: 1\.weight, nope; it has 0\.weight, 0\.bias"):
        compare(net, loss, {"nope": torch.zeros(1), "1.weight": torch.zeros(1), "0.bias": torch.zeros(4)})
    with pytest.raises(ValueError, match="different shapes"):
        compare(net, loss, {"0.bias": torch.zeros(5)})


def test_compare_works_on_any_module_and_loop():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.scale * self.layer(self.layer(x))  # a module used twice

    model = Gated()
    value = model(torch.ones(2, 3)).sum()
    truth = true(model, value)
    rows = by_parameter(compare(model, value, {n: 2 * g for n, g in truth.items()}))
    assert set(rows) == {".scale", "layer.weight", "layer.bias"}
    for group in rows.values():
        assert {r.quantity: r.value for r in group}["norm_ratio"] == pytest.approx(2)
