"""The sparse rows equal plain PyTorch on deep copies; null, halves and descent obey their laws and leave no trace."""

import copy
import math

import pytest
import torch
from oracles import assert_same_bits, case, frozen, nll, rule
from torch import nn

from gradlens.diagnostics import SPARSE, Descent, sparse_rows
from gradlens.method import run_step
from gradlens.passes import Pass
from gradlens.recorder import true_updates
from gradlens.seeding import generator, key
from gradlens.setup import Pair
from gradlens.train import update


def diagnosed(name, network="basic-cnn", images=None, number=4, **options):
    """A case, its rule and names, and one step's truth with graphs kept."""
    c = case(network, images=images)
    method = rule(name, c, **options)
    run = run_step(method, c.blocks, c.x, c.y)
    return c, method, [n for n, _ in c.model.named_children()], run, true_updates(method, run, keep=True)


def flat(v):
    return v.double().flatten()


def cos(a, b):
    a, b = flat(a), flat(b)
    return (a @ b / a.norm() / b.norm()).item()


def by_backward(p: Pass, delta):
    """Parameter gradients of one block on the input it read, by ``backward()`` of <h, delta> on a deep copy."""
    block = copy.deepcopy(p.block)
    (block(p.x.detach()) * delta).sum().backward()
    return {n: q.grad for n, q in block.named_parameters()}


def dealt(delta, number):
    return delta[torch.randperm(len(delta), generator=generator(3, "null", number))]


def half(n, number):
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=generator(3, "halves", number))[: n // 2]] = True
    return mask


def masked(delta, mask):
    out = torch.zeros_like(delta)
    out[mask] = delta[mask]
    return out


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("name", ["bp", "dgl", "cdni"])
def test_null_and_halves_equal_plain_backward_on_copies(name, network):
    c, method, names, run, truth = diagnosed(name, network)
    rows = {(r.layer, r.quantity): r.value for r in sparse_rows(4, names, method, run, truth)}
    mask = half(len(c.y), 4)
    for k, block in enumerate(names):
        p, delta, true = run.passes[k], run.updates[k].grad.delta, truth.grads[k]
        null = by_backward(p, dealt(delta, 4))
        used = [by_backward(p, masked(delta, m)) for m in (mask, ~mask)]
        real = [by_backward(p, masked(true.delta, m)) for m in (mask, ~mask)]
        for parameter, t in true.params.items():
            if t.ndim < 2:
                continue
            layer = f"{block}.{parameter.removesuffix('.weight')}"
            ceiling = cos(real[0][parameter], real[1][parameter])
            across = (cos(used[0][parameter], real[1][parameter]) + cos(used[1][parameter], real[0][parameter])) / 2
            assert rows[layer, "null_cosine"] == pytest.approx(cos(null[parameter], t), abs=1e-10)
            assert rows[layer, "noise_ceiling"] == pytest.approx(ceiling, abs=1e-10)
            assert rows[layer, "across_halves"] == pytest.approx(across, abs=1e-10)
            assert rows[layer, "corrected_cosine"] == pytest.approx(across / ceiling, rel=1e-7)
    assert {q for _, q in rows} <= set(SPARSE)


def test_the_corrected_cosine_of_the_truth_itself_is_one_and_its_null_is_not():
    _, method, names, run, truth = diagnosed("bp")
    rows = sparse_rows(4, names, method, run, truth)
    assert all(r.value == pytest.approx(1, abs=1e-9) for r in rows if r.quantity == "corrected_cosine")
    assert all(abs(r.value) < 0.999 for r in rows if r.quantity == "null_cosine")


def test_a_batch_of_equal_images_and_labels_has_no_noise_and_its_null_is_the_gradient_itself():
    c = case("mlp")
    c = c._replace(x=c.x[:1].expand(6, -1, -1, -1).clone(), y=c.y[:1].expand(6).clone())
    method = rule("bp", c)
    run = run_step(method, c.blocks, c.x, c.y)
    names = [n for n, _ in c.model.named_children()]
    for r in sparse_rows(0, names, method, run, true_updates(method, run, keep=True)):
        assert r.value == pytest.approx(1, abs=1e-10), r


# -------------------------------------------------------------------------------------------------------------- descent


@pytest.mark.parametrize("name", ["bp", "dgl"])
def test_descent_compares_the_first_order_change_with_the_loss_of_a_plain_copy(name):
    c, method, names, run, truth = diagnosed(name)
    before = copy.deepcopy(c.model)
    descent = Descent(4, names, method, run, truth)
    with torch.no_grad():
        for k, block in enumerate(c.model):  # any step: the test speaks of the parameters' real change
            for n, p in block.named_parameters():
                p -= 0.01 * run.updates[k].grad.params[n] + 0.001
    predicted, rows = 0.0, descent.rows()
    for k, block in enumerate(c.model):
        was = dict(before[k].named_parameters())
        mine = sum((flat(truth.grads[k].params[n]) @ flat(p.detach() - was[n].detach())).item() for n, p in block.named_parameters())
        (row,) = [r for r in rows if (r.layer, r.quantity) == (names[k], "predicted_change")]
        assert row.value == pytest.approx(mine, rel=1e-9)
        predicted += mine
    whole = {r.quantity: r.value for r in rows if r.layer == "network"}
    measured = (nll(copy.deepcopy(c.model)(c.x), c.y) - nll(before(c.x), c.y)).item()
    assert whole["predicted_change"] == pytest.approx(predicted, rel=1e-9)
    assert whole["measured_change"] == pytest.approx(measured, rel=1e-9)
    assert whole["descent_ratio"] == pytest.approx(measured / predicted, rel=1e-9)


def test_a_small_step_of_backprop_changes_the_loss_as_predicted_and_a_large_one_does_not():
    ratios = {}
    for lr in (1e-5, 1e-2, 3.0):
        c = case("mlp")
        method = rule("bp", c)
        rows = update(Pair(c.model, method), torch.optim.SGD(c.model.parameters(), lr), c.x, c.y, record=0, diagnose=True).rows
        (ratios[lr],) = [r.value for r in rows if r.quantity == "descent_ratio"]
        assert all(r.value < 0 for r in rows if r.quantity == "predicted_change" and lr == 1e-5)
    assert ratios[1e-5] == pytest.approx(1, abs=1e-3)
    assert abs(ratios[1e-2] - 1) > abs(ratios[1e-5] - 1)
    assert abs(ratios[3.0] - 1) > 0.1


def test_a_step_that_changes_nothing_has_no_ratio():
    c = case("mlp")
    method = rule("bp", c)
    rows = update(Pair(c.model, method), torch.optim.SGD(c.model.parameters(), 0.0), c.x, c.y, record=0, diagnose=True).rows
    whole = {r.quantity: r.value for r in rows if r.layer == "network"}
    assert whole["predicted_change"] == whole["measured_change"] == 0
    assert math.isnan(whole["descent_ratio"])


# -------------------------------------------------------------------------------------------------------------- no trace


@pytest.mark.parametrize("name", ["bp", "dgl", "cdni"])
def test_diagnosing_leaves_no_trace(name):
    """Weights, buffers and the random stream after steps are the same bits with and without, dropout and BatchNorm included."""
    after = []
    for diagnose in (False, True):
        c = case("basic-cnn", torch.float32)
        for block in c.blocks[:2]:
            block.append(nn.Dropout(0.4))
        method = rule(name, c)
        optimizer = torch.optim.Adam([*c.model.parameters(), *method.parameters()], 1e-2)
        for number in range(3):
            torch.manual_seed(key(3, "step", number))
            update(Pair(c.model, method), optimizer, c.x, c.y, record=number, diagnose=diagnose)
        after.append(({**frozen(c.model), **frozen(method)}, torch.get_rng_state()))
    assert_same_bits(after[0][0], after[1][0])
    assert torch.equal(after[0][1], after[1][1])


def test_with_dropout_the_descent_test_sees_the_steps_own_masks():
    c = case("basic-cnn")
    c.blocks[0].append(nn.Dropout(0.5))
    method = rule("bp", c)
    torch.manual_seed(key(3, "step", 9))
    rows = update(Pair(c.model, method), torch.optim.SGD(c.model.parameters(), 1e-6), c.x, c.y, record=9, diagnose=True).rows
    (ratio,) = [r.value for r in rows if r.quantity == "descent_ratio"]
    assert ratio == pytest.approx(1, abs=1e-4)  # other masks would change the loss by far more than such a step
