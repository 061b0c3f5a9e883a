"""Networks: the documented layers and sizes, the pooling cut, and what does not fit."""

import copy
import re

import pytest
import torch
from torch import nn

from gradlens.errors import InputError
from gradlens.models import ACTIVATIONS, MODELS, Plan, build, cut_before_pool, head_width, layers, output_shapes
from gradlens.seeding import generator

CIFAR, DIGITS = (3, 32, 32), (1, 8, 8)
VGG = {  # as documented: a number is a convolution's channels, M a pool
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def images(shape, n=3, seed=0):
    return torch.randn(n, *shape, generator=generator(seed, "images"))


def modules(model, kind):
    return [m for m in model.modules() if isinstance(m, kind)]


# -------------------------------------------------------------------------------------------------------- as documented


def test_basic_cnn_is_the_documents_network():
    model = build("basic-cnn", Plan(CIFAR, 10))
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
    model = build(name, Plan(CIFAR, 10))
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
    shapes = output_shapes(build("vgg11", Plan(CIFAR, 7, width=4)), CIFAR)
    assert [tuple(s) for s in shapes] == [
        (4, 16, 16), (8, 8, 8), (16, 8, 8), (16, 4, 4), (32, 4, 4), (32, 2, 2), (32, 2, 2), (32, 1, 1), (7,)
    ]  # fmt: skip


def test_mlp():
    model = build("mlp", Plan(DIGITS, 10, width=12, depth=2))
    assert [(x.in_features, x.out_features) for x in modules(model, nn.Linear)] == [(64, 12), (12, 12), (12, 10)]
    assert layers(model) == ["block1.linear", "block2.linear", "top.out"]
    assert parameters(build("mlp", Plan(DIGITS, 10))) == (64 + 1) * 256 + 2 * (256 + 1) * 256 + (256 + 1) * 10


# -------------------------------------------------------------------------------------------------------- sizes, options


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 10, 12), (1, 64, 20), (3, 64, 64)])
@pytest.mark.parametrize("name", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("classes", [2, 100])
def test_any_image_from_8x8_grey_to_64x64_colour(name, shape, classes):
    model = build(name, Plan(shape, classes, width=4))
    assert model(images(shape)).shape == (3, classes)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 33), (3, 64, 64)])
@pytest.mark.parametrize("name", VGG)
def test_vgg_takes_32x32_and_more(name, shape):
    assert build(name, Plan(shape, 5, width=2))(images(shape)).shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "plan", "words"),
    [
        ("vgg16", Plan(DIGITS, 10), ["32x32", "8x8", "basic-cnn"]),
        ("vgg11", Plan((3, 64, 28), 10), ["32x32", "64x28"]),
        ("vgg16", Plan(CIFAR, 10, depth=4), ["--depth", "vgg11"]),
        ("basic-cnn", Plan(DIGITS, 10, depth=4), ["4 blocks", "16x16", "8x8"]),
        ("basic-cnn", Plan((1, 8, 7), 10), ["8x8", "8x7"]),
        ("mlp", Plan(DIGITS, 10, stem=3), ["--stem", "mlp"]),
        ("basic-cnn", Plan(DIGITS, 10, activation="rellu"), ["activation", "'rellu'; known, nearest first: relu, ", "leaky-relu"]),
        ("vgg", Plan(DIGITS, 10), ["model", "vgg11", "basic-cnn"]),
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
    model = build("basic-cnn", Plan(CIFAR, 10, width=4, depth=depth))
    assert len(model) == depth + 1
    assert model[-1].hidden.in_features == 4 * (32 // 2**depth) ** 2


@pytest.mark.parametrize(("name", "others"), [("basic-cnn", 5), ("vgg11", 3)])
@pytest.mark.parametrize("stem", [3, 5, 7])
def test_stem_is_the_first_kernel_alone_and_keeps_the_resolution(name, others, stem):
    model = build(name, Plan(CIFAR, 10, width=2, stem=stem))
    first, *rest = modules(model, nn.Conv2d)
    assert first.kernel_size == (stem, stem)
    assert {c.kernel_size for c in rest} == {(others, others)}
    assert output_shapes(model, CIFAR) == output_shapes(build(name, Plan(CIFAR, 10, width=2)), CIFAR)


def test_width():
    assert [c.out_channels for c in modules(build("basic-cnn", Plan(CIFAR, 10, width=6)), nn.Conv2d)] == [6, 6, 6]
    assert [c.out_channels for c in modules(build("vgg11", Plan(CIFAR, 10, width=3)), nn.Conv2d)] == [3, 6, 12, 12, 24, 24, 24, 24]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["basic-cnn", "vgg11", "mlp"])
def test_activation_replaces_every_relu(name, activation):
    plan = Plan(CIFAR, 10, width=2, activation=activation)
    model, relu = build(name, plan), build(name, Plan(CIFAR, 10, width=2))
    assert len(modules(model, type(ACTIVATIONS[activation]()))) == len(modules(relu, nn.ReLU)) > 0
    if activation != "relu":
        assert not modules(model, nn.ReLU)
    assert len({id(m) for m in modules(model, type(ACTIVATIONS[activation]()))}) == len(modules(relu, nn.ReLU))  # none shared


def test_no_dropout_and_head_widths():
    assert not any(modules(build(name, Plan(CIFAR, 10, width=2)), nn.Dropout) for name in MODELS)
    assert head_width(build("basic-cnn", Plan(CIFAR, 10))) == 256
    assert head_width(build("vgg16", Plan(CIFAR, 10))) == 512


# ------------------------------------------------------------------------------------------------------------- the cut


@pytest.mark.parametrize("name", ["basic-cnn", "vgg13", "mlp"])
def test_the_cut_does_not_change_the_function(name):
    plan = Plan(CIFAR, 10, width=4)
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
    model = build("basic-cnn", Plan(CIFAR, 10, width=4), "before-pool")
    kinds = [[type(m).__name__ for m in block] for block in model]
    body = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == [body, ["MaxPool2d", *body], ["MaxPool2d", *body], ["MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]]
    assert [tuple(s) for s in output_shapes(model, CIFAR)] == [(4, 32, 32), (4, 16, 16), (4, 8, 8), (10,)]
    assert layers(model) == layers(build("basic-cnn", Plan(CIFAR, 10, width=4)))


def test_the_cut_of_a_vgg_leaves_the_tops_own_average_where_it_is():
    model = build("vgg11", Plan(CIFAR, 10, width=2), "before-pool")
    assert [type(m).__name__ for m in model[-1]] == ["MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    pools = [i for i, block in enumerate(model) if any(isinstance(m, nn.MaxPool2d) for m in block)]
    assert pools == [1, 2, 4, 6, 8]


def test_the_cut_shares_the_modules_of_the_model_it_was_made_from():
    model = build("basic-cnn", Plan(DIGITS, 10, width=2))
    cut = cut_before_pool(model)
    assert all(p is q for p, q in zip(model.parameters(), cut.parameters(), strict=True))


# ------------------------------------------------------------------------------------------------------- no trace, seeds


@pytest.mark.parametrize("training", [True, False])
def test_output_shapes_leaves_buffers_weights_and_mode(training):
    model = build("basic-cnn", Plan(DIGITS, 10, width=2)).train(training)
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
    a = build("basic-cnn", Plan(DIGITS, 10, width=4), seed=5)
    after = torch.rand(1)
    torch.manual_seed(2)
    b, c = (build("basic-cnn", Plan(DIGITS, 10, width=4), seed=s) for s in (5, 6))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.block1.conv.weight, c.block1.conv.weight)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


def test_initial_weights_have_pytorchs_own_spread():
    """Uniform in ±1/sqrt(fan in), PyTorch's default for convolutions and linear layers."""
    model = build("basic-cnn", Plan(CIFAR, 10))
    for layer, fan in ((model.block1.conv, 75), (model.block2.conv, 3200), (model.top.hidden, 2048), (model.top.out, 256)):
        assert layer.weight.abs().max() <= fan**-0.5
        assert layer.weight.std().item() == pytest.approx((1 / 3 / fan) ** 0.5, rel=0.05)


def test_no_model_knows_a_training_rule():
    from pathlib import Path

    import gradlens.models
    from gradlens.methods import METHODS

    source = Path(gradlens.models.__file__).read_text()
    assert not [name for name in METHODS if re.search(rf"\b{name}\b", source)]
