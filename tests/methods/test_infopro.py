"""Information-preserving local losses against a detach-and-backward loop with weights interpolated by hand, and their limits."""

import copy

import pytest
import torch
from oracles import assert_near, assert_same_bits, batches, case, frozen, nll, rule, step, uncut
from torch import nn

from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import training_step

NETWORKS = pytest.mark.parametrize("network", ["basic-cnn", "mlp", "vgg11"])
LAMBDAS = {"lambda1_first": 3.0, "lambda1_last": 0.25, "lambda2_first": 0.5, "lambda2_last": 2.0}


def by_hand(model, heads, modules, lambdas, x, y):
    """The reference's loop: each module reads a detached input, its weighted losses go ``backward()``, the top module has its own loss."""
    model, heads = copy.deepcopy(model), copy.deepcopy(heads)
    h, losses = x, []
    for (blocks, end), (lambda1, lambda2) in zip(modules, lambdas, strict=True):
        h = h.detach()
        for k in blocks:
            h = model[k](h)
        if end is None:
            loss = nll(h, y)
        else:
            image = heads[end].image(h)
            log_likelihood = -0.5 * (image - x) ** 2  # of a Gaussian of unit variance, but for a constant
            loss = -lambda1 * log_likelihood.sum() / x.numel() + lambda2 * nll(heads[end].task(h), y)
        loss.backward()
        losses.append(loss.item())
    return model, heads, losses


# the modules by hand: (their blocks, the unit whose head they have)
UNITS = {
    "basic-cnn": [([0], "0"), ([1], "1"), ([2, 3], None)],
    "mlp": [([0], "0"), ([1], "1"), ([2], "2"), ([3, 4], None)],
    "vgg11": [*(([k], str(k)) for k in range(7)), ([7, 8], None)],
}


def compared(c, method, modules, lambdas):
    model, heads, losses = by_hand(c.model, method.heads, modules, lambdas, c.x, c.y)
    _, updates = step(method, c)
    for k, u in updates.items():
        assert_near(u.grad.params, {n: p.grad for n, p in model[k].named_parameters()})
    own = {n: g for u in updates.values() for n, g in u.aux_grads.items()}
    assert_near(own, {f"heads.{n}": p.grad for n, p in heads.named_parameters()})
    got = [u.signal.loss.item() for _, u in sorted(updates.items()) if u.signal.loss is not None]
    assert got == pytest.approx(losses, rel=1e-12)
    return updates


@pytest.mark.parametrize("head", ["mlp", "linear"])
@NETWORKS
def test_every_unit_has_its_weighted_losses(network, head):
    n = len(UNITS[network]) - 1  # local modules
    steps = [i / (n - 1) for i in range(n)]
    lambdas = [(3.0 + (0.25 - 3.0) * t, 0.5 + (2.0 - 0.5) * t) for t in steps]
    assert lambdas[0] == (3.0, 0.5)
    assert lambdas[-1] == (0.25, 2.0)
    c = case(network)
    updates = compared(c, rule("infopro", c, head=head, pooled=True, **LAMBDAS), UNITS[network], [*lambdas, (0, 0)])
    assert [k for k, u in updates.items() if u.signal.messages_below] == [len(c.model) - 1]


@pytest.mark.parametrize(
    ("network", "chunks", "modules", "lambdas"),
    [
        ("mlp", 2, [([0, 1], "1"), ([2, 3, 4], None)], [(3.0, 0.5)]),  # one local module has the first weights
        ("mlp", [1, 2, 1], [([0], "0"), ([1, 2], "2"), ([3, 4], None)], [(3.0, 0.5), (0.25, 2.0)]),
        ("basic-cnn", [2, 1], [([0, 1], "1"), ([2, 3], None)], [(3.0, 0.5)]),
        ("vgg11", 4, [([0, 1], "1"), ([2, 3], "3"), ([4, 5], "5"), ([6, 7, 8], None)], [(3.0, 0.5), (1.625, 1.25), (0.25, 2.0)]),
    ],
)
def test_modules_of_several_units_are_trained_end_to_end_inside(network, chunks, modules, lambdas):
    c = case(network)
    compared(c, rule("infopro", c, pooled=True, chunks=chunks, **LAMBDAS), modules, [*lambdas, (0, 0)])


@NETWORKS
def test_without_reconstruction_it_is_greedy_supervised_learning_with_linear_heads_bit_for_bit(network):
    ends = []
    for name in ("infopro", "dgl"):
        c = case(network, torch.float32)
        own = {"lambda1_first": 0, "lambda1_last": 0, "lambda2_first": 1, "lambda2_last": 1} if name == "infopro" else {}
        method = rule(name, c, warmed_up=False, head="linear", **own)
        optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
        losses = [training_step(ModelAndMethod(c.model, method), optimizer, x, y).loss for x, y in batches(c, 4)]
        heads = {f"head {i}": t for i, t in enumerate(frozen(method).values())}
        ends.append({**frozen(c.model), **heads, "losses": torch.stack(losses)})
    assert_same_bits(*ends)


def test_without_a_task_loss_modules_are_autoencoders_that_receive_nothing_of_the_labels():
    c = case("basic-cnn")
    method = rule("infopro", c, lambda2_first=0, lambda2_last=0)
    assert {n.split(".")[2] for n, _ in method.named_parameters()} == {"image"}
    _, before = step(method, copy.deepcopy(c))
    _, after = step(method, copy.deepcopy(c)._replace(y=(c.y + 1) % 10))
    for k in (0, 1):
        assert torch.equal(before[k].signal.delta, after[k].signal.delta)
    assert not torch.equal(before[2].signal.delta, after[2].signal.delta)
    optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
    for _ in range(30):
        training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y)
    _, trained = step(method, c)
    for k in (0, 1):
        assert trained[k].signal.loss < 0.8 * before[k].signal.loss


def test_a_weight_that_goes_to_zero_builds_nothing_where_it_is_zero():
    c = case("mlp")
    method = rule("infopro", c, lambda1_first=1, lambda1_last=0, lambda2_first=0, lambda2_last=1)
    built = {(n.split(".")[1], n.split(".")[2]) for n, _ in method.named_parameters()}
    assert built == {("0", "image"), ("1", "image"), ("1", "task"), ("2", "task")}
    assert method.lambdas(1) == (0.5, 0.5)
    list(step(method, c))


def test_a_module_without_any_loss_is_refused():
    with pytest.raises(InputError, match="the module that ends at block1 has no loss: lambda1 and lambda2 are both 0"):
        rule("infopro", case("mlp"), lambda1_first=0, lambda2_first=0)
    with pytest.raises(InputError, match=r"--set chunks=\[2,1\] splits them as block1 block2 \| block3 top"):
        rule("infopro", case("basic-cnn"), chunks=2)


def test_a_net_of_one_unit_is_trained_as_by_backprop_bit_for_bit():
    c = case("mlp", torch.float32)._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=1)))
    twin = uncut(c.model, c.x, c.y)
    for chunks in (None, 1):
        _, updates = step(rule("infopro", c, chunks=chunks), c)
        for k in range(2):
            assert_same_bits(updates[k].grad.params, twin.gradients(k))


def test_the_defaults_preserve_much_below_and_ask_for_the_task_above():
    c = case("basic-cnn")
    method = rule("infopro", c)
    assert [method.lambdas(k) for k in (0, 1)] == [(5.0, 0.5), (0.5, 1.0)]
    assert [type(m) for m in method.heads["0"].task] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert method.heads["1"].image(torch.zeros(3, 4, 2, 2, dtype=torch.float64)).shape == (3, 2, 8, 8)


@pytest.mark.parametrize("sigma", [0.5, 0.25])
def test_lambda_times_sigma_has_the_slope_of_the_references_cross_entropy(sigma):
    """At the decoder's last layer, for the same reconstruction r in [0, 1] of the same image x, as the docstring says."""
    c = case("basic-cnn")
    method = rule("infopro", c, lambda1_first=5 * sigma, lambda2_first=0.0)
    g = torch.Generator().manual_seed(0)
    x, r = (torch.rand(c.x.shape, generator=g, dtype=torch.float64) for _ in range(2))
    logits = r.logit().requires_grad_()
    (5 * nn.BCELoss()(logits.sigmoid(), x)).backward()
    given = ((r - 0.5) / sigma).requires_grad_()
    method.heads["0"].image = nn.Module()
    method.heads["0"].image.forward = lambda _: given
    (p, *_) = method.forward(c.blocks, (x - 0.5) / sigma, c.y)
    method.local_loss(0, p).loss.backward()
    torch.testing.assert_close(given.grad, logits.grad)
