"""No loss reaches another block's parameters, and a block that does not wait for the one above depends on nothing above it."""

import copy

import pytest
import torch
from oracles import Case, assert_near, assert_same_bits, case, nll, rule, step, stirred
from rule_cases import FREEZING, LOCAL, RULES, every_rule, holds, posed

from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.models.zoo import ModelSpec, build
from gradlens.training.build import make_network_info


@every_rule("isolation")
def test_no_loss_reaches_another_block_and_what_is_above_does_not_matter(name, network):
    holds("isolation", name, network)


@pytest.mark.parametrize("name", RULES)
def test_no_loss_reaches_a_blocks_parameters_but_through_its_error_signal(name):
    """Structural: autograd finds no path (None, not zero) from any loss to any block, nor from a block to another one."""
    c = case("mlp")
    blocks = {f"{k}.{n}": p for k, b in enumerate(c.model) for n, p in b.named_parameters()}
    reached: list[list[str]] = []
    method: Method

    def spy(z, y):
        value = nll(z, y)
        own = dict(method.named_parameters())
        params = {**blocks, **own}
        got = torch.autograd.grad(value, list(params.values()), allow_unused=True, retain_graph=True)
        reached.append([n for n, g in zip(params, got, strict=True) if g is not None])
        return value

    method = rule(name, c, spy)
    assert not {id(p) for p in blocks.values()} & {id(p) for p in method.parameters()}  # nothing is shared
    passes, updates = step(method, c)
    assert reached
    for names in reached:
        assert not set(names) & set(blocks)
        assert len({n.rsplit(".", 2)[0].split(".")[1] for n in names}) <= 1  # one head at most: heads.<k>.…
    for k, p in enumerate(passes):
        got = torch.autograd.grad(p.h.sum(), list(blocks.values()), allow_unused=True, retain_graph=True)
        assert {n.split(".")[0] for n, g in zip(blocks, got, strict=True) if g is not None} == {str(k)}
        delta = updates[k].signal.delta
        assert name in FREEZING if delta is None else not delta.requires_grad
    owners = [set(u.aux_grads) for u in updates.values()]
    assert sum(map(len, owners)) == len(set().union(*owners))  # no parameter of the rule's own is told twice


@pytest.mark.parametrize("name", LOCAL)
def test_local_twins_are_isolated(name):
    """Structural: no loss has a path to another block, and a block's error signal does not depend on later blocks."""
    method, c = posed(name)
    passes, before = step(method, copy.deepcopy(c))
    assert [method.needs_above(k) for k in (0, 1)] == [False, False]
    for k, p in enumerate(passes):
        loss = method.pretext.loss(k, method.heads[str(k)], p.z, p.y)
        params = {**dict(c.model.named_parameters()), **dict(method.named_parameters())}
        got = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        assert {n.split(".")[0] for n, g in zip(params, got, strict=True) if g is not None} == {"heads"}
        assert before[k].signal.messages_below == ()
    changed = copy.deepcopy(c)
    with torch.no_grad():
        for p in changed.model[1].parameters():
            p.mul_(-3)
    _, after = step(method, changed)
    assert_same_bits(after[0].grad.params, before[0].grad.params)
    assert_same_bits(dict(after[0].aux_grads), dict(before[0].aux_grads))


@pytest.mark.parametrize("name", [name for name in LOCAL if name != "loco"])
def test_one_module_is_the_end_to_end_rule(name):
    whole = {"simclr-local": "simclr", "cpc-local": "cpc", "context-encoder-local": "context-encoder"}.get(name)
    method, c = posed(name, modules=1)
    _, mine = step(method, copy.deepcopy(c))
    for k in (0, 1):
        assert method.needs_above(k) == (k == 0)
    if whole:
        other, same = posed(whole)
        assert torch.equal(same.x, c.x)
        _, theirs = step(other, same)
        for k in (0, 1):
            assert_same_bits(mine[k].grad.params, theirs[k].grad.params)


@pytest.mark.parametrize("name", ["cpc-local", "infomax", "simclr-local", "context-encoder-local"])
def test_modules_of_several_blocks_are_trained_together_and_isolated(name):
    model = build("basic-cnn", ModelSpec((3, 32, 32), 10, width=4, depth=3), seed=1).double()
    net = make_network_info(model, (3, 32, 32), 10, LOSSES["ce"], 3)
    method = stirred(METHODS[name](net, METHODS[name].Options(modules=[2, 1])).double())
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
    x, y = method.make_inputs(images, torch.arange(4), 5, lambda v: v.double() / 127.5 - 1)
    passes, updates = step(method, Case(model, x, y))
    assert sorted(method.heads) == ["1", "2"]
    assert [method.needs_above(k) for k in (0, 1, 2)] == [True, False, False]
    assert [bool(updates[k].signal.messages_below) for k in (0, 1, 2)] == [False, True, False]
    h = model[1](model[0](method.prepare_input(x)))
    loss = method.pretext.loss(1, method.heads["1"], h, passes[1].y)
    params = dict(model.named_parameters())
    got = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    reached = {n: g for n, g in zip(params, got, strict=True) if g is not None}
    assert {n.split(".")[0] for n in reached} == {"block1", "block2"}
    for k in (0, 1):
        assert_near(updates[k].grad.params, {n: reached[f"block{k + 1}.{n}"] for n in updates[k].grad.params}, 1e-9)
