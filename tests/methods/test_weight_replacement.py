"""Feedback rules equal networks whose layers are written out by hand; with B = W they are backprop; the truth never sees B."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import Case, assert_near, assert_same_bits, batches, case, frozen, nll, rule, step, stirred, uncut
from torch import nn
from torch.nn.utils import parametrize

from gradlens.data.datasets import load as load_data
from gradlens.gradients.backward import backward, run_step
from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Step
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.methods.feedback.weight_replacement import pseudo_inverse, weights
from gradlens.models.resnet import basic_residual
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod, build_model_and_method, make_network_info
from gradlens.training.config import make_config
from gradlens.training.cost.flops import count
from gradlens.training.evaluation import evaluate
from gradlens.training.optimizers import make_optimizer
from gradlens.training.step import Recording, training_step

RULES = ("fa", "usf", "brsf", "frsf", "kp")
DRAWN = ("fa", "frsf")  # what they keep is drawn once

# ------------------------------------------------------------------------------------------------------------- networks


class Skip(nn.Module):
    """x + deep(x), its layers nested, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.deep = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(4, 8, 3, padding="same", groups=2), nn.BatchNorm2d(8))})
        self.deep["b"] = nn.Conv2d(8, 4, (3, 1), padding=(2, 1), dilation=(2, 1), padding_mode="circular", bias=False)
        self.twice = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        h = torch.relu(self.deep["a"](x))
        h = self.deep["b"](h)[..., 1:-1]
        return x + self.twice(torch.tanh(self.twice(h)))


class Tokens(nn.Module):
    """[N, C, H, W] -> [N, H·W, C] -> linear layers with and without bias on it, on contiguous and on turned tensors."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 6), nn.Linear(6, 6, bias=False), nn.Linear(9, 9)
        self.norm, self.act = nn.LayerNorm(6), nn.PReLU()

    def forward(self, x):
        t = x.flatten(2).transpose(1, 2)  # not contiguous
        t = self.norm(self.act(self.first(t)))
        t = torch.tanh(self.second(t.contiguous()))
        return self.third(t.transpose(1, 2)).mean(2)


def tangled(dtype=torch.float64) -> Case:
    torch.manual_seed(7)
    stem = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    blocks = nn.Sequential()
    blocks.add_module("stem", stem)
    blocks.add_module("skip", nn.Sequential(Skip(), nn.MaxPool2d(2)))
    blocks.add_module("res", basic_residual(4, 8, 1, nn.ReLU))
    blocks.add_module("tokens", Tokens())
    blocks.add_module("top", nn.Linear(6, 10))
    x = torch.randn(5, 2, 12, 12, dtype=torch.float64).to(dtype)
    return Case(blocks.to(dtype), x, torch.randint(0, 10, (5,)))


def network(name: str, dtype=torch.float64) -> Case:
    return tangled(dtype) if name == "tangled" else case(name, dtype)


NETS = ("tangled", "basic-cnn", "mlp")


def matrices(method, model) -> dict[str, torch.Tensor]:
    """Each layer's feedback matrix by the layer's path in the model."""
    modules = dict(model.named_modules())
    return {path: method.matrix(path, modules[path].weight.detach()) for paths in method.paths for path in paths if path in modules}


def by_hand(c: Case, b: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All gradients of a copy whose layers are written as value + slope: W x + b in value, B in the slope along x."""
    twin = copy.deepcopy(c.model)
    for path, m in twin.named_modules():
        if isinstance(m, nn.Linear | nn.Conv2d):
            plain = (lambda x, w, bias, m=m: m._conv_forward(x, w, bias)) if isinstance(m, nn.Conv2d) else F.linear

            def forward(x, m=m, plain=plain, path=path):
                slope = plain(x, b[path], None)
                return plain(x.detach(), m.weight, m.bias) + slope - slope.detach()

            m.forward = forward
    nll(twin(c.x), c.y).backward()
    return {n: p.grad for n, p in twin.named_parameters()}


def used(c: Case, updates) -> dict[str, torch.Tensor]:
    names = [n for n, _ in c.model.named_children()]
    return {f"{names[k]}.{n}": g for k, u in updates.items() for n, g in u.grad.params.items()}


def plain(c: Case) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in uncut(c.model, c.x, c.y).model.named_parameters()}


# ----------------------------------------------------------------------------------------------------------- the gradients


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", RULES)
def test_gradients_are_those_of_a_net_whose_layers_are_written_out(name, net):
    c = network(net)
    method = rule(name, c)
    _, updates = step(method, c)
    want = by_hand(c, matrices(method, c.model))
    assert_near(used(c, updates), want, 1e-11)
    true = plain(c)
    first = next(n for n in want if n.endswith("weight"))
    assert (want[first] - true[first]).abs().max() > 0.05 * true[first].abs().max()  # and they are not backprop's


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_b_equal_to_w_is_backprop_bit_for_bit_over_several_steps(net, layout):
    c = network(net, torch.float32)
    c = c._replace(model=c.model.to(memory_format=layout))
    twin = copy.deepcopy(c.model)
    method, bp = rule("fa", c, warmed_up=False), rule("bp", c)
    kept, ws = list(method.kept.buffers()), [w for block in c.model for w in weights(block).values()]
    assert len(kept) == len(ws)
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (c.model, twin))
    for x, y in batches(c, 4):
        for b, w in zip(kept, ws, strict=True):
            b.copy_(w.detach())
        x = x.contiguous(memory_format=layout)
        training_step(ModelAndMethod(c.model, method), ours, x, y)
        training_step(ModelAndMethod(twin, bp), theirs, x, y)
    assert_same_bits(frozen(c.model), frozen(twin))


@pytest.mark.parametrize("net", NETS)
def test_weights_of_one_magnitude_and_sign_feedback_of_that_magnitude_are_backprop(net):
    c = network(net)
    with torch.no_grad():
        for block in c.model:
            for w in weights(block).values():
                w.copy_(0.125 * w.sign())
    _, updates = step(rule("usf", c, scale=0.125), c)
    assert_near(used(c, updates), plain(c), 1e-12)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", RULES)
def test_the_last_layer_gets_the_true_gradient_bit_for_bit(name, net):
    c = network(net, torch.float32)
    _, updates = step(rule(name, c), c)
    got, want = used(c, updates), plain(c)
    last = list(c.model.named_parameters())[-1][0].rpartition(".")[0]
    for n in (f"{last}.weight", f"{last}.bias"):
        assert torch.equal(got[n], want[n])
    assert not torch.equal(got[next(iter(got))], want[next(iter(want))])


@pytest.mark.parametrize("name", ["fa", "frsf"])
def test_a_layers_gradient_depends_on_the_matrices_of_the_layers_above_it_alone(name):
    c = case("mlp")
    method = rule(name, c)
    layers = [path for paths in method.paths for path in paths]
    _, before = step(method, copy.deepcopy(c))
    for i, path in enumerate(layers):
        changed = copy.deepcopy(method)
        changed.held(path).mul_(-2)
        _, after = step(changed, copy.deepcopy(c))
        same = [torch.equal(after[k].grad.params[n], g) for k in range(len(layers)) for n, g in before[k].grad.params.items() if g.ndim > 1]
        assert same == [k >= i for k in range(len(layers))]


def test_hidden_layers_escape_from_zero_weights_where_backprops_stay():
    for name, moves in (("fa", True), ("bp", False)):
        c = case("mlp")
        with torch.no_grad():
            for p in c.model.parameters():
                p.zero_()
            for block in c.blocks[:-1]:
                block.act = nn.Identity()
        _, updates = step(rule(name, c, warmed_up=False), c)
        assert bool(updates[0].grad.params["linear.weight"].any()) == moves


# --------------------------------------------------------------------------------------------------------------- laws


def linear_net(sizes: list[int], n: int, scale: float) -> tuple[Case, torch.Tensor]:
    """Blocks of one bias-free Linear each, and a table of targets: the labels are its rows."""
    g = torch.Generator().manual_seed(3)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(a, b, bias=False)) for a, b in pairwise(sizes))).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * (2 * torch.rand(p.shape, generator=g) - 1))
    x = torch.randn(n, sizes[0], generator=g, dtype=torch.float64)
    teacher = 2 * torch.rand(sizes[0], sizes[-1], generator=g, dtype=torch.float64) - 1
    return Case(model, x, torch.arange(n)), x @ teacher


def regress(targets):
    return lambda z, y: 0.5 * (z - targets[y]).square().sum() / len(y)


def feedback_alignment(c: Case, loss):
    net = NetworkInfo(c.blocks, [torch.Size([block[0].out_features]) for block in c.model], c.model[-1][0].out_features, 1, loss, 3)
    return METHODS["fa"](net, METHODS["fa"].Options()).double()


@pytest.mark.parametrize("sizes", [[30, 20, 10], [12, 9, 8, 7, 5]])
@pytest.mark.parametrize("batch", [1, 25])
def test_conservation_law(sizes, batch):
    """Each step, Δ(B W + Wᵀ Bᵀ) = Δ(W0 W0ᵀ) − lr² dW0 dW0ᵀ for neighbouring layers W0, W of a linear net (W0 ← W0 + lr dW0)."""
    c, targets = linear_net(sizes, 500, 0.1)
    method, lr = feedback_alignment(c, regress(targets)), 0.01
    bs = [b.T for b in method.kept.buffers()]  # in the papers' shape: [below, above]
    start, optimizer = frozen(method), torch.optim.SGD(c.model.parameters(), lr=lr)
    ws = [block[0].weight for block in c.model]

    def sides(i):
        mixed = bs[i + 1] @ ws[i + 1].detach()
        return mixed + mixed.T, ws[i].detach() @ ws[i].detach().T

    first = [sides(i) for i in range(len(ws) - 1)]
    second_order = [torch.zeros_like(right) for _, right in first]
    for t in range(500):
        before, old = [sides(i) for i in range(len(ws) - 1)], [w.detach().clone() for w in ws]
        at = torch.arange(t * batch, (t + 1) * batch) % len(c.x)
        training_step(ModelAndMethod(c.model, method), optimizer, c.x[at], at)
        for i, (left, right) in enumerate(before):
            now_left, now_right = sides(i)
            dw = (ws[i].detach() - old[i]) / lr
            second_order[i] += lr**2 * dw @ dw.T
            assert (now_left - left - (now_right - right - lr**2 * dw @ dw.T)).abs().max() < 1e-10
    for i, (left, right) in enumerate(first):
        now_left, now_right = sides(i)
        moved = (now_left - left).abs().max()
        assert moved > 1e-2  # the law is about something
        assert (now_left - left - (now_right - right) + second_order[i]).abs().max() < 1e-10
    assert_same_bits(frozen(method), start)


def test_the_weights_come_into_line_with_b_within_a_thousand_examples():
    """The paper's linear demonstration: the angle of B e to Wᵀ e starts near 90° and falls; e·W B e > 0."""
    c, targets = linear_net([30, 20, 10], 1000, 0.01)
    method = feedback_alignment(c, regress(targets))
    method.held("block 2.0").copy_(0.5 * (2 * torch.rand(10, 20, dtype=torch.float64) - 1))
    optimizer = torch.optim.SGD(c.model.parameters(), lr=0.01)
    cosines, gains = [], []
    for t in range(1000):
        at = torch.tensor([t])
        if t < 20 or t >= 900:
            u = {u.k: u for u in backward(method, method.forward(c.blocks, c.x[at], at))}
            backprops = u[1].signal.delta @ c.model[1][0].weight.detach()
            cosines.append(F.cosine_similarity(backprops, u[0].signal.delta).item())
            gains.append((backprops * u[0].signal.delta).sum().item())
        training_step(ModelAndMethod(c.model, method), optimizer, c.x[at], at)
    assert abs(np.mean(cosines[:20])) < 0.3
    assert np.mean(cosines[-100:]) > 0.5
    assert min(gains[-100:]) > 0


@pytest.mark.parametrize("name", DRAWN)
def test_b_never_changes_is_saved_and_is_not_the_optimisers(name):
    config = make_config(method=name, width=4, depth=2, optimizer="adamw", weight_decay=0.1, lr=0.01)
    pair = build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu"))
    start, optimizer = frozen(pair.method), make_optimizer(config, pair)
    assert list(start) == [f"kept.{n}/weight" for n in ("block1/conv", "block2/conv", "top/hidden", "top/out")]
    weights_before = frozen(pair.model)
    for i, (x, y) in enumerate(batches(case("mlp", torch.float32), 5)):
        pair.method.start(1, i)
        training_step(pair, optimizer, x, y, Recording(i, diagnose=True))
    assert_same_bits(frozen(pair.method), start)
    assert not torch.equal(frozen(pair.model)["block1.conv.weight"], weights_before["block1.conv.weight"])
    mine = {id(b) for b in pair.method.buffers()}
    assert not mine & {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert list(pair.method.parameters()) == []


@pytest.mark.parametrize("name", RULES)
def test_a_step_costs_backprops_multiply_adds_and_no_more(name):
    for net in NETS:
        costs = []
        for method in (rule(name, c := network(net)), rule("bp", c)):
            costs.append(count(lambda method=method, c=c: list(backward(method, method.forward(c.blocks, c.x, c.y)))))
        assert costs[0] == costs[1] > 0


# ------------------------------------------------------------------------------------------------------------- the truth


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", RULES)
def test_forward_and_truth_are_backprops_bit_for_bit_on_a_tangled_net(name, layout, bf16):
    c = tangled(torch.float32)
    c = c._replace(model=c.model.to(memory_format=layout), x=c.x.contiguous(memory_format=layout))
    method = rule(name, c).to(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if bf16:
            c.model[2].shortcut = nn.Conv2d(4, 8, 1, bias=False)
            method = rule(name, c)
        twin = uncut(c.model, c.x, c.y)
        passes, updates = step(method, c)
        truth = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates)).grads
    for k, grad in enumerate(truth):
        assert torch.equal(passes[k].h, twin.outputs[k])
        assert passes[k].h.dtype == twin.outputs[k].dtype
        if bf16 and k == 1:
            continue  # its layer that is used twice adds up its two gradients in float32 here, and in bfloat16 there
        assert_same_bits(grad.params, twin.gradients(k))
    assert not torch.equal(updates[0].grad.params["0.weight"], truth[0].params["0.weight"])


@pytest.mark.parametrize("name", RULES)
def test_in_bf16_gradients_are_those_of_the_net_written_out(name):
    c = tangled(torch.float32)
    method = rule(name, c)
    with torch.autocast("cpu", torch.bfloat16):
        _, updates = step(method, c)
    got, want, true = used(c, updates), by_hand(c, matrices(method, c.model)), plain(c)
    for n in ("stem.0.weight", "res.branch.conv1.weight", "tokens.first.weight"):
        assert F.cosine_similarity(got[n].flatten(), want[n].flatten(), dim=0) > 0.98
        assert got[n].dtype == torch.float32
    assert F.cosine_similarity(got["stem.0.weight"].flatten(), true["stem.0.weight"].flatten(), dim=0) < 0.95


def test_the_sparse_diagnostics_of_a_step_see_the_rule_where_they_should():
    """cos(rule on half A, truth on half B) is one where B = W and the halves are alike; with a random B it is not."""
    c = case("mlp")
    x = torch.cat([c.x, c.x])
    c = c._replace(x=x, y=torch.cat([c.y, c.y]))
    names = [n for n, _ in c.model.named_children()]
    method = rule("fa", c)

    def corrected():
        run = run_step(method, c.blocks, c.x, c.y)
        truth = true_gradients(method, run, keep=True)
        return {r.layer: r.value for r in sparse_rows(0, names, method, run, truth) if r.quantity == "corrected_cosine"}

    assert corrected()["block1.linear"] < 0.9
    for b, w in zip(method.kept.buffers(), (w for block in c.model for w in weights(block).values()), strict=True):
        b.copy_(w.detach())
    assert corrected()["block1.linear"] == pytest.approx(1, abs=0.05)


# ------------------------------------------------------------------------------------------------- nothing is left behind


def state_of_torch():
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)  # torch 2.8 and later
    return torch._C._len_torch_function_stack(), hooks(True)


def appearance(model):
    hooks = {n: [len(v) for k, v in sorted(vars(m).items()) if "hooks" in k and v is not None] for n, m in model.named_modules()}
    return hooks, [(n, type(m), sorted(vars(m))) for n, m in model.named_modules()]


@pytest.mark.parametrize("name", RULES)
def test_the_forward_pass_leaves_no_mode_no_hook_and_no_change_to_the_modules(name):
    c = tangled()
    method = rule(name, c)
    before = appearance(c.model)
    passes = method.forward(c.blocks, c.x, c.y)
    for _ in c.model:  # between blocks, while the generator is suspended, other code runs as always
        next(passes)
        assert state_of_torch() == (0, None)
        assert appearance(c.model) == before
    assert next(passes, None) is None
    assert not method.active


def test_a_block_that_raises_leaves_no_mode_and_an_interrupted_backward_no_active_rule():
    class Failing(nn.Module):
        def forward(self, x):
            raise ArithmeticError

    c = case("mlp")
    method = rule("fa", c)
    blocks = [*c.blocks[:2], nn.Sequential(c.model[2], Failing()), *c.blocks[3:]]
    with pytest.raises(ArithmeticError):
        list(method.forward(blocks, c.x, c.y))
    assert state_of_torch() == (0, None)
    _, updates = step(method, c)
    cut_short = updates[4].signal._replace(delta=torch.zeros(3))  # of a shape that no backward pass takes
    method.signal = lambda k, passes, received: cut_short
    with pytest.raises(RuntimeError):
        step(method, c)
    assert not method.active


def test_an_input_that_is_overwritten_before_its_backward_pass_is_found_as_torch_would():
    class Spoiling(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 12)

        def forward(self, x):
            x = x * 2
            h = self.layer(x)
            x.zero_()
            return h

    c = case("mlp")
    c.model[1] = Spoiling().double()
    method = rule("fa", c, warmed_up=False)
    with pytest.raises(RuntimeError, match=r"block2\.layer.*overwritten in place"):
        step(method, c)


def test_a_copy_of_the_weight_in_the_graph_is_an_error_and_not_silently_the_truth(monkeypatch):
    c = case("mlp")
    method = rule("fa", c)
    with pytest.raises(RuntimeError, match="saves a copy"):
        method.marked("block1.linear", c.model[0].linear.weight, lambda w: c.x.flatten(1) @ w.T.clone())


# ------------------------------------------------------------------------------------------------------------- bad input


def made(name, block):
    c = case("mlp")
    c.model[1] = nn.Sequential(c.model[1], block.double())
    return rule(name, c, warmed_up=False)


class Mine(nn.Linear):
    pass


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(12))

    def forward(self, x):
        return self.factor * x


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(12, 2)

    def forward(self, x):
        return self.attn(x, x, x)[0]


class Wide(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x[:, None]).mean(1)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (Attending(), "block2.1.attn (MultiheadAttention)"),
        (Wide(nn.Conv1d(1, 2, 3, padding=1)), "block2.1.layer (Conv1d)"),
        (Mine(12, 12), "block2.1 (Mine)"),
        (Scaled(), "block2.1 (Scaled)"),
        (parametrize.register_parametrization(nn.Linear(12, 12), "weight", nn.Tanh()), "block2.1 (ParametrizedLinear)"),
    ],
)
@pytest.mark.parametrize("name", RULES)
def test_a_layer_that_has_no_feedback_is_named_with_its_path(name, block, words):
    with pytest.raises(InputError) as caught:
        made(name, copy.deepcopy(block))
    assert str(caught.value) == f"{name} has no feedback for {words}; it supports Linear and Conv2d"


def test_layers_without_a_weight_matrix_go_back_exactly():
    c = case("mlp")
    c.model[1] = nn.Sequential(c.model[1], nn.LayerNorm(12), nn.PReLU(), nn.BatchNorm1d(12), nn.GroupNorm(3, 12), nn.RMSNorm(12)).double()
    method = rule("fa", c)
    _, updates = step(method, c)
    assert_near(used(c, updates), by_hand(c, matrices(method, c.model)), 1e-11)


def test_blocks_are_not_compiled_under_a_feedback_rule():
    for name in RULES:
        with pytest.raises(InputError, match="--compile"):
            make_config(method=name, compile=True)


# ---------------------------------------------------------------------------------------------------- which matrix it is


def test_b_is_drawn_as_pytorch_draws_a_weight_keyed_by_seed_and_layer():
    c = Case(build("mlp", ModelSpec((1, 8, 8), 10, width=400, depth=3)), torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))

    def kept(seed=3, **options):
        net = make_network_info(c.model, c.shape, 10, LOSSES["ce"], seed)
        return [b.clone() for b in METHODS["fa"](net, METHODS["fa"].Options(**options)).kept.buffers()]

    first, wide, other = kept(), kept(scale=2.0), kept(4)
    for b, twice, another, w in zip(first, wide, other, (w for block in c.model for w in weights(block).values()), strict=True):
        bound = 1 / math.sqrt(w.shape[1])  # PyTorch's own
        assert b.shape == w.shape
        assert 0.97 * bound < b.abs().max() < bound
        assert b.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(b.mean()) < 0.05 * bound
        torch.testing.assert_close(twice, 2 * b)
        assert not torch.equal(another, b)
    assert not torch.equal(first[1], first[2])  # of one shape, and of different layers
    for b, w in zip(kept(init="xavier"), (w for block in c.model for w in weights(block).values()), strict=True):
        drawn = nn.init.xavier_uniform_(torch.empty_like(w))
        assert b.std() == pytest.approx(drawn.std().item(), rel=0.05)


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_sign_feedback_has_the_standard_deviation_of_an_initial_weight(init):
    w = torch.empty(60, 40, 3, 3, dtype=torch.float64)
    model = nn.Sequential(nn.Conv2d(40, 60, 3), nn.Sequential(nn.Flatten(), nn.Linear(60 * 4, 10))).double()
    c = Case(model, torch.zeros(2, 40, 4, 4), torch.zeros(2))
    drawn = nn.init.xavier_uniform_(w) if init == "xavier" else nn.init.kaiming_uniform_(w, a=math.sqrt(5))
    for name in ("usf", "frsf", "brsf"):
        net = make_network_info(c.model, c.shape, 10, LOSSES["ce"], 3)
        method = METHODS[name](net, METHODS[name].Options(init=init)).double()
        b = method.matrix(method.paths[0][0], c.model[0].weight.detach())
        assert b.square().mean().sqrt() == pytest.approx(drawn.square().mean().sqrt().item(), rel=0.03)
        assert torch.equal(b.sign(), c.model[0].weight.sign())
        assert (b.abs().unique().numel() == 1) == (name == "usf")


@pytest.mark.parametrize("name", ["usf", "frsf", "brsf"])
def test_signs_follow_the_weights_and_a_zero_weight_has_no_sign(name):
    c = case("mlp")
    method = rule(name, c)
    w, path = c.model[1].linear.weight.detach(), "block2.linear"
    size = method.matrix(path, w).abs()
    w[0] *= -1
    w[1] = 0
    b = method.matrix(path, w)
    assert torch.equal(b[0], w[0].sign() * size[0])
    assert not b[1].any()
    assert torch.equal(b[2:], w[2:].sign() * size[2:])


def test_scale_is_c():
    c = case("mlp")
    path, w = "block2.linear", torch.ones(12, 12, dtype=torch.float64)
    assert (rule("usf", c, scale=0.3).matrix(path, w) == 0.3).all()
    small, large = (rule("frsf", c, scale=s).matrix(path, w) for s in (0.1, 0.3))
    torch.testing.assert_close(large, 3 * small)
    assert 0.97 * 0.3 * math.sqrt(3) < large.max() <= 0.3 * math.sqrt(3)
    assert large.min() >= 0
    for name in RULES:
        with pytest.raises(InputError, match="scale"):
            make_config(method=name, options={"scale": -1})


def test_brsf_draws_anew_each_training_step_the_same_for_the_same_step_and_never_in_evaluation():
    config = make_config(method="brsf", width=4, depth=2, batch_size=64)
    pair = build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu"))
    method, optimizer = pair.method, make_optimizer(config, pair)
    assert not method.state_dict().keys() ^ {f"kept.{n}/weight" for n in ("block1/conv", "block2/conv", "top/hidden", "top/out")}
    stream, draws = torch.get_rng_state(), []
    for i, (x, y) in enumerate(batches(case("mlp", torch.float32), 3)):
        method.start(1, i)
        draws.append(frozen(method))
        training_step(pair, optimizer, x, y, Recording(i, diagnose=True))
        assert_same_bits(frozen(method), draws[-1])  # the truth and the diagnostics of a step see its own draw
    assert torch.equal(torch.get_rng_state(), stream)
    for name in draws[0]:
        assert not torch.equal(draws[0][name], draws[1][name])
        assert not torch.equal(draws[1][name], draws[2][name])
        assert all((d[name] >= 0).all() for d in draws)
    evaluate(pair, load_data("digits", limit=70).test, lambda images: images.float() / 255, config)
    assert_same_bits(frozen(method), draws[2])
    later = build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu")).method
    later.start(7, 1)
    assert_same_bits(frozen(later), draws[1])


def test_a_step_measured_again_gives_the_same_numbers_under_a_redrawn_rule():
    c = case("mlp")
    method = rule("brsf", c)
    got = []
    for at in (5, 6, 5):
        method.start(1, at)
        got.append(used(c, step(method, copy.deepcopy(c))[1]))
    assert_same_bits(got[0], got[2])
    assert not torch.equal(got[0]["block1.linear.weight"], got[1]["block1.linear.weight"])


# --------------------------------------------------------------------------------------------------------- Kolen–Pollack


@pytest.mark.parametrize(
    ("settings", "momentum"),
    [({}, 0.9), ({"momentum": 0.0, "lr": 0.05, "weight_decay": 0.3}, 0.0), ({"optimizer": "adamw", "momentum": 0.0, "lr": 1e-2}, 0)],
    ids=["own", "plain", "adamw"],
)
@pytest.mark.parametrize("net", ["basic-cnn", "mlp"])
def test_the_difference_of_b_and_w_shrinks_by_exactly_the_decay_factor_each_step(net, settings, momentum):
    config = make_config(method="kp", **settings)
    assert config.optimizer.momentum == momentum
    c = case(net)
    pair = ModelAndMethod(c.model, rule("kp", c, warmed_up=False))
    optimizer = make_optimizer(config, pair)
    factor = 1 - config.optimizer.lr * config.optimizer.weight_decay
    ws = [w for block in c.model for w in weights(block).values()]

    def differences():
        return [(b - w).detach().clone() for b, w in zip(pair.method.kept.parameters(), ws, strict=True)]

    start, moved = differences(), [w.detach().clone() for w in ws]
    for x, y in batches(c, 12):
        before = differences()
        training_step(pair, optimizer, x, y)
        for d, old in zip(differences(), before, strict=True):
            assert (d - factor * old).norm() <= 1e-12 * old.norm()
    for d, s, w, old in zip(differences(), start, ws, moved, strict=True):
        assert (d - factor**12 * s).norm() <= 1e-12 * s.norm()
        assert not torch.equal(w, old)


@pytest.mark.slow
def test_b_comes_into_line_with_the_weights():
    c = case("mlp", images=40)
    config = make_config(method="kp", weight_decay=0.1)
    pair = ModelAndMethod(c.model, rule("kp", c, warmed_up=False))
    optimizer = make_optimizer(config, pair)

    ws = {"block2.linear": c.model[1].linear.weight, "top.out": c.model[-1].out.weight}

    def angles():
        return [math.degrees(math.acos(F.cosine_similarity(pair.method.held(p).flatten(), w.detach().flatten(), 0))) for p, w in ws.items()]

    start = angles()
    for _ in range(100):
        training_step(pair, optimizer, c.x, c.y)
    middle = angles()
    for _ in range(500):
        training_step(pair, optimizer, c.x, c.y)
    end = angles()
    assert all(s > 75 for s in start)
    assert all(m < s - 5 for m, s in zip(middle, start, strict=True))
    assert all(e < m / 2 for e, m in zip(end, middle, strict=True))
    assert end[1] < 2


def test_b_gets_the_very_gradient_of_its_weight():
    for net in NETS:
        c = network(net)
        _, updates = step(rule("kp", c), c)
        grads = used(c, updates)
        own = {n: g for u in updates.values() for n, g in u.aux_grads.items()}
        paths = {n.removeprefix("kept.").replace("/", "."): g for n, g in own.items()}
        assert len(paths) == sum(len(weights(block)) for block in c.model)
        for path, g in paths.items():
            assert torch.equal(g, grads[path])


def test_the_feedback_of_a_frozen_weight_is_frozen_too():
    c = case("mlp")
    c.model[1].linear.weight.requires_grad_(False)
    method = rule("kp", c)
    assert [p.requires_grad for p in method.kept.parameters()] == [True, False, True, True, True]
    _, updates = step(method, c)
    assert updates[1].aux_grads == {}
    assert_near(
        used(c, updates),
        {n: g for n, g in by_hand(c, matrices(method, c.model)).items() if g is not None},
        1e-11,
    )


# ---------------------------------------------------------------------------------------------------------- shared weights


def sharing() -> Case:
    c = case("mlp")
    c.model[2].linear.weight = c.model[1].linear.weight
    return c


@pytest.mark.parametrize("name", ["fa", "kp", "usf"])
def test_layers_that_share_a_weight_share_its_feedback(name):
    c = sharing()
    method = rule(name, c)
    assert method.paths[2] == method.paths[1] == ["block2.linear"]
    b = matrices(method, c.model)
    _, updates = step(method, c)
    want = by_hand(c, {**b, "block3.linear": b["block2.linear"]})
    got = used(c, updates)
    got["block2.linear.weight"] = got["block2.linear.weight"] + got.pop("block3.linear.weight")
    assert_near(got, want, 1e-11)


def test_a_shared_weight_and_its_b_shrink_together():
    c = sharing()
    config = make_config(method="kp")
    pair = ModelAndMethod(c.model, rule("kp", c))
    optimizer = make_optimizer(config, pair)
    for x, y in batches(c, 4):
        before = (pair.method.held("block2.linear") - c.model[1].linear.weight).detach().clone()
        training_step(pair, optimizer, x, y)
        after = pair.method.held("block2.linear") - c.model[1].linear.weight
        assert (after - (1 - config.optimizer.lr * config.optimizer.weight_decay) * before).norm() < 1e-12 * before.norm()


# --------------------------------------------------------------------------------------------------------------- angles


def test_pairs_are_b_beside_w_and_beside_its_pseudo_inverse_for_every_layer_that_sends_something_down():
    c = tangled()
    method = rule("fa", c)
    run = run_step(method, c.blocks, c.x, c.y)
    pairs = list(method.feedback_pairs(run, run.passes))
    modules = dict(c.model.named_modules())
    layers = [n for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv2d) and n != "stem.0"]  # which reads the image
    assert [(p.layer, p.kind) for p in pairs] == [(n, k) for n in layers for k in ("feedback_transpose", "feedback_pseudoinverse")]
    for p in pairs:
        m = modules[p.layer]
        assert torch.equal(p.mine, method.held(p.layer))
        if p.kind == "feedback_transpose":
            assert torch.equal(p.true, m.weight)
            continue
        n, g = len(m.weight), getattr(m, "groups", 1)
        matrix, inside = np.zeros((n, m.weight[0].numel() * g)), m.weight[0].numel()
        for i in range(n):  # the im2col matrix: a group's outputs read the group's inputs alone
            at = i // (n // g) * inside
            matrix[i, at : at + inside] = m.weight[i].detach().flatten()
        inverse = np.linalg.pinv(matrix).T
        for i in range(n):
            at = i // (n // g) * inside
            np.testing.assert_allclose(p.true[i].flatten(), inverse[i, at : at + inside], rtol=1e-9, atol=1e-12)
        assert np.count_nonzero(np.abs(inverse) > 1e-12) <= m.weight.numel()


def test_the_pseudo_inverse_of_a_matrix_with_orthogonal_rows_is_its_transpose():
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0][:4]
    torch.testing.assert_close(pseudo_inverse(q), q)
    torch.testing.assert_close(pseudo_inverse(2 * q), q / 2)
    assert not pseudo_inverse(torch.zeros(3, 5)).any()


def test_angles_come_out_as_rows_of_the_sparse_records():
    c = case("basic-cnn")
    method = rule("kp", c)
    with torch.no_grad():
        for b, w in zip(method.kept.parameters(), (w for block in c.model for w in weights(block).values()), strict=True):
            b.copy_(2 * w)
    run = run_step(method, c.blocks, c.x, c.y)
    rows = sparse_rows(0, [n for n, _ in c.model.named_children()], method, run, true_gradients(method, run, keep=True))
    found = {(r.layer, r.quantity): r.value for r in rows if r.kind == "feedback_transpose"}
    assert {layer for layer, _ in found} == {"block2.conv", "block3.conv", "top.hidden", "top.out"}
    for layer in ("block2.conv", "top.out"):
        assert found[layer, "angle"] == pytest.approx(0, abs=1e-5)
        assert found[layer, "norm_ratio"] == pytest.approx(2)
    assert {r.layer for r in rows if r.kind == "feedback_pseudoinverse"} == {layer for layer, _ in found}


def test_a_rule_made_for_one_net_runs_on_a_copy_of_it():
    c = case("basic-cnn")
    method = stirred(METHODS["kp"](make_network_info(c.model, c.shape, 10, LOSSES["ce"], 3), METHODS["kp"].Options()).double())
    _, here = step(method, copy.deepcopy(c))
    _, there = step(copy.deepcopy(method), copy.deepcopy(c))
    for k in here:
        assert_same_bits(here[k].grad.params, there[k].grad.params)
