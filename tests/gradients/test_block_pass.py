"""Passes: cut at block boundaries and pulled back, they give what backpropagation through the uncut network gives."""

import copy
import itertools
import weakref
from typing import ClassVar

import pytest
import torch
from oracles import PLANS, assert_near, assert_same_bits, batches, case, frozen, nll, rule, step, uncut
from torch import nn

from gradlens.gradients.block_pass import Pass, chain, is_chain, pull_back, pull_back_chain
from gradlens.training.build import ModelAndMethod, build_model_and_method
from gradlens.training.config import make_config
from gradlens.training.step import training_step

# -------------------------------------------------------------------------------------------- backprop through the chain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", PLANS)
def test_backprop_through_the_chain_equals_backward_bit_for_bit(name, layout, dtype):
    c = case(name, dtype)
    c = c._replace(model=c.model.to(memory_format=layout), x=c.x.to(memory_format=layout))
    twin = copy.deepcopy(c.model)
    nll(twin(c.x), c.y).backward()
    _, updates = step(rule("bp", c), c, lazily=True)
    got = {f"{block}.{n}": g for k, (block, _) in enumerate(c.model.named_children()) for n, g in updates[k].grad.params.items()}
    assert_same_bits(got, {n: p.grad for n, p in twin.named_parameters()})
    assert_same_bits(frozen(c.model), frozen(twin))  # weights untouched, BatchNorm buffers as after one forward


@pytest.mark.parametrize("name", PLANS)
def test_activation_gradients_of_backprop_equal_retained_ones_bit_for_bit(name):
    c = case(name, torch.float32)
    twin = uncut(c.model, c.x, c.y)
    _, updates = step(rule("bp", c), c)
    for k, h in enumerate(twin.outputs):
        assert torch.equal(updates[k].grad.delta, h.grad)
        assert torch.equal(updates[k].p.h, h)


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "fused-adam": lambda params: torch.optim.Adam(params, lr=0.01, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", PLANS)
def test_weights_after_several_steps_of_backprop_equal_plain_pytorch_bit_for_bit(name, optimizer):
    c = case(name, torch.float32)
    twin = copy.deepcopy(c.model)
    pair = ModelAndMethod(c.model, rule("bp", c))
    ours, theirs = OPTIMIZERS[optimizer](pair.method.param_groups(c.blocks)), OPTIMIZERS[optimizer](twin.parameters())
    start = frozen(c.model)
    for x, y in batches(c, 5):
        outcome = training_step(pair, ours, x, y)
        theirs.zero_grad()
        z = twin(x)
        loss = nll(z, y)
        loss.backward()
        theirs.step()
        assert torch.equal(outcome.loss, loss)
        assert outcome.hits == (z.argmax(1) == y).sum()
    assert_same_bits(frozen(c.model), frozen(twin))
    assert not any(torch.equal(p, start[n]) for n, p in c.model.named_parameters() if n.endswith("weight"))


def test_a_networks_own_pair_trains_as_plain_pytorch_bit_for_bit():
    pair = build_model_and_method(
        make_config(width=4), (1, 8, 8), 10, torch.device("cpu")
    )  # as `gradlens train bp` makes it: channels last
    twin = copy.deepcopy(pair.model)
    ours, theirs = (OPTIMIZERS["fused-adam"](m.parameters()) for m in (pair.model, twin))
    for x, y in batches(case("mlp", torch.float32), 3):
        training_step(pair, ours, x, y)
        theirs.zero_grad()
        nll(twin(x), y).backward()
        theirs.step()
    assert_same_bits(frozen(pair.model), frozen(twin))


# ------------------------------------------------------------------------------------------------------------- the chain


def counted(block: nn.Module, log: list[int], k: int) -> nn.Module:
    block.register_forward_pre_hook(lambda module, args: log.append(k))
    return block


def test_the_chain_runs_a_block_only_when_its_pass_is_requested():
    c, log = case("mlp"), []
    passes = chain([counted(b, log, k) for k, b in enumerate(c.model)], c.x, c.y)
    assert log == []
    for k in range(len(c.model)):
        next(passes)
        assert log == list(range(k + 1))


def test_each_block_reads_a_leaf_copy_of_the_output_below():
    c = case()
    passes = list(chain(c.model, c.x, c.y))
    assert passes[0].x is c.x
    for p, above in itertools.pairwise(passes):
        assert above.x is p.z
    for p in passes:
        assert p.z.is_leaf
        assert p.z.requires_grad
        assert p.z.grad_fn is None
        assert torch.equal(p.z, p.h)
        assert p.z.data_ptr() == p.h.data_ptr()
        assert p.h.grad_fn is not None
        assert p.y is c.y


def test_a_blocks_graph_holds_its_own_parameters_only():
    c = case()
    passes = list(chain(c.model, c.x, c.y))
    for k, p in enumerate(passes):
        for j, block in enumerate(c.model):
            got = torch.autograd.grad(p.h.sum(), list(block.parameters()), allow_unused=True, retain_graph=True)
            assert [g is not None for g in got] == [j == k] * len(got)


def test_the_chain_lets_go_of_a_block_that_nobody_holds():
    c, alive = case("mlp"), []
    held: list[weakref.ref] = []
    for block in c.model:
        block.register_forward_pre_hook(lambda module, args: alive.append([r() is not None for r in held]))
    for p in chain(c.model, c.x, c.y):
        held.append(weakref.ref(p.h))
        del p
    assert alive == [[False] * k for k in range(len(c.model))]


def test_is_chain_tells_passes_that_read_their_predecessor_from_others():
    c = case("mlp")
    passes = list(chain(c.model, c.x, c.y))
    assert is_chain(passes)
    assert is_chain(passes[:1])
    elsewhere = passes[1].x.detach().requires_grad_()  # equal values, another tensor
    assert not is_chain([passes[0], passes[1]._replace(x=elsewhere), *passes[2:]])
    assert not is_chain([passes[0], passes[1]._replace(src=passes[0].h), *passes[2:]])


# ------------------------------------------------------------------------------------------------------------- pull-back


def one_pass(block: nn.Module, x: torch.Tensor) -> Pass:
    h = block(x)
    return Pass(0, block, x, torch.zeros(len(x), dtype=torch.long), h, h.detach().requires_grad_())


def by_backward(block: nn.Module, x: torch.Tensor, delta: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients of <delta, block(x)> on a deep copy: of the parameters and of the input."""
    block, x = copy.deepcopy(block), x.detach().clone().requires_grad_()
    (block(x) * delta).sum().backward()
    return {n: p.grad for n, p in block.named_parameters()}, x.grad


@pytest.fixture
def block():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)).double()


@pytest.fixture
def x():
    return torch.randn(5, 2, 6, 6, dtype=torch.float64, requires_grad=True)


def messages(n, seed=2):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, 3, 3, generator=g, dtype=torch.float64) for _ in range(n)]


def test_told_and_sent_may_differ_and_each_is_pulled_back_by_itself(block, x):
    delta, *send = messages(4)
    send.insert(1, delta)  # the message that is delta shares its backward; the order of messages is kept
    p = one_pass(block, x)
    grad = pull_back(p, delta, send)
    assert_near(grad.params, by_backward(block, x, delta)[0], 1e-12)
    assert len(grad.below) == 4
    for message, below in zip(send, grad.below, strict=True):
        assert_near({"x": below}, {"x": by_backward(block, x, message)[1]}, 1e-12)
    assert grad.delta is delta


def test_without_delta_nothing_is_trained_but_messages_pass(block, x):
    (message,) = messages(1)
    grad = pull_back(one_pass(block, x), None, (message,))
    assert grad.delta is None
    assert grad.params == {}
    assert_near({"x": grad.below[0]}, {"x": by_backward(block, x, message)[1]}, 1e-12)
    silent = pull_back(one_pass(block, x), None)
    assert silent.params == {}
    assert silent.below == ()


def test_nothing_is_pulled_back_to_the_networks_input(block):
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    (delta,) = messages(1)
    grad = pull_back(one_pass(block, images), delta, (delta,))
    assert grad.below == ()
    assert_near(grad.params, by_backward(block, images, delta)[0], 1e-12)


class Watched(torch.autograd.Function):
    """The identity; its backward runs only if somebody wants the gradient of its input."""

    log: ClassVar[list[str]] = []

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        Watched.log.append("backward")
        return g


class AtTheInput(nn.Module):
    def forward(self, x):
        return Watched.apply(x)


def test_without_messages_no_input_gradient_is_computed_and_a_shared_message_costs_none_extra(block, x):
    watched = nn.Sequential(AtTheInput(), block)
    delta, other = messages(2)
    for send, times in [((), 0), ((delta,), 1), ((other,), 1), ((delta, other), 2)]:
        Watched.log.clear()
        pull_back(one_pass(watched, x), delta, send)
        assert len(Watched.log) == times
    Watched.log.clear()
    pull_back(one_pass(watched, x), None)
    assert Watched.log == []


def test_frozen_and_unused_parameters_are_left_out(x):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = (nn.Conv2d(2, 3, 1, bias=False).double() for _ in range(3))
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.used(x) + self.frozen(x)

    p = one_pass(Two(), x)
    grad = pull_back(p, torch.ones_like(p.h), (torch.ones_like(p.h),))
    assert set(grad.params) == {"used.weight"}


def test_a_block_without_parameters_passes_messages_and_one_that_ignores_its_input_sends_zeros(x):
    pool = one_pass(nn.AvgPool2d(2), x)
    delta = torch.ones_like(pool.h)
    grad = pull_back(pool, delta, (delta,))
    assert grad.params == {}
    assert torch.equal(grad.below[0], torch.full_like(x, 0.25))

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.ones(5, 3, dtype=torch.float64))

        def forward(self, x):
            return 2 * self.value

    for shared in (True, False):
        p = one_pass(Constant(), x)
        delta = torch.ones_like(p.h)
        grad = pull_back(p, delta, (delta if shared else delta.clone(),))
        assert torch.equal(grad.params["value"], 2 * delta)
        assert torch.equal(grad.below[0], torch.zeros_like(x))


def test_graphs_are_freed_unless_kept(block, x):
    delta, other = messages(2)
    for delta_, send in [(delta, ()), (delta, (delta,)), (delta, (other,)), (None, (other, delta)), (delta, (delta, other))]:
        p = one_pass(block, x)
        first = pull_back(p, delta_, send, keep=True)
        second = pull_back(p, delta_, send, keep=False)
        assert_same_bits(first.params, second.params)
        assert all(torch.equal(a, b) for a, b in zip(first.below, second.below, strict=True))
        with pytest.raises(RuntimeError, match="second time"):
            pull_back(p, delta, (delta,))


def test_gradients_are_values(block, x):
    """A pull-back writes no .grad and its results carry no graph."""
    delta, other = messages(2)
    grad = pull_back(one_pass(block, x), delta, (delta, other))
    assert x.grad is None
    assert all(p.grad is None for p in block.parameters())
    assert not any(t.requires_grad for t in (*grad.params.values(), *grad.below))


# -------------------------------------------------------------------------------------------------------------- the truth


@pytest.mark.parametrize("name", PLANS)
def test_true_gradients_equal_backward_and_free_the_graphs(name):
    c = case(name, torch.float32)
    twin = uncut(c.model, c.x, c.y)
    passes = list(chain(c.model, c.x, c.y))
    (top,) = torch.autograd.grad(nll(passes[-1].z, c.y), passes[-1].z)
    truth = pull_back_chain(passes, {passes[-1].k: top})
    for k, grad in enumerate(truth):
        assert_same_bits(grad.params, twin.gradients(k))
        assert torch.equal(grad.delta, twin.outputs[k].grad)
    assert truth[0].below == ()
    assert all(p.grad is None for p in c.model.parameters())
    with pytest.raises(RuntimeError, match="second time"):
        pull_back_chain(passes, {passes[-1].k: top})
