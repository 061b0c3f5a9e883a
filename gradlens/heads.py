"""Auxiliary networks of the rules: classifiers on a block's output, and synthesisers that predict a gradient of its shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod

import torch
from torch import Tensor, nn

from gradlens.errors import InputError, unknown

HEADS = ("linear", "mlp", "mlp-sr", "cnn")


def _dense(sizes: Sequence[int], norm: bool) -> list[nn.Module]:
    """Linear(–BatchNorm)–ReLU for each pair of neighbouring sizes."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.ReLU()]
    return layers


def _convolved(channels: int, kernel: int, layers: int) -> list[nn.Module]:
    """Conv(no bias)–BatchNorm–ReLU, ``layers`` times, keeping channels and resolution."""
    one = [
        [nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()] for _ in range(layers)
    ]
    return [module for group in one for module in group]


def head(kind: str, shape: Sequence[int], classes: int, width: int, layers: int, pooled: bool) -> nn.Module:
    """An auxiliary classifier: activations [N, *shape] -> logits [N, classes].

    Args:
        kind: ``linear``; ``mlp`` (flatten, `layers` × Linear(width)–ReLU, Linear); ``mlp-sr`` (average to a quarter of the
            resolution, `layers` × [1×1 conv–BN–ReLU], 2×2, three-layer MLP of width 4C); ``cnn`` (`layers` × [3×3 conv–BN–ReLU],
            2×2, BN, Linear). The latter two follow Belilovsky et al. 2020, §4 and their code, and always pool.
        shape: (C, H, W), or (features,) for linear and mlp.
        classes: number of classes.
        width: width of an mlp's hidden layers.
        layers: number of hidden layers (0: none, where the kind's remain).
        pooled: average to 2×2 before a linear or mlp head (the first hidden layers then follow the paper's: with BatchNorm).

    Raises:
        InputError: an unknown kind, or a convolutional head on activations without space.

    """
    if kind not in HEADS:
        raise unknown("head", kind, HEADS)
    spatial = len(shape) == 3
    if kind in ("mlp-sr", "cnn") and not spatial:
        raise InputError(f"head={kind} needs activations of shape [C, H, W]; this model's blocks give {list(shape)}")
    channels = shape[0]
    if kind == "cnn":
        tail: list[nn.Module] = [nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(channels), nn.Flatten()]
        return nn.Sequential(*_convolved(channels, 3, layers), *tail, nn.Linear(4 * channels, classes))
    if kind == "mlp-sr":
        wide = 4 * channels
        quarter = nn.AdaptiveAvgPool2d((ceil(shape[1] / 4), ceil(shape[2] / 4)))
        body = [quarter, *_convolved(channels, 1, layers), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*body, *_dense([wide] * 4, norm=True), nn.Linear(wide, classes))
    pool = [nn.AdaptiveAvgPool2d(2)] if pooled and spatial else []
    size = 4 * channels if pool else prod(shape)
    sizes = [size] if kind == "linear" else [size, *[width] * layers]
    return nn.Sequential(*pool, nn.Flatten(), *_dense(sizes, norm=bool(pool)), nn.Linear(sizes[-1], classes))


def decoder(shape: Sequence[int], image: Sequence[int]) -> nn.Module:
    """Reconstructs images: activations [N, *shape] -> [N, *image], after the decoder of Wang et al. 2021 without its sigmoid.

    Args:
        shape: (C, H, W): enlarged bilinearly to the image, conv3×3(12)–BN–ReLU–conv3×3; or (features,): one Linear.
        image: (C, H, W) of the image.

    """
    if len(shape) < 3:
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), prod(image)), nn.Unflatten(1, tuple(image)))
    enlarge = nn.Upsample((image[1], image[2]), mode="bilinear", align_corners=True)
    first, last = nn.Conv2d(shape[0], 12, 3, padding=1), nn.Conv2d(12, image[0], 3, padding=1)
    return nn.Sequential(enlarge, first, nn.BatchNorm2d(12), nn.ReLU(), last)


class ChannelwiseLinear(nn.Module):
    """y_c = W_c vec(x_c) + b_c: each channel's pixels fully connected among themselves, channels apart (Pathak et al. 2016, §3.1).

    [N, m, h, w] -> [N, m, h, w]; with n² = h · w pixels it has m · n⁴ weights and m · n² biases.

    Args:
        channels: m.
        size: (h, w).

    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        pixels = size[0] * size[1]
        self.weight = nn.Parameter(torch.empty(channels, pixels, pixels))
        self.bias = nn.Parameter(torch.zeros(channels, pixels))
        nn.init.normal_(self.weight, 0, 0.02)

    def forward(self, h: Tensor) -> Tensor:
        """[N, m, h, w] -> [N, m, h, w]."""
        by_channel = h.flatten(2).transpose(0, 1)  # [m, N, n²]
        y = torch.baddbmm(self.bias[:, None], by_channel, self.weight.transpose(1, 2))
        return y.transpose(0, 1).reshape(h.shape)


LARGEST_CONTEXT = 8  # pixels on a side of the maps that a channel-wise layer connects
DENSE_START = 4  # ... of the maps that are made of features without space


def _halved_to(image: Sequence[int], limit: Sequence[int]) -> list[tuple[int, int]]:
    """Sizes (h, w) from one within the limit up to the image, each next one twice as large where it grows (or twice and a pixel)."""
    sizes = [(image[1], image[2])]
    while any(side > most for side, most in zip(sizes[-1], limit, strict=True)):
        h, w = (side // 2 if side > most else side for side, most in zip(sizes[-1], limit, strict=True))
        sizes.append((h, w))
    return sizes[::-1]


def _enlarging(a: int, b: int, small: tuple[int, int], large: tuple[int, int], bias: bool) -> nn.Module:
    """The up-convolution of a channels and size ``small`` to b channels and size ``large``: 4×4, stride 2, where it grows."""
    if small == large:
        return nn.Conv2d(a, b, 3, padding=1, bias=bias)
    tall, wide = ((4, 2, n - 2 * m) if n > m else (3, 1, 0) for m, n in zip(small, large, strict=True))  # kernel, stride, pixels more
    kernel, stride, more = zip(tall, wide, strict=True)
    return nn.ConvTranspose2d(a, b, kernel, stride, 1, more, bias=bias)


def context_decoder(shape: Sequence[int], image: Sequence[int]) -> nn.Sequential:
    """Reconstructs images from their context: activations [N, *shape] -> [N, *image], after Pathak et al. 2016 (arXiv 1604.07379).

    Maps are averaged to 8×8 or less (to a size from which doublings lead to the image's), go through a channel-wise fully connected
    layer, a 1×1 convolution that mixes channels, and 4×4 up-convolutions of stride 2 that halve the channels (8 at least), each with BN
    and ReLU but the last, which has neither nor a tanh: under any normalisation but [-1, 1] that could not reach all values. Features
    without space, or of one pixel, are made maps of 4×4 or less by one linear layer instead (the bottleneck of the authors' code).
    Weights start as DCGAN's.

    Args:
        shape: (C, H, W) or (features,) of the activations.
        image: (C, H, W) of the image.

    """
    dense = len(shape) < 3 or shape[1] * shape[2] == 1
    limit = (DENSE_START, DENSE_START) if dense else (min(shape[1], LARGEST_CONTEXT), min(shape[2], LARGEST_CONTEXT))
    sizes = _halved_to(image, limit)
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    if dense:
        features, c = prod(shape), max(8, min(512, shape[0]))
        stages["flatten"] = nn.Flatten()
        stages["dense"] = nn.Linear(features, c * prod(sizes[0]), bias=False)
        stages["maps"] = nn.Unflatten(1, (c, *sizes[0]))
    else:
        c = shape[0]
        if sizes[0] != tuple(shape[1:]):
            stages["pool"] = nn.AdaptiveAvgPool2d(sizes[0])
        stages["context"] = ChannelwiseLinear(c, sizes[0])
        stages["mix"] = nn.Conv2d(c, c, 1, bias=False)
    stages |= {"norm": nn.BatchNorm2d(c), "act": nn.ReLU()}
    steps = list(pairwise(sizes)) or [(sizes[0], sizes[0])]
    for i, (small, large) in enumerate(steps, 1):
        last = i == len(steps)
        wide = image[0] if last else max(8, c // 2)
        stages[f"up{i}"] = _enlarging(c, wide, small, large, bias=last)
        if not last:
            stages |= {f"norm{i}": nn.BatchNorm2d(wide), f"act{i}": nn.ReLU()}
        c = wide
    return dcgan_start(nn.Sequential(stages))


def discriminator(region: Sequence[int], width: int = 64) -> nn.Sequential:
    """Tells real regions from made ones: [N, *region] -> logits [N, 1], as DCGAN's (Radford et al. 2016, arXiv 1511.06434).

    4×4 convolutions of stride 2 and leaky ReLU (slope 0.2), ``width`` channels doubled each time up to eight times as many, BN in all but
    the first, until 4 pixels on a side are left; then one convolution over all of them. Weights start as DCGAN's.

    Args:
        region: (C, H, W), 2 pixels on a side at least.
        width: channels of the first layer.

    """
    c, sides = region[0], [region[1], region[2]]
    layers: list[nn.Module] = []
    while not layers or min(sides) > DENSE_START:
        wide = width if not layers else min(2 * c, 8 * width)
        norm = [nn.BatchNorm2d(wide)] if layers else []
        layers += [nn.Conv2d(c, wide, 4, 2, 1, bias=not norm), *norm, nn.LeakyReLU(0.2)]
        c, sides = wide, [side // 2 for side in sides]
    return dcgan_start(nn.Sequential(*layers, nn.Conv2d(c, 1, (sides[0], sides[1])), nn.Flatten()))


def dcgan_start(module: nn.Sequential) -> nn.Sequential:
    """The same module with weights drawn from N(0, 0.02²), those of normalisation from N(1, 0.02²), and biases of zero."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | ChannelwiseLinear | nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1.0 if isinstance(m, nn.BatchNorm2d) else 0.0, 0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module


class Scaled(nn.BatchNorm1d):
    """BatchNorm with a scale and no shift: what ends SimCLR's projection head."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_parameter("bias", None)


def projection(shape: Sequence[int], layers: int, out: int, side: int = 1, convolutions: int = 0) -> nn.Sequential:
    """The projection head of SimCLR (arXiv 2002.05709, §4.2; three layers: arXiv 2006.10029): activations [N, *shape] -> [N, out].

    Average to ``side`` × ``side``, then ``layers`` times Linear–BN–ReLU of the input's width, of which the last is Linear–BN of width
    ``out`` without shift and ReLU. One layer is the linear head. Its children layer1, layer2, … can be kept for fine-tuning.

    Args:
        shape: (C, H, W) or (features,) of the activations.
        layers: 1 or more.
        out: features given.
        side: of the square that maps are averaged to.
        convolutions: 3×3 conv–BN–ReLU layers before the average (the deeper local decoders of Xiong et al. 2020).

    """
    spatial = len(shape) == 3
    s = min(side, shape[1], shape[2]) if spatial else 1
    width = shape[0] * s**2
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    if spatial and convolutions:
        stages["decode"] = nn.Sequential(*_convolved(shape[0], 3, convolutions))
    if spatial:
        stages["pool"] = nn.AdaptiveAvgPool2d(s)
    stages["flatten"] = nn.Flatten()
    for i in range(1, layers):
        stages[f"layer{i}"] = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
    stages[f"layer{layers}"] = nn.Sequential(nn.Linear(width, out, bias=False), Scaled(out))
    return nn.Sequential(stages)


class Regressor(nn.Module):
    """layer–BN–ReLU–layer–BN–ReLU–layer, the context's linear map added to the first layer's output before BN.

    Convolutions are 5×5 and keep the resolution; without space the layers are linear (Jaderberg et al. 2017; the documents'
    ConvSynthesizer).

    Args:
        read: channels or features read.
        given: channels or features given.
        hidden: those of the hidden layers.
        context: classes of the label that is read too; 0: none is.
        spatial: whether activations have space.

    """

    def __init__(self, read: int, given: int, hidden: int, context: int, spatial: bool) -> None:
        super().__init__()

        def layer(a: int, b: int) -> nn.Conv2d | nn.Linear:
            return nn.Conv2d(a, b, 5, padding=2) if spatial else nn.Linear(a, b)

        def norm() -> nn.Module:
            return nn.BatchNorm2d(hidden) if spatial else nn.BatchNorm1d(hidden)

        self.first = layer(read, hidden)
        last = layer(hidden, given)
        self.rest = nn.Sequential(
            OrderedDict(norm1=norm(), act1=nn.ReLU(), middle=layer(hidden, hidden), norm2=norm(), act2=nn.ReLU(), last=last)
        )
        self.context = nn.Linear(context, hidden) if context else None

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """h [N, read, *space], context [N, classes] or None -> [N, given, *space]."""
        first = self.first(h)
        if self.context is not None:
            added = self.context(context)
            first = first + added.reshape(*added.shape, *[1] * (first.ndim - 2))
        out: Tensor = self.rest(first)
        return out


class Synthesiser(Regressor):
    """S(h [, c]): [N, *shape] -> predicted gradient [N, *shape].

    The last layer's weight starts at zero, so that S starts at its bias; ``zero_bias`` starts the bias at zero too.
    """

    def __init__(self, shape: Sequence[int], context: int, width: int | None, zero_bias: bool) -> None:
        super().__init__(shape[0], shape[0], width or shape[0], context, spatial=len(shape) == 3)
        last: nn.Conv2d | nn.Linear = self.rest.last  # type: ignore[assignment]
        nn.init.zeros_(last.weight)
        if zero_bias:
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]


class LinearSynthesiser(nn.Module):
    """S(h [, c]) = A h [+ B c] + b: [N, *shape] -> predicted gradient [N, *shape]; with space, A is a 5×5 convolution.

    The synthesiser of Czarnecki et al. 2017 (arXiv 1703.00522): exact where the gradient is linear in h and the label. All of it
    starts at zero; ``zero_bias=False`` leaves b at PyTorch's default.
    """

    def __init__(self, shape: Sequence[int], context: int, zero_bias: bool) -> None:
        super().__init__()
        channels = shape[0]
        spatial = len(shape) == 3
        self.map: nn.Conv2d | nn.Linear = nn.Conv2d(channels, channels, 5, padding=2) if spatial else nn.Linear(channels, channels)
        self.context = nn.Linear(context, channels, bias=False) if context else None
        nn.init.zeros_(self.map.weight)
        if zero_bias:
            nn.init.zeros_(self.map.bias)  # type: ignore[arg-type]
        if self.context is not None:
            nn.init.zeros_(self.context.weight)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """h [N, *shape], context [N, classes] or None -> [N, *shape]."""
        out: Tensor = self.map(h)
        if self.context is not None:
            added = self.context(context)
            out = out + added.reshape(*added.shape, *[1] * (out.ndim - 2))
        return out


class InputSynthesiser(Regressor):
    """I(image [, c]): [N, C, H, W] -> predicted activations [N, *shape]; its last layer starts as any other.

    The image is brought to the activations' resolution by moving space to channels where that is a whole number of times
    smaller, else by averaging; for activations without space it is flattened.
    """

    def __init__(self, image: Sequence[int], shape: Sequence[int], context: int, width: int | None) -> None:
        fit, read = _fitted(image, shape)
        super().__init__(read, shape[0], width or shape[0], context, spatial=len(shape) == 3)
        self.fit = fit

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Image [N, C, H, W], context [N, classes] or None -> predicted activations [N, *shape]."""
        return super().forward(self.fit(h), context)


def _fitted(image: Sequence[int], shape: Sequence[int]) -> tuple[nn.Module, int]:
    """What brings images [N, C, H, W] to the space of activations [N, *shape], and the channels or features it gives."""
    channels, high, wide = image
    if len(shape) == 1:
        return nn.Flatten(), prod(image)
    space = (shape[1], shape[2])
    times = high // space[0]
    if times > 0 and (high, wide) == (times * space[0], times * space[1]):
        return nn.PixelUnshuffle(times), channels * times**2
    return nn.AdaptiveAvgPool2d(space), channels
