"""The true gradient that is recorded is what ``loss.backward()`` gives on an uncut copy of the network, bit for bit."""

import copy

import pytest
import torch
from oracles import (
    SUPERVISED,
    UNLABELLED,
    VARIANTS,
    assert_near,
    assert_same_bits,
    case,
    frozen,
    method_class,
    nll,
    rows_of,
    rule,
    step,
    uncut,
)
from rule_cases import IN_THE_GRAPH, LOCAL, OTHER_INPUTS, RULES, every_rule, holds, is_asked_of_no_other, posed, synthetic_inputs

from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import is_chain
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Signal, Step
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods.local.windows import LocalLosses


@every_rule("truth")
def test_the_recorded_truth_is_that_of_an_uncut_copy(name, network):
    holds("truth", name, network)


def test_the_check_of_truth_leaves_out_the_rules_it_says():
    is_asked_of_no_other("truth")


NETWORKS = ("mlp", "basic-cnn", "vgg11", "resnet20")
PAIRS = [(name, network) for i, name in enumerate(RULES) for j, network in enumerate(NETWORKS) if (i + j) % 2]


@pytest.mark.parametrize(("name", "network"), [*PAIRS, ("bp", "mlp"), ("bp", "vgg11")])
def test_truth_equals_backward_on_an_uncut_copy_bit_for_bit(name, network):
    c = case(network, torch.float32)
    method = rule(name, c)
    twin = uncut(c.model, c.x, c.y)
    passes, updates = step(method, c)
    assert is_chain(passes) or name in OTHER_INPUTS
    truth, *_, reference = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert reference == f"{method.objective}, {'same passes' if is_chain(passes) else 'clean chain pass'}"
    for k, grad in enumerate(truth):
        assert_same_bits(grad.params, twin.gradients(k))
        assert torch.equal(grad.delta, twin.outputs[k].grad)
    if is_chain(passes):
        assert_same_bits(frozen(c.model), frozen(twin.model))  # BatchNorm saw the batch once


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", SUPERVISED)
def test_truth_is_the_gradient_of_the_rules_own_loss(name, loss):
    c = case("mlp")
    method = rule(name, c, LOSSES[loss])
    twin = copy.deepcopy(c.model)
    LOSSES[loss](twin(c.x), c.y).backward()
    truth = true_gradients(method, run_step(method, c.blocks, c.x, c.y)).grads
    for k, grad in enumerate(truth):
        assert_near(grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-12)


def test_truth_of_synthetic_inputs_comes_from_a_clean_chain_pass_that_leaves_no_trace():
    method, c = synthetic_inputs()
    passes, updates = step(method, c)
    assert not is_chain(passes)
    before, stream = (frozen(c.model), frozen(method)), torch.get_rng_state()
    twin, head, x = copy.deepcopy(c.model), copy.deepcopy(method.head), c.x
    truth, *_, reference = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert reference == "loss, clean chain pass"
    assert torch.equal(torch.get_rng_state(), stream)  # its dropout masks were drawn aside
    assert_same_bits(frozen(c.model), before[0])
    assert_same_bits(frozen(method), before[1])  # the rule's own BatchNorm too
    nll(head(twin(x)), c.y).backward()  # the stream stands where the clean pass found it: the same masks
    for k, grad in enumerate(truth):
        assert_near(grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-12)
    rows = rows_of(method, c)
    assert {row.reference for row in rows} == {reference}
    cosine = {(r.layer, r.kind): r.value for r in rows if r.quantity == "cosine"}
    assert abs(cosine["block1.conv", "weight"]) < 0.9  # what the rule used is not the gradient of any loss


def test_truth_asks_for_a_trained_top():
    c = case("mlp")
    method = rule("bp", c)
    passes, updates = step(method, c)
    updates[4] = updates[4]._replace(signal=Signal(None))
    with pytest.raises(ValueError, match="not trained"):
        true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates))


@pytest.mark.parametrize("name", [name for name in RULES if name != "dni-unlocked"])  # whose top reads another input
def test_the_top_unit_gets_the_true_gradient(name):
    """Every rule tells the top the loss's own gradient; the last unit of local rules is the last block with the top."""
    c = case("mlp" if name in VARIANTS else "basic-cnn", torch.float32)
    method, names = rule(name, c), [n for n, _ in c.model.named_children()]
    _, updates = step(method, c)
    for u in (
        *([] if name in IN_THE_GRAPH else [updates[len(names) - 1]]),
        *([updates[len(names) - 2]] if issubclass(method_class(name), LocalLosses) else []),
    ):
        assert_same_bits(u.grad.params, uncut(c.model, c.x, c.y).gradients(u.k))
    exact = {"cosine": 1, "angle": 0, "norm_ratio": 1}
    rows = [r for r in rows_of(method, c) if r.kind != "rule"]
    top = [r for r in rows if r.layer.split(".")[0] == "top" and r.quantity in exact]
    if name in IN_THE_GRAPH - {"dfa"}:  # feedback acts inside the top too: its last layer is the exact one
        top = [r for r in top if r.layer == "top.out" or r.kind == "activation"]
    kinds = {r.kind for r in top}
    assert {"weight", "bias", "activation"} <= kinds
    assert {(r.kind, r.quantity) for r in top} == {(k, q) for k in kinds for q in exact}
    for r in top:
        assert r.value == pytest.approx(exact[r.quantity], abs=1e-12 if r.quantity != "angle" else 1e-5), r
    below = {r.layer: r.value for r in rows if r.layer.startswith("block1.") and (r.kind, r.quantity) == ("weight", "cosine")}
    assert all((v > 1 - 1e-12) == (name in ("bp", "distil")) for v in below.values())


@pytest.mark.parametrize("name", UNLABELLED)
def test_truth_equals_backward_on_an_uncut_copy_of_encoder_and_head(name):
    method, c = posed(name)
    passes, updates = step(method, c)
    assert is_chain(passes)
    assert len(passes) == 2
    twin = copy.deepcopy(c.model)
    h = copy.deepcopy(method).prepare_input(c.x)
    for block in twin[:-1]:
        h = block(h)
    again = copy.deepcopy(method)  # its head has been run once already, its draws are named by the step
    again.pretext.loss(1, again.heads["1"], h, passes[1].y).backward()
    truth, *_, reference = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert reference == f"{method.objective}, same passes"
    assert "top of the encoder" in reference
    for k, grad in enumerate(truth):
        assert_near(grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-10)
    if name not in LOCAL and len(method.reach.windows) == 1:
        for k in (0, 1):
            assert_near(updates[k].grad.params, truth[k].params, 1e-12)
