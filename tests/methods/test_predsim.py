"""The pred and sim losses against plain loops, the laws of similarity matrices, and the limits beta = 0 and beta = 1."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_near, assert_same_bits, batches, case, frozen, nll, rule, step, stirred, uncut
from torch import nn

from gradlens.gradients.losses import LOSSES
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods import METHODS
from gradlens.methods.local.predsim import pooled_size, similarity
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import make_config
from gradlens.training.step import training_step

NETWORKS = pytest.mark.parametrize("network", ["basic-cnn", "mlp", "vgg11"])


def similarity_by_hand(x):
    """S of x [N, F] or [N, C, H, W], entry by entry."""
    rows = []
    for sample in x:
        if sample.ndim == 3 and sample.shape[0] > 3 and sample.shape[1] > 1:
            v = []
            for channel in sample:
                pixels = channel.reshape(-1)
                m = sum(pixels) / len(pixels)
                v.append((sum((p - m) ** 2 for p in pixels) / (len(pixels) - 1)).sqrt())
            v = torch.stack(v)
        else:
            v = sample.reshape(-1)
        v = v - sum(v) / len(v)
        rows.append(v / ((v * v).sum().sqrt() + 1e-8))
    return torch.stack([torch.stack([(a * b).sum() for b in rows]) for a in rows])


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


SHAPES = [(7,), (5, 4, 3), (3, 4, 4), (5, 1, 4), (5, 1, 1), (2, 6, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_similarities_equal_the_loop(shape):
    x = noise(4, *shape)
    torch.testing.assert_close(similarity(x), similarity_by_hand(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_similarities_are_symmetric_with_ones_on_the_diagonal_and_within_one(shape):
    s = similarity(noise(6, *shape))
    torch.testing.assert_close(s, s.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(s.diagonal(), torch.ones(6, dtype=s.dtype), rtol=0, atol=1e-6)
    assert s.abs().max() <= 1
    assert s[0, 1:].abs().max() < 0.999


@pytest.mark.parametrize("shape", SHAPES)
def test_similarities_do_not_see_a_samples_scale_nor_a_shift_of_its_features(shape):
    x = noise(4, *shape)
    scale = torch.tensor([0.3, 5.0, 1.0, 70.0]).reshape(4, *[1] * len(shape))
    shift = torch.tensor([4.0, -2.0, 0.5, 0.0]).reshape(4, *[1] * len(shape))
    torch.testing.assert_close(similarity(x * scale + shift), similarity(x), rtol=0, atol=1e-6)
    assert (similarity(-x + 1) - similarity(x)).abs().max() < 1e-6  # all samples turned round: the same angles


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_labels_are_similar_with_one_or_minus_one_over_k_minus_one(classes):
    y = torch.tensor([0, 1, 1, 0, classes - 1])
    want = torch.tensor([[1.0 if a == b else -1 / (classes - 1) for b in y] for a in y], dtype=torch.float64)
    torch.testing.assert_close(similarity(F.one_hot(y, classes).double()), want, rtol=0, atol=1e-6)


def test_activations_without_any_variation_give_zero_similarity_and_finite_gradients():
    for shape in ((7,), (5, 4, 4)):
        x = noise(3, *shape)
        x[1] = 2.0  # a dead sample
        x.requires_grad_()
        s = similarity(x)
        assert s[1].abs().max() == 0
        (g,) = torch.autograd.grad(s.square().sum(), x)
        assert g.isfinite().all()


def test_under_bf16_similarities_are_still_of_float32():
    x = noise(8, 5, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        s = similarity(x)
    assert s.dtype == torch.float32
    torch.testing.assert_close(s, similarity_by_hand(x.double()).float(), rtol=0, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- the local loss


def by_hand(k, block, head, x, y, beta):
    """Delta and gradients of unit k's loss, with ``backward()`` on copies: ({block's}, {head's}, delta, loss)."""
    block, head = copy.deepcopy(block), copy.deepcopy(head)
    h = block(x.detach())
    h.retain_grad()
    loss = 0.0
    if head.pred is not None:
        loss = loss + (1 - beta) * nll(head.pred(h), y)
    if head.sim is not None:
        target = torch.tensor([[1.0 if a == b else -1 / 9 for b in y] for a in y], dtype=torch.float64)
        got = similarity_by_hand(head.sim(h))
        loss = loss + beta * sum((got[i, j] - target[i, j]) ** 2 for i in range(len(y)) for j in range(len(y))) / len(y) ** 2
    loss.backward()
    return {n: p.grad for n, p in block.named_parameters()}, {n: p.grad for n, p in head.named_parameters()}, h.grad, loss.item()


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.99, 1.0])
@NETWORKS
def test_each_blocks_gradient_is_that_of_its_own_two_losses(network, beta):
    c = case(network)
    method = rule("predsim", c, beta=beta)
    passes, updates = step(method, c)
    assert set(method.heads) == {str(k) for k in range(len(c.model) - 2)}
    for k in range(len(c.model) - 2):
        params, own, delta, loss = by_hand(k, c.model[k], method.heads[str(k)], passes[k].x, c.y, beta)
        assert_near(updates[k].grad.params, params, 1e-6)  # this target is exact, where norms lack the 1e-8 that is added to them
        assert_near({"delta": updates[k].signal.delta}, {"delta": delta}, 1e-6)
        assert_near(dict(updates[k].aux_grads), {f"heads.{k}.{n}": g for n, g in own.items()}, 1e-6)
        assert updates[k].signal.loss == pytest.approx(loss, rel=1e-6)
        assert updates[k].signal.messages_below == ()
    unit = copy.deepcopy(c.model[-2:])
    nll(unit(passes[-2].x.detach()), c.y).backward()
    for k, block in zip((len(passes) - 2, len(passes) - 1), unit, strict=True):  # the network's own loss
        assert_near(updates[k].grad.params, {n: p.grad for n, p in block.named_parameters()}, 1e-12)


def test_the_similarity_loss_is_zero_only_where_the_matrices_are_equal():
    c = case("mlp")
    method = rule("predsim", c, beta=1.0)
    passes, _ = step(method, c)
    head = method.heads["0"]
    with torch.no_grad():
        head.sim.weight.zero_()
        for i in range(10):
            head.sim.weight[i, i] = 1.0
    z = torch.zeros_like(passes[0].z)
    z[:, :10] = F.one_hot(c.y, 10)
    # twelve features of which ten are the label: not yet the matrix of ten
    wider = method.local_loss(0, passes[0]._replace(z=z)).loss
    assert wider > 1e-4
    rows = F.one_hot(c.y, 10) - 0.1  # centred: the two features more, which are zero, change neither mean nor norm
    z[:, :10] = 3.0 * rows
    assert method.local_loss(0, passes[0]._replace(z=z)).loss < 1e-14


@pytest.mark.parametrize("name", ["basic-cnn", "mlp"])
def test_beta_zero_is_dgl_with_averaged_linear_heads_bit_for_bit(name):
    """Eight steps: with maps averaged to 2×2 the heads are the same, but for where they start."""
    ends = []
    for method_name in ("predsim", "dgl"):
        c = case(name, torch.float32)
        options = {"beta": 0.0, "dim": 16} if method_name == "predsim" else {"head": "linear", "pooled": True}
        method = rule(method_name, c, warmed_up=False, **options)
        with torch.no_grad():
            for p in method.parameters():
                p.copy_(torch.linspace(-0.1, 0.1, p.numel()).reshape(p.shape))
        optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
        for x, y in batches(c, 8):
            training_step(ModelAndMethod(c.model, method), optimizer, x, y)
        heads = {f"head {i}": t for i, t in enumerate(frozen(method).values())}
        ends.append({**frozen(c.model), **heads})
    assert_same_bits(*ends)


def test_a_limit_builds_no_head_for_the_other_loss():
    c = case("basic-cnn")
    names = {beta: {n.split(".")[2] for n, _ in rule("predsim", c, beta=beta).named_parameters()} for beta in (0.0, 0.5, 1.0)}
    assert names == {0.0: {"pred"}, 0.5: {"pred", "sim"}, 1.0: {"sim"}}


@NETWORKS
def test_heads_at_the_start(network):
    c = case(network)
    method = rule("predsim", c, warmed_up=False)
    assert method.options.beta == 0.99
    for k, head in method.heads.items():
        assert head.pred[-1].weight.abs().max() == head.pred[-1].bias.abs().max() == 0
        spatial = len(c.model[int(k)](c.x if k == "0" else step(method, c)[0][int(k)].x).shape) == 4
        kind, shape = (nn.Conv2d, (3, 3)) if spatial else (nn.Linear, ())
        assert type(head.sim) is kind
        assert head.sim.weight.shape[2:] == shape
        assert head.sim.weight.shape[0] == head.sim.weight.shape[1]
        assert head.sim.bias is None
    _, updates = step(rule("predsim", c, warmed_up=False, beta=0.0), c)
    assert updates[0].signal.loss == pytest.approx(math.log(10), rel=1e-12)
    assert updates[0].signal.delta.abs().max() == 0  # a classifier of zeros tells its block nothing yet


@pytest.mark.parametrize(
    ("shape", "dim", "want"),
    [
        ((128, 32, 32), 4096, (4, 8)),  # the reference's loop: height first, then width
        ((128, 16, 16), 4096, (4, 8)),
        ((256, 8, 8), 4096, (4, 4)),
        ((256, 8, 8), 2048, (2, 4)),
        ((512, 2, 2), 4096, (2, 2)),
        ((64, 7, 7), 1024, (4, 4)),
        ((64, 7, 7), 600, (2, 4)),
        ((10, 1, 8), 30, (1, 2)),
        ((50, 4, 4), 40, (1, 1)),  # more channels than that: one number each
        ((3, 1, 1), 1, (1, 1)),
    ],
)
def test_maps_are_averaged_in_halves_until_they_fit(shape, dim, want):
    assert pooled_size(shape, dim) == want
    net = NetworkInfo([nn.Identity()] * 3, [torch.Size(shape)] * 3, 10, 16, LOSSES["ce"], 0)
    classifier = METHODS["predsim"](net, METHODS["predsim"].Options(dim=dim)).heads["0"].pred
    assert classifier[-1].in_features == shape[0] * want[0] * want[1]
    x = noise(2, *shape).float()
    assert classifier(x).shape == (2, 10)
    pools = [m for m in classifier if isinstance(m, nn.AdaptiveAvgPool2d)]
    assert len(pools) == (want != shape[1:])
    if pools:
        torch.testing.assert_close(pools[0](torch.ones(2, *shape)), torch.ones(2, shape[0], *want))  # no padding is averaged in
    if pools and shape[1] % want[0] == shape[2] % want[1] == 0:
        torch.testing.assert_close(pools[0](x), F.avg_pool2d(x, (shape[1] // want[0], shape[2] // want[1])))


def test_a_net_of_one_unit_is_trained_as_by_backprop_bit_for_bit():
    c = case("mlp", torch.float32)._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=1)))
    twin = uncut(c.model, c.x, c.y)
    _, updates = step(rule("predsim", c), c)
    for k in range(2):
        assert_same_bits(updates[k].grad.params, twin.gradients(k))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_pred_loss_is_of_the_kind_that_was_requested(loss):
    c = case("mlp")
    method = stirred(rule("predsim", c, LOSSES[loss], warmed_up=False, beta=0.0))
    _, updates = step(method, c)
    twin, head = copy.deepcopy(c.model[0]), copy.deepcopy(method.heads["0"].pred)
    LOSSES[loss](head(twin(c.x)), c.y).backward()
    assert_near(updates[0].grad.params, {n: p.grad for n, p in twin.named_parameters()})


@pytest.mark.parametrize("options", [{"beta": 1.1}, {"beta": -0.1}, {"dim": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=f"option of predsim: {next(iter(options))}"):
        make_config(method="predsim", options=options)
