"""Rules on a transformer of tokens, against loops written by hand and against what the papers say of them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from oracles import stirred
from torch import nn

from gradlens.gradients.backward import run_step
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.transformer import transformer_blocks
from gradlens.models.zoo import layers
from gradlens.runtime.batch_items import set_items
from gradlens.runtime.errors import InputError
from gradlens.tasks.registry import TASKS
from gradlens.training.build import make_network_info

N, T, D, FF, V, L = 3, 5, 8, 12, 7, 3
TIGHT = {"rtol": 1e-10, "atol": 1e-13}


def made(name, norm_first=False, **options):
    """A transformer in float64, a rule on it, and a batch."""
    torch.manual_seed(4)
    model = transformer_blocks(V, T, D, L, 2, FF, nn.ReLU, norm_first).double()
    net = make_network_info(model, (T,), V, LOSSES["ce"], 3, 3, TASKS["language"])
    method = stirred(METHODS[name](net, METHODS[name].Options(**options)).double())
    method.start(1, 0)
    rng = torch.Generator().manual_seed(1)
    x, y = torch.randint(V, (2, N, T), generator=rng)
    set_items(y, y.numel(), y.numel())
    return model, method, x, y


def stepped(name, **options):
    model, method, x, y = made(name, **options)
    return model, method, x, y, run_step(method, list(model), x, y)


def used(step):
    """parameter -> the gradient a rule used."""
    names = ["block1", "block2", "block3", "top"]
    return {f"{names[k]}.{n}": g for k, u in step.updates.items() for n, g in u.grad.params.items()}


def by_backward(model, loss):
    """parameter -> its gradient by ``loss.backward()`` on the model itself."""
    model.zero_grad()
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def ce(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


# --------------------------------------------------------------------------------------------------- direct feedback


def by_hand(model, x, y, matrix, inside, error, embedding=False):
    """Launay et al.'s loop: leaves at the points, the same projected error at each, backprop between two points.

    Args:
        matrix: [C, largest] U[-1, 1).
        inside: three points a layer, not one.
        error: where it is read: features or logits.
        embedding: a point after the embedding's product with √width too.

    """
    twin, points = copy.deepcopy(model), []

    def point(h):
        leaf = h.detach().requires_grad_()
        points.append((h, leaf))
        return leaf

    h = twin.block1.embedding.tokens(x) * math.sqrt(D)
    h = (point(h) if embedding else h) + twin.block1.embedding.positions[:T]
    for layer in (twin.block1.layer, twin.block2, twin.block3):
        a = layer.norm1(h + layer.attention(h))
        a = point(a) if inside else a
        hidden = layer.act(layer.ff1(a))
        hidden = point(hidden) if inside else hidden
        h = point(layer.norm2(a + layer.ff2(hidden)))
    logits = twin.top(h)
    loss = ce(logits, y)
    (e,) = torch.autograd.grad(loss, h if error == "features" else logits, retain_graph=True)
    loss.backward()
    told = e @ matrix / math.sqrt(matrix.shape[1])
    for h, _ in points:
        h.backward(told[..., : h.shape[-1]], retain_graph=True)
    return {n: p.grad for n, p in twin.named_parameters()}


@pytest.mark.parametrize("error", ["features", "logits"])
@pytest.mark.parametrize(("points", "embedding"), [("blocks", False), ("inside", False), ("blocks", True), ("inside", True)])
def test_dfa_is_the_published_loop(points, embedding, error):
    model, method, x, y, step = stepped("dfa", shared=True, points=points, error=error, embed_point=embedding)
    matrix = method.feedback.get_buffer("shared")
    assert matrix.shape == (D if error == "features" else V, FF if points == "inside" else D)
    want, got = by_hand(model, x, y, matrix, points == "inside", error, embedding), used(step)
    assert got.keys() == want.keys()
    for name, g in want.items():
        torch.testing.assert_close(got[name], g, **TIGHT)


PIECES = ({"embedding"}, {"attention", "norm1"}, {"ff1"}, {"ff2", "norm2"})  # of a post-LN layer between two places


def test_the_pieces_between_places_have_gradients_of_their_own_error_alone():
    """By law: another matrix at one place changes the gradient of the piece below it, and of nothing else."""
    options = {"points": "inside", "embed_point": True}
    model, method, x, y = made("dfa", **options)
    before = used(run_step(method, list(model), x, y))
    below = {
        "0/embedding/point": (1, 0),
        "0/layer/point1": (1, 1),
        "0/layer/point2": (1, 2),
        "0": (1, 3),
        "1/point1": (2, 1),
        "2/point2": (3, 2),
    }
    assert below.keys() <= dict(method.feedback.named_buffers()).keys()
    for place, (block, piece) in below.items():
        with torch.no_grad():
            method.feedback.get_buffer(place).mul_(-1)
        after = used(run_step(method, list(model), x, y))
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        inside = {name for name in after if name.startswith(f"block{block}.") and PIECES[piece] & {*name.split(".")}}
        assert changed == {name for name in inside if before[name].any()}
        for name in inside:
            torch.testing.assert_close(after[name], -before[name], **TIGHT)
        with torch.no_grad():
            method.feedback.get_buffer(place).mul_(-1)


@pytest.mark.parametrize("points", ["blocks", "inside"])
def test_what_dfa_tells_a_token_depends_on_its_own_error_only(points):
    _, method, _, _, step = stepped("dfa", points=points)
    top = step.passes[-1]
    for k in range(L):
        delta = step.updates[k].signal.delta
        (e,) = torch.autograd.grad(method.loss(top.z, top.y), top.z)
        for n in range(N):
            for t in range(T):
                torch.testing.assert_close(delta[n, t], e[n, t] @ method.matrix(k), **TIGHT)


def test_copies_of_a_network_keep_the_feedback_inside_blocks():
    model, method, x, y, step = stepped("dfa", points="inside")
    other, again = copy.deepcopy((model, method))
    for name, g in used(run_step(again, list(other), x, y)).items():
        assert torch.equal(g, used(step)[name])


def test_reading_the_error_below_the_output_block_needs_one_that_can_run_twice():
    net = make_network_info(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(), nn.Linear(4, 2))), (4,), 2, LOSSES["ce"])
    with pytest.raises(InputError, match="error=features runs the output block twice, which Dropout forbids"):
        METHODS["dfa"](net, METHODS["dfa"].Options(error="features"))


def test_shallow_trains_the_vocabulary_alone_and_exactly():
    model, _, x, y, step = stepped("shallow")
    want = by_backward(model, ce(model(x), y))
    assert set(used(step)) == {"top.vocabulary.weight", "top.vocabulary.bias"}
    for name, g in used(step).items():
        torch.testing.assert_close(g, want[name], **TIGHT)


# -------------------------------------------------------------------------------------------------- feedback matrices


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("name", ["fa", "frsf", "kp"])
def test_a_feedback_rule_replaces_every_linear_map_and_with_the_weights_themselves_it_is_backprop(name, norm_first):
    model, method, x, y = made(name, norm_first)
    assert {path for block in method.paths for path in block} == set(layers(model))
    before = used(run_step(method, list(model), x, y))
    assert method.used == set(layers(model))
    want = by_backward(model, ce(model(x), y))
    assert not torch.allclose(before["block1.embedding.tokens.weight"], want["block1.embedding.tokens.weight"])
    method.matrix = lambda path, w: w
    after = used(run_step(method, list(model), x, y))
    for parameter, g in want.items():
        torch.testing.assert_close(after[parameter], g, **TIGHT)


def test_the_embedding_is_exact_given_what_reaches_it():
    model, method, x, y = made("fa")
    reached = []
    model.block1.embedding.register_forward_hook(lambda m, args, out: out.register_hook(lambda g: reached.append(g)) and None)
    grad = used(run_step(method, list(model), x, y))["block1.embedding.tokens.weight"]
    (g,) = reached
    want = torch.zeros(V, D, dtype=torch.float64)
    for n in range(N):
        for t in range(T):
            want[x[n, t]] += math.sqrt(D) * g[n, t]
    torch.testing.assert_close(grad, want, **TIGHT)


# ------------------------------------------------------------------------------------------------------ local losses


@pytest.mark.parametrize("head", ["norm-linear", "low-rank", "tied"])
def test_windows_are_trained_by_their_own_head_and_the_embedding_by_the_first(head):
    model, method, x, y, step = stepped("dgl", head=head, rank=2)
    twin, heads = copy.deepcopy((model, method.heads))
    for p in twin.top.parameters():
        p.grad = torch.zeros_like(p)
    h = x
    for k, block in enumerate(twin):
        h = block(h.detach() if 0 < k < L else h)
        if k < L - 1:
            module = heads[str(k)].rows
            if head == "tied":
                logits = module.norm(h) @ twin.top.vocabulary.weight.detach().T + twin.top.vocabulary.bias.detach()
            else:
                logits = module(h)
            ce(logits, y).backward()
        elif k == L:
            ce(h, y).backward()
    for name, p in twin.named_parameters():
        torch.testing.assert_close(used(step)[name], p.grad, **TIGHT)
    own = {n: g for u in step.updates.values() for n, g in u.aux_grads.items()}
    for name, p in heads.named_parameters():
        torch.testing.assert_close(own[f"heads.{name}"], p.grad, **TIGHT)


def test_tied_heads_on_equal_features_give_equal_losses():
    model, method, _, y = made("dgl", head="tied")
    with torch.no_grad():
        for p in method.heads["1"].parameters():
            p.copy_(dict(method.heads["0"].named_parameters())[next(n for n, q in method.heads["1"].named_parameters() if q is p)])
    h = torch.randn(N, T, D, dtype=torch.float64)
    method.tie_heads(model[-1])
    assert torch.equal(ce(method.heads["0"](h), y), ce(method.heads["1"](h), y))


@pytest.mark.parametrize("name", ["chunked", "overlap"])
def test_one_window_is_backprop_bit_for_bit(name):
    *_, step = stepped(name, **({"chunks": 1} if name == "chunked" else {"window": L}))
    *_, truth = stepped("bp")
    want = used(truth)
    assert all(torch.equal(g, want[n]) for n, g in used(step).items())


@pytest.mark.parametrize("name", ["bp", "dgl", "dfa", "fa", "dni"])
def test_the_batch_may_be_in_any_order(name):
    model, method, x, y, step = stepped(name)
    order = torch.tensor([2, 0, 1])
    turned = y[order].clone()
    set_items(turned, y.numel(), y.numel())
    again = run_step(method, list(model), x[order].clone(), turned)
    for k, u in step.updates.items():
        torch.testing.assert_close(again.updates[k].signal.delta, u.signal.delta[order], **TIGHT)


def test_a_later_token_has_no_part_in_the_truth_of_an_earlier_ones_loss():
    model, method, x, y = made("bp")
    y = y.clone()
    y[:, 2:] = -1  # no loss after position 1
    set_items(y, 2 * N, 2 * N)
    step = run_step(method, list(model), x, y)
    for grad in true_gradients(method, step).grads:
        assert not grad.delta[:, 2:].any()
        assert grad.delta[:, :2].any()
