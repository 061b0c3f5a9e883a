"""Multiply-adds against formulas written here by hand, and the ratios the project promises."""

import pytest
import torch
from torch import nn

from gradlens.training.build import build_model_and_method
from gradlens.training.config import make_config
from gradlens.training.cost.flops import count
from gradlens.training.optimizers import make_optimizer
from gradlens.training.step import Recording, training_step

CPU = torch.device("cpu")


def test_linear_forward_and_backward():
    layer, x = nn.Linear(7, 5), torch.randn(3, 7, requires_grad=True)
    forward = 3 * 7 * 5
    out = layer(x)
    assert count(layer, x) == forward
    assert count(lambda: torch.autograd.grad(out, layer.weight, torch.ones_like(out), retain_graph=True)) == forward
    assert count(lambda: torch.autograd.grad(out, x, torch.ones_like(out), retain_graph=True)) == forward
    assert count(lambda: torch.autograd.grad(out, [x, layer.weight], torch.ones_like(out))) == 2 * forward


@pytest.mark.parametrize(
    ("options", "size", "positions"),
    [
        ({"kernel_size": 3}, (8, 10), 6 * 8),
        ({"kernel_size": 3, "padding": 1}, (8, 10), 8 * 10),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (8, 10), 4 * 5),
        ({"kernel_size": (3, 5), "dilation": 2}, (9, 11), 5 * 3),
        ({"kernel_size": 3, "groups": 2}, (8, 10), 6 * 8),
    ],
)
def test_convolution_forward_and_backward(options, size, positions):
    layer = nn.Conv2d(4, 6, bias=True, **options)
    x = torch.randn(3, 4, *size, requires_grad=True)
    h, w = layer.kernel_size
    forward = 3 * positions * 6 * (4 // layer.groups) * h * w
    out = layer(x)
    told = torch.ones_like(out)

    assert out.shape[2] * out.shape[3] == positions
    assert count(layer, x) == forward
    assert count(lambda: torch.autograd.grad(out, layer.bias, told, retain_graph=True)) == 0
    assert count(lambda: torch.autograd.grad(out, layer.weight, told, retain_graph=True)) == forward
    assert count(lambda: torch.autograd.grad(out, x, told, retain_graph=True)) == forward
    assert count(lambda: torch.autograd.grad(out, [x, *layer.parameters()], told)) == 2 * forward


def test_transposed_convolution():
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
    x = torch.randn(3, 4, 5, 7, requires_grad=True)
    forward = 3 * (5 * 7) * 4 * (6 // 2) * 9  # every input pixel meets every weight of its group
    out = layer(x)
    assert count(layer, x) == forward
    assert count(lambda: torch.autograd.grad(out, [x, layer.weight], torch.ones_like(out))) == 2 * forward


def test_matrix_products_and_inference_mode():
    a, b = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    assert count(torch.bmm, a, b) == count(torch.matmul, a, b) == 2 * 3 * 4 * 5
    with torch.inference_mode():
        assert count(nn.Linear(4, 5), a) == 2 * 3 * 4 * 5


def test_only_products_count():
    norm, x = nn.BatchNorm2d(4), torch.randn(2, 4, 6, 6)
    assert count(lambda: nn.functional.max_pool2d(norm(x).relu(), 2).sum().backward()) == 0


# ------------------------------------------------------------------------- steps of BasicCNN at 3×32×32, per image, by hand

CONV1, CONV2, CONV3 = 32 * 32 * 128 * 3 * 25, 16 * 16 * 128 * 128 * 25, 8 * 8 * 128 * 128 * 25
HIDDEN, OUT = 128 * 4 * 4 * 256, 256 * 10
TOP = HIDDEN + OUT
HEADS = (128 * 16 * 16 * 256 + 256 * 10) + (128 * 8 * 8 * 256 + 256 * 10)  # dgl's classifiers on blocks 1 and 2
SYNTHESISERS = sum(3 * pixels * 128 * 128 * 25 for pixels in (16 * 16, 8 * 8, 4 * 4))  # three convolutions on each block

# forward, weight gradient, input gradient; the images take none
BP = 3 * (CONV1 + CONV2 + CONV3 + TOP) - CONV1
# no block sends down: conv 1, 2 and 3 have no input gradient; heads and top have all three
DGL = 2 * (CONV1 + CONV2 + CONV3) + 3 * TOP + 3 * HEADS
# the true gradient: all of backprop's backward, on the passes that are there
TRUTH = 2 * (CONV2 + CONV3 + TOP) + CONV1
# a synthesiser is run once and learns: its first convolution has no input gradient
DNI = BP + 3 * SYNTHESISERS - SYNTHESISERS // 3
# the label's linear map into 128 channels has none either
CDNI = DNI + 2 * 3 * 10 * 128


def step_cost(method, images=2, record=None, **settings):
    """Multiply-adds of one update, all images together."""
    config = make_config(method=method, **settings)
    pair = build_model_and_method(config, (3, 32, 32), 10, CPU)
    x = torch.randn(images, 3, 32, 32).to(memory_format=torch.channels_last)
    return count(
        training_step, pair, make_optimizer(config, pair), x, torch.arange(images) % 10, None if record is None else Recording(record)
    )


@pytest.mark.parametrize(
    ("method", "record", "per_image"),
    [
        ("bp", None, BP),
        ("bp", 0, BP + TRUTH),
        ("dgl", None, DGL),
        ("dgl", 0, DGL + TRUTH),
        ("dni", None, DNI),
        ("dni", 0, DNI + TRUTH),
        ("cdni", None, CDNI),
    ],
)
def test_a_step_costs_what_its_formula_says(method, record, per_image):
    assert step_cost(method, 2, record) == 2 * per_image


@pytest.mark.parametrize("method", ["bp", "dgl", "cdni"])
def test_cost_is_linear_in_the_batch(method):
    assert step_cost(method, 6, width=8) == 3 * step_cost(method, 2, width=8)


def test_promised_ratios():
    assert DGL / BP <= 0.80
    assert (DGL + TRUTH) / BP <= 1.45
