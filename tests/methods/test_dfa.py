"""Direct feedback alignment: the error signal of each block is B e, whatever the later blocks are."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracles import Case, assert_near, assert_same_bits, batches, case, frozen, nll, rule, step, uncut
from torch import nn

from gradlens.gradients.backward import backward, run_step
from gradlens.gradients.block_pass import pull_back
from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Step
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.resnet import basic_residual
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod, build_model_and_method, make_network_info
from gradlens.training.config import make_config
from gradlens.training.cost.flops import count
from gradlens.training.optimizers import make_optimizer
from gradlens.training.step import Recording, training_step

NETS = ("basic-cnn", "vgg11", "mlp")


def error(c: Case) -> torch.Tensor:
    """dL/dlogits of the mean cross-entropy, in closed form: (softmax − one-hot) / N."""
    z = copy.deepcopy(c.model)(c.x).detach()
    return (z.softmax(1) - F.one_hot(c.y, 10)) / len(c.y)


def feedback(method, k: int) -> torch.Tensor:
    """B_k [C, n_k] from what is saved, by the papers' formulas."""
    saved = dict(method.named_buffers())
    if not method.options.shared:
        return saved[f"feedback.{k}"]
    whole = saved["feedback.shared"]
    return whole[:, : method.sizes[k]] / whole.shape[1] ** 0.5


# ----------------------------------------------------------------------------------------------------------- the signal


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_the_signal_is_b_e_image_by_image(net, shared):
    c = case(net)
    method, e = rule("dfa", c, shared=shared), error(c)
    passes, updates = step(method, c)
    for k in range(len(passes) - 1):
        b, delta = feedback(method, k), updates[k].signal.delta
        assert delta.shape == passes[k].h.shape
        for n in range(len(e)):
            want = sum(e[n, i] * b[i] for i in range(10))
            torch.testing.assert_close(delta[n].flatten(), want, rtol=1e-12, atol=1e-15)
        assert updates[k].signal.messages_below == ()


@pytest.mark.parametrize("net", NETS)
def test_inside_a_block_and_in_the_top_it_is_backprop(net):
    c = case(net)
    method = rule("dfa", c)
    passes, updates = step(method, c)
    for k, block in enumerate(c.model):
        twin = copy.deepcopy(block)
        h = twin(passes[k].x.detach())
        h.backward(updates[k].signal.delta)
        assert_near(updates[k].grad.params, {n: p.grad for n, p in twin.named_parameters()}, 1e-12)
    assert_near(updates[len(passes) - 1].grad.params, uncut(c.model, c.x, c.y).gradients(len(passes) - 1), 1e-12)


def test_the_error_signal_is_linear_in_the_error_and_does_not_depend_on_the_weights_above():
    slopes = torch.randn(6, 10, dtype=torch.float64)

    def told(method, c, e):
        method.loss = lambda z, y: (z * e).sum()  # its gradient is e, whatever the network
        return step(method, c)[1]

    c = case("basic-cnn")
    method = rule("dfa", c)
    first = told(method, copy.deepcopy(c), slopes)
    twice = told(method, copy.deepcopy(c), 2 * slopes)
    for k in range(3):
        torch.testing.assert_close(twice[k].signal.delta, 2 * first[k].signal.delta)
        other = copy.deepcopy(c)
        with torch.no_grad():
            for block in other.blocks[k + 1 :]:
                for p in block.parameters():
                    p.mul_(-3)
        changed = told(method, other, slopes)
        assert torch.equal(changed[k].signal.delta, first[k].signal.delta)
        assert_same_bits(changed[k].grad.params, first[k].grad.params)


def test_images_that_are_alike_have_the_same_error_signal():
    c = case("basic-cnn")
    c = c._replace(x=c.x[:1].expand(6, -1, -1, -1).contiguous(), y=c.y[:1].expand(6).contiguous())
    _, updates = step(rule("dfa", c), c)
    for k in range(3):
        delta = updates[k].signal.delta
        torch.testing.assert_close(delta, delta[:1].expand_as(delta), rtol=1e-12, atol=1e-15)


def test_blocks_may_be_updated_in_any_order():
    c = case("basic-cnn")
    method = rule("dfa", c)
    passes, updates = step(method, c)
    for k in (1, 3, 0, 2):
        signal = method.signal(k, dict(enumerate(passes)), ())
        assert_same_bits(pull_back(passes[k], signal.delta, signal.messages_below, keep=True).params, updates[k].grad.params)


# --------------------------------------------------------------------------------------------------------------- limits


def test_with_one_hidden_layer_it_is_feedback_alignment_with_the_same_b():
    c = case("mlp")
    c = c._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=1, activation="tanh")).double())
    dfa, fa = rule("dfa", c), rule("fa", c)
    fa.held("top.out").copy_(feedback(dfa, 0))
    ours, theirs = Case(copy.deepcopy(c.model), c.x, c.y), Case(copy.deepcopy(c.model), c.x, c.y)
    optimizers = [torch.optim.SGD(m.model.parameters(), lr=0.2) for m in (ours, theirs)]
    for x, y in batches(c, 5):
        training_step(ModelAndMethod(ours.model, dfa), optimizers[0], x, y)
        training_step(ModelAndMethod(theirs.model, fa), optimizers[1], x, y)
    assert_near(frozen(ours.model), frozen(theirs.model), 1e-12)
    assert not torch.equal(ours.model[0].linear.weight, c.model[0].linear.weight)


def linear_net(*sizes: int) -> Case:
    torch.manual_seed(2)
    blocks = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    return Case(nn.Sequential(*blocks).double(), torch.randn(6, sizes[0], dtype=torch.float64), torch.arange(6))


def made(c: Case, loss=nll, **options):
    shapes = [torch.Size([block.out_features]) for block in c.model]
    return METHODS["dfa"](NetworkInfo(c.blocks, shapes, 10, 1, loss, 3), METHODS["dfa"].Options(**options)).double()


def test_in_a_linear_net_whose_b_are_the_products_of_the_weights_above_it_is_backprop():
    c = linear_net(7, 9, 8, 10)
    method = made(c)
    method.feedback.get_buffer("1").copy_(c.model[2].weight.detach())
    method.feedback.get_buffer("0").copy_((c.model[2].weight @ c.model[1].weight).detach())
    _, updates = step(method, c)
    twin = uncut(c.model, c.x, c.y)
    for k in range(3):
        assert_near(updates[k].grad.params, twin.gradients(k), 1e-12)


def trained(name: str, c: Case, method, lr: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD(c.model.parameters(), lr=lr)
    return [training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y).loss.item() for _ in range(steps)]


def test_a_tanh_net_that_starts_at_zero_learns_where_backprops_does_not():
    ends = {}
    for name in ("dfa", "bp"):
        c = case("mlp")
        c = c._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=20, depth=3, activation="tanh")).double(), y=torch.arange(6))
        with torch.no_grad():
            for p in c.model.parameters():
                p.zero_()
        losses = trained(name, c, rule(name, c), 0.5, 300)
        ends[name] = losses[-1]
        assert losses[0] == pytest.approx(math.log(10))
        assert bool(c.model[0].linear.weight.any()) == (name == "dfa")
    assert ends["dfa"] < 0.05
    assert ends["bp"] > 1.7  # six labels of ten: the last bias alone can reach log 6


@pytest.mark.slow
def test_a_linear_net_from_zero_reaches_zero_cost_and_its_signal_points_downhill_all_the_way():
    c = linear_net(7, 200, 10)
    with torch.no_grad():
        for p in c.model.parameters():
            p.zero_()
    targets = c.x @ torch.randn(7, 10, dtype=torch.float64)
    method = made(c, loss=lambda z, y: 0.5 * (z - targets).square().sum() / len(y), scale=20.0)
    optimizer, losses = torch.optim.SGD(c.model.parameters(), lr=0.002), []
    for t in range(1500):
        if t % 50 == 10:  # at the very start nothing comes down by the true way
            _, updates = step(method, c)
            down = updates[1].signal.delta @ c.model[1].weight.detach()
            assert (down * updates[0].signal.delta).sum() > 0
        losses.append(training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y).loss.item())
    assert losses[-1] < 1e-3 * losses[0]


# ------------------------------------------------------------------------------------------------------------------ cost


def test_a_step_of_the_basic_cnn_costs_at_most_three_quarters_of_backprops_multiply_adds():
    model = build("basic-cnn", ModelSpec((3, 32, 32), 10))
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    costs = {}
    for name in ("dfa", "bp"):
        method = METHODS[name](make_network_info(model, (3, 32, 32), 10, LOSSES["ce"]), METHODS[name].Options())
        costs[name] = count(lambda method=method: list(backward(method, method.forward(list(model), x, y))))
    assert costs["dfa"] <= 0.75 * costs["bp"]


def test_the_error_signal_lies_in_memory_as_what_it_is_the_gradient_of():
    for layout in (torch.contiguous_format, torch.channels_last):
        c = case("basic-cnn", torch.float32)
        c = c._replace(model=c.model.to(memory_format=layout), x=c.x.contiguous(memory_format=layout))
        passes, updates = step(rule("dfa", c), c)
        assert [updates[k].signal.delta.stride() for k in range(3)] == [p.h.stride() for p in passes[:3]]
        assert passes[0].h.is_contiguous(memory_format=layout)


# ------------------------------------------------------------------------------------------------------------- residual


def residual(dtype=torch.float64) -> Case:
    """Stem, four residual blocks with every kind of shortcut, top.

    Eight channels at least: oneDNN's AVX2 kernel for the weights of a channels-last 1×1 convolution of stride 2 writes past its output
    where the channels it reads are no multiple of eight (torch 2.14).
    """
    torch.manual_seed(5)
    stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    steps = [(8, 8, 1, False), (8, 12, 2, True), (12, 12, 1, False), (12, 16, 2, False)]
    blocks = [basic_residual(a, b, s, nn.ReLU, project) for a, b, s, project in steps]
    model = nn.Sequential(stem, *blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))).to(dtype)
    return Case(model, torch.randn(5, 2, 8, 8, dtype=torch.float64).to(dtype), torch.randint(0, 10, (5,)))


@pytest.mark.parametrize("skip", ["blocked", "exact"])
def test_skips_carry_nothing_or_exactly_their_share(skip):
    c = residual()
    method, e = rule("dfa", c, skip=skip), error(c)
    passes, updates = step(method, c)
    carried = 0.0
    for k in range(4, -1, -1):
        torch.testing.assert_close(updates[k].signal.delta, (e @ feedback(method, k)).reshape(passes[k].h.shape) + carried)
        twin, x = copy.deepcopy(c.model[k]), passes[k].x.detach().requires_grad_()
        twin(x).backward(updates[k].signal.delta)
        assert_near(updates[k].grad.params, {n: p.grad for n, p in twin.named_parameters()}, 1e-11)  # the whole block is trained
        if k and skip == "exact":
            x.grad, twin = None, copy.deepcopy(c.model[k])
            twin.act(twin.branch(x).detach() + twin.shortcut(x)).backward(updates[k].signal.delta)
            carried = x.grad
            assert carried.abs().max() > 0
        assert (updates[k].signal.messages_below == ()) == (skip == "blocked" or k == 0)
    for name, p in uncut(c.model, c.x, c.y).model[5].named_parameters():
        torch.testing.assert_close(updates[5].grad.params[name], p.grad)


def test_an_exact_skip_past_a_branch_that_gives_nothing_is_the_true_way():
    c = residual()
    with torch.no_grad():
        for block in c.blocks[1:5]:
            block.branch.norm2.weight.zero_()
    method = rule("dfa", c, skip="exact")
    passes, updates = step(method, c)
    for k in range(1, 5):
        (true,) = pull_back(passes[k], None, (updates[k].signal.delta,), keep=True).below
        torch.testing.assert_close(updates[k].grad.below[0], true)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_truth_past_gates_is_backprops_bit_for_bit(layout, bf16):
    c = residual(torch.float32)
    c = c._replace(model=c.model.to(memory_format=layout), x=c.x.contiguous(memory_format=layout))
    method = rule("dfa", c, skip="exact")
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        twin = uncut(c.model, c.x, c.y)
        passes, updates = step(method, c)
        truth = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates)).grads
    for k, grad in enumerate(truth):
        assert torch.equal(passes[k].h, twin.outputs[k])
        assert_same_bits(grad.params, twin.gradients(k))
        assert updates[k].signal.delta.dtype == passes[k].h.dtype
    assert not torch.equal(updates[0].grad.params["0.weight"], truth[0].params["0.weight"])


def test_gates_are_gone_between_blocks_and_after_a_block_that_raises():
    c = residual()
    method = rule("dfa", c, skip="exact")

    def gates():
        return [m for block in c.model for m in block.modules() if m._forward_pre_hooks]

    for _ in method.forward(c.blocks, c.x, c.y):
        assert gates() == []
    with pytest.raises(RuntimeError):
        list(method.forward(c.blocks, c.x[:, :1], c.y))
    blocks = [*c.blocks[:2], c.model[4]]  # which reads another number of channels
    with pytest.raises(RuntimeError):
        list(method.forward(blocks, c.x, c.y))
    assert gates() == []


def test_what_skips_carry_is_not_asked_of_a_network_without_any():
    for net in NETS:
        with pytest.raises(InputError, match="skip=exact.*none"):
            rule("dfa", case(net), skip="exact")


# ------------------------------------------------------------------------------------------------------------------- B


def test_b_is_drawn_as_the_papers_say_keyed_by_the_seed():
    c = case("basic-cnn")

    def drawn(seed=3, **options):
        net = make_network_info(c.model, c.shape, 10, LOSSES["ce"], seed)
        return METHODS["dfa"](net, METHODS["dfa"].Options(**options))

    own, shared = drawn(), drawn(shared=True)
    assert [tuple(b.shape) for b in own.buffers()] == [(10, 64), (10, 16), (10, 4)]
    for b in own.buffers():
        assert 0.8 / b.shape[1] ** 0.5 < b.abs().max() <= 1 / b.shape[1] ** 0.5
        assert b.min() < 0 < b.max()
    (whole,) = shared.buffers()
    assert whole.shape == (10, 64)
    assert 0.97 < whole.abs().max() <= 1
    assert whole.std() == pytest.approx(1 / 3**0.5, rel=0.1)
    for k in range(3):
        torch.testing.assert_close(shared.matrix(k), whole[:, : (64, 16, 4)[k]] / 8)
        torch.testing.assert_close(drawn(scale=3.0).matrix(k), 3 * own.matrix(k))
        torch.testing.assert_close(drawn(scale=3.0, shared=True).matrix(k), 3 * shared.matrix(k))
        assert not torch.equal(drawn(4).matrix(k), own.matrix(k))


@pytest.mark.parametrize("shared", [False, True])
def test_b_never_changes_is_saved_and_is_not_the_optimisers(shared):
    config = make_config(method="dfa", width=4, depth=2, optimizer="adamw", weight_decay=0.1, options={"shared": shared})
    pair = build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu"))
    start, optimizer = frozen(pair.method), make_optimizer(config, pair)
    assert list(start) == (["feedback.shared"] if shared else ["feedback.0", "feedback.1"])
    for i, (x, y) in enumerate(batches(case("mlp", torch.float32), 4)):
        training_step(pair, optimizer, x, y, Recording(i, diagnose=True))
    assert_same_bits(frozen(pair.method), start)
    assert list(pair.method.parameters()) == []


def test_options_that_cannot_be_are_refused():
    for options, word in (({"skip": "none"}, "skip"), ({"scale": 0}, "scale"), ({"shared": "maybe"}, "shared")):
        with pytest.raises(InputError, match=word):
            make_config(method="dfa", options=options)


# ------------------------------------------------------------------------------------------------------------ diagnostics


@pytest.mark.parametrize("net", ["basic-cnn", "mlp", "residual"])
def test_pairs_are_b_beside_the_batch_mean_jacobian_of_the_logits(net):
    c = residual() if net == "residual" else case(net)
    method = rule("dfa", c, skip="exact" if net == "residual" else "blocked")
    run = run_step(method, c.blocks, c.x, c.y)
    pairs, names = list(method.feedback_pairs(run, run.passes)), [n for n, _ in c.model.named_children()]
    assert [(p.layer, p.kind) for p in pairs] == [(n, "feedback_jacobian") for n in names[:-1]]
    for k, p in enumerate(pairs):
        assert torch.equal(p.mine, method.matrix(k))
        rest = copy.deepcopy(c.model[k + 1 :])
        whole = torch.autograd.functional.jacobian(rest, run.passes[k].z.detach())  # [N, C, N, *out]
        want = whole.sum(0).mean(1).flatten(1)  # BatchNorm lets an image's logits depend on the others of its batch
        torch.testing.assert_close(p.true, want, rtol=1e-9, atol=1e-12)


def test_the_angle_to_the_jacobian_comes_out_as_rows():
    c = case("mlp")
    method = rule("dfa", c)
    run = run_step(method, c.blocks, c.x, c.y)
    rows = sparse_rows(0, [n for n, _ in c.model.named_children()], method, run, true_gradients(method, run, keep=True))
    angles = {r.layer: r.value for r in rows if (r.kind, r.quantity) == ("feedback_jacobian", "angle")}
    assert set(angles) == {"block1", "block2", "block3", "block4"}
    assert all(40 < a < 140 for a in angles.values())


# ------------------------------------------------------------------------------------------------- the error of features


@pytest.mark.parametrize("net", ["basic-cnn", "mlp", "resnet"])
def test_the_error_may_be_read_at_the_features_of_an_image(net):
    """Maps or not: e is dL/dx at the input of the output block, all of an image's numbers, times B."""
    c = residual() if net == "resnet" else case(net)
    method = rule("dfa", c, error="features")
    passes, updates = step(method, c)
    x = passes[-1].x.detach().requires_grad_()
    (e,) = torch.autograd.grad(nll(copy.deepcopy(c.model[-1])(x), c.y), x)
    for k in range(len(passes) - 1):
        want = (e.flatten(1) @ method.matrix(k)).view(passes[k].h.shape)
        torch.testing.assert_close(updates[k].signal.delta, want, rtol=1e-10, atol=1e-14)
    assert len(list(method.feedback_pairs(Step(c.blocks, c.x, c.y, passes, updates), passes))) == (len(passes) - 1) * (e.ndim == 2)


class ReadsEarlier(nn.Module):
    """An output block that reads the first block's output too."""

    reads_blocks = (0,)

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 10)

    def forward(self, h, first):
        return self.out(h * first)


def test_an_output_block_that_reads_an_earlier_one_is_run_again_with_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 8), nn.Linear(8, 8), ReadsEarlier()).double()
    c = Case(model, torch.randn(6, 7, dtype=torch.float64), torch.arange(6))
    passes, updates = step(rule("dfa", c, error="features"), c)
    x = passes[-1].x.detach().requires_grad_()
    (e,) = torch.autograd.grad(nll(copy.deepcopy(model[2])(x, passes[0].z.detach()), c.y), x)
    torch.testing.assert_close(updates[1].signal.delta, e @ rule("dfa", c, error="features").matrix(1))


class Dropping(nn.Linear):
    """A layer with dropout that is no module."""

    def forward(self, h):
        return F.dropout(super().forward(h), 0.5)


def test_an_output_block_that_gives_something_else_when_run_again_is_refused():
    torch.manual_seed(0)
    c = Case(nn.Sequential(nn.Linear(7, 8), Dropping(8, 10)).double(), torch.randn(6, 7, dtype=torch.float64), torch.arange(6))
    with pytest.raises(InputError, match="error=features runs the output block twice, and the second time it gives something else; set"):
        step(rule("dfa", c, error="features"), c)
