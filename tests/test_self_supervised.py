"""Laws that hold for every rule in METHODS that learns from images alone; a new rule is tested by existing."""

import copy
import math

import pytest
import torch
from oracles import (
    UNLABELLED,
    Case,
    assert_near,
    assert_same_bits,
    frozen,
    needed,
    step,
    stirred,
)  # fmt: skip
from torch import nn

from gradlens.augment import normalizer
from gradlens.config import make
from gradlens.data import load as load_data
from gradlens.diagnostics import SPARSE
from gradlens.errors import InputError
from gradlens.experiments import train_run
from gradlens.gradients_backward import backward
from gradlens.gradients_true_gradient import true_updates
from gradlens.method import Method, Step
from gradlens.methods import METHODS
from gradlens.models import Plan, build
from gradlens.objectives import LOSSES
from gradlens.optimizers import make_optimizer
from gradlens.passes import is_chain
from gradlens.recorder import step_rows
from gradlens.setup import Pair, make_net, make_pair
from gradlens.training_context import Place
from gradlens.training_step import evaluate, update

LOCAL = [name for name in UNLABELLED if "above" not in METHODS[name].reads]
PLAN = Plan((3, 16, 16), 10, width=4, depth=2)
IMAGES = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


def posed(name: str, dtype: torch.dtype = torch.float64, step_: int = 5, **options: object) -> tuple[Method, Case]:
    """A rule in the middle of a run, and the task it makes of six images of noise."""
    model = build("basic-cnn", PLAN, seed=1).to(dtype)
    net = make_net(model, PLAN.shape, 10, LOSSES["ce"], 3, epochs=3)
    method = stirred(METHODS[name](net, METHODS[name].Options(**options)).to(dtype))
    method.start(2, step_)
    to_input = normalizer("pm1", IMAGES)
    x, y = method.task(IMAGES, torch.arange(6), step_, lambda images: to_input(images).to(dtype))
    return method, Case(model, x, y)


def rows(method: Method, c: Case):
    passes, updates = step(method, c)
    run = Step(c.blocks, c.x, c.y, passes, updates)
    return step_rows(5, ["block1", "block2", "top"], method, run, true_updates(method, run))


@pytest.mark.parametrize("name", UNLABELLED)
def test_truth_equals_backward_on_an_uncut_copy_of_encoder_and_head(name):
    method, c = posed(name)
    passes, updates = step(method, c)
    assert is_chain(passes)
    assert len(passes) == 2
    twin = copy.deepcopy(c.model)
    h = copy.deepcopy(method).entry(c.x)
    for block in twin[:-1]:
        h = block(h)
    again = copy.deepcopy(method)  # its head has been run once already, its draws are named by the step
    again.local_loss(1, passes[1]._replace(z=h)).loss.backward()
    truth, *_, reference = true_updates(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert reference == f"{method.objective}, same passes"
    assert "top of the encoder" in reference
    for k, grad in enumerate(truth):
        assert_near(grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-10)
    if name not in LOCAL and len(method.spans) == 1:
        for k in (0, 1):
            assert_near(updates[k].grad.params, truth[k].params, 1e-12)


@pytest.mark.parametrize("name", LOCAL)
def test_local_twins_are_isolated(name):
    """Structural: no loss has a path to another block, and what a block is told does not depend on the blocks above."""
    method, c = posed(name)
    passes, before = step(method, copy.deepcopy(c))
    assert [method.needs_above(k) for k in (0, 1)] == [False, False]
    for k, p in enumerate(passes):
        loss = method.local_loss(k, p).loss
        params = {**dict(c.model.named_parameters()), **dict(method.named_parameters())}
        got = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        assert {n.split(".")[0] for n, g in zip(params, got, strict=True) if g is not None} == {"heads"}
        assert before[k].signal.send == ()
    changed = copy.deepcopy(c)
    with torch.no_grad():
        for p in changed.model[1].parameters():
            p.mul_(-3)
    _, after = step(method, changed)
    assert_same_bits(after[0].grad.params, before[0].grad.params)
    assert_same_bits(dict(after[0].own), dict(before[0].own))


@pytest.mark.parametrize("name", [name for name in LOCAL if name != "loco"])
def test_one_module_is_the_end_to_end_rule(name):
    whole = {"simclr-local": "simclr", "cpc-local": "cpc", "context-encoder-local": "context-encoder"}.get(name)
    method, c = posed(name, modules=1)
    _, mine = step(method, copy.deepcopy(c))
    for k in (0, 1):
        assert method.needs_above(k) == (k == 0)
    if whole:
        other, same = posed(whole)
        assert torch.equal(same.x, c.x)
        _, theirs = step(other, same)
        for k in (0, 1):
            assert_same_bits(mine[k].grad.params, theirs[k].grad.params)


def test_a_module_that_two_units_of_loco_share_gets_the_sum_of_both():
    model = build("basic-cnn", Plan((3, 16, 16), 10, width=4, depth=3), seed=1).double()
    net = make_net(model, (3, 16, 16), 10, LOSSES["ce"], 3)
    method = stirred(METHODS["loco"](net, METHODS["loco"].Options()).double())
    x, y = method.task(IMAGES, torch.arange(6), 0, lambda v: v.double() / 127.5 - 1)
    passes, updates = step(method, Case(model, x, y))
    blocks, heads = list(model), method.heads
    assert sorted(heads) == ["1", "2"]
    for module in (model, method):
        module.train()
    h1 = blocks[0](method.entry(x))
    first = method.local_loss(1, passes[1]._replace(z=blocks[1](h1))).loss  # U1 = (block1, block2)
    cut = h1.detach()
    second = method.local_loss(2, passes[2]._replace(z=blocks[2](blocks[1](cut)))).loss  # U2 = (block2, block3) on what block1 gave

    def of(loss, block):
        names, params = zip(*block.named_parameters(), strict=True)
        got = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        return dict(zip(names, got, strict=True))

    g1, g2 = of(first, blocks[1]), of(second, blocks[1])
    assert_near(updates[1].grad.params, {n: g1[n] + g2[n] for n in g1}, 1e-10)
    assert_near(updates[0].grad.params, of(first, blocks[0]), 1e-10)
    assert all(g is None for g in of(second, blocks[0]).values())
    assert_near(updates[2].grad.params, of(second, blocks[2]), 1e-10)


@pytest.mark.parametrize("name", UNLABELLED)
def test_labels_are_never_read(name):
    method, c = posed(name)
    passes, updates = step(method, c)
    other = make_labels_wrong(method, name)
    for k, p in enumerate(passes):
        told = method.signal(k, {q.k: q._replace(y=other) if other is not None else q for q in passes}, updates[k].above).delta
        assert torch.equal(told, updates[k].signal.delta)
        assert updates[k].signal.answer is None
        assert p is passes[k]


def make_labels_wrong(method: Method, name: str) -> torch.Tensor | None:
    """What the task makes of other labels; None where the targets are not labels at all."""
    to_input = normalizer("pm1", IMAGES)
    tasks = [method.task(IMAGES, labels, 5, lambda i: to_input(i).double()) for labels in (torch.arange(6), torch.zeros(6).long())]
    assert torch.equal(tasks[0][0], tasks[1][0])  # the same views of the same images
    return tasks[1][1]


@pytest.mark.parametrize("name", UNLABELLED)
def test_signals_depend_on_their_arguments_and_the_step_alone(name):
    method, c = posed(name)
    passes, updates = step(method, c)
    stream = torch.get_rng_state()
    for k in (1, 0, 0, 1):
        first, again = updates[k].signal, method.signal(k, dict(enumerate(passes)), updates[k].above)
        assert torch.equal(first.delta, again.delta)
        assert_same_bits(dict(again.own), dict(first.own))
    assert torch.equal(torch.get_rng_state(), stream)
    x = posed(name)[1].x
    assert torch.equal(x, c.x)
    if not torch.equal(posed(name, step_=6)[1].x, c.x):  # another step, other draws
        assert posed(name, step_=6)[1].x.shape == x.shape


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_step_trains_the_encoder_and_every_head_once_and_leaves_the_top(name):
    method, c = posed(name)
    updates = list(backward(method, method.forward(c.blocks, c.x, c.y)))
    assert sorted(u.k for u in updates) == [0, 1]
    own = {}
    for u in updates:
        assert set(u.grad.params) == set(dict(u.p.block.named_parameters()))
        assert not set(own) & set(u.own)
        own |= u.own
        for n, g in u.own.items():
            assert g.shape == method.get_parameter(n).shape
            assert not g.requires_grad
    assert set(own) == {n for n, p in method.named_parameters() if p.requires_grad}
    params = [p for group in method.param_groups(c.blocks) for p in group["params"]]
    assert len({id(p) for p in params}) == len(params)
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.1)
    top = frozen(c.model[-1])
    outcome = update(Pair(c.model, method), optimizer, c.x, c.y)
    assert_same_bits(frozen(c.model[-1]), top)
    assert outcome.images == 6
    assert int(outcome.answered) == 0


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_rules_start_depends_on_the_seed_alone(name):
    stream = torch.get_rng_state()
    first = frozen(posed(name)[0])
    assert torch.equal(torch.get_rng_state(), stream)
    torch.rand(3)
    assert_same_bits(frozen(posed(name)[0]), first)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", UNLABELLED)
def test_recording_leaves_no_trace(name, bf16):
    ends = []
    for recorded in (set(), {0, 1, 2}, {1}):
        torch.manual_seed(4)
        method, c = posed(name, torch.float32)
        c.model[0].append(nn.Dropout(0.3))  # draws from the global stream
        pair = Pair(c.model, method)
        optimizer = make_optimizer(make(lr=0.01), pair)
        for i in range(3):
            method.start(1, i)
            to_input = normalizer("pm1", IMAGES)
            x, y = method.task(IMAGES, torch.arange(6), i, to_input)
            found = update(pair, optimizer, x, y, i if i in recorded else None, bf16, diagnose=True).rows
            assert bool(found) == (i in recorded)
        ends.append({**frozen(c.model), **frozen(method), "stream": torch.get_rng_state()})
    assert_same_bits(ends[1], ends[0])
    assert_same_bits(ends[2], ends[0])


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_run_records_truth_chance_noise_and_descent(name, tmp_path):
    changes = {"width": 4, "limit": 64, "limit_test": 20, "batch_size": 16, "epochs": 2, "record_every": 2, "diagnose_every": 1, "lr": 1e-5}
    run = train_run(make(**{**changes, **needed(name), "method": name}), Place(out=tmp_path))
    assert {m.split for m in run.metrics} == {"train", "test"}
    assert all(math.isnan(m.accuracy) and math.isfinite(m.loss) for m in run.metrics)
    assert {r.quantity for r in run.gradients} >= {*SPARSE} - {"null"}
    assert all(r.reference.startswith(run_objective(name)) for r in run.gradients)
    assert not any(r.layer.startswith("top") for r in run.gradients)
    if name not in LOCAL and name != "loco":
        cosines = [r.value for r in run.gradients if r.quantity == "cosine" and r.kind == "weight"]
        assert min(cosines) == pytest.approx(1, abs=1e-6)


def run_objective(name: str) -> str:
    pair = make_pair(make(**{**needed(name), "method": name, "width": 4}), (1, 8, 8), 10, torch.device("cpu"))
    return pair.method.objective


@pytest.mark.parametrize("name", UNLABELLED)
def test_evaluation_draws_the_same_every_time_and_changes_nothing(name):
    config = make(**{"width": 4, **needed(name), "method": name, "batch_size": 32})
    data = load_data("digits", limit=40, limit_test=33)
    pair = make_pair(config, data.shape, 10, torch.device("cpu"))
    before, stream = {**frozen(pair.model), **frozen(pair.method)}, torch.get_rng_state()
    to_input = normalizer("pm1", data.train.images)
    first = evaluate(pair, data.test, to_input, config)
    pair.method.start(1, 17)
    assert evaluate(pair, data.test, to_input, config)[0] == first[0]
    assert math.isfinite(first[0])
    assert math.isnan(first[1])
    assert_same_bits({**frozen(pair.model), **frozen(pair.method)}, before)
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("name", UNLABELLED)
def test_what_a_probe_reads_is_the_encoders_blocks_image_by_image(name):
    method, c = posed(name, torch.float32)
    c.model.eval(), method.eval()
    x = normalizer("pm1", IMAGES)(IMAGES)
    with torch.no_grad():
        whole = list(method.features(c.blocks, x))
        parts = [torch.cat(f) for f in zip(*(method.features(c.blocks, x[i : i + 2]) for i in (0, 2, 4)), strict=True)]
    assert len(whole) == method.readable == 2
    for a, b in zip(whole, parts, strict=True):
        assert len(a) == 6
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_network_of_a_top_alone_is_refused(name):
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)))
    with pytest.raises(InputError, match="block"):
        METHODS[name](make_net(model, (3, 16, 16), 10, LOSSES["ce"], 3), METHODS[name].Options())


@pytest.mark.parametrize("name", ["simclr", "simclr-local", "loco"])
def test_contrastive_rules_descend_nt_xent_of_a_head_written_out_by_hand(name):
    """Loss and the encoder's gradients, in float64, beside pool, Linear, BatchNorm and pairs of views in plain words."""
    method, c = posed(name)
    _, updates = step(method, c)
    twin = copy.deepcopy(c.model)
    h, losses = c.x.flatten(0, 1), {}
    for k in (0, 1):
        h = twin[k](h if name != "simclr-local" else h.detach())
        if str(k) not in method.heads:
            continue
        own = {n: p.detach() for n, p in method.heads[str(k)].named_parameters()}

        def normed(v, n, own=own):
            v = (v - v.mean(0)) / (v.var(0, unbiased=False) + 1e-5).sqrt() * own[f"{n}.weight"]
            return v + own[f"{n}.bias"] if f"{n}.bias" in own else v

        v = h.mean((2, 3))
        v = normed(v @ own["layer1.0.weight"].T, "layer1.1").clamp(min=0)
        z = normed(v @ own["layer2.0.weight"].T, "layer2.1")
        z = z / z.norm(dim=1, keepdim=True)
        s = (z @ z.T / 0.5).exp()
        n = len(z)
        pairs = [(i, i + 1 if i % 2 == 0 else i - 1) for i in range(n)]
        losses[k] = -sum((s[i, j] / sum(s[i, m] for m in range(n) if m != i)).log() for i, j in pairs) / n
    sum(losses.values()).backward()
    for k in losses:
        assert updates[k].signal.loss.item() == pytest.approx(losses[k].item(), abs=1e-10)
    for k in (0, 1):
        assert_near(updates[k].grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-9)


@pytest.mark.parametrize("name", ["cpc-local", "infomax", "simclr-local", "context-encoder-local"])
def test_modules_of_several_blocks_are_trained_together_and_isolated(name):
    model = build("basic-cnn", Plan((3, 32, 32), 10, width=4, depth=3), seed=1).double()
    net = make_net(model, (3, 32, 32), 10, LOSSES["ce"], 3)
    method = stirred(METHODS[name](net, METHODS[name].Options(modules=[2, 1])).double())
    images = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
    x, y = method.task(images, torch.arange(4), 5, lambda v: v.double() / 127.5 - 1)
    passes, updates = step(method, Case(model, x, y))
    assert sorted(method.heads) == ["1", "2"]
    assert [method.needs_above(k) for k in (0, 1, 2)] == [True, False, False]
    assert [bool(updates[k].signal.send) for k in (0, 1, 2)] == [False, True, False]
    h = model[1](model[0](method.entry(x)))
    loss = method.local_loss(1, passes[1]._replace(z=h)).loss
    params = dict(model.named_parameters())
    got = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    reached = {n: g for n, g in zip(params, got, strict=True) if g is not None}
    assert {n.split(".")[0] for n in reached} == {"block1", "block2"}
    for k in (0, 1):
        assert_near(updates[k].grad.params, {n: reached[f"block{k + 1}.{n}"] for n in updates[k].grad.params}, 1e-9)


def test_the_descent_ratio_tends_to_one_where_the_discriminator_stands_still():
    method, c = posed("context-encoder", lambda_adv=0.5, discriminator_lr=0.0)
    theirs = {p for n, p in method.named_parameters() if ".discriminator." in n}
    optimizer = torch.optim.SGD([p for p in (*c.model.parameters(), *method.parameters()) if p not in theirs], 1e-6)
    found = update(Pair(c.model, method), optimizer, c.x, c.y, record=5, diagnose=True).rows
    (ratio,) = [r.value for r in found if r.quantity == "descent_ratio"]
    assert ratio == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["simclr", "cpc", "infomax", "context-encoder"])
def test_hierarchical_digits_are_taken_too(name, tmp_path):
    options = {"patch": 9} if name in ("cpc", "infomax") else {}
    config = make(method=name, data="hierarchical", options=options, width=2, limit=16, limit_test=8, batch_size=8, steps=1, record_every=1)
    run = train_run(config, Place(out=tmp_path))
    assert math.isfinite(run.metrics[-1].loss)
