"""Decoupled greedy learning equals the published loop: detach, local loss, backward, step; block after block."""

import copy

import pytest
import torch
from oracles import assert_near, assert_same_bits, batches, case, frozen, nll, rule, step, uncut
from torch import nn

from gradlens.gradients.losses import LOSSES
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods import METHODS
from gradlens.models.block_boundaries import output_shapes
from gradlens.models.zoo import ModelSpec, build, head_width
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import training_step

HEADS = {
    "seed": {},
    "linear-pooled": {"head": "linear", "pooled": True},
    "mlp-3-pooled": {"head": "mlp", "layers": 3, "width": 9, "pooled": True},
    "mlp-sr": {"head": "mlp-sr", "layers": 2},
    "cnn": {"head": "cnn", "layers": 1},
}


def units(model, heads):
    """(f_k, a_k) by hand: every block with its head, the last block with the network's own top."""
    return [*((model[k], head) for k, head in enumerate(heads.values())), (model[-2], model[-1])]


def greedy_by_hand(model, heads, stream, optimizer):
    """The loop of Belilovsky et al., one optimiser a unit; block k+1 reads what block k gave before its step."""
    model, heads = copy.deepcopy(model), copy.deepcopy(heads)
    todo = [(f, a, optimizer([*f.parameters(), *a.parameters()])) for f, a in units(model, heads)]
    for x, y in stream:
        h = x
        for f, a, opt in todo:
            opt.zero_grad()
            h = f(h)
            nll(a(h), y).backward()
            opt.step()
            h = h.detach()
    return model, heads


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        lambda params: torch.optim.Adam(params, lr=0.01),
    ],
    ids=["sgd", "adam"],
)
@pytest.mark.parametrize(("network", "options"), [*(("basic-cnn", o) for o in HEADS.values()), ("mlp", {"layers": 2}), ("vgg11", {})])
def test_several_steps_equal_a_detach_and_step_loop(network, options, optimizer):
    c = case(network)
    method = rule("dgl", c, **options)
    stream = batches(c, 6)
    want_model, want_heads = greedy_by_hand(c.model, method.heads, stream, optimizer)
    start = frozen(c.model)
    pair = ModelAndMethod(c.model, method)
    opt = optimizer(method.param_groups(c.blocks)[0]["params"])  # one optimiser over all: elementwise rules see no difference
    for x, y in stream:
        training_step(pair, opt, x, y)
    assert_near(frozen(c.model), frozen(want_model))
    assert_near(frozen(method.heads), frozen(want_heads))
    assert all(not torch.equal(p, start[n]) for n, p in c.model.named_parameters() if n.endswith("weight"))


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
def test_one_backward_of_the_summed_local_losses_gives_the_same_gradients(network):
    c = case(network)
    method = rule("dgl", c)
    model, heads = copy.deepcopy(c.model), copy.deepcopy(method.heads)
    h, total = c.x, 0.0
    for f, a in units(model, heads):
        h = f(h.detach())
        total = total + nll(a(h), c.y)
    total.backward()
    _, updates = step(method, c)
    for k, u in updates.items():
        assert_near(u.grad.params, {n: p.grad for n, p in model[k].named_parameters()})
    own = {n: g for u in updates.values() for n, g in u.aux_grads.items()}
    assert_near(own, {f"heads.{n}": p.grad for n, p in heads.named_parameters()})


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
def test_each_blocks_gradient_is_that_of_its_local_loss_on_a_detached_input(network):
    c = case(network)
    method = rule("dgl", c)
    passes, updates = step(method, c)
    todo = units(copy.deepcopy(c.model), copy.deepcopy(method.heads))
    for k, (f, a) in enumerate(todo):
        h = f(passes[k].x.detach())
        h.retain_grad()
        loss = nll(a(h), c.y)
        loss.backward()
        assert_near({"h": updates[k].signal.delta}, {"h": h.grad})
        assert_near(updates[k].grad.params, {n: p.grad for n, p in f.named_parameters()})
        top = updates[len(passes) - 1 if k == len(todo) - 1 else k]
        assert top.signal.loss == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("network", ["basic-cnn", "vgg11", "mlp"])
def test_the_last_unit_is_the_last_block_with_the_networks_own_top(network):
    c = case(network, torch.float32)
    method = rule("dgl", c)
    assert len(method.heads) == len(c.model) - 2
    passes, updates = step(method, c)
    unit = copy.deepcopy(c.model[-2:])
    nll(unit(passes[-2].x.detach()), c.y).backward()
    for k, block in zip((len(passes) - 2, len(passes) - 1), unit, strict=True):
        assert_same_bits(updates[k].grad.params, {n: p.grad for n, p in block.named_parameters()})
        assert updates[k].aux_grads == {}
    assert updates[len(passes) - 2].signal.messages_below == ()  # and nothing leaves the unit


def test_a_network_of_one_unit_is_trained_as_by_backprop_bit_for_bit():
    c = case("mlp", torch.float32)
    c = c._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=1)))
    method = rule("dgl", c)
    assert list(method.parameters()) == []
    twin = uncut(c.model, c.x, c.y)
    _, updates = step(method, c)
    for k in range(2):
        assert_same_bits(updates[k].grad.params, twin.gradients(k))


def test_the_last_block_learns_from_the_top_and_not_from_a_head_of_its_own():
    c = case("mlp")
    method = rule("dgl", c)
    _, before = step(method, copy.deepcopy(c))
    with torch.no_grad():
        c.model[-1].out.weight *= -2
    _, after = step(method, c)
    assert [torch.equal(after[k].signal.delta, before[k].signal.delta) for k in range(5)] == [True, True, True, False, False]


def test_the_seeds_heads_have_one_hidden_layer_as_wide_as_the_top_and_follow_the_seed():
    model = build("basic-cnn", ModelSpec((3, 32, 32), 10))
    net = NetworkInfo(list(model), output_shapes(model, (3, 32, 32)), 10, head_width(model), LOSSES["ce"], 0)
    method = METHODS["dgl"](net, METHODS["dgl"].Options())
    assert [[type(m) for m in head] for head in method.heads.values()] == [[nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]] * 2
    assert [(head[1].in_features, head[1].out_features, head[3].out_features) for head in method.heads.values()] == [
        (128 * 16 * 16, 256, 10),
        (128 * 8 * 8, 256, 10),
    ]
    assert sum(p.numel() for p in method.parameters()) == 10_491_412
    again, other = (METHODS["dgl"](net._replace(seed=s), METHODS["dgl"].Options()) for s in (0, 1))
    assert_same_bits(frozen(again), frozen(method))
    assert not torch.equal(other.heads["0"][1].weight, method.heads["0"][1].weight)


def test_vgg_heads_are_512_wide():
    model = build("vgg11", ModelSpec((3, 32, 32), 10))
    net = NetworkInfo(list(model), output_shapes(model, (3, 32, 32)), 10, head_width(model), LOSSES["ce"], 0)
    method = METHODS["dgl"](net, METHODS["dgl"].Options(pooled=True))
    assert {m.out_features for head in method.heads.values() for m in head if isinstance(m, nn.Linear)} == {512, 10}


def test_a_convolutional_head_on_an_mlp_is_refused():
    for head in ("cnn", "mlp-sr"):
        with pytest.raises(InputError, match=r"\[C, H, W\]"):
            rule("dgl", case("mlp"), head=head)


@pytest.mark.parametrize("loss", LOSSES)
def test_local_losses_are_of_the_kind_that_was_requested(loss):
    c = case("mlp")
    method = rule("dgl", c, LOSSES[loss])
    _, updates = step(method, c)
    twin, head = copy.deepcopy(c.model[0]), copy.deepcopy(method.heads["0"])
    LOSSES[loss](head(twin(c.x)), c.y).backward()
    assert_near(updates[0].grad.params, {n: p.grad for n, p in twin.named_parameters()})
