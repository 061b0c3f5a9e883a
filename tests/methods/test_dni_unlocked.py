"""The complete unlock against the published loop, its limit (perfect inputs: dni), and the isolation of each of its parts."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_near, assert_same_bits, batches, case, frozen, grads, interfaces_by_hand, nll, rows_of, rule, stirred, uncut
from torch import nn

from gradlens.gradients.backward import backward, run_step
from gradlens.gradients.locks import Locks
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.synthesizers import InputSynthesiser
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import make_config
from gradlens.training.step import Recording, training_step

NETWORKS = pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
CONTEXT = pytest.mark.parametrize("context", [False, True])


def unlocked(c, **options):
    return rule("dni-unlocked", c, **options)


def one_step(method, c):
    """The updates of one step, bottom first, graphs kept."""
    return dict(sorted((u.k, u) for u in backward(method, iter(list(method.forward(c.blocks, c.x, c.y))), keep=True)))


def unlocked_by_hand(model, inputs, synthesisers, x, y, target="sum", lam=0.0, context=False):
    """One step as in the reference, with ``backward()``: fills ``.grad`` of all; returns L_I of each block and L_S of each interface."""
    onehot = torch.eye(10, dtype=x.dtype)[y] if context else None
    ins, outs, input_errors = [], [], []
    for k, block in enumerate(model):
        read = x
        if k:
            made = inputs[k - 1](x, onehot)
            error = F.mse_loss(made, outs[-1].detach())
            error.backward()
            input_errors.append(error.item())
            read = made.detach()
        ins.append(read.clone().requires_grad_())
        outs.append(block(ins[-1]))
    nll(outs[-1], y).backward()
    losses, _ = interfaces_by_hand(ins, outs, synthesisers, onehot, y, target, lam)
    return input_errors, losses


# ------------------------------------------------------------------------------------------------------- against the loop


@CONTEXT
@pytest.mark.parametrize(("target", "lam"), [("sum", 0.0), ("mean", 0.0), ("sum", 0.4)])
@pytest.mark.parametrize("network", ["basic-cnn", "mlp", "vgg11"])
def test_one_step_equals_the_reference_loop(network, target, lam, context):
    c = case(network)
    method = unlocked(c, target=target, bp_lambda=lam, context=context)
    model, inputs, synthesisers = (copy.deepcopy(m) for m in (c.model, method.inputs, method.synthesisers))
    input_errors, losses = unlocked_by_hand(model, inputs, synthesisers, c.x, c.y, target, lam, context)
    for k, u in one_step(method, c).items():
        assert_near(u.grad.params, grads(model[k]))
        own = {f"synthesisers.{k}.{n}": g for n, g in grads(synthesisers[k]).items()} if k < len(losses) else {}
        own |= {f"inputs.{k - 1}.{n}": g for n, g in grads(inputs[k - 1]).items()} if k else {}
        assert_near(dict(u.aux_grads), own)
        found = method.quantities(u)
        assert found.get("synth_loss") == (pytest.approx(losses[k], rel=1e-10) if k < len(losses) else None)
        assert found.get("input_error") == (pytest.approx(input_errors[k - 1], rel=1e-10) if k else None)
    for got, want in ((c.model, model), (method.inputs, inputs), (method.synthesisers, synthesisers)):
        assert_near(frozen(got), frozen(want), 1e-12)  # batch statistics saw the batch once


@NETWORKS
def test_several_steps_equal_the_reference_loop(network):
    c = case(network)
    method = unlocked(c)
    mine = (c.model, method.inputs, method.synthesisers)
    theirs = tuple(copy.deepcopy(m) for m in mine)
    ours = torch.optim.SGD(method.param_groups(c.blocks), lr=0.003, momentum=0.9)
    other = torch.optim.SGD([p for m in theirs for p in m.parameters()], lr=0.003, momentum=0.9)
    start = frozen(method)
    for x, y in batches(c, 6):
        other.zero_grad()
        unlocked_by_hand(*theirs, x, y)
        other.step()
        training_step(ModelAndMethod(c.model, method), ours, x, y)
    for got, want in zip(mine, theirs, strict=True):
        assert_near(frozen(got), frozen(want), 1e-9)
    assert all(not torch.equal(p, start[n]) for n, p in method.named_parameters() if n.endswith("weight"))


# ------------------------------------------------------------------------------------------------------- perfect inputs


class Given(nn.Module):
    """An input synthesiser that answers one fixed tensor."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer.detach().clone())

    def forward(self, image, context=None):
        return self.answer * 1


@pytest.mark.parametrize("options", [{}, {"bp_lambda": 0.3, "target": "mean"}])
@NETWORKS
def test_perfect_inputs_make_it_dni_bit_for_bit(network, options):
    c = case(network)
    plain, method = rule("dni", c, **options), unlocked(c, **options)
    method.synthesisers.load_state_dict(plain.synthesisers.state_dict())
    other = copy.deepcopy(c)
    want = one_step(plain, c)
    for k in range(len(c.model) - 1):
        method.inputs[k] = Given(want[k].p.h)
    for k, u in one_step(method, other).items():
        assert_same_bits(u.grad.params, want[k].grad.params)
        assert_same_bits({n: g for n, g in u.aux_grads.items() if n.startswith("synth")}, dict(want[k].aux_grads))
        if k:
            assert not u.aux_grads[f"inputs.{k - 1}.answer"].any()  # there is nothing left to learn
            assert method.quantities(u)["input_error"] == 0
            assert method.quantities(u)["input_explained_variance"] == 1


def test_with_the_same_seed_the_gradient_synthesisers_start_as_dnis():
    c = case("basic-cnn")
    plain, method = (rule(name, c, warmed_up=False) for name in ("dni", "dni-unlocked"))
    assert_same_bits(frozen(method.synthesisers), frozen(plain.synthesisers))
    assert all(p.any() for m in method.inputs for n, p in m.named_parameters() if n.endswith("weight"))  # but inputs are not zero


# --------------------------------------------------------------------------------------------------------------- isolation


@CONTEXT
@NETWORKS
def test_autograd_finds_no_way_from_one_part_to_another(network, context):
    """None, not zero: I_k is reached from its own error alone, S_k from L_S alone, block k from what S_k says alone."""
    c = case(network)
    method = unlocked(c, context=context)
    passes = list(method.forward(c.blocks, c.x, c.y))
    updates = {u.k: u for u in backward(method, iter(passes), keep=True)}
    names, params = zip(*c.model.named_parameters(prefix="blocks"), *method.named_parameters(), strict=True)
    parts = [".".join(n.split(".")[:2]) for n in names]
    block_names = [f"blocks.{n}" for n, _ in c.model.named_children()]

    def reached(out):
        got = torch.autograd.grad(out.sum(), params, allow_unused=True, retain_graph=True)
        return {part for part, g in zip(parts, got, strict=True) if g is not None}

    for k, p in enumerate(passes):
        assert reached(p.h) == {block_names[k]}
        assert not p.z.grad_fn
        if k:
            assert reached(p.src) == {f"inputs.{k - 1}"}
            assert p.x.is_leaf
            assert torch.equal(p.x, p.src)
        if k < len(passes) - 1:
            kept = method.signal(k, dict(enumerate(passes)), updates[k].received).saved
            assert reached(kept.synthetic) == {f"synthesisers.{k}"}
            assert not updates[k].signal.delta.requires_grad
        assert {n.split(".")[0] + n.split(".")[1] for n in updates[k].aux_grads} == {
            *([f"synthesisers{k}"] if k < len(passes) - 1 else []),
            *([f"inputs{k - 1}"] if k else []),
        }
        assert updates[k].signal.saved.below is None or not updates[k].signal.saved.below.requires_grad


@NETWORKS
def test_a_block_has_the_same_error_signal_whatever_all_other_blocks_and_the_labels_are(network):
    """It waits for nothing: its gradient depends on the image, on itself and on its own two synthesisers."""
    c = case(network)
    method = unlocked(c)
    before = one_step(method, copy.deepcopy(c))
    for k in range(len(c.model) - 1):
        changed = copy.deepcopy(c)._replace(y=(c.y + 1) % 10)
        with torch.no_grad():
            for j, block in enumerate(changed.blocks):
                for p in block.parameters():
                    p.mul_(-3 if j != k else 1)
        after = one_step(copy.deepcopy(method), changed)
        assert_same_bits(after[k].grad.params, before[k].grad.params)
        assert any(not torch.equal(g, before[k].aux_grads[n]) for n, g in after[k].aux_grads.items())  # what they learn from is another
    assert METHODS["dni-unlocked"].locks() == Locks(forward=False, update=False, backward=False, labels=False)


@NETWORKS
def test_only_with_the_option_do_labels_enter(network):
    c = case(network)
    other = c._replace(y=(c.y + 3) % 10)
    for context in (False, True):
        method = unlocked(c, context=context)
        a, b = one_step(method, c), one_step(method, other)
        for k in range(len(c.model) - 1):
            assert torch.equal(a[k].p.h, b[k].p.h) == (not context or k == 0)
            assert torch.equal(a[k].signal.delta, b[k].signal.delta) != context
        widths = {m.context is not None for m in (*method.inputs, *method.synthesisers)}
        assert widths == {context}


@pytest.mark.parametrize("record", [None, 0])
@pytest.mark.parametrize("options", [{}, {"context": True}, {"bp_lambda": 1.0}, {"synth_warmup": 1}])
def test_each_synthesiser_is_evaluated_once_a_step(options, record):
    c = case("mlp", torch.float32)
    method = unlocked(c, **options)
    asked = []
    for name, module in method.named_modules():
        if name.count(".") == 1:
            module.register_forward_hook(lambda m, args, out, name=name: asked.append(name))
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.01)
    for i in range(2):
        method.start(1, i)
        training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y, None if record is None else Recording(record))
        assert sorted(asked) == [*(f"inputs.{k}" for k in range(4)), *(f"synthesisers.{k}" for k in range(4))]
        asked.clear()


# -------------------------------------------------------------------------------------------------- the truth, the records


@NETWORKS
def test_the_truth_is_backprops_on_a_clean_chain_and_leaves_no_trace(network):
    c = case(network, torch.float32)
    method = unlocked(c)
    run = run_step(method, c.blocks, c.x, c.y)
    before, stream = (frozen(c.model), frozen(method)), torch.get_rng_state()
    twin = uncut(c.model, c.x, c.y)
    truth = true_gradients(method, run)
    assert truth.reference == "loss, clean chain pass"
    assert truth.loss == nll(twin.outputs[-1], c.y)
    for k, grad in enumerate(truth.grads):
        assert_same_bits(grad.params, twin.gradients(k))
    assert_same_bits(frozen(c.model), before[0])
    assert_same_bits(frozen(method), before[1])
    assert torch.equal(torch.get_rng_state(), stream)


def test_diagnosing_goes_back_through_the_synthetic_passes_after_the_clean_one_and_leaves_no_trace():
    ends = []
    for record in (False, True):
        c = case("basic-cnn", torch.float32)
        method = unlocked(c)
        optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
        for i, (x, y) in enumerate(batches(c, 4)):
            rows = training_step(ModelAndMethod(c.model, method), optimizer, x, y, Recording(i, diagnose=True) if record else None).rows
            assert {"null_cosine", "corrected_cosine", "descent_ratio"} <= {r.quantity for r in rows} or not record
        ends.append((frozen(c.model), frozen(method)))
    assert_same_bits(ends[1][0], ends[0][0])
    assert_same_bits(ends[1][1], ends[0][1])


@NETWORKS
def test_errors_of_both_synthesisers_are_recorded(network):
    c = case(network)
    method, names = unlocked(c), [n for n, _ in c.model.named_children()]
    passes = list(copy.deepcopy(method).forward(copy.deepcopy(c.blocks), c.x, c.y))
    rows = {(r.layer, r.quantity): r.value for r in rows_of(method, c) if r.kind == "rule"}
    for k, name in enumerate(names):
        assert ((name, "synth_loss") in rows) == ((name, "synth_explained_variance") in rows) == (k < len(names) - 1)
        assert ((name, "input_error") in rows) == ((name, "input_explained_variance") in rows) == (k > 0)
        if k:
            made, real = passes[k].src.detach().flatten(1), passes[k - 1].h.detach().flatten(1)
            assert rows[name, "input_error"] == pytest.approx(((made - real) ** 2).mean().item(), rel=1e-12)
            spread = sum(((real[n] - real.mean(0)) ** 2).sum() for n in range(len(real)))
            explained = 1 - ((made - real) ** 2).sum() / spread
            assert rows[name, "input_explained_variance"] == pytest.approx(explained.item(), rel=1e-9)
    assert {q for _, q in rows} - {"loss"} == set(METHODS["dni-unlocked"].method_quantities)


@NETWORKS
def test_outside_training_the_image_goes_through_all_blocks(network):
    c = case(network)
    method = unlocked(c)
    for module in method.inputs:
        module.register_forward_hook(lambda *_: pytest.fail("a synthetic input outside training"))
    c.model.eval()
    assert torch.equal(method.predict(c.blocks, c.x), c.model(c.x))
    assert torch.equal(list(method.features(c.blocks, c.x))[-1], c.model(c.x))


def test_on_one_batch_inputs_gradients_and_answers_are_learned():
    c = case("mlp", images=32)
    method = stirred(rule("dni-unlocked", c, warmed_up=False))
    optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=3e-3)

    def at():
        rows = rows_of(copy.deepcopy(method), copy.deepcopy(c))
        own = {(r.layer, r.quantity): r.value for r in rows if r.kind == "rule"}
        return own["block3", "input_error"], own["top", "loss"], own["block4", "synth_explained_variance"]

    error, loss, _ = at()
    for _ in range(150):
        training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y)
    later, less, explained = at()
    assert later < error / 3
    assert less < 0.9 * loss
    assert explained > 0.1


# ------------------------------------------------------------------------------------------------------ the synthesisers


@CONTEXT
@pytest.mark.parametrize(
    ("image", "shape", "fit", "read"),
    [
        ((3, 32, 32), (8, 16, 16), "unshuffle", 12),
        ((3, 32, 32), (8, 32, 32), "unshuffle", 3),
        ((1, 28, 28), (5, 7, 7), "unshuffle", 16),
        ((2, 28, 28), (5, 3, 3), "average", 2),
        ((2, 8, 8), (5, 2, 4), "average", 2),
        ((2, 8, 8), (5, 9, 9), "average", 2),
        ((2, 8, 4), (5, 4, 2), "unshuffle", 8),
        ((2, 8, 8), (7,), "flatten", 128),
    ],
)
def test_an_input_synthesiser_is_its_formula(image, shape, fit, read, context):
    torch.manual_seed(0)
    net = InputSynthesiser(image, shape, 10 if context else 0, 6).double()
    x = torch.randn(5, *image, dtype=torch.float64)
    onehot = torch.eye(10, dtype=torch.float64)[[1, 2, 3, 1, 2]] if context else None
    h = x.flatten(1)
    if fit == "unshuffle":
        r = image[1] // shape[1]
        h = torch.stack([x[:, c, i::r, j::r] for c in range(image[0]) for i in range(r) for j in range(r)], 1)
    elif fit == "average":
        h = F.adaptive_avg_pool2d(x, shape[1:])
    assert h.shape[1] == read
    spatial, rest = len(shape) == 3, net.rest

    def layer(m, v):
        return F.conv2d(v, m.weight, m.bias, padding=2) if spatial else v @ m.weight.T + m.bias

    def norm(v):
        axes = (0, 2, 3) if spatial else (0,)
        return (v - v.mean(axes, keepdim=True)) / (v.var(axes, keepdim=True, unbiased=False) + 1e-5).sqrt()

    first = layer(net.first, h)
    if context:
        added = onehot @ net.context.weight.T + net.context.bias
        first = first + (added[:, :, None, None] if spatial else added)
    want = layer(rest.last, norm(layer(rest.middle, norm(first).relu())).relu())
    out = net(x, onehot)
    assert out.shape == (5, *shape)
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)
    assert out.any()  # not started at zero
    wide = InputSynthesiser(image, shape, 0, None)
    assert wide.first.weight.shape[:2] == (shape[0], read)


def test_options_that_cannot_be_used_are_refused_in_a_sentence():
    for options, word in (({"input_width": 0}, "input_width"), ({"context": "perhaps"}, "context"), ({"wdth": 3}, "wdth")):
        with pytest.raises(InputError, match=word) as caught:
            make_config(method="dni-unlocked", options=options)
        assert "\n" not in str(caught.value)
    c = case("basic-cnn")
    method = unlocked(c, input_width=3, width=7)
    assert {m.first.weight.shape[0] for m in method.inputs} == {3}
    assert {m.first.weight.shape[0] for m in method.synthesisers} == {7}


# -------------------------------------------------------------------------------------------- interfaces after some blocks only


@pytest.mark.parametrize("at", [[2], [1, 3]])
def test_interfaces_after_some_blocks_are_the_reference_loop_on_a_net_cut_there_alone(at):
    c = case("mlp")
    method = unlocked(c, at=at)
    model = copy.deepcopy(c.model)
    bounds = [0, *at, len(model)]
    coarse = nn.Sequential(*(nn.Sequential(*list(model)[a:b]) for a, b in pairwise(bounds)))
    inputs, synthesisers = (nn.ModuleList(copy.deepcopy(m[k - 1]) for k in at) for m in (method.inputs, method.synthesisers))
    input_errors, losses = unlocked_by_hand(coarse, inputs, synthesisers, c.x, c.y)
    for k, u in one_step(method, c).items():
        assert_near(u.grad.params, grads(model[k]))
        own = {f"synthesisers.{k}.{n}": g for n, g in grads(synthesisers[at.index(k + 1)]).items()} if k + 1 in at else {}
        own |= {f"inputs.{k - 1}.{n}": g for n, g in grads(inputs[at.index(k)]).items()} if k in at else {}
        assert_near(dict(u.aux_grads), own)
        found = method.quantities(u)
        assert found.get("synth_loss") == (pytest.approx(losses[at.index(k + 1)], rel=1e-10) if k + 1 in at else None)
        assert found.get("input_error") == (pytest.approx(input_errors[at.index(k)], rel=1e-10) if k in at else None)


@NETWORKS
def test_without_an_interface_it_is_backprop_bit_for_bit(network):
    c = case(network, torch.float32)
    twin = uncut(c.model, c.x, c.y)
    for k, u in one_step(unlocked(c, at=[]), c).items():
        assert_same_bits(u.grad.params, twin.gradients(k))
