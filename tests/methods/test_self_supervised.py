"""Rules that learn from images alone: losses written out by hand, what their runs record, and what they refuse."""

import copy
import math

import pytest
import torch
from oracles import UNLABELLED, Case, assert_near, needed, step, stirred
from rule_cases import IMAGES, LOCAL, posed
from torch import nn

from gradlens.gradients.diagnostics import SPARSE
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod, build_model_and_method, make_network_info
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run
from gradlens.training.step import Recording, training_step


def test_a_module_that_two_units_of_loco_share_gets_the_sum_of_both():
    model = build("basic-cnn", ModelSpec((3, 16, 16), 10, width=4, depth=3), seed=1).double()
    net = make_network_info(model, (3, 16, 16), 10, LOSSES["ce"], 3)
    method = stirred(METHODS["loco"](net, METHODS["loco"].Options()).double())
    x, y = method.make_inputs(IMAGES, torch.arange(6), 0, lambda v: v.double() / 127.5 - 1)
    passes, updates = step(method, Case(model, x, y))
    blocks, heads = list(model), method.heads
    assert sorted(heads) == ["1", "2"]
    for module in (model, method):
        module.train()
    h1 = blocks[0](method.prepare_input(x))
    first = method.pretext.loss(1, heads["1"], blocks[1](h1), passes[1].y)  # U1 = (block1, block2)
    cut = h1.detach()
    second = method.pretext.loss(2, heads["2"], blocks[2](blocks[1](cut)), passes[2].y)  # U2 = (block2, block3) on what block1 gave

    def of(loss, block):
        names, params = zip(*block.named_parameters(), strict=True)
        got = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        return dict(zip(names, got, strict=True))

    g1, g2 = of(first, blocks[1]), of(second, blocks[1])
    assert_near(updates[1].grad.params, {n: g1[n] + g2[n] for n in g1}, 1e-10)
    assert_near(updates[0].grad.params, of(first, blocks[0]), 1e-10)
    assert all(g is None for g in of(second, blocks[0]).values())
    assert_near(updates[2].grad.params, of(second, blocks[2]), 1e-10)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LOCAL)) for name in UNLABELLED])
@pytest.mark.slow
def test_a_run_records_truth_chance_noise_and_descent(name, tmp_path):
    changes = {"width": 4, "limit": 64, "limit_test": 20, "batch_size": 16, "epochs": 1, "record_every": 2, "diagnose_every": 1, "lr": 1e-5}
    run = train_run(make_config(**{**changes, **needed(name), "method": name}), RunContext(out=tmp_path))
    assert {m.split for m in run.metrics} == {"train", "test"}
    assert all(math.isnan(m.accuracy) and math.isfinite(m.loss) for m in run.metrics)
    assert {r.quantity for r in run.gradients} >= {*SPARSE} - {"null"}
    assert all(r.reference.startswith(run_objective(name)) for r in run.gradients)
    assert not any(r.layer.startswith("top") for r in run.gradients)
    if name not in LOCAL and name != "loco":
        cosines = [r.value for r in run.gradients if r.quantity == "cosine" and r.kind == "weight"]
        assert min(cosines) == pytest.approx(1, abs=1e-6)


def run_objective(name: str) -> str:
    pair = build_model_and_method(make_config(**{**needed(name), "method": name, "width": 4}), (1, 8, 8), 10, torch.device("cpu"))
    return pair.method.objective


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_network_of_a_top_alone_is_refused(name):
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)))
    with pytest.raises(InputError, match="block"):
        METHODS[name](make_network_info(model, (3, 16, 16), 10, LOSSES["ce"], 3), METHODS[name].Options())


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


def of_averaged_maps(h, side):
    """NT-Xent of the maps' averages over side x side squares, written out by hand."""
    n, cut = len(h), h.shape[2] // side
    cells = [h[:, :, i * cut : (i + 1) * cut, j * cut : (j + 1) * cut].mean((2, 3)) for i in range(side) for j in range(side)]
    z = torch.stack(cells, 2).flatten(1)
    s = torch.tensor(0.5).double().reciprocal() * z @ z.T / (z.norm(dim=1)[:, None] * z.norm(dim=1))
    others = ~torch.eye(n, dtype=torch.bool)
    return -sum(s[i, i ^ 1] - s[i][others[i]].exp().sum().log() for i in range(n)) / n


@pytest.mark.parametrize(("name", "read"), [("simclr", (1,)), ("simclr-local", (0, 1)), ("loco", (1,))])
@pytest.mark.parametrize("side", [1, 2])
def test_without_a_head_contrastive_rules_compare_the_averaged_maps_themselves(name, read, side):
    """``layers=0``: no parameter beside the encoder's; the local rule's blocks send nothing below."""
    method, c = posed(name, layers=0, side=side)
    assert not list(method.parameters())
    assert method.kept_head(1) is None
    _, updates = step(method, c)
    twin, h, losses = copy.deepcopy(c.model), c.x.flatten(0, 1), {}
    for k in (0, 1):
        h = twin[k](h.detach() if name == "simclr-local" else h)
        losses |= {k: of_averaged_maps(h, side)} if k in read else {}
    sum(losses.values()).backward()
    for k, loss in losses.items():
        assert updates[k].signal.loss.item() == pytest.approx(loss.item(), abs=1e-10)
    for k in (0, 1):
        assert_near(updates[k].grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-9)


@pytest.mark.parametrize("name", ["simclr", "simclr-local", "loco"])
@pytest.mark.parametrize(("option", "value"), [("out", 3), ("convolutions", 1)])
def test_options_of_a_head_are_refused_where_there_is_none(name, option, value):
    with pytest.raises(InputError, match=f"{option}={value} .* layers=0 is no head: set layers=1 or more, or"):
        make_config(method=name, options={"layers": 0, option: value})
    config = make_config(method=name, options={"layers": 0})
    assert make_config(**config.as_dict()) == config  # what a run stores holds the default width
    assert make_config(method=name, options={"layers": 1, option: value})


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_last_layer_of_a_projection_head_is_as_wide_as_asked(layers):
    method, c = posed("simclr", layers=layers, out=5)
    assert method.made(c.blocks, c.x).shape == (12, 5)


def test_the_descent_ratio_tends_to_one_where_the_discriminator_stands_still():
    method, c = posed("context-encoder", lambda_adv=0.5, discriminator_lr=0.0)
    theirs = {p for n, p in method.named_parameters() if ".discriminator." in n}
    optimizer = torch.optim.SGD([p for p in (*c.model.parameters(), *method.parameters()) if p not in theirs], 1e-6)
    found = training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y, Recording(5, diagnose=True)).rows
    (ratio,) = [r.value for r in found if r.quantity == "descent_ratio"]
    assert ratio == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["simclr", "cpc", "infomax", "context-encoder"])
def test_hierarchical_digits_are_taken_too(name, tmp_path):
    options = {"patch": 9} if name in ("cpc", "infomax") else {}
    config = make_config(
        method=name, data="hierarchical", options=options, width=2, limit=16, limit_test=8, batch_size=8, steps=1, record_every=1
    )
    run = train_run(config, RunContext(out=tmp_path))
    assert math.isfinite(run.metrics[-1].loss)


@pytest.mark.parametrize("name", UNLABELLED)
def test_a_rule_without_labels_gives_no_answers(name):
    method, c = posed(name)
    with pytest.raises(TypeError, match=f"{type(method).__name__} is trained without labels and predicts no classes"):
        method.predict(c.blocks, c.x)
