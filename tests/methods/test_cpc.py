"""CPC and Greedy InfoMax: InfoNCE's laws, the loss against plain loops, isolation, sequences, and what cannot be cut into patches."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import assert_near, assert_same_bits, frozen, stirred
from torch import nn

from gradlens.analysis.logistic_regression import Standard, fit_logistic_regression
from gradlens.data.datasets import load as load_data
from gradlens.data.transforms import normalizer
from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import Pass
from gradlens.gradients.losses import LOSSES, info_nce, sampled_scores
from gradlens.gradients.method import Step
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import build
from gradlens.runtime.errors import InputError
from gradlens.training.build import build_model_and_method, make_network_info
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.loop import fit
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run

RULES = ("cpc", "cpc-local", "infomax")
CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


def drawn_by(method, k, offset, targets):
    """The negatives of the step that is under way."""
    return method.pretext.negatives(k, offset, targets, method.pretext.step)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- InfoNCE's laws


def slow_info_nce(scores):
    """Eq. 4 of van den Oord et al. 2018, position by position."""
    rows = scores.detach().numpy()
    return np.mean([-(r[0] - r.max() - math.log(sum(math.exp(s - r.max()) for s in r))) for r in rows])


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0, 1e4])
def test_value_and_slope(size):
    scores = (size * noise(20, 7)).requires_grad_()
    value = info_nce(scores)
    assert value.item() == pytest.approx(slow_info_nce(scores), rel=1e-12, abs=1e-12)
    (slope,) = torch.autograd.grad(value, scores)
    wanted = scores.detach().softmax(1)
    wanted[:, 0] -= 1
    torch.testing.assert_close(slope, wanted / 20, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [2, 17, 1000])
def test_equal_scores_give_log_n(n):
    for score in (0.0, -3.5, 1e6):
        assert info_nce(torch.full((11, n), score, dtype=torch.float64)).item() == pytest.approx(math.log(n), rel=1e-15)


def test_bounds_and_invariances():
    for seed in range(20):
        scores = 10 ** (seed % 5 - 2) * noise(9, 17, seed=seed)
        loss = info_nce(scores)
        assert loss >= 0
        assert math.log(17) - loss <= math.log(17)
        order = 1 + torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(info_nce(torch.cat([scores[:, :1], scores[:, order]], 1)), loss, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(info_nce(scores + 3 * noise(9, 1, seed=99)), loss, rtol=1e-12, atol=1e-13)
    assert info_nce(torch.tensor([[0.0, 800.0]])).item() == 800  # stable: −log(p + 1e-11), as the reference has it, stops at 25.3


@pytest.mark.parametrize("margin", [-2.0, 0.0, 1.0, 20.0, 60.0])
def test_perfect_discrimination_with_a_margin(margin):
    scores = torch.zeros(6, 17, dtype=torch.float64)
    scores[:, 0] = margin
    assert info_nce(scores).item() == pytest.approx(math.log1p(16 * math.exp(-margin)), rel=1e-12, abs=1e-15)


def test_scores_against_loops():
    context, targets = noise(6, 4), noise(6, 4, seed=1)
    negatives = torch.randint(6, (6, 3), generator=torch.Generator().manual_seed(2))
    scores = sampled_scores(context, targets, negatives)
    for i in range(6):
        for j, t in enumerate([i, *negatives[i].tolist()]):
            assert scores[i, j].item() == pytest.approx(sum(a * b for a, b in zip(context[i].tolist(), targets[t].tolist(), strict=True)))


@pytest.mark.parametrize(("rho", "dims"), [(0.0, 2), (0.3, 1), (0.5, 2), (0.8, 1), (0.6, 8)])
def test_optimal_critic_bounds_the_information_of_gaussians_from_below(rho, dims):
    """x, y of correlation rho have −½ log(1 − rho²) nats a dimension; log p(y|x)/p(y) is a bilinear score of x and (y, y²)."""
    count, negatives = 8000, 64
    x, e = noise(count, dims), noise(count, dims, seed=1)
    y = rho * x + math.sqrt(1 - rho**2) * e
    # log p(y|x) − log p(y) = (rho x y − rho² y²/2)/(1 − rho²) + what depends on x alone, which scores may leave out
    scale = 1 / (1 - rho**2)
    context = torch.cat([rho * scale * x, torch.full_like(x, -0.5 * rho**2 * scale)], 1)
    drawn = torch.randint(count, (count, negatives), generator=torch.Generator().manual_seed(2))
    scores = sampled_scores(context, torch.cat([y, y**2], 1), drawn)
    bound = math.log(negatives + 1) - info_nce(scores).item()
    losses = -scores.log_softmax(1)[:, 0]
    error = 4 * losses.std().item() / math.sqrt(count)
    truth = -0.5 * dims * math.log(1 - rho**2)
    assert bound <= truth + error
    assert bound <= math.log(negatives + 1)
    if rho == 0:
        assert bound == pytest.approx(0, abs=1e-12)
    else:
        assert bound > 0.8 * truth - error  # and with 64 negatives it is not far below
        wrong = math.log(negatives + 1) - info_nce(sampled_scores(-context, torch.cat([y, y**2], 1), drawn)).item()
        assert wrong < bound - error  # no other critic does better


def test_info_nce_equals_lightly_with_a_memory_bank_as_negatives():
    lightly = pytest.importorskip("lightly.loss", reason="pip install lightly")
    a, b, bank = (nn.functional.normalize(noise(n, 5, seed=n), dim=1) for n in (7, 8, 6))
    b = b[:7]
    theirs = lightly.NTXentLoss(temperature=0.3, memory_bank_size=(6, 5))
    theirs.memory_bank.bank = bank.T.clone() if theirs.memory_bank.bank.shape == (5, 6) else bank.clone()
    context = torch.cat([a / 0.3, torch.zeros_like(bank)])
    scores = sampled_scores(context, torch.cat([b, bank]), (7 + torch.arange(6)).expand(13, 6))[:7]
    torch.testing.assert_close(info_nce(scores), theirs(a, b), rtol=1e-10, atol=0)


# ------------------------------------------------------------------------------------------------------ the rules' loss


def posed(name, step=5, model="basic-cnn", **options):
    """A rule on patches of five images of noise, and its network and passes in float64."""
    rule = METHODS[name]
    given = rule.Options(**options)
    read = rule.input_shape((3, 16, 16), given)
    net_model = build(model, ModelSpec(read, 10, width=4, depth=2), seed=1).double()
    net = make_network_info(net_model, read, 10, LOSSES["ce"], 3)._replace(image=(3, 16, 16))
    method = stirred(rule(net, given).double())
    method.start(2, step)
    to_input = normalizer("pm1", IMAGES)
    x, y = method.make_inputs(IMAGES, torch.arange(5), step, lambda images: to_input(images).double())
    return method, net_model, x, y


def slow_loss(method, k, encoder, x):
    """The rule's loss as its paper says it: patches, encoder, contexts and targets, one by one."""
    o, grid = method.options, method.pretext.grid
    (high, wide), s = grid.patch, grid.stride
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)
    if o.grey:
        x = torch.stack([torch.stack([(luma[:, None, None] * image).sum(0)] * 3) for image in x])
    places = [(n, i, j) for n in range(len(x)) for i in range(grid.rows) for j in range(grid.columns)]
    cuts = [x[n, :, s * i : s * i + high, s * j : s * j + wide] for n, i, j in places]
    h = encoder(torch.stack(cuts))
    means = h.flatten(2).mean(2) if h.ndim == 4 else h
    z = dict(zip(places, means, strict=True))
    head = method.heads[str(k)]
    c = z
    if head.context is not None:
        masked = head.context(torch.stack(list(z.values())).view(len(x), grid.rows, grid.columns, -1).permute(0, 3, 1, 2))
        c = {(n, i, j): masked[n, :, i + 1, j] for n, i, j in places if i + 1 < grid.rows}
    losses = []
    for offset in range(1, method.pretext.steps + 1):
        w = head.ahead[offset - 1].weight[:, :, 0, 0]
        paired = [(n, i, j) for n, i, j in places if i + offset + o.skip < grid.rows]
        targets = [w @ z[n, i + offset + o.skip, j] for n, i, j in paired]
        drawn = drawn_by(method, k, offset, len(paired))
        assert drawn.shape == (len(paired), o.negatives)
        mine = []
        for at, context in enumerate(paired):
            scores = torch.stack([c[context] @ t for t in [targets[at], *(targets[d] for d in drawn[at].tolist())]])
            mine.append(torch.logsumexp(scores, 0) - scores[0])
        losses.append(sum(mine) / len(mine))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        ("cpc", "basic-cnn", {"negatives": 5, "layers": 2}),
        ("cpc", "basic-cnn", {"patch": 8, "stride": 2, "steps": 2, "negatives": 3, "layers": 0, "skip": 0, "grey": False}),
        ("cpc-local", "basic-cnn", {"negatives": 2, "steps": 1, "layers": 1}),
        ("infomax", "mlp", {"negatives": 4}),
    ],
)
def test_loss_and_gradients_equal_plain_loops(name, model, options):
    method, network, x, y = posed(name, model=model, **options)
    run = run_step(method, list(network), x, y)
    for k in map(int, method.heads):
        first = method.reach.first[k]
        twin, mine = copy.deepcopy(network), copy.deepcopy(method)
        below = nn.Sequential(*twin[:first]) if first else nn.Identity()

        def encoder(patches, twin=twin, below=below, first=first, k=k):
            return nn.Sequential(*twin[first : k + 1])(below(patches).detach())

        loss = slow_loss(mine, k, encoder, x)
        loss.backward()
        assert run.updates[k].signal.loss.item() == pytest.approx(loss.item(), rel=1e-11)
        for j in range(first, k + 1):
            assert_near(run.updates[j].grad.params, {n: p.grad for n, p in twin[j].named_parameters()}, 1e-9)
        assert_near(dict(run.updates[k].aux_grads), {f"heads.{k}.{n}": p.grad for n, p in mine.heads[str(k)].named_parameters()}, 1e-9)
        assert all(p.grad is None for p in below.parameters())


def test_negatives_are_uniform_with_replacement_and_named_by_step_block_and_offset():
    method, *_ = posed("cpc", negatives=16)
    drawn = drawn_by(method, 1, 1, 500)
    counts = torch.bincount(drawn.flatten(), minlength=500).double()
    chi2 = ((counts - 16) ** 2 / 16).sum().item()  # 499 degrees of freedom
    assert abs(chi2 - 499) < 4 * math.sqrt(2 * 499)
    assert any(len(set(row)) < 16 for row in drawn.tolist())  # with replacement
    assert any(i in row for i, row in enumerate(drawn.tolist()))  # the positive may be among them
    others = [
        drawn_by(method, 0, 1, 500),
        drawn_by(method, 1, 2, 500),
        drawn_by(posed("cpc", step=6, negatives=16)[0], 1, 1, 500),
    ]
    assert all(not torch.equal(drawn, other) for other in others)
    assert torch.equal(drawn, drawn_by(posed("cpc", negatives=16)[0], 1, 1, 500))


def test_how_many_rows_are_predicted():
    def steps(**options):
        return posed("infomax", **options)[0].pretext.steps

    assert steps() == 5  # 7 rows: the fifth offset with one row skipped has a single pair
    assert steps(skip=0) == 5
    assert steps(skip=0, steps=6) == 6
    assert steps(patch=8) == 1  # 3 rows
    assert steps(patch=8, stride=2) == 3
    assert steps(skip=3) == 3


def test_information_bound_is_recorded_at_every_head():
    for name, heads in (("cpc", 1), ("infomax", 2)):
        method, network, x, y = posed(name, negatives=9)
        run = run_step(method, list(network), x, y)
        rows = step_rows(0, ["block1", "block2", "top"], method, run, true_gradients(method, run))
        bounds = {r.layer: r.value for r in rows if r.quantity == "information_bound"}
        losses = {r.layer: r.value for r in rows if r.quantity == "loss"}
        assert len(bounds) == heads
        for layer, bound in bounds.items():
            assert bound == pytest.approx(math.log(10) - losses[layer])
            assert bound <= math.log(10)
        assert set(method.method_quantities) == {"information_bound"}


def test_greedy_infomax_is_isolated():
    """Structural: loss k has no path to another module; module sizes are the user's."""
    method, network, x, y = posed("infomax")
    blocks = list(network)
    h = method.prepare_input(x)
    for k in (0, 1):
        h = blocks[k](h.detach())
        p = Pass(k, blocks[k], h, y, h, h)
        params = dict(network.named_parameters())
        got = torch.autograd.grad(method.pretext.loss(k, method.heads[str(k)], p.z, p.y), list(params.values()), allow_unused=True)
        assert {n.split(".")[0] for n, g in zip(params, got, strict=True) if g is not None} == {f"block{k + 1}"}
    assert posed("infomax", modules=[2])[0].reach.first == {1: 0}
    assert posed("infomax", modules=[1, 1])[0].reach.first == {0: 0, 1: 1}


def test_one_module_of_infomax_is_cpc_without_autoregressor_and_is_end_to_end():
    mine, theirs = posed("infomax", modules=1), posed("cpc", layers=0)
    assert_same_bits(frozen(mine[0]), frozen(theirs[0]))  # heads begin alike
    runs = [run_step(method, list(network), x, y) for method, network, x, y in (mine, theirs)]
    for k in (0, 1):
        assert_same_bits(runs[0].updates[k].grad.params, runs[1].updates[k].grad.params)
        truth = true_gradients(mine[0], run_step(mine[0], list(mine[1]), *mine[2:])).grads[k]
        assert_near(runs[0].updates[k].grad.params, truth.params, 1e-12)
    assert_same_bits(dict(runs[0].updates[1].aux_grads), dict(runs[1].updates[1].aux_grads))


def test_truth_of_local_modules_is_the_end_to_end_gradient_of_the_top_loss():
    method, network, x, y = posed("cpc-local", layers=1)
    run = run_step(method, list(network), x, y)
    twin, again = copy.deepcopy(network), copy.deepcopy(method)
    slow_loss(again, 1, nn.Sequential(*twin[:2]), x).backward()
    for k, grad in enumerate(true_gradients(method, Step(list(network), x, y, run.passes, run.updates)).grads):
        assert_near(grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-9)


# ------------------------------------------------------------------------------------------------------- images, patches


def test_windows_are_random_in_training_and_the_middle_in_evaluation():
    method, *_ = posed("cpc", crop=12, grey=False)
    plain = IMAGES.double()
    x, y = method.make_inputs(IMAGES, torch.arange(5), 3, lambda v: v.double())
    again, _ = method.make_inputs(IMAGES, torch.arange(5), 3, lambda v: v.double())
    other, _ = method.make_inputs(IMAGES, torch.arange(5), 4, lambda v: v.double())
    assert x.shape == (5, 3, 12, 12)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    assert torch.equal(y, torch.arange(5))
    middle, _ = method.make_inputs(IMAGES, torch.arange(5), -1, lambda v: v.double())
    assert torch.equal(middle, plain[:, :, 2:14, 2:14])
    assert torch.equal(method.prepare_input(plain), method.prepare_input(middle))  # of larger images the middle is read
    unflipped = posed("cpc", flip=False)[0].make_inputs(IMAGES, torch.arange(5), 3, lambda v: v.double())[0]
    assert torch.equal(unflipped, plain)


def test_sequences_are_never_mirrored():
    pair = build_model_and_method(make_config(method="cpc", data="sequences", model="mlp", width=4, depth=1), (1, 1, 128), 6, CPU)
    images = torch.randint(0, 256, (40, 1, 1, 128), dtype=torch.uint8)
    assert torch.equal(pair.method.make_inputs(images, torch.zeros(40), 0, lambda v: v)[0], images)


@pytest.mark.parametrize("model", ["basic-cnn", "mlp"])
def test_features_are_spatial_means_of_patches_where_they_belong(model):
    method, network, *_ = posed("cpc", model=model)
    network.eval()
    x = noise(2, 3, 16, 16)
    read = list(method.features(list(network), x))
    assert [f.shape for f in read] == [(2, 4, 7, 7)] * 2
    grey = (torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[:, None, None] * x).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    for i, j in ((0, 0), (2, 5), (6, 6)):
        h = grey[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
        for block, f in zip(network[:2], read, strict=True):
            h = block(h)
            torch.testing.assert_close(f[:, :, i, j], h.flatten(2).mean(2) if h.ndim == 4 else h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_networks_are_made_for_patches(name):
    pair = build_model_and_method(make_config(method=name, model="mlp", width=6, depth=2), (1, 8, 8), 10, CPU)
    assert pair.model[0].linear.in_features == 16
    assert pair.method.pretext.grid.rows == 3
    assert build_model_and_method(make_config(method="bp", model="mlp", width=6), (1, 8, 8), 10, CPU).model[0].linear.in_features == 64


def test_an_encoder_of_patches_is_fine_tuned_on_whole_images(tmp_path):
    """Its blocks go on; the top, never trained and made for a patch, is the new network's own."""
    context = RunContext(out=tmp_path)
    sizes = {"depth": 2, "width": 4, "limit": 40, "batch_size": 20, "record_every": 0}
    run = train_run(make_config(method="infomax", epochs=1, **sizes), context)
    new = make_config(init_from=str(run.path), seed=5, **sizes)
    model = build_model_and_method(new, (1, 8, 8), 10, CPU).model
    kept = run.checkpoint()["model"]
    fresh = build_model_and_method(make_config(seed=5, **sizes), (1, 8, 8), 10, CPU).model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.startswith("top.") else kept[name]), name
    assert kept["top.hidden.weight"].shape != fresh["top.hidden.weight"].shape
    assert train_run(new.replace(epochs=1), context).finished
    with pytest.raises(InputError, match=r"--keep-head 1: the run .*infomax.* has no projection head"):
        build_model_and_method(make_config(init_from=str(run.path), keep_head=1, **sizes), (1, 8, 8), 10, CPU)


# --------------------------------------------------------------------------------------------------------------- sequences


def test_sequences_are_the_same_each_time_and_their_classes_are_dynamics():
    data = load_data("sequences")
    assert (len(data.train), len(data.test), data.shape, len(data.classes)) == (4000, 1000, (1, 1, 128), 6)
    assert data.train.images.dtype == torch.uint8
    assert load_data("sequences").fingerprint() == data.fingerprint()
    x, y = data.train.images.flatten(1).double(), data.train.labels
    for c, name in enumerate(data.classes):
        way, period = name.split()
        mine = x[y == c]
        noise_of_a_mean = mine.std(0) / math.sqrt(len(mine))
        assert ((mine.mean(0) - 127.5).abs() / noise_of_a_mean).max() < 5  # flat, whatever the class
        power = torch.fft.rfft(mine - mine.mean(1, keepdim=True)).abs().square().mean(0)
        assert 128 / int(power.argmax()) == pytest.approx(int(period), rel=0.1)
        jumps = mine.diff(dim=1)
        assert (jumps.pow(3).mean() < 0) == (way == "rise")  # slow rises, sudden falls


def features(state, split):
    with torch.no_grad():
        return list(state.network.method.features(list(state.network.model), state.batches.to_input(split.images)))[-1].flatten(1)


def accuracy(train, test, data):
    standard = Standard.of(train)
    return fit_logistic_regression(standard(train), data.train.labels, 0.01, 6).accuracy(standard(test), data.test.labels)


@pytest.mark.slow
def test_predictive_features_of_sequences_beat_raw_samples_and_an_untrained_network():
    data = load_data("sequences", limit=1500)
    settings = {"data": "sequences", "model": "mlp", "depth": 2, "width": 48, "batch_size": 64, "lr": 3e-3, "record_every": 0, "epochs": 4}
    state = build_state(make_config(method="infomax", options={"modules": 1}, **settings), data, CPU)
    halves = data.train, data.test
    raw = accuracy(*(half.images.flatten(1).float() for half in halves), data)
    untrained = accuracy(*(features(state, half) for half in halves), data)
    state.network.model.train()
    fit(state)
    learned = accuracy(*(features(state, half) for half in halves), data)
    assert raw < 0.25  # of six classes
    assert learned > untrained + 0.05 > raw + 0.05


# ---------------------------------------------------------------------------------------------------------- bad input


TINY = ("--epochs", 1, "--limit", 40, "--batch-size", 20, "--depth", 2, "--width", 4, "--out", "runs")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--batch-size", 1), "--batch-size 1: {name} compares the images of a batch and needs 2 or more"),
        (("--set", "patch=9"), "patches of 9 pixels are larger than the images, which are 8x8"),
        (("--set", "patch=5"), "make 2 rows of patches, and skip=1 needs 3"),
        (("--set", "patch=8"), "patches of 8x8 pixels, 4 apart, make 1 row of patches"),
        (("--set", "steps=2"), "steps=2 with skip=1 needs 4 rows, but patches of 4x4 pixels, 2 apart, make 3 rows"),
        (("--set", "crop=9"), "crop=9 is larger than the images, which are 8x8"),
        (("--depth", 3), "{name} reads patches of 4x4 pixels (--set patch= sets them), which basic-cnn does not take: basic-cnn with 3"),
        (("--set", "negatives=0"), "negatives: "),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, tuple) else "",
)
def test_what_cannot_be_used_is_one_sentence(program, tmp_path, monkeypatch, name, given, said):
    monkeypatch.chdir(tmp_path)
    status, out, err = program("train", name, *TINY, *given)
    assert status == 2
    assert said.format(name=name) in err
    assert err.count("\n") == 1
    assert not out
    assert not list(tmp_path.iterdir())


def test_blocks_that_do_not_fit_a_patch_are_refused_in_one_sentence():
    """Where the network was not made for patches: a library's user."""
    model = build("basic-cnn", ModelSpec((3, 16, 16), 10, width=4, depth=3))
    with pytest.raises(InputError, match=r"patches of 4x4 pixels do not fit the blocks of this network: "):
        METHODS["cpc"](make_network_info(model, (3, 16, 16), 10, LOSSES["ce"]), METHODS["cpc"].Options())
    short = NetworkInfo([model[-1]], [torch.Size([10])], 10, 8, LOSSES["ce"], 0, image=(3, 16, 16))
    with pytest.raises(InputError, match="needs 2 or more blocks"):
        METHODS["cpc"](short, METHODS["cpc"].Options())


def test_train_and_show(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = program("train", "infomax", *TINY, "--record-every", 1, "--quiet")
    assert (status, err) == (0, "")
    (run,) = (tmp_path / "runs").iterdir()
    assert "information_bound" in (run / "gradients.csv").read_text()
    assert "InfoNCE at the top of the encoder, same passes" in (run / "gradients.csv").read_text()
    assert program("list", "methods")[0] == 0


@pytest.mark.parametrize("name", ["cpc", "infomax"])
def test_shipped_configs_make_the_papers_rule(name):
    settings = json.loads((Path(__file__).parents[2] / "analyses" / "configs" / f"{name}-stl10.json").read_text())
    small = make_config(**{**settings, "width": 2})
    pair = build_model_and_method(small, (3, 96, 96), 10, CPU)
    method, images = pair.method, torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    assert (method.pretext.grid.patch, method.pretext.grid.rows, method.pretext.grid.columns, method.pretext.steps) == ((16, 16), 7, 7, 5)
    assert [(s.first, s.last) for s in method.reach.windows] == ([(0, 13)] if name == "cpc" else [(0, 3), (4, 7), (8, 13)])
    x, y = method.make_inputs(images, torch.zeros(2), 0, lambda v: v / 127.5 - 1)
    assert x.shape == (2, 3, 64, 64)
    run = run_step(method, list(pair.model), x, y)
    assert all(math.isfinite(u.signal.loss) for u in run.updates.values() if u.signal.loss is not None)
