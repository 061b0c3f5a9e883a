"""Networks: the documented layers and sizes, the pooling cut, and what does not fit."""

import copy
import re
from collections import OrderedDict
from functools import reduce

import pytest
import torch
import torch.nn.functional as F
from networks import images, modules, parameters
from sampling import one_in
from torch import nn

from gradlens.models.block_boundaries import output_shapes
from gradlens.models.resnet import basic_residual
from gradlens.models.spec import ACTIVATIONS, ModelSpec
from gradlens.models.zoo import INPUTS, MODELS, build, cut_before_pool, head_width, layers
from gradlens.runtime.errors import InputError

CIFAR, DIGITS = (3, 32, 32), (1, 8, 8)
VGG = {  # as documented: a number is a convolution's channels, M a pool
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}

OF_IMAGES = [name for name in MODELS if name not in INPUTS]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# -------------------------------------------------------------------------------------------------------- as documented


def test_basic_cnn_is_the_network_of_the_reference_study():
    model = build("basic-cnn", ModelSpec(CIFAR, 10))
    assert parameters(model) == 1_357_066
    assert [name for name, _ in model.named_children()] == ["block1", "block2", "block3", "top"]
    kinds = [type(m) for m in model.modules() if not list(m.children())]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == [*block * 3, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.padding) for c in modules(model, nn.Conv2d)] == [
        (3, 128, (5, 5), (2, 2)), (128, 128, (5, 5), (2, 2)), (128, 128, (5, 5), (2, 2))
    ]  # fmt: skip
    assert [(x.in_features, x.out_features) for x in modules(model, nn.Linear)] == [(2048, 256), (256, 10)]
    assert [tuple(s) for s in output_shapes(model, CIFAR)] == [(128, 16, 16), (128, 8, 8), (128, 4, 4), (10,)]
    assert layers(model) == ["block1.conv", "block2.conv", "block3.conv", "top.hidden", "top.out"]


@pytest.mark.parametrize("name", VGG)
def test_vgg_has_the_documented_layers_and_so_many_parameters(name):
    model = build(name, ModelSpec(CIFAR, 10))
    read, channels, count = [], 3, 0
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            assert (m.in_channels, m.kernel_size, m.padding) == (channels, (3, 3), (1, 1))
            channels = m.out_channels
            read.append(str(channels))
        elif isinstance(m, nn.MaxPool2d):
            read.append("M")
    assert " ".join(read) == VGG[name]
    channels = 3
    for out in (int(c) for c in VGG[name].split() if c != "M"):
        count += 9 * channels * out + out + 2 * out  # weights, biases, BatchNorm
        channels = out
    assert parameters(model) == count + 512 * 10 + 10
    convolutions = len(VGG[name].replace("M", "").split())
    assert [n for n, _ in model.named_children()] == [*(f"block{i}" for i in range(1, convolutions + 1)), "top"]
    assert int(name[3:]) == convolutions + 3  # the original nets had three dense layers, these have one


def test_vgg_halves_the_image_after_each_resolution():
    shapes = output_shapes(build("vgg11", ModelSpec(CIFAR, 7, width=4)), CIFAR)
    assert [tuple(s) for s in shapes] == [
        (4, 16, 16), (8, 8, 8), (16, 8, 8), (16, 4, 4), (32, 4, 4), (32, 2, 2), (32, 2, 2), (32, 1, 1), (7,)
    ]  # fmt: skip


def test_mlp():
    model = build("mlp", ModelSpec(DIGITS, 10, width=12, depth=2))
    assert [(x.in_features, x.out_features) for x in modules(model, nn.Linear)] == [(64, 12), (12, 12), (12, 10)]
    assert layers(model) == ["block1.linear", "block2.linear", "top.out"]
    assert parameters(build("mlp", ModelSpec(DIGITS, 10))) == (64 + 1) * 256 + 2 * (256 + 1) * 256 + (256 + 1) * 10


DCGAN = {  # side of the image: channels and sides of what the blocks give, at width 64
    128: [(64, 64), (64, 32), (128, 16), (256, 8), (512, 4), (4000, 1)],
    64: [(64, 32), (128, 16), (256, 8), (512, 4), (4000, 1)],
    32: [(64, 16), (128, 8), (256, 4), (4000, 1)],
    28: [(64, 14), (128, 7), (4000, 1)],
    96: [(64, 48), (128, 24), (256, 12), (512, 6), (4000, 1)],
    256: [(64, 128), (64, 64), (64, 32), (128, 16), (256, 8), (512, 4), (4000, 1)],
    8: [(64, 4), (4000, 1)],
}


@pytest.mark.parametrize("side", DCGAN)
def test_dcgan_halves_down_to_four_pixels_and_has_so_many_parameters(side):
    shape = (3, side, side)
    want = [(max(1, 4000 * 8 // 64) if c == 4000 else c // 8, s, s) for c, s in DCGAN[side]]
    assert [tuple(s) for s in output_shapes(build("dcgan", ModelSpec(shape, 7, width=8)), shape)] == [*want, (7,)]
    with torch.device("meta"):
        model = build("dcgan", ModelSpec(shape, 7))
    *convolutions, last = modules(model, nn.Conv2d)
    assert all((c.kernel_size, c.stride, c.padding, c.bias) == ((4, 4), (2, 2), (1, 1), None) for c in convolutions)
    left = DCGAN[side][-2][1]
    assert (last.kernel_size, last.stride, last.padding, last.bias) == ((left, left), (1, 1), (0, 0), None)
    channels, count = 3, 4000 * 7 + 7
    for i, (c, s) in enumerate(DCGAN[side]):
        count += channels * c * (left * left if s == 1 else 16) + (2 * c if i else 0)
        channels = c
    assert parameters(model) == count


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 21)])
def test_dcgan_is_its_equations(shape, training):
    model = build("dcgan", ModelSpec(shape, 5, width=4), seed=1).double().train(training)
    w, x = copy.deepcopy(model.state_dict()), images(shape, 4).double()
    z, last = x, len(model) - 1
    for k in range(1, last + 1):
        z = F.conv2d(z, w[f"block{k}.conv.weight"], stride=1 if k == last else 2, padding=0 if k == last else 1)
        if k > 1:
            mean, var = w[f"block{k}.norm.running_mean"], w[f"block{k}.norm.running_var"]
            if training:
                mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), correction=0)
            z = (z - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
            z = z * w[f"block{k}.norm.weight"][:, None, None] + w[f"block{k}.norm.bias"][:, None, None]
        z = torch.maximum(z, 0.2 * z)
    assert z.shape == (4, 250, 1, 1)
    torch.testing.assert_close(model(x), z.reshape(4, 250) @ w["top.out.weight"].T + w["top.out.bias"], rtol=1e-9, atol=1e-9)


def test_dcgan_starts_from_the_papers_draws():
    model = build("dcgan", ModelSpec(CIFAR, 10, width=32))
    for conv in modules(model, nn.Conv2d):
        assert conv.weight.mean().abs() < 5 * 0.02 / conv.weight.numel() ** 0.5
        assert conv.weight.std().item() == pytest.approx(0.02, rel=5 / conv.weight.numel() ** 0.5)
    scales = torch.cat([m.weight for m in modules(model, nn.BatchNorm2d)])
    assert scales.mean().item() == pytest.approx(1, abs=0.003)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert all(m.bias.eq(0).all() for m in modules(model, nn.BatchNorm2d))


def test_dcgans_relu_is_leaky_and_other_activations_are_themselves():
    assert {m.negative_slope for m in modules(build("dcgan", ModelSpec(CIFAR, 10, width=2)), nn.LeakyReLU)} == {0.2}
    tanh = build("dcgan", ModelSpec(CIFAR, 10, width=2, activation="tanh"))
    assert not modules(tanh, nn.LeakyReLU)
    assert len(modules(tanh, nn.Tanh)) == 4


def test_linear_is_a_product_of_matrices_whatever_the_activation():
    model = build("linear", ModelSpec((1, 1, 30), 10))
    assert [(n, tuple(p.shape)) for n, p in model.named_parameters()] == [("block1.linear.weight", (20, 30)), ("top.out.weight", (10, 20))]
    deep = build("linear", ModelSpec(DIGITS, 4, width=6, depth=3, activation="tanh"), seed=1).double()
    assert [[n for n, _ in block.named_children()] for block in deep] == [["flatten", "linear"], ["linear"], ["linear"], ["out"]]
    a, b, c, d = (p.detach() for p in deep.parameters())
    x = images(DIGITS).double()
    torch.testing.assert_close(deep(x), x.reshape(3, 64) @ (d @ c @ b @ a).T)
    assert [tuple(s) for s in output_shapes(deep, DIGITS)] == [(6,), (6,), (6,), (4,)]
    assert layers(deep) == ["block1.linear", "block2.linear", "block3.linear", "top.out"]


# -------------------------------------------------------------------------------------------------------- sizes, options


SIZES = ((1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 10, 12), (1, 64, 20), (3, 64, 64))


@pytest.mark.parametrize(
    ("name", "shape", "classes"), one_in(2, ["basic-cnn", "resnet18", "resnet20", "dcgan", "mlp", "linear"], SIZES, [2, 100])
)
def test_any_image_from_8x8_grey_to_64x64_colour(name, shape, classes):
    model = build(name, ModelSpec(shape, classes, width=4))
    assert model(images(shape)).shape == (3, classes)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 33), (3, 64, 64)])
@pytest.mark.parametrize("name", VGG)
def test_vgg_takes_32x32_and_more(name, shape):
    assert build(name, ModelSpec(shape, 5, width=2))(images(shape)).shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "plan", "words"),
    [
        ("vgg16", ModelSpec(DIGITS, 10), ["32x32", "8x8", "basic-cnn"]),
        ("vgg11", ModelSpec((3, 64, 28), 10), ["32x32", "64x28"]),
        ("vgg16", ModelSpec(CIFAR, 10, depth=4), ["--depth", "vgg11"]),
        ("basic-cnn", ModelSpec(DIGITS, 10, depth=4), ["4 blocks", "16x16", "8x8"]),
        ("basic-cnn", ModelSpec((1, 8, 7), 10), ["8x8", "8x7"]),
        ("mlp", ModelSpec(DIGITS, 10, stem=3), ["--stem", "mlp"]),
        ("linear", ModelSpec(DIGITS, 10, stem=3), ["--stem", "linear"]),
        ("resnet20", ModelSpec(CIFAR, 10, depth=3), ["--depth", "resnet18", "resnet20", "resnet32"]),
        ("resnet18", ModelSpec((3, 32, 7), 10), ["resnet18", "8x8", "32x7"]),
        ("basic-cnn", ModelSpec(DIGITS, 10, activation="rellu"), ["activation", "'rellu'; nearest: relu, elu, "]),
        ("vgg", ModelSpec(DIGITS, 10), ["model", "vgg11", "`gradlens list models` lists all"]),
        ("dcgan", ModelSpec((3, 32, 7), 10), ["dcgan", "8x8", "32x7"]),
        ("dcgan", ModelSpec(CIFAR, 10, stem=3), ["--stem", "dcgan", "4x4"]),
        ("dcgan", ModelSpec(CIFAR, 10, depth=3), ["--depth", "dcgan"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(name, plan, words):
    with pytest.raises(InputError) as caught:
        build(name, plan)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("depth", [1, 2, 4, 5])
def test_depth_of_basic_cnn(depth):
    model = build("basic-cnn", ModelSpec(CIFAR, 10, width=4, depth=depth))
    assert len(model) == depth + 1
    assert model[-1].hidden.in_features == 4 * (32 // 2**depth) ** 2


@pytest.mark.parametrize(("name", "others"), [("basic-cnn", 5), ("vgg11", 3), ("resnet20", 3)])
@pytest.mark.parametrize("stem", [3, 5, 7])
def test_stem_is_the_first_kernel_alone_and_keeps_the_resolution(name, others, stem):
    model = build(name, ModelSpec(CIFAR, 10, width=2, stem=stem))
    first, *rest = modules(model, nn.Conv2d)
    assert first.kernel_size == (stem, stem)
    assert {c.kernel_size for c in rest} == {(others, others)}
    assert output_shapes(model, CIFAR) == output_shapes(build(name, ModelSpec(CIFAR, 10, width=2)), CIFAR)


def test_width():
    assert [c.out_channels for c in modules(build("basic-cnn", ModelSpec(CIFAR, 10, width=6)), nn.Conv2d)] == [6, 6, 6]
    assert [c.out_channels for c in modules(build("vgg11", ModelSpec(CIFAR, 10, width=3)), nn.Conv2d)] == [3, 6, 12, 12, 24, 24, 24, 24]
    assert [c.out_channels for c in modules(build("resnet20", ModelSpec(CIFAR, 10, width=3)), nn.Conv2d)] == [3] * 7 + [6] * 6 + [12] * 6
    assert [x.out_features for x in modules(build("linear", ModelSpec(CIFAR, 10, width=3)), nn.Linear)] == [3, 10]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["basic-cnn", "vgg11", "resnet18", "mlp"])
def test_activation_replaces_every_relu(name, activation):
    plan = ModelSpec(CIFAR, 10, width=2, activation=activation)
    model, relu = build(name, plan), build(name, ModelSpec(CIFAR, 10, width=2))
    assert len(modules(model, type(ACTIVATIONS[activation]()))) == len(modules(relu, nn.ReLU)) > 0
    if activation != "relu":
        assert not modules(model, nn.ReLU)
    assert len({id(m) for m in modules(model, type(ACTIVATIONS[activation]()))}) == len(modules(relu, nn.ReLU))  # none shared


def test_no_dropout_and_head_widths():
    assert not any(modules(build(name, ModelSpec(CIFAR, 10, width=2)), nn.Dropout) for name in OF_IMAGES)
    assert head_width(build("basic-cnn", ModelSpec(CIFAR, 10))) == 256
    assert head_width(build("vgg16", ModelSpec(CIFAR, 10))) == 512
    assert head_width(build("resnet18", ModelSpec(CIFAR, 10))) == 512
    assert head_width(build("resnet20", ModelSpec(CIFAR, 10))) == 64
    assert head_width(build("linear", ModelSpec(DIGITS, 10))) == 20


# ------------------------------------------------------------------------------------------------------------- the cut


@pytest.mark.parametrize("name", ["basic-cnn", "vgg13", "resnet18", "resnet20", "mlp", "linear"])
def test_the_cut_does_not_change_the_function(name):
    plan = ModelSpec(CIFAR, 10, width=4)
    after, before = build(name, plan, seed=3), build(name, plan, "before-pool", seed=3)
    x = images(CIFAR, 5)
    assert torch.equal(after(x), before(x))  # in train mode, with batch statistics
    after.eval(), before.eval()
    assert torch.equal(after(x), before(x))  # and with the running ones, which both updated alike
    other = build(name, plan, seed=4).eval()
    before.load_state_dict(other.state_dict())
    assert torch.equal(other(x), before(x))
    after.load_state_dict(before.state_dict())
    assert torch.equal(other(x), after(x))


def test_the_cut_moves_each_pool_to_the_block_above():
    model = build("basic-cnn", ModelSpec(CIFAR, 10, width=4), "before-pool")
    kinds = [[type(m).__name__ for m in block] for block in model]
    body = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == [body, ["MaxPool2d", *body], ["MaxPool2d", *body], ["MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]]
    assert [tuple(s) for s in output_shapes(model, CIFAR)] == [(4, 32, 32), (4, 16, 16), (4, 8, 8), (10,)]
    assert layers(model) == layers(build("basic-cnn", ModelSpec(CIFAR, 10, width=4)))


def test_the_cut_of_a_vgg_leaves_the_tops_own_average_where_it_is():
    model = build("vgg11", ModelSpec(CIFAR, 10, width=2), "before-pool")
    assert [type(m).__name__ for m in model[-1]] == ["MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    pools = [i for i, block in enumerate(model) if any(isinstance(m, nn.MaxPool2d) for m in block)]
    assert pools == [1, 2, 4, 6, 8]


def test_the_cut_shares_the_modules_of_the_model_it_was_made_from():
    model = build("basic-cnn", ModelSpec(DIGITS, 10, width=2))
    cut = cut_before_pool(model)
    assert all(p is q for p, q in zip(model.parameters(), cut.parameters(), strict=True))


def test_the_cut_keeps_blocks_that_have_no_pool_to_move():
    model = build("resnet20", ModelSpec(DIGITS, 10, width=2))
    assert list(cut_before_pool(model)) == list(model)
    pooled = build("basic-cnn", ModelSpec(DIGITS, 10, width=2)).block1
    residual = basic_residual(2, 2, 1, nn.ReLU)
    mixed = nn.Sequential(OrderedDict(block1=pooled, block2=residual, top=nn.Linear(4, 3)))
    assert list(cut_before_pool(mixed)) == [pooled, residual, mixed.top]  # a pool in front of it could only stay below


# ------------------------------------------------------------------------------------------ what cannot be cut into blocks


class Named(nn.Module):
    """A module with a forward pass of its own."""

    def __init__(self, forward, **children):
        super().__init__()
        self.run = forward
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.run(self, x)


def named(*blocks):
    return nn.Sequential(OrderedDict([*((f"block{i}", block) for i, block in enumerate(blocks[:-1], 1)), ("top", blocks[-1])]))


def dense(*more):
    return nn.Sequential(nn.Linear(4, 4), *more)


def refusal(model, shape=(4,)):
    """The sentence, after a look that the refused model is as it was."""
    flags = [m.training for m in model.modules()]
    with pytest.raises(InputError) as caught:
        output_shapes(model, shape)
    assert [m.training for m in model.modules()] == flags
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("hand", "what"),
    [
        (lambda self, x: (x, x), "a tuple of 2"),
        (lambda self, x: [x, x, x], "a list of 3"),
        (lambda self, x: {"x": x}, "a dict of 1"),
        (lambda self, x: None, "None"),
        (lambda self, x: 1.0, "a float"),
    ],
)
def test_a_block_that_hands_on_no_single_tensor_is_refused(hand, what):
    skip = "a skip crosses the boundary to the next block; put both its ends into one block"
    assert refusal(named(dense(), Named(hand), dense())) == f"block2 returns {what}: {skip}"
    assert refusal(nn.Sequential(dense(), Named(hand), dense())) == f"block 1 returns {what}: {skip}"
    assert refusal(named(dense(), Named(hand))) == f"top returns {what}: the network's output must be one tensor"


def test_a_block_that_gives_integers_is_refused():
    assert "block1 returns torch.int64" in refusal(named(Named(lambda self, x: x.long()), dense()))


@pytest.mark.parametrize(
    ("block", "where"),
    [
        (nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), " (block2.0)"),
        (nn.Sequential(nn.Dropout(inplace=True), nn.Linear(4, 4)), " (block2.0)"),  # which does nothing in eval mode
        (nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(inplace=True)), None),
        (nn.Sequential(nn.Flatten(), nn.Sequential(OrderedDict(act=nn.SiLU(inplace=True)))), " (block2.1.act)"),  # through a view
        (nn.Sequential(nn.Sequential(nn.Identity(), nn.ELU(inplace=True)), nn.ReLU(inplace=True)), " (block2.0.1)"),
        (nn.ReLU(inplace=True), ""),
        (Named(lambda self, x: self.fc(x.relu_()), fc=nn.Linear(4, 4)), ""),
        (Named(lambda self, x: self.fc(x) + self.act(x), fc=nn.Linear(4, 4), act=nn.ReLU(inplace=True)), " (block2.act)"),
        (Named(lambda self, x: x.clone().relu_()), None),
    ],
)
@pytest.mark.parametrize("grad", [True, False])
def test_a_block_that_overwrites_its_input_is_refused(block, where, grad):
    model = named(dense(), block, dense())
    with torch.set_grad_enabled(grad):
        if where is None:
            assert output_shapes(model, (4,)) == [(4,)] * 3
        else:
            sentence = (
                "block2 begins with an in-place operation{}, which would overwrite the output of the block before it: use inplace=False"
            )
            assert refusal(model) == sentence.format(where)
        assert torch.is_grad_enabled() is grad
    assert not any(m._forward_hooks for m in model.modules())


def test_a_first_block_that_overwrites_the_image_is_refused():
    sentence = refusal(named(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), dense()))
    assert sentence == "block1 begins with an in-place operation (block1.0), which would overwrite the network's input: use inplace=False"


def stashing(fc):
    """A linear block whose module keeps its input, its middle and its output."""

    def run(self, x):
        self.kept = {"input": x, "middle": self.fc(x), "output": self.fc(x).relu()}
        return self.kept["output"]

    return Named(run, fc=fc)


def reading(below, what, turn=lambda t: t):
    """A block that adds what another one kept; ``below`` is hidden from the module's registry."""
    return Named(lambda self, x: self.fc(x) + turn(below.kept[what]), fc=nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("what", "place", "frozen", "mode"),
    one_in(2, ["input", "middle", "output"], [3, 4, 5], [False, True], [torch.enable_grad, torch.no_grad]),
)
def test_a_skip_across_a_boundary_is_refused_and_named(what, place, frozen, mode):
    below = stashing(nn.Linear(4, 4).requires_grad_(not frozen))
    blocks = [dense(), below, *(dense() for _ in range(3))]
    blocks[place - 1] = reading(below, what)
    name = "top" if place == 5 else f"block{place}"
    with mode():
        sentence = refusal(named(*blocks))
    assert sentence == f"{name} depends on block2 past its input: a skip crosses a boundary between them; put both its ends into one block"


def test_a_weight_borrowed_from_another_block_is_refused_and_a_shared_one_is_not():
    weight = nn.Linear(4, 4)
    borrowed = [weight]
    assert "block3 depends on block1 past" in refusal(named(weight, dense(), Named(lambda self, x: borrowed[0](x)), dense()))
    assert output_shapes(named(weight, dense(), Named(lambda self, x: self.fc(x), fc=weight), dense()), (4,)) == [(4,)] * 4
    assert output_shapes(nn.Sequential(weight, weight), (4,)) == [(4,)] * 2


def test_a_shared_weight_does_not_hide_where_a_skip_comes_from():
    weight = nn.Linear(4, 4)
    below = stashing(weight)
    assert "top depends on block3 past" in refusal(named(dense(), weight, below, dense(), reading(below, "output")))


def test_skips_that_stay_inside_a_block_or_carry_no_gradient_are_taken():
    below = stashing(nn.Linear(4, 4))
    assert output_shapes(named(dense(), nn.Sequential(below, reading(below, "input")), dense()), (4,)) == [(4,)] * 3
    below = stashing(nn.Linear(4, 4))
    assert output_shapes(named(dense(), below, reading(below, "output", torch.Tensor.detach), dense()), (4,)) == [(4,)] * 4


@pytest.mark.parametrize("cut", ["after-pool", "before-pool"])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_model_can_be_cut(name, cut):
    plan = ModelSpec(CIFAR, 6, width=2)
    model = build(name, plan, cut)
    x, shapes = images(CIFAR, 1), []
    model.eval()
    reduce(lambda x, block: shapes.append(block(x).shape[1:]) or block(x), model, x)
    assert output_shapes(model, CIFAR) == shapes
    assert all(p.grad is None for p in model.parameters())


# ------------------------------------------------------------------------------------------------------- no trace, seeds


class Restless(nn.Module):
    """Draws, counts in a buffer that it overwrites and in one that it replaces, and keeps tensors, in any mode."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))
        self.was, self.none, self.gone = torch.ones(2), None, torch.ones(3)

    def forward(self, x):
        self.calls += 1
        self.mean = self.mean + x.detach().mean(0) + torch.rand(4)
        self.was = self.none = self.new = y = self.fc(x)
        del self.gone
        return y


def state(model):
    """Everything a module holds, tensors by identity and by value."""
    held = [{n: v for n, v in vars(m).items() if not n.startswith("_")} | dict(m._buffers) | dict(m._parameters) for m in model.modules()]
    return [(n, v, v.clone() if isinstance(v, torch.Tensor) else v, getattr(v, "grad", None)) for d in held for n, v in sorted(d.items())]


@pytest.mark.parametrize("broken", [None, "refused", "failing"])
def test_output_shapes_leaves_every_module_as_it_was(broken):
    tail = {None: nn.Identity(), "refused": Named(lambda self, x: (x, x)), "failing": nn.Linear(5, 5)}[broken]
    model = named(Restless(), dense(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Dropout(0.5, inplace=True)), tail, dense())
    model.block1.fc.weight.grad = torch.ones(4, 4)
    model.train()
    model.block2[1].eval()  # a frozen norm in a network that trains
    model.block2[3].eval()
    before, stream = state(model), torch.get_rng_state()
    try:
        output_shapes(model, (4,))
        assert broken is None
    except InputError:
        assert broken == "refused"
    except RuntimeError:
        assert broken == "failing"
    after = state(model)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [n for n, *_ in after] == [n for n, *_ in before]
    for (_, was, value, grad), (_, now, new, new_grad) in zip(before, after, strict=True):
        assert now is was
        assert torch.equal(new, value) if isinstance(new, torch.Tensor) else new == value
        assert new_grad is grad
    copy.deepcopy(model)  # a tensor left with its graph would not let itself be copied


@pytest.mark.parametrize("training", [True, False])
def test_output_shapes_leaves_buffers_weights_and_mode(training):
    model = build("basic-cnn", ModelSpec(DIGITS, 10, width=2)).train(training)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    want = torch.rand(1)
    torch.manual_seed(0)
    output_shapes(model, DIGITS)
    assert torch.equal(torch.rand(1), want)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(m.training is training for m in model.modules())


def test_same_seed_same_weights_other_seed_others_and_the_global_stream_is_left_alone():
    torch.manual_seed(1)
    a = build("basic-cnn", ModelSpec(DIGITS, 10, width=4), seed=5)
    after = torch.rand(1)
    torch.manual_seed(2)
    b, c = (build("basic-cnn", ModelSpec(DIGITS, 10, width=4), seed=s) for s in (5, 6))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.block1.conv.weight, c.block1.conv.weight)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


def test_initial_weights_have_pytorchs_own_spread():
    """Uniform in ±1/sqrt(fan in), PyTorch's default for convolutions and linear layers."""
    model = build("basic-cnn", ModelSpec(CIFAR, 10))
    for layer, fan in ((model.block1.conv, 75), (model.block2.conv, 3200), (model.top.hidden, 2048), (model.top.out, 256)):
        assert layer.weight.abs().max() <= fan**-0.5
        assert layer.weight.std().item() == pytest.approx((1 / 3 / fan) ** 0.5, rel=0.05)


@pytest.mark.parametrize("file", ["zoo.py", "resnet.py", "spec.py"])
def test_no_model_knows_a_training_rule(file):
    from pathlib import Path

    import gradlens
    from gradlens.methods import METHODS

    source = (Path(gradlens.__file__).parent / "models" / file).read_text()
    assert not [name for name in METHODS if re.search(rf"\b{name}\b", source)]
