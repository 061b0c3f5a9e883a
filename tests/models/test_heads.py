"""Auxiliary networks: layers and sizes counted by hand, and the synthesiser against its formula."""

from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradlens.models.decoders import decoder
from gradlens.models.heads import HEADS, ITEM_HEADS, TiedHead, head
from gradlens.models.synthesizers import Synthesiser
from gradlens.runtime.errors import InputError

LAYERS = pytest.mark.parametrize("layers", [1, 2, 3])
POOLED = pytest.mark.parametrize("pooled", [False, True])
C, CLASSES, WIDTH = 6, 5, 11


def leaves(module):
    return [m for m in module.modules() if not list(m.children())]


def count(module):
    return sum(p.numel() for p in module.parameters())


def linear(a, b):
    return a * b + b


def test_every_kind_is_tested_here():
    assert HEADS == ("linear", "mlp", "mlp-sr", "cnn", "norm-linear", "low-rank", "tied")
    assert HEADS[4:] == ITEM_HEADS


@LAYERS
@POOLED
@pytest.mark.parametrize("shape", [(C, 8, 8), (C, 5, 7), (C, 1, 1)])
@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind not in ITEM_HEADS])
def test_a_head_maps_activations_to_logits_and_every_parameter_matters(kind, shape, layers, pooled):
    net = head(kind, shape, CLASSES, WIDTH, layers, pooled)
    x = torch.randn(4, *shape)
    z = net(x)
    assert z.shape == (4, CLASSES)
    z.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert not torch.equal(net(x + torch.randn_like(x)), z)


@LAYERS
@POOLED
@pytest.mark.parametrize("side", [8, 6])
def test_an_mlp_head_counts(side, pooled, layers):
    net = head("mlp", (C, side, side), CLASSES, WIDTH, layers, pooled)
    size = C * 4 if pooled else C * side * side
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU] if pooled else [nn.Linear, nn.ReLU]
    start = [nn.AdaptiveAvgPool2d] if pooled else []
    assert [type(m) for m in leaves(net)] == [*start, nn.Flatten, *hidden * layers, nn.Linear]
    norms = 2 * WIDTH * layers if pooled else 0
    want = linear(size, WIDTH) + (layers - 1) * linear(WIDTH, WIDTH) + norms + linear(WIDTH, CLASSES)
    assert count(net) == want


@LAYERS
@POOLED
def test_a_linear_head_has_no_hidden_layer(pooled, layers):
    net = head("linear", (C, 8, 8), CLASSES, WIDTH, layers, pooled)
    assert [type(m) for m in leaves(net)] == [*([nn.AdaptiveAvgPool2d] if pooled else []), nn.Flatten, nn.Linear]
    assert count(net) == linear(C * (4 if pooled else 64), CLASSES)
    x = torch.randn(3, C, 8, 8)
    read = F.avg_pool2d(x, 4) if pooled else x  # 8 to 2
    torch.testing.assert_close(net(x), read.reshape(3, -1) @ net[-1].weight.T + net[-1].bias)


@LAYERS
@POOLED
@pytest.mark.parametrize("side", [8, 5])
def test_an_mlp_sr_head_counts(side, pooled, layers):
    """Average to ceil(s/4), `layers` 1×1 convolutions without bias, 2×2, three layers of width 4C with BatchNorm, Linear."""
    net = head("mlp-sr", (C, side, side), CLASSES, WIDTH, layers, pooled)
    conv, dense = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU], [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    want = [nn.AdaptiveAvgPool2d, *conv * layers, nn.AdaptiveAvgPool2d, nn.Flatten, *dense * 3, nn.Linear]
    assert [type(m) for m in leaves(net)] == want
    convs = [m for m in leaves(net) if isinstance(m, nn.Conv2d)]
    assert all(m.kernel_size == (1, 1) and m.bias is None and m.in_channels == m.out_channels == C for m in convs)
    assert count(net) == layers * (C * C + 2 * C) + 3 * (linear(4 * C, 4 * C) + 8 * C) + linear(4 * C, CLASSES)
    seen = []
    convs[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1:]))
    net(torch.randn(3, C, side, side))
    assert seen == [(C, ceil(side / 4), ceil(side / 4))]


@LAYERS
@POOLED
def test_a_cnn_head_counts(pooled, layers):
    """`layers` 3×3 convolutions without bias at full resolution, 2×2, BatchNorm, Linear."""
    net = head("cnn", (C, 8, 8), CLASSES, WIDTH, layers, pooled)
    tail = [nn.AdaptiveAvgPool2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
    assert [type(m) for m in leaves(net)] == [*[nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * layers, *tail]
    assert count(net) == layers * (9 * C * C + 2 * C) + 2 * C + linear(4 * C, CLASSES)
    seen = []
    leaves(net)[-4].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1:]))
    net(torch.randn(3, C, 8, 8))
    assert seen == [(C, 8, 8)]


@LAYERS
@POOLED
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_on_flat_activations_there_is_nothing_to_pool(kind, pooled, layers):
    net = head(kind, (C,), CLASSES, WIDTH, layers, pooled)
    dense = [nn.Linear, nn.ReLU] * layers if kind == "mlp" else []
    assert [type(m) for m in leaves(net)] == [nn.Flatten, *dense, nn.Linear]
    assert net(torch.randn(3, C)).shape == (3, CLASSES)


def test_an_unknown_head_and_a_convolutional_one_without_space_are_refused():
    with pytest.raises(InputError, match="unknown head 'mpl'; nearest: mlp"):
        head("mpl", (C, 8, 8), CLASSES, WIDTH, 1, False)
    for kind in ("cnn", "mlp-sr"):
        with pytest.raises(InputError, match=rf"head={kind} needs activations of shape \[C, H, W\].*\[6\]"):
            head(kind, (C,), CLASSES, WIDTH, 1, False)


@pytest.mark.parametrize("shape", [(C, 8, 8), (C, 1, 1)])
def test_a_cnn_head_may_have_no_hidden_layer(shape):
    net = head("cnn", shape, CLASSES, WIDTH, 0, False)
    assert [type(m) for m in leaves(net)] == [nn.AdaptiveAvgPool2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
    assert net(torch.randn(3, *shape)).shape == (3, CLASSES)
    flat = head("mlp", (C,), CLASSES, WIDTH, 0, False)
    assert [type(m) for m in leaves(flat)] == [nn.Flatten, nn.Linear]


# ----------------------------------------------------------------------------------------------------- heads of each item

T, D, RANK = 5, 6, 3


def top():
    return nn.Sequential(nn.LayerNorm(D), nn.Linear(D, CLASSES))


@pytest.mark.parametrize("kind", ITEM_HEADS)
def test_heads_of_items_normalise_and_project_each_token_by_itself(kind):
    torch.manual_seed(3)
    net, h = head(kind, (T, D), CLASSES, WIDTH, 1, False, last=True, rank=RANK).double(), torch.randn(4, T, D, dtype=torch.float64)
    tops = top().double()
    if kind == "tied":
        net.tie(tops)
    norm = net.norm if kind == "tied" else net[0]
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    matrices = {"norm-linear": lambda: (net[1].weight, net[1].bias), "low-rank": lambda: (net[2].weight @ net[1].weight, net[2].bias)}
    w, b = (tops[1].weight, tops[1].bias) if kind == "tied" else matrices[kind]()
    got = net(h)
    for n in range(4):
        for t in range(T):
            v = h[n, t]
            normed = (v - v.mean()) / (v.var(unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
            torch.testing.assert_close(got[n, t], w @ normed + b, rtol=1e-10, atol=1e-10)
    counts = {"norm-linear": linear(D, CLASSES), "low-rank": D * RANK + linear(RANK, CLASSES), "tied": 0}
    assert count(net) == 2 * D + counts[kind]


def test_a_tied_head_follows_the_output_block_and_sends_it_no_gradient():
    net, tops, h = TiedHead(D), top(), torch.randn(2, T, D, requires_grad=True)
    net.tie(tops)
    before = net(h)
    with torch.no_grad():
        tops[1].weight.mul_(2)
        tops[1].bias.zero_()
    net.tie(tops)
    after = net(h)
    assert not torch.equal(after, before)
    after.sum().backward()
    assert all(p.grad is None for p in tops.parameters())
    assert all(p.grad is not None for p in (h, *net.parameters()))


def test_heads_of_items_refuse_features_that_are_not_last_and_output_blocks_of_other_sizes():
    for kind in ITEM_HEADS:
        with pytest.raises(InputError, match=rf"head={kind} needs activations with features last.*\[6, 8, 8\]"):
            head(kind, (C, 8, 8), CLASSES, WIDTH, 1, False)
        assert head(kind, (D,), CLASSES, WIDTH, 1, False) is not None
    with pytest.raises(InputError, match="head=tied needs an output block whose linear layer reads the 6 features.*one that reads 7"):
        TiedHead(D).tie(nn.Linear(7, CLASSES))
    with pytest.raises(InputError, match="it has none"):
        TiedHead(D).tie(nn.ReLU())


def enlarged(x, height, width):
    """Bilinear interpolation that maps corners to corners, pixel by pixel."""
    n, c, h, w = x.shape
    out = torch.empty(n, c, height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            a, b = i * (h - 1) / max(1, height - 1), j * (w - 1) / max(1, width - 1)
            top, left = min(int(a), h - 1), min(int(b), w - 1)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            u, v = a - top, b - left
            above = (1 - v) * x[:, :, top, left] + v * x[:, :, top, right]
            below = (1 - v) * x[:, :, bottom, left] + v * x[:, :, bottom, right]
            out[:, :, i, j] = (1 - u) * above + u * below
    return out


@pytest.mark.parametrize("shape", [(C, 4, 4), (C, 3, 2), (C, 1, 1), (C, 8, 8), (C, 16, 12)])
def test_a_decoder_enlarges_and_convolves_twice(shape):
    net, x = decoder(shape, (3, 8, 7)).double(), torch.randn(4, *shape, dtype=torch.float64)
    assert count(net) == (9 * C * 12 + 12) + 2 * 12 + (9 * 12 * 3 + 3)
    v = F.conv2d(enlarged(x, 8, 7), net[1].weight, net[1].bias, padding=1)
    want = F.conv2d(normalised(v).clamp(min=0), net[-1].weight, net[-1].bias, padding=1)
    torch.testing.assert_close(net(x), want, rtol=1e-9, atol=1e-9)
    assert want.shape == (4, 3, 8, 7)


def test_a_decoder_of_flat_activations_is_linear():
    net, x = decoder((C,), (3, 4, 5)), torch.randn(4, C)
    assert count(net) == linear(C, 60)
    torch.testing.assert_close(net(x), (x @ net[1].weight.T + net[1].bias).reshape(4, 3, 4, 5))


def test_the_seeds_heads_have_10491412_parameters():
    first, second = (head("mlp", (128, s, s), 10, 256, 1, False) for s in (16, 8))
    assert count(first) == linear(128 * 16 * 16, 256) + linear(256, 10) == 8_391_434
    assert count(second) == linear(128 * 8 * 8, 256) + linear(256, 10) == 2_099_978
    assert count(first) + count(second) == 10_491_412


# ---------------------------------------------------------------------------------------------------------- synthesisers


def test_the_synthesiser_of_the_reference_study_has_1231104_parameters():
    conv, norm = 128 * 128 * 25 + 128, 2 * 128
    assert count(Synthesiser((128, 16, 16), 10, None, True)) == 3 * conv + 2 * norm + linear(10, 128) == 1_231_104
    assert count(Synthesiser((128, 16, 16), 0, None, True)) == 3 * conv + 2 * norm


@pytest.mark.parametrize("width", [None, 7])
def test_synthesiser_sizes_follow_the_width(width):
    w = width or C
    spatial = Synthesiser((C, 4, 4), 5, width, True)
    assert count(spatial) == (C * w + w * w + w * C) * 25 + 2 * w + C + 4 * w + linear(5, w)
    flat = Synthesiser((C,), 5, width, True)
    assert count(flat) == linear(C, w) + linear(w, w) + linear(w, C) + 4 * w + linear(5, w)


@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("shape", [(C,), (C, 4, 3), (C, 1, 1)])
def test_a_synthesiser_answers_in_the_shape_of_what_it_reads_and_starts_at_zero(shape, context):
    h, c = torch.randn(4, *shape), torch.eye(5)[[0, 1, 1, 4]] if context else None
    zero = Synthesiser(shape, context, None, True)
    assert torch.equal(zero(h, c), torch.zeros_like(h))
    biased = Synthesiser(shape, context, None, False)
    bias = biased.rest.last.bias
    assert bias.abs().min() > 0
    assert bias.abs().max() <= 1 / (C * (25 if len(shape) == 3 else 1)) ** 0.5
    torch.testing.assert_close(biased(h, c), bias.reshape(1, C, *[1] * (len(shape) - 1)).expand(h.shape))


def normalised(v):
    """BatchNorm in training mode with weight 1 and bias 0, channel by channel."""
    out = torch.empty_like(v)
    for i in range(v.shape[1]):
        channel = v[:, i]
        out[:, i] = (channel - channel.mean()) / (channel.var(unbiased=False) + 1e-5).sqrt()
    return out


@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("shape", [(C,), (C, 4, 3)])
def test_the_context_is_added_to_the_first_layers_output_before_its_batch_norm(shape, context):
    torch.manual_seed(2)
    s = Synthesiser(shape, context, 7, False).double()
    nn.init.normal_(s.rest.last.weight)
    y = torch.tensor([0, 1, 1, 4])
    h = torch.randn(4, *shape, dtype=torch.float64)

    def layer(m, v):
        return F.conv2d(v, m.weight, m.bias, padding=2) if len(shape) == 3 else v @ m.weight.T + m.bias

    v = layer(s.first, h)
    if context:
        for n in range(4):
            for i in range(7):
                v[n, i] += s.context.weight[i, y[n]] + s.context.bias[i]
    v = normalised(v).clamp(min=0)
    v = normalised(layer(s.rest.middle, v)).clamp(min=0)
    want = layer(s.rest.last, v)
    got = s(h, torch.eye(5, dtype=torch.float64)[y] if context else None)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    if context:  # and it matters
        assert not torch.allclose(s(h, torch.eye(5, dtype=torch.float64)[y.flip(0)]), got)
