"""Chunks and overlapping windows equal windows trained one by one: recompute from a detached input, loss at the end, ``backward()``."""

import copy
import sys
import weakref

import pytest
import torch
from oracles import assert_near, assert_same_bits, batches, case, frozen, nll, rule, step, uncut
from torch import nn

from gradlens.cli.main import main
from gradlens.gradients.backward import backward
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import training_step

# network, method, options, the windows over its units by hand; the last unit is the last block with the top
WINDOWS = [
    ("mlp", "overlap", {"window": 1}, [(0, 0), (1, 1), (2, 2), (3, 3)]),
    ("mlp", "overlap", {}, [(0, 1), (1, 2), (2, 3)]),
    ("mlp", "overlap", {"window": 3}, [(0, 2), (1, 3)]),
    ("mlp", "overlap", {"window": 4}, [(0, 3)]),
    ("mlp", "overlap", {"window": 2, "stride": 2}, [(0, 1), (2, 3)]),
    ("mlp", "overlap", {"window": 3, "stride": 3}, [(0, 2), (1, 3)]),  # the last one is moved down to end at the top
    ("basic-cnn", "overlap", {"window": 1, "head": "cnn"}, [(0, 0), (1, 1), (2, 2)]),
    ("basic-cnn", "overlap", {"window": 2, "head": "cnn"}, [(0, 1), (1, 2)]),
    ("basic-cnn", "overlap", {"window": 3}, [(0, 2)]),
    ("vgg11", "overlap", {"window": 3, "pooled": True}, [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)]),
    ("vgg11", "overlap", {"window": 3, "stride": 2, "pooled": True}, [(0, 2), (2, 4), (4, 6), (5, 7)]),
    ("vgg11", "overlap", {"window": 5, "head": "linear"}, [(0, 4), (1, 5), (2, 6), (3, 7)]),
    ("mlp", "chunked", {}, [(0, 1), (2, 3)]),
    ("mlp", "chunked", {"chunks": 1}, [(0, 3)]),
    ("mlp", "chunked", {"chunks": 4}, [(0, 0), (1, 1), (2, 2), (3, 3)]),
    ("mlp", "chunked", {"chunks": [1, 2, 1]}, [(0, 0), (1, 2), (3, 3)]),
    ("basic-cnn", "chunked", {"head": "mlp-sr"}, [(0, 1), (2, 2)]),  # three units: the lower chunk is the larger
    ("basic-cnn", "chunked", {"chunks": [1, 2], "pooled": True}, [(0, 0), (1, 2)]),
    ("vgg11", "chunked", {"chunks": [3, 1, 4], "pooled": True}, [(0, 2), (3, 3), (4, 7)]),
]
EACH = pytest.mark.parametrize(("network", "name", "options", "windows"), WINDOWS)


def one_by_one(model, heads, windows, x, y):
    """Each window by itself, its gradients added up in ``.grad``: (model, heads, {block: sum of dl_w/dh}, {window: {block: dl_w/dh}})."""
    model, heads = copy.deepcopy(model), copy.deepcopy(heads)
    n, slopes = len(model), {}
    for first, last in windows:
        h = x
        for block in model[:first]:
            h = block(h).detach()
        outputs, top = {}, last == n - 2
        for k in range(first, last + 1 + top):
            h = outputs[k] = model[k](h)
            h.retain_grad()
        nll(h if top else heads[str(last)](h), y).backward()
        slopes[first, last] = {k: h.grad for k, h in outputs.items()}
    deltas = {k: sum(s[k] for s in slopes.values() if k in s) for k in range(n)}
    return model, heads, deltas, slopes


@EACH
def test_gradients_are_the_sum_over_windows_that_are_each_recomputed(network, name, options, windows):
    c = case(network)
    method = rule(name, c, **options)
    assert method.reach.windows == windows
    model, heads, deltas, _ = one_by_one(c.model, method.heads, windows, c.x, c.y)
    _, updates = step(method, c)
    assert sorted(updates) == list(range(len(c.model)))
    for k, u in updates.items():
        assert_near(u.grad.params, {n: p.grad for n, p in model[k].named_parameters()})
        assert_near({"delta": u.signal.delta}, {"delta": deltas[k]})
    own = {n: g for u in updates.values() for n, g in u.aux_grads.items()}
    assert_near(own, {f"heads.{n}": p.grad for n, p in heads.named_parameters()})
    assert set(method.heads) == {str(last) for _, last in windows[:-1]}  # no head where no window ends


def test_an_interior_block_receives_two_losses_the_first_and_the_last_one():
    c = case("mlp")
    method = rule("overlap", c, window=2)
    *_, slopes = one_by_one(c.model, method.heads, [(0, 1), (1, 2), (2, 3)], c.x, c.y)
    _, updates = step(method, c)
    for k in (1, 2):
        parts = [s[k] for s in slopes.values() if k in s]
        assert len(parts) == 2
        assert_near({"delta": updates[k].signal.delta}, {"delta": parts[0] + parts[1]})
        assert min(p.abs().max() for p in parts) > 1e-3 * updates[k].signal.delta.abs().max()  # neither is a trifle
    assert_near({0: updates[0].signal.delta, 3: updates[3].signal.delta}, {0: slopes[0, 1][0], 3: slopes[2, 3][3]})


@EACH
def test_every_block_is_run_once_and_every_head_evaluated_once(network, name, options, windows):
    c = case(network)
    method = rule(name, c, **options)
    runs = []
    for module in (*c.model, *method.heads.values()):
        module.register_forward_hook(lambda m, args, out: runs.append(id(m)))
    list(backward(method, method.forward(c.blocks, c.x, c.y)))
    assert sorted(runs) == sorted(id(m) for m in (*c.model, *method.heads.values()))


@EACH
def test_nothing_leaves_a_window_at_its_bottom(network, name, options, windows):
    """A block sends one message for each window that holds it and the block below: others' gradients are never computed."""
    c = case(network)
    _, updates = step(rule(name, c, **options), c)
    for k in range(len(c.model) - 1):
        assert len(updates[k].signal.messages_below) == sum(first < k <= last for first, last in windows)
    assert len(updates[len(c.model) - 1].signal.messages_below) == 1


@EACH
def test_a_block_does_not_depend_on_what_lies_above_its_windows(network, name, options, windows):
    c = case(network)
    method = rule(name, c, **options)
    n = len(c.model)
    _, before = step(method, copy.deepcopy(c))
    for k in range(n - 2):
        reach = max(last for first, last in windows if first <= k <= last)
        for changed, same in ((reach + 1, True), (reach, False)):
            if changed > n - 2:
                continue
            other, method_ = copy.deepcopy(c), copy.deepcopy(method)
            above = [*other.model[max(changed, k + 1) :], *(h for j, h in method_.heads.items() if int(j) >= changed)]
            with torch.no_grad():
                for p in (p for module in above for p in module.parameters()):
                    p.mul_(-3)
            _, after = step(method_, other)
            assert torch.equal(after[k].signal.delta, before[k].signal.delta) == same


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize(
    ("name", "key", "other"), [("chunked", "one", "bp"), ("overlap", "one", "bp"), ("chunked", "all", "dgl"), ("overlap", "all", "dgl")]
)
def test_one_window_is_backprop_and_windows_of_one_unit_are_dgl_bit_for_bit(name, key, other, network):
    ends = []
    for method_name in (name, other):
        c = case(network, torch.float32)
        units = len(c.model) - 1
        sizes = {("chunked", "one"): {"chunks": 1}, ("chunked", "all"): {"chunks": units}, ("overlap", "one"): {"window": units}}
        options = sizes.get((name, key), {"window": 1}) if method_name == name else {}
        method = rule(method_name, c, warmed_up=False, **options)
        start = frozen(c.model)
        optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
        outcomes = [training_step(ModelAndMethod(c.model, method), optimizer, x, y) for x, y in batches(c, 4)]
        assert all(not torch.equal(t, start[n]) for n, t in frozen(c.model).items() if n.endswith("weight"))
        ends.append({**frozen(c.model), **frozen(method), **{f"loss {i}": o.loss for i, o in enumerate(outcomes)}})
    assert_same_bits(*ends)


@pytest.mark.parametrize("name", ["chunked", "overlap"])
def test_the_defaults_train_a_net_of_one_unit_as_backprop_does(name):
    c = case("mlp", torch.float32)._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=1)))
    twin = uncut(c.model, c.x, c.y)
    _, updates = step(rule(name, c), c)
    for k in range(2):
        assert_same_bits(updates[k].grad.params, twin.gradients(k))


@pytest.mark.parametrize(
    ("name", "options", "want"),
    [
        ("chunked", {"chunks": [2, 2]}, "r0 r1 u1 u0 r2 r3 r4 u4 u3 u2"),
        ("chunked", {"chunks": [1, 2, 1]}, "r0 u0 r1 r2 u2 u1 r3 r4 u4 u3"),
        ("overlap", {}, "r0 r1 r2 r3 r4 u4 u3 u2 u1 u0"),
        ("overlap", {"window": 2, "stride": 2}, "r0 r1 u1 u0 r2 r3 r4 u4 u3 u2"),
    ],
)
def test_a_chunk_is_run_finished_and_freed_before_the_next_is_run(name, options, want):
    c = case("mlp")
    method, log, held = rule(name, c, **options), [], {}

    def begin(k):
        log.append(f"r{k}")
        assert not [j for j, outputs in held.items() if any(r() is not None for r in outputs)]  # nothing of a finished block

    for k, block in enumerate(c.blocks):
        block.register_forward_pre_hook(lambda module, args, k=k: begin(k))
    for u in backward(method, method.forward(c.blocks, c.x, c.y)):
        log.append(f"u{u.k}")
        held[u.k] = [weakref.ref(u.p.h), weakref.ref(u.signal.delta)]
        del u
    assert " ".join(log) == want


@pytest.mark.parametrize(
    ("network", "name", "options", "words"),
    [
        (
            "basic-cnn", "chunked", {"chunks": 2},
            "chunks=2 does not divide the 3 units of this network; --set chunks=[2,1] splits them as block1 block2 | block3 top",
        ),
        ("mlp", "chunked", {"chunks": 3}, "splits them as block1 block2 | block3 | block4 top"),
        ("basic-cnn", "chunked", {"chunks": 4}, "chunks=4 is too many: this network has 3 units: block1 | block2 | block3 top"),
        ("basic-cnn", "chunked", {"chunks": [2, 2]}, "chunks=[2,2] adds up to 4 units, but this network has 3 units: block1"),
        ("basic-cnn", "chunked", {"chunks": [3, 0]}, "1 or more units each"),
        ("basic-cnn", "chunked", {"chunks": []}, "must be 1 or more chunks of 1 or more units each"),
        ("basic-cnn", "chunked", {"chunks": -1}, "must be 1 or more chunks of 1 or more units each"),
        ("basic-cnn", "overlap", {"window": 4}, "window=4 is larger than this network of 3 units: block1 | block2 | block3 top"),
        ("mlp", "overlap", {"stride": 3}, "stride=3 leaves units between windows of 2 untrained: set a stride of at most 2"),
    ],
)  # fmt: skip
def test_windows_that_do_not_fit_are_refused(network, name, options, words):
    with pytest.raises(InputError) as error:
        rule(name, case(network), **options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chunked", "--set", "chunks=2"], "--set chunks=[2,1] splits them as block1 block2 | block3 top"),
        (["overlap", "--set", "window=9"], "window=9 is larger than this network of 3 units"),
        (["overlap", "--set", "window=0"], "window: input should be greater than or equal to 1, got 0"),
    ],
)
def test_the_command_line_says_so_in_one_sentence_and_exits_with_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gradlens", "train", *arguments, "--quiet"])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_the_answer_and_the_loss_reported_are_the_networks_own():
    c = case("basic-cnn")
    for name in ("chunked", "overlap"):
        _, updates = step(rule(name, c), copy.deepcopy(c))
        assert [u.k for u in updates.values() if u.signal.logits is not None] == [3]
        assert updates[3].signal.loss == pytest.approx(nll(copy.deepcopy(c.model)(c.x), c.y).item(), rel=1e-12)


def test_heads_are_as_in_dgl():
    c = case("basic-cnn")
    a, b = rule("chunked", c, warmed_up=False, chunks=3, head="cnn", layers=2), rule("dgl", c, warmed_up=False, head="cnn", layers=2)
    assert_same_bits(frozen(a), frozen(b))
    assert [type(m) for m in a.heads["0"]].count(nn.Conv2d) == 2
