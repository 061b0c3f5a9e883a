"""Build networks that generate images from activations, and discriminators of generated and real images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from gradlens.models.layouts import space_of


def decoder(shape: Sequence[int], image: Sequence[int]) -> nn.Module:
    """Build a decoder from activations [N, *shape] to images [N, *image]: that of Wang et al. 2021 (arXiv 2101.10832) without its sigmoid.

    Args:
        shape: (C, H, W): enlarged bilinearly to the image, conv3×3(12)–BN–ReLU–conv3×3; (features,) or a sequence's: one Linear.
        image: (C, H, W) of the image.

    """
    if space_of(shape) < 2:
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), prod(image)), nn.Unflatten(1, tuple(image)))
    enlarge = nn.Upsample((image[1], image[2]), mode="bilinear", align_corners=True)
    first, last = nn.Conv2d(shape[0], 12, 3, padding=1), nn.Conv2d(12, image[0], 3, padding=1)
    return nn.Sequential(enlarge, first, nn.BatchNorm2d(12), nn.ReLU(), last)


class ChannelwiseLinear(nn.Module):
    """y_c = W_c vec(x_c) + b_c: each channel's pixels fully connected, channels separate (Pathak et al. 2016, arXiv 1604.07379, §3.1).

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
        """Map [N, m, h, w] to [N, m, h, w]."""
        by_channel = h.flatten(2).transpose(0, 1)  # [m, N, n²]
        y = torch.baddbmm(self.bias[:, None], by_channel, self.weight.transpose(1, 2))
        return y.transpose(0, 1).reshape(h.shape)


LARGEST_CONTEXT = 8  # pixels on a side of the maps that a channel-wise layer connects


DENSE_START = 4  # pixels on a side of the maps that a linear layer makes of features without space


def _halved_to(image: Sequence[int], limit: Sequence[int]) -> list[tuple[int, int]]:
    """Return sizes (h, w) from one within the limit up to the image; a side that grows doubles (or doubles and adds a pixel)."""
    sizes = [(image[1], image[2])]
    while any(side > most for side, most in zip(sizes[-1], limit, strict=True)):
        h, w = (side // 2 if side > most else side for side, most in zip(sizes[-1], limit, strict=True))
        sizes.append((h, w))
    return sizes[::-1]


def _enlarging(a: int, b: int, small: tuple[int, int], large: tuple[int, int], bias: bool) -> nn.Module:
    """Return the up-convolution from a channels and size ``small`` to b channels and size ``large``: 4×4, stride 2, if it grows."""
    if small == large:
        return nn.Conv2d(a, b, 3, padding=1, bias=bias)
    tall, wide = ((4, 2, n - 2 * m) if n > m else (3, 1, 0) for m, n in zip(small, large, strict=True))  # kernel, stride, pixels more
    kernel, stride, more = zip(tall, wide, strict=True)
    return nn.ConvTranspose2d(a, b, kernel, stride, 1, more, bias=bias)


def context_decoder(shape: Sequence[int], image: Sequence[int]) -> nn.Sequential:
    """Build a context decoder from activations [N, *shape] to images [N, *image], after Pathak et al. 2016 (arXiv 1604.07379).

    Maps are averaged to 8×8 or less (to a size from which doublings lead to the image's), go through a channel-wise fully connected
    layer, a 1×1 convolution that mixes channels, and 4×4 up-convolutions of stride 2 that halve the channels (8 at least), each with BN
    and ReLU except the last, which has neither nor a tanh: that could reach all values only with the normalisation to [-1, 1]. Features
    without space, or of one pixel, become maps of 4×4 or less by one linear layer instead (the bottleneck of the authors' code).
    Weights are initialised as in DCGAN.

    Args:
        shape: (C, H, W), (features,) or a sequence's of the activations.
        image: (C, H, W) of the image.

    """
    dense = space_of(shape) < 2 or shape[1] * shape[2] == 1
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
    """Build a discriminator of real and generated regions, [N, *region] -> logits [N, 1], as in DCGAN.

    Radford et al. 2016 (arXiv 1511.06434): 4×4 convolutions of stride 2 and leaky ReLU (slope 0.2), ``width`` channels doubled each time
    up to eight times as many, BN in all but the first, until 4 pixels on a side are left; then one convolution over all of them. Weights
    are initialised as in DCGAN.

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
    """Initialise a module's weights from N(0, 0.02²), those of normalisation from N(1, 0.02²), biases at zero, and return it."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | ChannelwiseLinear | nn.BatchNorm2d):
            nn.init.normal_(m.weight, 1.0 if isinstance(m, nn.BatchNorm2d) else 0.0, 0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module
