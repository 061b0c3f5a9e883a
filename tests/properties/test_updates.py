"""A step runs, gives every parameter one gradient of its shape, and the optimiser gets each of them once."""

import copy

import pytest
import torch
from oracles import UNLABELLED, VARIANTS, assert_near, assert_same_bits, case, frozen, nll, rows_of, rule, step
from rule_cases import FREEZING, OTHER_INPUTS, RULES, every_rule, holds, posed, silent
from torch import nn

from gradlens.gradients.backward import backward
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method, Options, Signal, Step
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.block_boundaries import output_shapes
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import training_step


@every_rule("works")
def test_a_step_runs_as_in_training(name, network):
    holds("works", name, network)


@every_rule("gradients")
def test_gradients_are_finite_plain_values_of_their_parameters_shape(name, network):
    holds("gradients", name, network)


@every_rule("optimiser")
def test_the_optimiser_gets_every_parameter_exactly_once(name, network):
    holds("optimiser", name, network)


@pytest.mark.parametrize("name", RULES)
def test_a_step_trains_every_parameter_once_and_hands_out_plain_values(name):
    c = case("mlp" if name in VARIANTS else "basic-cnn")
    method = rule(name, c)
    updates = list(backward(method, method.forward(c.blocks, c.x, c.y)))
    assert sorted(u.k for u in updates) == list(range(len(c.model)))
    own: dict[str, torch.Tensor] = {}
    for u in updates:
        assert u.p.block is c.model[u.k]
        got, want = {**u.grad.params, **u.aux_grads}, dict(u.p.block.named_parameters())
        assert u.grad.delta is u.signal.delta
        if u.grad.delta is None:
            assert name in FREEZING
            assert u.grad.params == {}
            continue
        assert set(u.grad.params) == set(want)
        for name_, g in got.items():
            p = want[name_] if name_ in want else method.get_parameter(name_)
            assert g.shape == p.shape
            assert g.dtype == p.dtype
            assert not g.requires_grad
        assert u.grad.delta.shape == u.p.h.shape
        assert (u.signal.logits is not None) == (u.k == len(c.model) - 1)
        own |= u.aux_grads
    assert set(own) == {n for n, _ in method.named_parameters()} or name in FREEZING
    assert all(g.abs().sum() > 0 for n, g in own.items() if n.endswith("weight"))
    assert all(p.grad is None for p in (*c.model.parameters(), *method.parameters()))  # only train.py writes .grad


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_step_trains_the_encoder_and_every_head_once_and_leaves_the_top(name):
    method, c = posed(name)
    updates = list(backward(method, method.forward(c.blocks, c.x, c.y)))
    assert sorted(u.k for u in updates) == [0, 1]
    own = {}
    for u in updates:
        assert set(u.grad.params) == set(dict(u.p.block.named_parameters()))
        assert not set(own) & set(u.aux_grads)
        own |= u.aux_grads
        for n, g in u.aux_grads.items():
            assert g.shape == method.get_parameter(n).shape
            assert not g.requires_grad
    assert set(own) == {n for n, p in method.named_parameters() if p.requires_grad}
    params = [p for group in method.param_groups(c.blocks) for p in group["params"]]
    assert len({id(p) for p in params}) == len(params)
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.1)
    top = frozen(c.model[-1])
    outcome = training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y)
    assert_same_bits(frozen(c.model[-1]), top)
    assert outcome.items == 6
    assert int(outcome.answered) == 0


@pytest.mark.parametrize("name", RULES)
def test_update_applies_what_backward_yields(name):
    """.grad after a step is the sum of nothing else; the loss and the right answers are the top's."""
    c = case("mlp" if name in VARIANTS else "basic-cnn")
    method = rule(name, c)
    _, want = step(copy.deepcopy(method), copy.deepcopy(c))
    optimizer = torch.optim.SGD(method.param_groups(c.blocks)[0]["params"], lr=0.0)
    for p in (*c.model.parameters(), *method.parameters()):
        p.grad = torch.full_like(p, 1e6)  # leftovers of an earlier step
    z = copy.deepcopy(c.model)(c.x)
    outcome = training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y)
    for k, block in enumerate(c.model):
        assert_same_bits({n: p.grad for n, p in block.named_parameters() if p.grad is not None}, want[k].grad.params)
    assert_same_bits(
        {n: p.grad for n, p in method.named_parameters() if p.grad is not None},
        dict(
            sorted(
                ((n, g) for u in want.values() for n, g in u.aux_grads.items()),
                key=lambda i: [m for m, _ in method.named_parameters()].index(i[0]),
            )
        ),
    )
    if name not in OTHER_INPUTS:
        assert torch.equal(outcome.loss, nll(z, c.y))
        assert outcome.hits == (z.argmax(1) == c.y).sum()


def test_a_block_that_has_no_error_signal_does_not_move_on_leftovers():
    c = case("mlp")
    method = silent(c)
    before = frozen(c.model)
    for p in c.model.parameters():
        p.grad = torch.ones_like(p)  # of an earlier step, or of somebody else's backward
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.1)
    training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y)
    for n, p in c.model.named_parameters():
        assert torch.equal(p, before[n]) == (not n.startswith("top."))
        assert n.startswith("top.") or p.grad is None


def test_the_loss_reported_is_the_topmost_in_whichever_order_blocks_run():
    class Talkative(METHODS["bp"]):
        def signal(self, k, passes, received):
            return super().signal(k, passes, received)._replace(loss=torch.tensor(float(k)))

    c = case("mlp")
    method = Talkative(NetworkInfo(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3), Options())
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.1)
    assert training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y).loss == len(c.model) - 1


def test_untrained_blocks_are_measured_as_exact_zeros():
    c = case("mlp")
    method = silent(c)
    rows = rows_of(method, c)
    zeros = {(r.layer, r.kind): r.value for r in rows if r.quantity == "zeros" and r.layer.startswith("block2")}
    assert set(zeros.values()) == {1.0}
    assert {k for _, k in zeros} == {"weight", "bias", "parameters", "activation"}
    assert all(r.value != r.value for r in rows if r.quantity == "cosine" and r.layer.startswith("block2"))  # NaN


def test_rule_is_active_while_the_methods_own_backward_runs_and_not_for_the_truth():
    from contextlib import contextmanager

    c, log = case("mlp"), []

    class Ruled(METHODS["bp"]):
        active = False

        @contextmanager
        def backward_context(self):
            self.active = True
            yield
            self.active = False

    net = NetworkInfo(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3)
    method = Ruled(net, Options())

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            log.append(method.active)
            return g

    class AtTheOutput(nn.Module):
        def forward(self, x):
            return Watched.apply(x)

    for block in c.blocks:
        block.append(AtTheOutput())
    passes, updates = step(method, c)
    assert log == [True] * 5
    true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert log[5:] == [False] * 5


def test_blocks_may_wait_for_each_other_in_chunks():
    """A rule of later issues: backprop inside chunks of two blocks, a local loss at each chunk's end, two messages sent at once."""

    class Chunked(Method):
        def needs_above(self, k):
            return k % 2 == 0 and k < self.num_blocks - 1

        def signal(self, k, passes, received):
            z = passes[k].z.detach()
            if k % 2 == 0 and k < self.num_blocks - 1:
                told, extra = received
                return Signal(told + extra)
            return Signal(z, (z, 3 * z))  # d ½|z|² / dz, and another message

    c = case("mlp")
    c = c._replace(model=c.model[:4])
    method = Chunked(NetworkInfo(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3), Options())
    updates = list(backward(method, method.forward(c.blocks, c.x, c.y)))
    assert [u.k for u in updates] == [1, 0, 3, 2]
    h, twin = c.x, copy.deepcopy(c.model)
    for low, high in ((0, 1), (2, 3)):
        below = twin[low](h.detach())
        h = twin[high](below)
        (g,) = torch.autograd.grad(0.5 * h.square().sum(), below, retain_graph=True)
        (0.5 * h.square().sum()).backward(inputs=list(twin[high].parameters()))
        below.backward(4 * g)
    for u in updates:
        assert_near(u.grad.params, {n: p.grad for n, p in twin[u.k].named_parameters()}, 1e-12)
