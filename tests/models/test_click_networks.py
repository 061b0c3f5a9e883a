"""Networks on rows of ids: each term against explicit sums in float64, what feedback reaches, and what the papers' sizes are."""

import copy
import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import outputs, reads_blocks
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.click_layers import Cross, FieldVectors, LogarithmicNeurons, pairs
from gradlens.models.click_networks import CLICK_NETWORKS
from gradlens.models.feedback_point import exact_features
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import build
from gradlens.runtime.errors import InputError
from gradlens.tasks.registry import TASKS
from gradlens.training.build import make_network_info

SIZES = (3, 5, 4)
SMALL = {"width": 6, "depth": 2, "embedding": 4, "interactions": 3}
IDS = torch.tensor([[0, 4, 1], [2, 0, 3], [1, 1, 0], [2, 4, 3], [0, 2, 2]])
CLICKS = torch.tensor([1, 0, 0, 1, 0])
NETS = list(CLICK_NETWORKS)


def network(name, **more):
    options = {**SMALL, **({"interactions": None} if name == "deepfm" else {}), **more}
    model = build(name, ModelSpec(SIZES, 1, **options), seed=1).double()
    for m in model.modules():
        if isinstance(m, FieldVectors) and m.single is not None:
            nn.init.normal_(m.single.weight, 0, 0.3, generator=torch.Generator().manual_seed(2))
    return model


def step_of(model, rule, **options):
    method = METHODS[rule](
        make_network_info(model, SIZES, 1, LOSSES["bce"], task=TASKS["clicks"]), METHODS[rule].Options(**options)
    ).double()
    return method, run_step(method, list(model), IDS, CLICKS)


def gradient(step, k, name):
    return step.updates[k].grad.params[name]


def vectors_of(model):
    """[N, F, k], looked up one by one."""
    table, start = model.embedding.table.weight, [0, 3, 8]
    return torch.stack([torch.stack([table[start[f] + int(i)] for f, i in enumerate(row)]) for row in IDS])


def test_vectors_and_weights_are_those_of_each_id():
    model = network("deepfm")
    out = model.embedding(IDS)
    assert torch.equal(out[:, :12].unflatten(1, (3, 4)), vectors_of(model))
    weights, start = model.embedding.single.weight[:, 0], [0, 3, 8]
    assert torch.equal(out[:, 12:], torch.stack([torch.stack([weights[start[f] + int(i)] for f, i in enumerate(row)]) for row in IDS]))
    bound = math.sqrt(6 / (12 + 4))
    assert model.embedding.table.weight.abs().max() <= bound
    assert not FieldVectors(SIZES, 4, single=True).single.weight.any()


def test_pairs_are_the_sum_of_inner_products():
    v = torch.randn(7, 5, 3, dtype=torch.float64)
    want = torch.stack([sum(row[i] @ row[j] for i, j in combinations(range(5), 2)) for row in v])
    assert torch.allclose(pairs(v), want, rtol=1e-12)


def test_a_cross_layer_is_an_outer_product():
    layer = Cross(6, first=False).double()
    nn.init.normal_(layer.bias)
    c, x0 = torch.randn(2, 4, 6, dtype=torch.float64)
    want = torch.stack([torch.outer(a, b) @ layer.weight.weight[0] + layer.bias + b for a, b in zip(x0, c, strict=True)])
    assert torch.allclose(layer(c, x0), want, rtol=1e-12)


def test_logarithmic_neurons_are_products_of_powers():
    layer = LogarithmicNeurons(3, 2, 4).double().requires_grad_(False)
    e = torch.randn(5, 3, 2, dtype=torch.float64)
    out = layer(e.flatten(1)).unflatten(1, (2, 4))
    for n in range(5):
        for d in range(2):
            for j in range(4):
                power = math.exp(float(layer.exponents.bias[j]))
                for f in range(3):
                    power *= (abs(float(e[n, f, d])) + 1e-7 + 1) ** float(layer.exponents.weight[j, f])
                assert float(out[n, d, j]) == pytest.approx(max(0.0, power - 1), rel=1e-10, abs=1e-12)


def mlp(model, h):
    for block in [m for name, m in model.named_children() if name.startswith("hidden")]:
        h = F.batch_norm(
            h @ block.linear.weight.T + block.linear.bias, None, None, block.norm.weight, block.norm.bias, training=True
        ).relu()
    return h


def plainly(name, model, e):
    """The log odds from vectors e [N, F, k], in plain words; the MLP may read others."""
    single = model.embedding.single
    flat, parts = e.flatten(1), [mlp(model, (model.logarithms(e.flatten(1)) if name == "afn" else e.flatten(1)))]
    z = 0 if single is None else single(IDS + torch.tensor([0, 3, 8]))[..., 0].sum(1)
    if name == "deepfm":
        z = z + sum((e[:, i] * e[:, j]).sum(1) for i, j in combinations(range(3), 2))
    elif name == "deep-cross":
        c = flat
        for i in (1, 2, 3):
            layer = getattr(model, f"cross{i}")
            c = flat * (c @ layer.weight.weight.T) + layer.bias + c
        parts.append(c)
    elif name == "autoint":
        a = model.widened.linear(e)
        for i in (1, 2, 3):
            block = getattr(model, f"attention{i}")
            q, k, v = (layer(a).unflatten(-1, (2, 16)) for layer in (block.attention.query, block.attention.key, block.attention.value))
            share = torch.einsum("nihd,njhd->nhij", q, k).div(4).softmax(-1)
            a = block.attention.out(torch.einsum("nhij,njhd->nihd", share, v).flatten(2))
        parts.append((a + model.attention3.residual.linear(e)).relu().flatten(1))
    return torch.cat(parts, 1) @ model.top.out.weight[0] + model.top.out.bias + z


@pytest.mark.parametrize("name", NETS)
def test_the_log_odds_are_what_the_papers_write(name):
    model = network(name)
    *_, z = outputs(model, IDS)
    assert torch.allclose(z[:, 0], plainly(name, copy.deepcopy(model), vectors_of(model)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_the_truth_is_backward_of_the_mean_log_loss_and_the_error_p_minus_y(name):
    model = network(name)
    twin = copy.deepcopy(model)
    _, step = step_of(model, "bp")
    *_, z = outputs(twin, IDS)
    loss = -(CLICKS * z[:, 0].sigmoid().log() + (1 - CLICKS) * (1 - z[:, 0].sigmoid()).log()).mean()
    loss.backward()
    assert torch.allclose(step.updates[len(model) - 1].signal.delta[:, 0], (z[:, 0].sigmoid() - CLICKS).detach() / 5, rtol=1e-10)
    assert torch.allclose(step.updates[len(model) - 1].signal.loss, loss, rtol=1e-12)
    for k, block in enumerate(twin):
        for n, p in block.named_parameters():
            assert torch.allclose(gradient(step, k, n), p.grad, rtol=1e-9, atol=1e-13), (k, n)


def test_under_dfa_deepfms_table_learns_as_that_of_a_factorisation_machine():
    """Its gradient is that of weights + pairs + a constant: what the MLP gives for these rows."""
    model = network("deepfm")
    twin = copy.deepcopy(model)
    method, step = step_of(model, "dfa")
    e = vectors_of(twin)
    z = plainly("deepfm", twin, e) - mlp(twin, e.flatten(1)) @ twin.top.out.weight[0]
    z = z + (mlp(twin, e.flatten(1)) @ twin.top.out.weight[0]).detach()
    F.binary_cross_entropy_with_logits(z, CLICKS.double()).backward()
    assert torch.allclose(gradient(step, 0, "table.weight"), twin.embedding.table.weight.grad, rtol=1e-10, atol=1e-14)
    assert torch.allclose(gradient(step, 0, "single.weight"), twin.embedding.single.weight.grad, rtol=1e-10, atol=1e-14)
    error = step.updates[3].signal.delta
    for k in (1, 2):
        assert torch.allclose(step.updates[k].signal.delta, error @ method.matrix(k), rtol=1e-12)


@pytest.mark.parametrize("name", ["autoint", "afn"])
def test_under_dfa_vectors_get_feedback_and_weights_their_true_gradient(name):
    model = network(name)
    method, step = step_of(model, "dfa")
    error, delta = step.updates[len(model) - 1].signal.delta, step.updates[0].signal.delta
    true = true_gradients(method, step).grads[0]
    assert torch.allclose(delta[:, :12], error @ method.matrix(0), rtol=1e-12)
    assert torch.allclose(delta[:, 12:], true.delta[:, 12:], rtol=1e-12)
    assert torch.allclose(gradient(step, 0, "single.weight"), true.params["single.weight"], rtol=1e-12)
    _, again = step_of(network(name), "dfa", embedding="fixed")
    assert not gradient(again, 0, "table.weight").any()
    assert torch.equal(again.updates[0].signal.delta[:, 12:], delta[:, 12:])


def test_under_dfa_every_block_of_deep_cross_gets_its_own_feedback():
    model = network("deep-cross")
    method, step = step_of(model, "dfa")
    error = step.updates[len(model) - 1].signal.delta
    for k in range(len(model) - 1):
        assert torch.allclose(step.updates[k].signal.delta, error @ method.matrix(k), rtol=1e-12)
    _, fixed = step_of(network("deep-cross"), "dfa", embedding="fixed")
    assert fixed.updates[0].signal.delta is None


@pytest.mark.parametrize("name", NETS)
def test_shallow_trains_what_lies_above_the_last_places_of_feedback(name):
    model = network(name)
    method, step = step_of(model, "shallow", statistics="batch")
    trained = {f"{k}.{n}" for k, u in step.updates.items() for n, g in u.grad.params.items() if g.any()}
    top = len(model) - 1
    weights = {"0.single.weight"} if name != "deep-cross" else set()
    assert trained == {f"{top}.out.weight", f"{top}.out.bias"} | weights | ({"0.table.weight"} if name == "deepfm" else set())
    true = true_gradients(method, step)
    for key in trained:
        k, _, n = key.partition(".")
        if k == "0":
            assert torch.allclose(gradient(step, 0, n), plain_gradient(name, n), rtol=1e-9, atol=1e-13)
        else:
            assert torch.allclose(gradient(step, top, n), true.grads[top].params[n], rtol=1e-12)


def plain_gradient(name, parameter):
    """That of a parameter of the first block, with the MLP's vectors detached."""
    twin = network(name)
    e = vectors_of(twin)
    z = plainly(name, twin, e.detach())
    if name == "deepfm":
        z = z + pairs(e) - pairs(e.detach())
    F.binary_cross_entropy_with_logits(z, CLICKS.double()).backward()
    return dict(twin.embedding.named_parameters())[parameter].grad


def test_frozen_blocks_normalise_as_they_are_told_to():
    for statistics, moved in (("initial", False), ("batch", True)):
        model = network("deep-cross")
        step_of(model, "shallow", statistics=statistics)
        assert bool(model.hidden1.norm.running_mean.any()) is moved
        assert not model.hidden1.linear.training


def test_what_a_network_does_not_have_is_refused():
    with pytest.raises(InputError, match="the output block trains the vectors itself"):
        step_of(network("deepfm"), "dfa", embedding="fixed")
    with pytest.raises(InputError, match="--interactions is of deep-cross, autoint, afn, and has no meaning for deepfm"):
        build("deepfm", ModelSpec(SIZES, 1, interactions=2))
    with pytest.raises(InputError, match="--heads 3 do not divide the 32 features of autoint's attention"):
        build("autoint", ModelSpec(SIZES, 1, heads=3))
    with pytest.raises(InputError, match="--stem sets the first convolution's kernel and afn has no convolution"):
        build("afn", ModelSpec(SIZES, 1, stem=3))


def test_the_papers_sizes_are_the_defaults():
    sizes = (2,) * 39
    hidden = {"deepfm": [(390, 400), (400, 400), (400, 400)], "deep-cross": [(624, 1024), (1024, 1024)]}
    hidden |= {"autoint": [(624, 400), (400, 400), (400, 400)], "afn": [(15000, 400), (400, 400), (400, 400)]}
    for name, want in hidden.items():
        model = build(name, ModelSpec(sizes, 1))
        assert [(b.linear.in_features, b.linear.out_features) for n, b in model.named_children() if n.startswith("hidden")] == want
        assert model.embedding.table.embedding_dim == (10 if name in ("deepfm", "afn") else 16)
    assert sum(isinstance(b, Cross) for b in build("deep-cross", ModelSpec(SIZES, 1))) == 6
    assert [reads_blocks(b) for b in network("deep-cross")] == [(), (), (0,), (0,), (0,), (), (3,)]
    assert {name: exact_features(network(name)) for name in NETS} == {
        "deepfm": {0: 0},
        "deep-cross": {},
        "autoint": {0: 12},
        "afn": {0: 12},
    }
