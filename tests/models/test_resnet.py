"""Residual networks: against their equations, torchvision's and published sizes; channel attention number by number."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from networks import images, modules, parameters
from oracles import Case, assert_near, assert_same_bits, frozen, nll, rule, step, uncut
from sampling import one_in
from torch import nn

from gradlens.models.block_boundaries import output_shapes
from gradlens.models.resnet import FORMS, WITH_ATTENTION, Residual, SelectiveKernel, SqueezeExcitation, Subsampled
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import MODELS, build, head_width, layers
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

CIFAR = (3, 32, 32)
# residual blocks in each stage
RESNETS = {"resnet18": (2, 2, 2, 2), "resnet20": (3, 3, 3), "resnet32": (5, 5, 5), "resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}
BASIC = ("resnet18", "resnet20", "resnet32")
COUNTS = {"resnet18": 11_173_962, "resnet20": 269_722, "resnet32": 464_154, "resnet50": 23_520_842, "resnet152": 58_156_618}


def sketched(name, plan):
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build(name, plan)


def stirred(model, seed=0):
    """In float64; every parameter and running statistic moved: at their start, means, variances and scales would hide in the equations."""
    g = generator(seed, "stir")
    for name, t in model.double().state_dict().items():
        if t.is_floating_point():
            t += (0.2 if name.endswith("weight") else 1.0) * torch.rand(t.shape, generator=g, dtype=torch.float64)
    return model


# ------------------------------------------------------------------------------------------------------- as documented


@pytest.mark.parametrize("name", COUNTS)
def test_resnets_have_the_documented_blocks_and_so_many_parameters(name):
    model = sketched(name, ModelSpec(CIFAR, 10))
    assert parameters(model) == COUNTS[name]
    assert f"{COUNTS[name]:,} parameters" in MODELS[name].__doc__
    *body, top = model
    assert [n for n, _ in model.named_children()] == [*(f"block{i}" for i in range(1, sum(RESNETS[name]) + 2)), "top"]
    assert [n for n, _ in body[0].named_children()] == ["conv", "norm", "act"]
    assert [n for n, _ in top.named_children()] == ["pool", "flatten", "out"]
    inside = [f"{kind}{i}" for i in range(1, 3 if name in BASIC else 4) for kind in ("conv", "norm", "act")][:-1]
    for block in body[1:]:
        assert isinstance(block, Residual)
        assert [n for n, _ in block.named_children()] == ["branch", "shortcut", "act"]
        assert [n for n, _ in block.branch.named_children()] == inside
    assert all(c.bias is None for c in modules(model, nn.Conv2d))
    assert not any(m.inplace for m in modules(model, nn.ReLU))
    in_shortcuts = 0 if name in ("resnet20", "resnet32") else sum("shortcut" in path for path in layers(model))
    assert len(modules(model, nn.Conv2d)) + 1 - in_shortcuts == int(name[6:])  # the paper's way of counting, with the one Linear


def test_layers_and_shapes_of_a_resnet():
    model = build("resnet18", ModelSpec(CIFAR, 10))
    within = [
        f"block{i}.{name}" for i in range(2, 10) for name in ("branch.conv1", "branch.conv2", "shortcut.conv")[: 3 if i in (4, 6, 8) else 2]
    ]
    assert layers(model) == ["block1.conv", *within, "top.out"]
    stages = [(64, 32, 32)] * 3 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2 + [(512, 4, 4)] * 2
    assert [tuple(s) for s in output_shapes(model, CIFAR)] == [*stages, (10,)]
    stages = [(16, 32, 32)] * 4 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
    assert [tuple(s) for s in output_shapes(build("resnet20", ModelSpec(CIFAR, 10)), CIFAR)] == [*stages, (10,)]


def test_shapes_of_bottleneck_nets_which_give_four_times_the_channels():
    shape = (3, 16, 16)
    stages = [(4, 16, 16)] + [(16, 16, 16)] * 3 + [(32, 8, 8)] * 4 + [(64, 4, 4)] * 6 + [(128, 2, 2)] * 3
    assert [tuple(s) for s in output_shapes(build("resnet50", ModelSpec(shape, 7, width=4)), shape)] == [*stages, (7,)]
    stages = [(4, 16, 16)] + [(16, 16, 16)] * 3 + [(32, 8, 8)] * 4 + [(64, 4, 4)] * 6
    assert [tuple(s) for s in output_shapes(build("resnet-gim", ModelSpec(shape, 7, width=4)), shape)] == [*stages, (7,)]
    assert head_width(sketched("resnet50", ModelSpec(CIFAR, 10))) == 2048
    assert head_width(sketched("resnet-gim", ModelSpec(CIFAR, 10))) == 1024


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet152"])
def test_the_large_nets_are_torchvisions_with_a_small_stem_and_no_pooling_behind_it(name):
    import torchvision

    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(num_classes=10)
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = sketched(name, ModelSpec(CIFAR, 10))
    assert [tuple(p.shape) for p in ours.state_dict().values()] == [tuple(p.shape) for p in theirs.state_dict().values()]
    if name == "resnet152":
        return
    ours = build(name, ModelSpec((3, 9, 8), 10)).double()
    theirs = theirs.to_empty(device="cpu").double()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), copy.deepcopy(ours.state_dict()).values(), strict=True)))
    x = images((3, 9, 8), 2).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-9, atol=1e-9)  # with the statistics both have gathered


@pytest.mark.parametrize(
    ("name", "width", "attention", "millions"),
    [("resnet50", 64, "none", 24), ("resnet50", 64, "sk", 35), ("resnet152", 64, "none", 58), ("resnet152", 192, "sk", 795)],
)
def test_sizes_are_those_of_simclrs_second_paper(name, width, attention, millions):
    """Chen et al. 2020, arXiv:2006.10029, table 1: encoders without a classifier."""
    model = sketched(name, ModelSpec(CIFAR, 10, width=width, attention=attention))
    assert round((parameters(model) - parameters(model.top)) / 1e6) == millions


def growth(name, width, attention):
    """Parameters that attention adds, by hand."""
    added, blocks = 0, zip(range(4), RESNETS[name], strict=False)
    for stage, n in blocks:
        inner = width * 2**stage
        out = inner if name in BASIC else 4 * inner
        for i in range(n):
            read = inner if name not in BASIC or i or not stage else inner // 2
            few = max(1, out // 16)
            if attention == "se":
                added += out * few + few + few * out + out
            else:
                mid = max(int(inner * 0.0625), 32)
                added += read * inner * 9 + 2 * inner + inner * mid + 2 * mid + mid * 2 * inner
    if attention == "sk":
        half = width // 2
        added += (3 * half + half * half + half * width) * 9 + 2 * (2 * half + width) - (3 * width * 9 + 2 * width)
    return added


@pytest.mark.parametrize("attention", ["se", "sk"])
@pytest.mark.parametrize(("name", "width"), [*((name, 8) for name in RESNETS if name != "resnet152"), ("resnet18", 64), ("resnet50", 64)])
def test_attention_adds_so_many_parameters(name, width, attention):
    plain, attended = (sketched(name, ModelSpec(CIFAR, 10, width=width, attention=a)) for a in ("none", attention))
    assert parameters(attended) - parameters(plain) == growth(name, width, attention)


@pytest.mark.parametrize("attention", ["se", "sk"])
def test_attention_leaves_every_shape(attention):
    for name in ("resnet20", "resnet50"):
        shape = (3, 9, 13)
        plain, attended = (build(name, ModelSpec(shape, 10, width=4, attention=a)) for a in ("none", attention))
        assert output_shapes(attended, shape) == output_shapes(plain, shape)


# ------------------------------------------------------------------------------------------- attention, number by number


def matvec(w, v, b=None):
    return [sum(w[i][j] * v[j] for j in range(len(v))) + (b[i] if b else 0.0) for i in range(len(w))]


def test_squeeze_excitation_is_its_equation_number_by_number():
    attention = stirred(SqueezeExcitation(48, nn.ReLU))
    x = images((48, 3, 2), 4).double()
    got = attention(x).detach()
    w1, b1, w2, b2 = (p.detach().tolist() for p in attention.parameters())
    assert len(w1) == 3
    gates = []
    for image in x.tolist():
        means = [sum(sum(row) for row in channel) / 6 for channel in image]
        hidden = [max(0.0, v) for v in matvec(w1, means, b1)]
        gates.append([1 / (1 + math.exp(-v)) for v in matvec(w2, hidden, b2)])
        for c in range(48):
            for i in range(3):
                for j in range(2):
                    assert got[len(gates) - 1, c, i, j].item() == pytest.approx(image[c][i][j] * gates[-1][c], rel=1e-12)
    spread = torch.tensor(gates)
    assert (spread.max(0).values - spread.min(0).values).max() > 1e-3  # the gate depends on the image
    assert 0 < spread.min() < spread.max() < 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_selective_kernel_is_its_equation_number_by_number(stride, training):
    module = stirred(SelectiveKernel(2, 3, stride, nn.ReLU)).train(training)
    w = {n: t.detach().clone() for n, t in module.state_dict().items()}
    x = images((2, 4, 5), 3).double()
    got = module(x).detach()
    assert w["reduce.weight"].shape == (32, 3)
    conv = F.conv2d(x, w["conv.weight"], stride=stride, padding=1)

    def normed(values, name, c):
        """One channel's numbers over batch and image, normalised and rectified."""
        mean, var = w[f"{name}.running_mean"][c].item(), w[f"{name}.running_var"][c].item()
        if training:
            mean = sum(values) / len(values)
            var = sum((v - mean) ** 2 for v in values) / len(values)
        scale, shift = w[f"{name}.weight"][c].item(), w[f"{name}.bias"][c].item()
        return [max(0.0, scale * (v - mean) / math.sqrt(var + 1e-5) + shift) for v in values]

    u = torch.empty_like(conv)
    for c in range(6):
        u[:, c] = torch.tensor(normed(conv[:, c].reshape(-1).tolist(), "norm", c), dtype=torch.float64).reshape(conv[:, c].shape)
    height, width = u.shape[2:]
    seen = [[(u[n, c] + u[n, c + 3]).sum().item() / (height * width) for c in range(3)] for n in range(3)]
    reduced = [matvec(w["reduce.weight"].tolist(), s) for s in seen]
    columns = [normed([row[k] for row in reduced], "reduced_norm", k) for k in range(32)]
    for n in range(3):
        m = matvec(w["expand.weight"].tolist(), [column[n] for column in columns])
        for c in range(3):
            p = math.exp(m[c]) / (math.exp(m[c]) + math.exp(m[c + 3]))
            want = p * u[n, c] + (1 - p) * u[n, c + 3]
            torch.testing.assert_close(got[n, c], want, rtol=1e-11, atol=1e-12)
    assert got.shape == (3, 3, math.ceil(4 / stride), math.ceil(5 / stride))


def test_two_equal_streams_are_not_changed_by_mixing():
    module = stirred(SelectiveKernel(2, 3, 1, nn.ReLU))
    with torch.no_grad():
        for t in (module.conv.weight, module.norm.weight, module.norm.bias):
            t[3:] = t[:3]
    x = images((2, 4, 4), 3).double()
    torch.testing.assert_close(module(x), module.norm(module.conv(x)).relu()[:, :3])


# --------------------------------------------------------------------------------------------------- against equations


class ByHand:
    """A network's equations over its state dict: no module, no padding function, no library batch norm."""

    def __init__(self, w, training, stages):
        self.w, self.training, self.stages = w, training, stages

    def conv(self, name, x, stride=1):
        w, b = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return F.conv2d(x, w, b, stride=stride, padding=w.shape[-1] // 2)

    def norm(self, name, x):
        mean, var, axes = self.w[f"{name}.running_mean"], self.w[f"{name}.running_var"], (0, 2, 3)[: x.ndim - 1]
        if self.training:
            mean, var = x.mean(axes), x.var(axes, correction=0)
        scale = self.w[f"{name}.weight"] / (var + 1e-5).sqrt()
        one = (slice(None), *[None] * (x.ndim - 2))
        return x * scale[one] + (self.w[f"{name}.bias"] - mean * scale)[one]

    def relu(self, x):
        return x * (x > 0)

    def averaged(self, x, stride):
        out = torch.zeros(*x.shape[:2], *(math.ceil(s / stride) for s in x.shape[2:]), dtype=x.dtype)
        for row in range(out.shape[2]):
            for column in range(out.shape[3]):
                out[:, :, row, column] = x[:, :, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride].mean((2, 3))
        return out

    def shortcut(self, name, x, like, stride, attention):
        if f"{name}.conv.weight" in self.w:
            y = self.conv(f"{name}.conv", self.averaged(x, stride)) if attention == "sk" else self.conv(f"{name}.conv", x, stride)
            return self.norm(f"{name}.norm", y)
        wide = torch.zeros_like(like)
        for row in range(like.shape[2]):
            for column in range(like.shape[3]):
                wide[:, : x.shape[1], row, column] = x[:, :, row * stride, column * stride]
        return wide

    def selected(self, name, x, stride):
        u = self.relu(self.norm(f"{name}.norm", self.conv(f"{name}.conv", x, stride)))
        c = u.shape[1] // 2
        seen = (u[:, :c] + u[:, c:]).mean((2, 3)) @ self.w[f"{name}.reduce.weight"].T
        m = self.relu(self.norm(f"{name}.reduced_norm", seen)) @ self.w[f"{name}.expand.weight"].T
        p = (1 / (1 + (m[:, c:] - m[:, :c]).exp()))[:, :, None, None]
        return p * u[:, :c] + (1 - p) * u[:, c:]

    def branch(self, name, x, stride, attention, basic):
        strided = 1 if basic else 2
        for i in range(1, 3 if basic else 4):
            step = stride if i == strided else 1
            if attention == "sk" and i == strided:
                x = self.selected(f"{name}.select", x, step)
                continue
            x = self.norm(f"{name}.norm{i}", self.conv(f"{name}.conv{i}", x, step))
            if i < (2 if basic else 3):
                x = self.relu(x)
        if attention == "se":
            w = [self.w[f"{name}.attention.{n}"] for n in ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias")]
            hidden = self.relu(x.mean((2, 3)) @ w[0].T + w[1])
            x = x / (1 + (-(hidden @ w[2].T + w[3])).exp())[:, :, None, None]
        return x

    def __call__(self, x, attention, basic):
        for i in ("1", "2", "3") if attention == "sk" else ("",):
            x = self.relu(self.norm(f"block1.norm{i}", self.conv(f"block1.conv{i}", x)))
        k = 2
        for stage, n in enumerate(self.stages):
            for i in range(n):
                stride = 2 if stage > 0 and i == 0 else 1
                y = self.branch(f"block{k}.branch", x, stride, attention, basic)
                x, k = self.relu(y + self.shortcut(f"block{k}.shortcut", x, y, stride, attention)), k + 1
        return x.mean((2, 3)) @ self.w["top.out.weight"].T + self.w["top.out.bias"]


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 9, 13)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *((name, "none") for name in BASIC),
        ("resnet50", "none"),
        *((n, a) for n in ("resnet18", "resnet20", "resnet50") for a in ("se", "sk")),
    ],
)
def test_a_resnet_is_its_equations(name, attention, training, shape):
    model = build(name, ModelSpec(shape, 7, width=3, attention=attention), seed=2).double()
    g = generator(0, "stir")
    for m in modules(model, nn.modules.batchnorm._BatchNorm):  # at their start, all four would hide in the equations
        for t in (m.weight.data, m.bias.data, m.running_mean, m.running_var):
            t += torch.rand(t.shape, generator=g, dtype=torch.float64)
    x = images(shape, 4).double()
    want = ByHand(copy.deepcopy(model.state_dict()), training, RESNETS[name])(x, attention, name in BASIC)
    torch.testing.assert_close(model.train(training)(x), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 9, 13)])
def test_the_infomax_encoder_is_its_equations(shape):
    model = stirred(build("resnet-gim", ModelSpec(shape, 7, width=3), seed=2))
    hand = ByHand(model.state_dict(), False, ())
    x = images(shape, 2).double()
    y, k = hand.conv("block1.conv", x), 2
    for stage, n in enumerate((3, 4, 6)):
        for i in range(n):
            stride, name, a = (2 if stage and not i else 1), f"block{k}", hand.relu(y)
            kept = y if i else hand.conv(f"{name}.shortcut.conv", a, stride)
            inner = hand.relu(hand.conv(f"{name}.branch.conv1", a))
            inner = hand.relu(hand.conv(f"{name}.branch.conv2", inner, stride))
            y, k = hand.conv(f"{name}.branch.conv3", inner) + kept, k + 1
    want = y.mean((2, 3)) @ model.top.out.weight.T + model.top.out.bias
    torch.testing.assert_close(model(x), want, rtol=1e-10, atol=1e-10)


def test_the_infomax_encoder_has_the_papers_layers():
    model = sketched("resnet-gim", ModelSpec((1, 16, 16), 10))
    kinds = {type(m) for m in model.modules() if not list(m.children())}
    assert kinds == {nn.Conv2d, nn.ReLU, Subsampled, nn.Identity, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear}
    assert all(c.bias is not None for c in modules(model, nn.Conv2d))
    assert model.block1.conv.kernel_size == (5, 5)
    ends = [model[i].branch.conv3.out_channels for i in (3, 7, 13)]
    assert ends == [256, 512, 1024]
    count = 25 * 64 + 64 + 1024 * 10 + 10
    read = 64
    for inner, n in ((64, 3), (128, 4), (256, 6)):
        for i in range(n):
            count += read * inner + inner + 9 * inner * inner + inner + inner * 4 * inner + 4 * inner
            count += 0 if i else read * 4 * inner + 4 * inner
            read = 4 * inner
    assert parameters(model) == count


# ------------------------------------------------------------------------------------------------- under training rules


def attended(name, attention, dtype=torch.float64, width=4):
    plan, g = ModelSpec((3, 8, 8), 10, width=width, attention=attention), torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 8, 8, generator=g, dtype=torch.float64).to(dtype)
    return Case(build(name, plan, seed=1).to(dtype), x, torch.randint(0, 10, (4,), generator=g))


KINDS = [("resnet50", "none"), ("resnet18", "se"), ("resnet50", "sk"), ("resnet-gim", "none")]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_backprop_through_the_blocks_equals_backward_bit_for_bit(name, attention, layout):
    c = attended(name, attention, torch.float32)
    c = c._replace(model=c.model.to(memory_format=layout), x=c.x.to(memory_format=layout))
    twin = copy.deepcopy(c.model)
    nll(twin(c.x), c.y).backward()
    _, updates = step(rule("bp", c), c, lazily=True)
    got = {f"{block}.{n}": g for k, (block, _) in enumerate(c.model.named_children()) for n, g in updates[k].grad.params.items()}
    want = {n: p.grad for n, p in twin.named_parameters()}
    if name == "resnet-gim" and layout is torch.channels_last:  # a bias's sum is in another order: the uncut gradient lies otherwise
        assert_near(got, want, 1e-5)
    else:
        assert_same_bits(got, want)
    assert_same_bits(frozen(c.model), frozen(twin))


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_feedback_by_the_weights_themselves_is_backprop(name, attention):
    c = attended(name, attention)
    method = rule("fa", c)
    for w in c.model.parameters():
        for path in (p for block in method.paths for p in block):
            if w is c.model.get_parameter(f"{path}.weight"):
                method.held(path).copy_(w.detach())
    _, updates = step(method, c)
    twin = uncut(c.model, c.x, c.y)
    for k in range(len(c.model)):
        assert_near(updates[k].grad.params, twin.gradients(k), 1e-9)


@pytest.mark.parametrize(("name", "attention"), KINDS)
def test_dfas_exact_skips_know_every_residual_block(name, attention):
    c = attended(name, attention)
    passes, updates = step(rule("dfa", c, skip="exact"), c)
    _, blocked = step(rule("dfa", c, skip="blocked"), c)
    assert len(passes) == len(c.model)
    for k in range(len(c.model) - 2):  # below the top every block has a residual one above it
        assert not torch.allclose(updates[k].signal.delta, blocked[k].signal.delta)


# ------------------------------------------------------------------------------------------------------- sizes, options


@pytest.mark.parametrize(
    ("name", "attention", "shape"),
    one_in(3, ["resnet18", "resnet20", "resnet50", "resnet-gim"], ["none", "se", "sk"], [(1, 8, 8), (3, 10, 12), (3, 17, 31)]),
)
def test_any_image_of_8x8_and_more(name, attention, shape):
    if name in WITH_ATTENTION or attention == "none":
        assert build(name, ModelSpec(shape, 5, width=2, attention=attention))(images(shape)).shape == (3, 5)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 8), ("resnet20", 4), ("resnet32", 4), ("resnet50", 8), ("resnet-gim", 4)])
def test_the_smallest_image_of_a_resnet_ends_as_one_pixel(name, size):
    model = build(name, ModelSpec((1, size, size), 5, width=2))
    assert output_shapes(model, (1, size, size))[-2][1:] == (1, 1)
    with pytest.raises(InputError, match=rf"{name} .* {size}x{size} pixels; these images are {size}x{size - 1}"):
        build(name, ModelSpec((1, size, size - 1), 5, width=2))


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITH_ATTENTION])
def test_attention_where_there_is_none_is_refused_and_the_nets_that_have_it_are_named(name):
    with pytest.raises(InputError) as caught:
        build(name, ModelSpec(CIFAR, 10, attention="se"))
    for word in ("--attention se", name, *WITH_ATTENTION):
        assert word in str(caught.value)
    with pytest.raises(InputError, match="attention 'eca'; nearest: "):
        build("resnet18", ModelSpec(CIFAR, 10, attention="eca"))


def test_stem_is_the_first_kernel_of_every_form():
    for name in FORMS:
        for attention in ("none", "sk") if name in WITH_ATTENTION else ("none",):
            first, *rest = modules(sketched(name, ModelSpec(CIFAR, 10, width=2, stem=7, attention=attention)), nn.Conv2d)
            assert first.kernel_size == (7, 7)
            assert {c.kernel_size for c in rest} <= {(1, 1), (3, 3)}
