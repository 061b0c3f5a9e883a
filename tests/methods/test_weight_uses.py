"""No layer is trained by backprop under a feedback rule's name: a weight used past its layer is refused, by its path, whatever the way."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from oracles import Case, assert_near, case, nll, rule, step, uncut
from torch import nn
from torch.utils.checkpoint import checkpoint

from gradlens.gradients.method import Step
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods.feedback.weight_replacement import OUTER_HOOKS
from gradlens.methods.feedback.weight_uses import Call, unreplaced
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import training_step

RULES = ("fa", "usf", "brsf", "frsf", "kp")
D = 12
EYE = torch.eye(D, dtype=torch.float64)


class Block(nn.Module):
    """A linear layer, further ones, a convolution, and a function of a user's that computes with them."""

    def __init__(self, function):
        super().__init__()
        self.lin, self.more = nn.Linear(D, D), nn.ModuleList(nn.Linear(D, D) for _ in range(2))
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, g.T @ x


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return F.linear(x, layer.weight)

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.layer.weight, None


def attention(m, x):
    packed, out = torch.cat([m.lin.weight] * 3), m.more[0].weight
    x = x[:, None]
    return F.multi_head_attention_forward(x, x, x, D, 2, packed, None, None, None, False, 0.0, out, None)[0][:, 0]


def copied(m, x):
    w = torch.empty_like(m.lin.weight)
    w.copy_(m.lin.weight)
    return F.linear(x, w)


def assigned(m, x):
    w = torch.zeros(D, D, dtype=x.dtype)
    w[:6] = m.lin.weight[:6]
    return F.linear(x, w)


def images(x):
    return x.reshape(-1, 3, 2, 2)


OTHERWISE = {
    "@": lambda m, x: x @ m.lin.weight.T,
    "matmul": lambda m, x: torch.matmul(x, m.lin.weight.t()),
    "mm": lambda m, x: torch.mm(x, m.lin.weight.t()),
    "bmm": lambda m, x: torch.bmm(x[None], m.lin.weight.t()[None])[0],
    "addmm": lambda m, x: torch.addmm(m.lin.bias, x, m.lin.weight.t()),
    "baddbmm": lambda m, x: torch.baddbmm(m.lin.bias, x[None], m.lin.weight.t()[None])[0],
    "einsum": lambda m, x: torch.einsum("ni,oi->no", x, m.lin.weight),
    "experts": lambda m, x: torch.einsum("ni,eoi->no", x, torch.stack([m.lin.weight, m.more[0].weight])),
    "tensordot": lambda m, x: torch.tensordot(x, m.lin.weight, ([1], [1])),
    "bilinear": lambda m, x: F.bilinear(x, x, m.lin.weight[None].expand(D, D, D)),
    "vmap": lambda m, x: torch.vmap(lambda row: m.lin.weight @ row)(x),
    "elementwise": lambda m, x: x * m.lin.weight[0],
    "view": lambda m, x: F.linear(x, m.lin.weight.view(D, D)),
    "masked": lambda m, x: F.linear(x, m.lin.weight * 0.5),
    "made by x": lambda m, x: F.linear(x, m.lin.weight * torch.sigmoid(x.mean())),
    "cast": lambda m, x: F.linear(x.float(), m.lin.weight.float()).double(),
    "copy_": copied,
    "assigned": assigned,
    "product of weights": lambda m, x: F.linear(x, m.lin.weight @ m.more[0].weight),
    "flipped kernel": lambda m, x: F.conv2d(images(x), m.conv.weight.flip(2), padding=1).flatten(1),
    "unfolded": lambda m, x: (m.conv.weight.flatten(1) @ F.unfold(images(x), 3, padding=1)).flatten(1),
    "transposed convolution": lambda m, x: F.conv_transpose2d(images(x), m.conv.weight, padding=1).flatten(1),
    "once more": lambda m, x: m.lin(x) + x @ m.lin.weight.T,
    "tied decoder": lambda m, x: F.linear(torch.tanh(m.lin(x)), m.lin.weight.T),
    "attention": attention,
    "functional_call": lambda m, x: torch.func.functional_call(m.lin, {"weight": m.lin.weight * 0.5}, x),
    "autograd.Function": lambda m, x: Product.apply(x, m.lin.weight),
    "hidden in an autograd.Function": lambda m, x: Hidden.apply(x, m.lin),
    "checkpointed": lambda m, x: checkpoint(lambda z: z @ m.lin.weight.T, x, use_reentrant=False),
}


def without_gradients(function):
    with torch.no_grad():
        return function()


def copied_detached(m, x):
    w = torch.empty_like(m.lin.weight)
    return F.linear(x, w.copy_(m.lin.weight.detach()))


def assigned_detached(m, x):
    w = torch.zeros(D, D, dtype=x.dtype)
    w[:6] = m.lin.weight.data[:6]
    return F.linear(x, w)


DETACHED = {
    "F.linear": lambda m, x: F.linear(x, m.lin.weight.detach(), m.lin.bias),
    "of sequences": lambda m, x: F.linear(x[:, None].expand(-1, 3, -1), m.lin.weight.detach(), m.lin.bias).sum(1),
    "data": lambda m, x: x @ m.lin.weight.data.T,
    "tied decoder": lambda m, x: F.linear(torch.tanh(m.lin(x)), m.lin.weight.T.detach()),
    "masked": lambda m, x: F.linear(x, m.lin.weight.detach() * torch.ones(D, D, dtype=x.dtype).tril()),
    "scaled": lambda m, x: F.linear(x, m.lin.weight.detach() * m.more[0].bias.mean()),
    "made by no_grad": lambda m, x: F.linear(x, without_gradients(lambda: m.lin.weight * 0.5)),
    "copy_": copied_detached,
    "assigned": assigned_detached,
    "einsum": lambda m, x: torch.einsum("ni,eoi->no", x, torch.stack([m.lin.weight.detach(), m.more[0].weight.data])),
    "batched": lambda m, x: (x.expand(2, -1, -1)[:, None] @ m.lin.weight.detach().expand(2, 3, -1, -1)).sum((0, 1)),
    "cast": lambda m, x: F.linear(x.float(), m.lin.weight.detach().float()).double(),
    "autocast": lambda m, x: autocast(lambda: F.linear(x.float(), m.lin.weight.detach().float())).double(),
    "in place": lambda m, x: torch.tanh(x).mul_(m.lin.weight.detach()[0]),
    "convolution": lambda m, x: F.conv2d(images(x), m.conv.weight.detach(), padding=1).flatten(1),
    "autograd.Function": lambda m, x: Product.apply(x, m.lin.weight.detach()),
    "checkpointed": lambda m, x: checkpoint(lambda z: z @ m.lin.weight.detach().T, x, use_reentrant=False),
}


def through_a_view(m, x):
    w = torch.zeros(D, D, dtype=x.dtype)
    w[:6].copy_(m.lin.weight.detach()[:6])
    return F.linear(x, w)


DETACHED |= {
    "copied through a view": through_a_view,
    "vmap": lambda m, x: torch.vmap(lambda row: m.lin.weight.detach() @ row)(x),
    "mean": lambda m, x: x * m.lin.weight.detach().mean(),
    "cloned": lambda m, x: x @ m.lin.weight.clone().detach().T,
    "numpy": lambda m, x: x @ torch.from_numpy(m.lin.weight.detach().numpy()).T if x.device.type == "cpu" else x @ m.lin.weight.data,
    "embedding": lambda m, x: x @ F.embedding(torch.arange(D, device=x.device), m.lin.weight.detach()).T,
    "beside detached activations": lambda m, x: (x @ torch.cat([m.lin.weight.detach(), x.detach()]).T)[:, :D],
    "added to detached activations": lambda m, x: F.linear(x, m.lin.weight.detach() + x.detach().mean()),
}


def put_in(w, x):
    h = x.clone()
    h[:1] = w[:1]
    return h


def put_in_through_a_view(w, x):
    h = x.clone()
    h[:1].copy_(w[:1])
    return h


def added_in_place(w, x):
    h = torch.tanh(x)
    h += w[0]
    return h


MIXED = {  # activations that hold a weight's values
    "cat": lambda w, x: torch.cat([w, x])[-len(x) :],
    "stack": lambda w, x: torch.stack([w[: len(x)], x])[0],
    "where": lambda w, x: torch.where(x > 0, w[: len(x)], x),
    "x[i] = w": put_in,
    "through a view": put_in_through_a_view,
    "+": lambda w, x: x + w[0],
    "+=": added_in_place,
    "gone on with": lambda w, x: torch.tanh(torch.cat([w, x]).square())[: len(x)].T.contiguous().T,
}
VALUES = {
    "itself": lambda w: w,
    "detached": lambda w: w.detach(),
    "data": lambda w: w.data,
    "cloned": lambda w: w.clone().detach(),
}
CARRYING = {
    "*": lambda h, x: x * h,
    "@": lambda h, x: x @ h.T @ h,
    "einsum": lambda h, x: torch.einsum("ni,ki->nk", x, h) @ x,
    "attention": lambda h, x: F.scaled_dot_product_attention(x[None], h[None], h[None])[0],
    "by parts": lambda h, x: h.chunk(2, 1)[0].repeat(1, 2) * h.chunk(2, 1)[1].repeat(1, 2) + x,
}


PAIRS = [(way, list(VALUES)[(i + j) % 4], carried) for i, way in enumerate(MIXED) for j, carried in enumerate(CARRYING)]


@pytest.mark.parametrize(("way", "values", "carried"), PAIRS)
def test_activations_that_hold_a_weights_values_multiply_no_others(way, values, carried):
    c = network(lambda m, x: CARRYING[carried](MIXED[way](VALUES[values](m.lin.weight), x), x))
    with pytest.raises(InputError, match=r"^fa: the weight of block3\.1\.lin is also used otherwise than"):
        step(rule("fa", c, warmed_up=False), c)


def autocast(function):
    with torch.autocast("cpu", torch.bfloat16):
        return function()


def gated(m, x):
    return m.lin(x) * torch.sigmoid(m.more[0](x))


def attending(m, x):
    return torch.softmax(m.lin(x) @ m.more[0](x).T, 1) @ m.more[1](x)


def looked_at(m, x):
    with torch.no_grad():
        assert m.lin.weight.norm() > 0
    return m.lin(x) + m.lin.weight.detach().mean()


def gated_without_gradients(m, x):
    with torch.no_grad():
        gate = torch.sigmoid(m.more[0](x))
    return m.lin(x) * gate * torch.tanh(x.detach() @ m.more[0].weight.detach().T)


def asked_for_its_size(m, x):
    with torch.no_grad():
        assert m.lin.weight.numel() == D * D
    return m.lin(x) + Product.apply(x, EYE)


def joined(m, x):
    w = m.lin.weight.detach()
    h = m.lin(x) + w[0] - w.mean()
    return torch.where(h.detach() > w.mean(), h, w[1]) + torch.cat([h, w])[: len(h)]


def mixed_and_read_by_a_layer(m, x):
    h = torch.cat([m.lin.weight.detach(), torch.tanh(x)]) + m.lin.weight[0]
    return m.lin(F.layer_norm(h, (D,)))[-len(x) :] * x


def shaped_like_it(m, x):
    w = m.lin.weight
    h = m.lin(x).view(-1, w.shape[0]).to(w.dtype) / w.size(1) ** 0.5
    return h * torch.ones_like(w)[0] * w.new_full((D,), 2.0) * w.shape[0] + w.numel()


def printed(m, x):
    assert repr(m.lin.weight)
    assert f"{m.lin.weight.norm():.3f}"
    return m.lin(x) * torch.tanh(x)


def clamped(m, x):
    with torch.no_grad():
        m.lin.weight.clamp_(-0.2, 0.2)
    return m.lin(x) * x


def gru(m, x):
    h = torch.zeros_like(x)
    for _ in range(2):
        z, n = torch.sigmoid(m.lin(h) + m.more[0](x)), torch.tanh(m.more[1](h))
        h = (1 - z) * n + z * h
    return h * m.more[0].bias


def deep(m, x):
    return torch.tanh(m.more[0](torch.tanh(m.lin(x)))) * x


BY_ITS_LAYER = {
    "gated": gated,
    "attending": attending,
    "as a bias too": lambda m, x: m.lin(x) + m.lin.weight[0],
    "penalty": lambda m, x: m.lin(x) + m.lin.weight.square().mean(),
    "looked at": looked_at,
    "gated without gradients": gated_without_gradients,
    "asked for its size": asked_for_its_size,
    "joined": joined,
    "mixed and read by a layer": mixed_and_read_by_a_layer,
    "shaped like it": shaped_like_it,
    "printed": printed,
    "clamped": clamped,
    "gated recurrence": gru,
    "twice": lambda m, x: m.lin(torch.tanh(m.lin(x))),
    "functional_call": lambda m, x: torch.func.functional_call(m.lin, {"weight": m.lin.weight}, x),
    "convolution": lambda m, x: m.conv(images(x)).flatten(1),
    "checkpointed": lambda m, x: checkpoint(lambda z: deep(m, z), x, use_reentrant=False),
    "checkpointed between": lambda m, x: m.more[1](checkpoint(lambda z: deep(m, z), m.lin(x), use_reentrant=False)),
    "checkpointed in checkpointed": lambda m, x: checkpoint(
        lambda z: m.more[1](checkpoint(lambda u: deep(m, u), z, use_reentrant=False)), x, use_reentrant=False
    ),
}


def network(function, k: int = 2) -> Case:
    torch.manual_seed(3)
    c = case("mlp")
    c.model[k] = nn.Sequential(c.model[k], Block(function).double())
    return c


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("way", OTHERWISE)
def test_a_weight_that_is_used_past_its_layer_is_refused_by_its_path(way, k):
    c = network(OTHERWISE[way], k)
    with pytest.raises(InputError, match=rf"^fa: the weight of block{k + 1}\.1\.(lin|conv) is also used otherwise than"):
        step(rule("fa", c, warmed_up=False), c)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_the_family_refuses_in_training_too(name):
    c = network(OTHERWISE["once more"])
    method = rule(name, c, warmed_up=False)
    with pytest.raises(InputError, match=rf"^{name}: the weight of block3\.1\.lin .*MmBackward"):
        training_step(ModelAndMethod(c.model, method), torch.optim.SGD(c.model.parameters(), lr=0.1), c.x, c.y)


@pytest.mark.parametrize("way", ["@", "masked", "view", "attention"])
def test_a_frozen_weight_is_none_that_may_carry_the_gradient_either(way):
    c = network(OTHERWISE[way])
    c.model[2][1].requires_grad_(False)
    with pytest.raises(InputError, match=r"^fa: the weight of block3\.1\.lin"):
        step(rule("fa", c, warmed_up=False), c)


def of_checkpointing(way):
    """A parameter; where layers in checkpointed blocks are refused, it is left out."""
    return pytest.param(way, marks=pytest.mark.skipif("checkpointed" in way and OUTER_HOOKS is None, reason="torch 2.8 and later"))


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("way", [of_checkpointing(way) for way in DETACHED])
def test_values_of_a_weight_that_take_no_gradient_carry_it_no_more_than_the_weight(way, k):
    c = network(DETACHED[way], k)
    with pytest.raises(InputError, match=rf"^fa: the weight of block{k + 1}\.1\.(lin|conv) is also used otherwise than"):
        step(rule("fa", c, warmed_up=False), c)


def test_a_frozen_weight_may_be_used_where_it_multiplies_nothing():
    c = network(joined)
    c.model[2][1].requires_grad_(False)
    method = rule("fa", c, warmed_up=False)
    _, updates = step(method, c)
    assert_near(told(c, updates), by_hand(c, method), 1e-11)


class Through(torch.autograd.Function):
    """x in value, W in slope: no torch function is called with W."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.saved_tensors[0], None


class Tied(nn.Module):
    """A block that computes with another's layer, or with something else in its place."""

    def __init__(self, function, lin=None):
        super().__init__()
        self.function, self.lin = function, lin

    def forward(self, x):
        return self.function(x, EYE if self.lin is None else self.lin.weight)


TWINS = {
    "as many nodes": (nn.Sequential(nn.BatchNorm1d(D), nn.ReLU()), lambda x, w: x @ w.T),
    "the same functions": (Tied(Through.apply), Through.apply),
}


@pytest.mark.parametrize("twins", TWINS)
def test_a_block_is_looked_at_though_the_one_before_it_looks_alike(twins):
    torch.manual_seed(3)
    alike, function = TWINS[twins]
    below = nn.Sequential(nn.Flatten(), nn.Linear(D, D))
    blocks = nn.Sequential(below, alike, Tied(function, below[1]), nn.Linear(D, 10)).double()
    c = Case(blocks, torch.randn(6, D, dtype=torch.float64), torch.arange(6))
    with pytest.raises(InputError, match=r"^fa: the weight of 0\.1 is also used otherwise than"):
        step(rule("fa", c, warmed_up=False), c)


def test_what_sends_nothing_down_needs_no_feedback():
    """On the images themselves a weight may be used in any way: its gradient is exact, and nothing goes on."""
    c = case("mlp")
    for function in (OTHERWISE["@"], OTHERWISE["masked"], OTHERWISE["addmm"]):
        c.model[0] = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(D), Block(function).double())
        method = rule("fa", c, warmed_up=False)
        _, updates = step(method, c)
        w = c.model[0][2].lin.weight
        (want,) = torch.autograd.grad(c.model[0](c.x), w, updates[0].signal.delta)
        assert torch.equal(updates[0].grad.params["2.lin.weight"], want)


def test_a_way_that_is_taken_later_is_found_when_it_is_taken():
    taken = []
    c = network(lambda m, x: OTHERWISE["@"](m, x) if taken else m.lin(x))
    method = rule("fa", c, warmed_up=False)
    step(method, c)
    step(method, c)
    taken.append(True)
    with pytest.raises(InputError, match=r"block3\.1\.lin"):
        step(method, c)


def test_a_way_of_the_same_functions_is_found_too():
    taken = []
    c = network(lambda m, x: m.lin(x) + (x @ (m.lin.weight if taken else x).T).mean())
    method = rule("fa", c, warmed_up=False)
    step(method, c)
    taken.append(True)
    with pytest.raises(InputError, match=r"block3\.1\.lin"):
        step(method, c)


def test_a_way_that_looks_alike_is_found_in_the_next_epoch():
    taken = []
    c = network(lambda m, x: m.lin(x) + Through.apply(x, m.lin.weight if taken else EYE))
    method = rule("fa", c, warmed_up=False)
    method.start(1, 0)
    step(method, c)
    taken.append(True)
    method.start(1, 1)
    step(method, c)
    method.start(2, 2)
    with pytest.raises(InputError, match=r"block3\.1\.lin"):
        step(method, c)


def test_a_graph_is_walked_once():
    c, walks = network(BY_ITS_LAYER["gated"]), []
    method = rule("fa", c, warmed_up=False)
    for _ in range(3):
        step(method, c)
        walks.append(len(method.checked))
    assert walks == [walks[0]] * 3
    assert 0 < walks[0] <= len(c.model)


# ----------------------------------------------------------------------------------------------- what is right goes on as before


def by_hand(c: Case, method) -> dict[str, torch.Tensor]:
    """All gradients of a copy without checkpointing, its layers written as value + slope: W x + b in value, B in the slope along x."""
    twin = copy.deepcopy(c.model)
    for path, m in twin.named_modules():
        if isinstance(m, nn.Linear | nn.Conv2d):
            plain = (lambda x, w, b, m=m: m._conv_forward(x, w, b)) if isinstance(m, nn.Conv2d) else F.linear
            b = method.matrix(path, m.weight.detach())

            def forward(x, m=m, plain=plain, b=b):
                slope = plain(x, b, None)
                return plain(x.detach(), m.weight, m.bias) + slope - slope.detach()

            m.forward = forward
    nll(twin(c.x), c.y).backward()
    return {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}


def told(c: Case, updates) -> dict[str, torch.Tensor]:
    names = list(c.model._modules)
    return {f"{names[k]}.{n}": g for k, u in updates.items() for n, g in u.grad.params.items()}


def not_checkpointed(monkeypatch) -> None:
    monkeypatch.setitem(globals(), "checkpoint", lambda function, x, use_reentrant: function(x))


@pytest.mark.parametrize("name", ["fa", "kp", "usf"])
@pytest.mark.parametrize("way", [of_checkpointing(way) for way in BY_ITS_LAYER])
def test_layers_that_run_as_layers_get_the_rules_gradient_and_their_truth(way, name, monkeypatch):
    c = network(BY_ITS_LAYER[way])
    method = rule(name, c, warmed_up=False)
    passes, updates = step(method, c)
    found = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates)).grads
    not_checkpointed(monkeypatch)
    twin = uncut(c.model, c.x, c.y)
    for k, grad in enumerate(found):
        assert_near(grad.params, {n: g for n, g in twin.gradients(k).items() if g is not None}, 1e-12)
    if way != "functional_call":  # which by_hand does not reach
        assert_near(told(c, updates), by_hand(c, method), 1e-11)


def test_a_torch_that_does_not_name_its_hooks_refuses_checkpointed_layers(monkeypatch):
    monkeypatch.setattr("gradlens.methods.feedback.weight_replacement.OUTER_HOOKS", None)
    c = network(BY_ITS_LAYER["checkpointed"])
    with pytest.raises(InputError, match=r"block3\.1\.lin is checkpointed, which needs torch 2\.8"):
        step(rule("fa", c, warmed_up=False), c)
    gc.collect()  # torch 2.6 keeps the hooks of a checkpoint that raised until its frames are gone
    c = network(BY_ITS_LAYER["gated"])
    step(rule("fa", c, warmed_up=False), c)


@pytest.mark.parametrize("name", ["bp", "dgl", "dni", "overlap", "dfa", "predsim", "infopro", "dni-unlocked", "dgl-async", "greedy"])
@pytest.mark.parametrize("way", ["checkpointed between", "checkpointed in checkpointed"])
def test_checkpointed_blocks_are_trained_and_measured_as_without_checkpointing(name, way, monkeypatch):
    def all_of_it():
        c = network(BY_ITS_LAYER[way])
        method = rule(name, c)
        passes, updates = step(method, c)  # graphs kept: two backward passes and more through each
        truth = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates)).grads
        return told(c, updates), [{**g.params, "delta": g.delta} for g in truth]

    mine, real = all_of_it()
    not_checkpointed(monkeypatch)
    want, true = all_of_it()
    assert_near(mine, want, 1e-13)
    for got, t in zip(real, true, strict=True):
        assert_near(got, t, 1e-13)


def test_the_walk_itself_on_a_graph_by_hand():
    x, a, b = (torch.randn(4, 4, requires_grad=True) for _ in range(3))
    paths = {id(a): "a", id(b): "b"}

    def found(h, *calls):
        return unreplaced(h, (x,), calls, paths)

    layer = F.linear(x, a)
    call = Call("a", layer.grad_fn, None, None)
    assert found(layer) == ("a", "MmBackward0")
    assert found(layer, call) is None
    assert found(torch.relu(layer) * 2 + x, call) is None
    assert found(layer @ b, call) == ("b", "MmBackward0")
    assert found(a / a.norm() + x) is None  # a weight with itself, beside the activation and not times it
    assert found((a / a.norm()) @ x) == ("a", "MmBackward0")
    assert found(x.detach() @ a) is None
    assert found(torch.relu(x.detach() @ a) @ b) == ("a", "MmBackward0")
    assert unreplaced(torch.zeros(2), (x,), (), paths) is None
