"""What a rule tells a block depends on the arguments alone, and arrives as it was sent."""

import copy

import pytest
import torch
from oracles import UNLABELLED, VARIANTS, assert_near, assert_same_bits, case, rule, step
from rule_cases import IN_THE_GRAPH, RULES, every_rule, holds, posed

from gradlens.gradients.block_pass import pull_back
from gradlens.gradients.method import Update


@every_rule("arguments")
def test_signal_and_learn_depend_on_their_arguments_only(name, network):
    holds("arguments", name, network)


@pytest.mark.parametrize("name", UNLABELLED)
def test_signals_depend_on_their_arguments_and_the_step_alone(name):
    method, c = posed(name)
    passes, updates = step(method, c)
    stream = torch.get_rng_state()
    for k in (1, 0, 0, 1):
        first, again = updates[k].signal, method.signal(k, dict(enumerate(passes)), updates[k].received)
        assert torch.equal(first.delta, again.delta)
        assert_same_bits(dict(again.aux_grads), dict(first.aux_grads))
    assert torch.equal(torch.get_rng_state(), stream)
    x = posed(name)[1].x
    assert torch.equal(x, c.x)
    if not torch.equal(posed(name, step_=6)[1].x, c.x):  # another step, other draws
        assert posed(name, step_=6)[1].x.shape == x.shape


@pytest.mark.parametrize("name", [name for name in RULES if name not in IN_THE_GRAPH])
def test_messages_arrive_as_the_pull_back_of_what_was_sent(name):
    c = case("mlp" if name in VARIANTS else "basic-cnn")
    _, updates = step(rule(name, c), c)
    for k, u in updates.items():
        above = updates.get(k + 1)
        sent = above.signal.messages_below if above else ()
        assert len(u.received) == len(sent)
        for message, heard in zip(sent, u.received, strict=True):
            block, x = copy.deepcopy(c.model[k + 1]), above.p.x.detach().clone().requires_grad_()
            (block(x) * message).sum().backward()
            assert_near({"above": heard}, {"above": x.grad}, 1e-12)


def test_updates_carry_what_came_from_above():
    c = case("mlp")
    _, updates = step(rule("bp", c), c)
    assert isinstance(updates[0], Update)
    assert updates[4].received == ()
    for k in range(4):
        assert updates[k].received[0] is updates[k + 1].grad.below[0] is updates[k].signal.delta
    p = updates[4].p
    assert torch.equal(pull_back(p, updates[4].signal.delta, (updates[4].signal.delta,)).below[0], updates[3].signal.delta)
