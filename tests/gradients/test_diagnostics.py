"""The sparse rows equal plain PyTorch on deep copies; null, halves and descent obey their laws and leave no trace."""

import copy
import math

import pytest
import torch
from oracles import SUPERVISED, assert_same_bits, case, frozen, nll, rule
from torch import nn

from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import Pass
from gradlens.gradients.descent import Descent
from gradlens.gradients.diagnostics import SPARSE, sparse_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.runtime.rng import generator, key
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import Recording, training_step


def diagnosed(name, network="basic-cnn", images=None, number=4, **options):
    """A case, its rule and names, and one step's truth with graphs kept."""
    c = case(network, images=images)
    method = rule(name, c, **options)
    run = run_step(method, c.blocks, c.x, c.y)
    return c, method, [n for n, _ in c.model.named_children()], run, true_gradients(method, run, keep=True)


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


def alone(c, method, name, x, y):
    """Rule's and true parameter gradients of a batch by itself, on deep copies, by ``backward()``."""
    model, rule_ = copy.deepcopy(c.model), copy.deepcopy(method)
    run = run_step(rule_, list(model), x, y)
    used = [by_backward(p, run.updates[k].grad.delta) for k, p in enumerate(run.passes)]
    twin = copy.deepcopy(c.model)
    nll(twin(x), y).backward()
    return used, [{n: p.grad for n, p in block.named_parameters()} for block in twin]


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("name", ["bp", "dgl", "cdni"])
def test_null_and_halves_equal_plain_backward_on_copies(name, network):
    c, method, names, run, truth = diagnosed(name, network)
    rows = {(r.layer, r.quantity): r.value for r in sparse_rows(4, names, method, run, truth)}
    mask = half(len(c.y), 4)
    used, real = zip(*(alone(c, method, name, c.x[m], c.y[m]) for m in (mask, ~mask)), strict=True)
    for k, block in enumerate(names):
        p, delta, true = run.passes[k], run.updates[k].grad.delta, truth.grads[k]
        null = by_backward(p, dealt(delta, 4))
        for parameter, t in true.params.items():
            if t.ndim < 2:
                continue
            layer = f"{block}.{parameter.removesuffix('.weight')}"
            (g, h), (s, u) = ((part[0][k][parameter], part[1][k][parameter]) for part in (used, real))
            ceiling, across = cos(s, u), (cos(g, u) + cos(h, s)) / 2
            assert rows[layer, "null_cosine"] == pytest.approx(cos(null[parameter], t), abs=1e-10)
            assert rows[layer, "noise_ceiling"] == pytest.approx(ceiling, abs=1e-10)
            assert rows[layer, "across_halves"] == pytest.approx(across, abs=1e-10)
            assert rows[layer, "rule_ceiling"] == pytest.approx(cos(g, h), abs=1e-10)
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
    for r in sparse_rows(0, names, method, run, true_gradients(method, run, keep=True)):
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
        rows = training_step(
            ModelAndMethod(c.model, method), torch.optim.SGD(c.model.parameters(), lr), c.x, c.y, Recording(0, diagnose=True)
        ).rows
        (ratios[lr],) = [r.value for r in rows if r.quantity == "descent_ratio"]
        assert all(r.value < 0 for r in rows if r.quantity == "predicted_change" and lr == 1e-5)
    assert ratios[1e-5] == pytest.approx(1, abs=1e-3)
    assert abs(ratios[1e-2] - 1) > abs(ratios[1e-5] - 1)
    assert abs(ratios[3.0] - 1) > 0.1


def test_a_step_that_changes_nothing_has_no_ratio():
    c = case("mlp")
    method = rule("bp", c)
    rows = training_step(
        ModelAndMethod(c.model, method), torch.optim.SGD(c.model.parameters(), 0.0), c.x, c.y, Recording(0, diagnose=True)
    ).rows
    whole = {r.quantity: r.value for r in rows if r.layer == "network"}
    assert whole["predicted_change"] == whole["measured_change"] == 0
    assert math.isnan(whole["descent_ratio"])


def test_with_batch_norm_the_halves_are_independent_of_each_other():
    """Another half B leaves half A's part of the numerator and denominator what they were: nothing of B is in A's gradient."""
    c, method, _, _, _ = diagnosed("bp", images=8)
    mask = half(8, 4)
    other = c.x.clone()
    other[~mask] += 3
    before, after = (alone(c, method, "bp", x[mask], c.y[mask]) for x in (c.x, other))
    for a, b in zip(before[1], after[1], strict=True):
        assert_same_bits(a, b)


def test_a_rule_that_reads_stored_batches_has_no_halves_and_a_tiny_batch_has_none():
    for name, images in (("dgl-async", 6), ("bp", 3)):
        _, method, names, run, truth = diagnosed(name, images=images)
        quantities = {r.quantity for r in sparse_rows(4, names, method, run, truth)}
        assert "null_cosine" in quantities
        assert not quantities & {"corrected_cosine", "across_halves", "noise_ceiling", "rule_ceiling"}


def test_only_what_is_wanted_is_computed():
    _, method, names, run, truth = diagnosed("fa")
    assert {r.quantity for r in sparse_rows(4, names, method, run, truth, {"null_cosine"})} == {"null_cosine"}
    rows = sparse_rows(4, names, method, run, truth, {"feedback_transpose"})
    assert {r.kind for r in rows} == {"feedback_transpose"}
    assert {"angle", "norm_ratio"} <= {r.quantity for r in rows}


@pytest.mark.parametrize("name", [name for name in SUPERVISED if name not in ("dgl-async", "dni-unlocked")])
def test_the_descent_ratio_tends_to_one_with_the_step_for_every_rule_on_its_own_passes(name):
    c = case("mlp")
    method = rule(name, c)
    if name == "greedy":
        method.start(1, 0)  # its loss reads a head of its own, which moves too
    optimizer = torch.optim.SGD([*c.model.parameters(), *method.parameters()], 1e-6)
    rows = training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y, Recording(0, diagnose=True)).rows
    (ratio,) = [r.value for r in rows if r.quantity == "descent_ratio"]
    assert ratio == pytest.approx(1, abs=1e-3)


def test_in_bf16_the_loss_after_the_step_is_that_of_the_new_weights():
    changes = {}
    for bf16 in (False, True):
        c = case("mlp", torch.float32)
        method = rule("bp", c)
        optimizer = torch.optim.SGD(c.model.parameters(), 0.3)
        rows = training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y, Recording(0, diagnose=True), bf16=bf16).rows
        changes[bf16] = {r.quantity: r.value for r in rows if r.layer == "network"}
    assert changes[True]["measured_change"] == pytest.approx(changes[False]["measured_change"], rel=0.2)
    assert changes[True]["measured_change"] < 0


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
            training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y, record=Recording(number, diagnose))
        after.append(({**frozen(c.model), **frozen(method)}, torch.get_rng_state()))
    assert_same_bits(after[0][0], after[1][0])
    assert torch.equal(after[0][1], after[1][1])


def test_with_dropout_the_descent_test_sees_the_steps_own_masks():
    c = case("basic-cnn")
    c.blocks[0].append(nn.Dropout(0.5))
    method = rule("bp", c)
    torch.manual_seed(key(3, "step", 9))
    rows = training_step(
        ModelAndMethod(c.model, method), torch.optim.SGD(c.model.parameters(), 1e-6), c.x, c.y, Recording(9, diagnose=True)
    ).rows
    (ratio,) = [r.value for r in rows if r.quantity == "descent_ratio"]
    assert ratio == pytest.approx(1, abs=1e-4)  # other masks would change the loss by far more than such a step
