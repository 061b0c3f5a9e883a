"""Build auxiliary heads on a block's output: classifiers and projection heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod

import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.models.layouts import Turn, channels_first, space_of
from gradlens.runtime.errors import InputError, unknown

ITEM_HEADS = ("norm-linear", "low-rank", "tied")  # act on the last dimension: on each token by itself
HEADS = ("linear", "mlp", "mlp-sr", "cnn", *ITEM_HEADS)


def _dense(sizes: Sequence[int], norm: bool) -> list[nn.Module]:
    """Build Linear(–BatchNorm)–ReLU for each pair of neighbouring sizes."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), nn.ReLU()]
    return layers


def _convolved(channels: int, kernel: int, layers: int) -> list[nn.Module]:
    """Build conv(no bias)–BatchNorm–ReLU, ``layers`` times, with constant channels and resolution."""
    one = [
        [nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()] for _ in range(layers)
    ]
    return [module for group in one for module in group]


class TiedHead(nn.Module):
    """logits = W norm(h) + b with the network's own output layer W, b, which gets no gradient from here: [N, *, features] -> logits.

    Only the LayerNorm is the head's own. :meth:`tie` must be called before each use.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None

    def tie(self, top: nn.Module) -> None:
        """Use the last linear layer of the output block.

        Raises:
            InputError: it has none that reads as many features.

        """
        linear = next((m for m in reversed(list(top.modules())) if isinstance(m, nn.Linear)), None)
        (features,) = self.norm.normalized_shape
        if linear is None or linear.in_features != features:
            reads = "none" if linear is None else f"one that reads {linear.in_features}"
            raise InputError(
                f"head=tied needs an output block whose linear layer reads the {features} features of this block; it has {reads}:"
                " set head=norm-linear"
            )
        self.weight, self.bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()

    def forward(self, h: Tensor) -> Tensor:
        """Map activations [N, *, features] to logits [N, *, classes]."""
        assert self.weight is not None
        return F.linear(self.norm(h), self.weight, self.bias)


def item_head(kind: str, shape: Sequence[int], classes: int, rank: int, last: bool) -> nn.Module:
    """Build a head of each item's features, the last dimension: LayerNorm, then a projection [N, *, features] -> [N, *, classes].

    Args:
        kind: ``norm-linear`` (its own projection), ``low-rank`` (its own, of two matrices) or ``tied`` (:class:`TiedHead`).
        shape: (features,), or (T, D) of sequences.
        classes: number of classes.
        rank: features between the two matrices.
        last: whether a sequence's features come last.

    Raises:
        InputError: activations whose features are not last.

    """
    if len(shape) > 1 and not last:
        raise InputError(f"head={kind} needs activations with features last; this model's blocks have outputs of {list(shape)}")
    features = shape[-1]
    if kind == "tied":
        return TiedHead(features)
    if kind == "low-rank":
        return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, rank, bias=False), nn.Linear(rank, classes))
    return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, classes))


def head(
    kind: str, shape: Sequence[int], classes: int, width: int, layers: int, pooled: bool, last: bool = False, rank: int = 16
) -> nn.Module:
    """Build an auxiliary classifier: activations [N, *shape] -> logits [N, classes].

    Args:
        kind: ``linear``; ``mlp`` (flatten, `layers` × Linear(width)–ReLU, Linear); ``mlp-sr`` (average to a quarter of the
            resolution, `layers` × [1×1 conv–BN–ReLU], 2×2, three-layer MLP of width 4C); ``cnn`` (`layers` × [3×3 conv–BN–ReLU],
            2×2, BN, Linear). The latter two follow Belilovsky et al. 2020 (arXiv 1901.08164, §4) and their code, and always pool.
            ``norm-linear``, ``low-rank``, ``tied``: see :func:`item_head`.
        shape: (C, H, W); for linear and mlp also (features,) and sequences, (C, L) or (T, D).
        classes: number of classes.
        width: width of an mlp's hidden layers.
        layers: number of hidden layers (0: only those fixed by the kind).
        pooled: average to 2×2 (sequences to 4) before a linear or mlp head (its hidden layers then follow the paper's: with BatchNorm).
        last: whether a sequence's features come last, (T, D).
        rank: of a low-rank head.

    Raises:
        InputError: an unknown kind, a convolutional head on activations without space, or one of items whose features are not last.

    """
    if kind not in HEADS:
        raise unknown("head", kind, HEADS)
    if kind in ITEM_HEADS:
        return item_head(kind, shape, classes, rank, last)
    if kind in ("mlp-sr", "cnn") and len(shape) != 3:
        raise InputError(f"head={kind} needs activations of shape [C, H, W]; this model's blocks have outputs of {list(shape)}")
    space, channels = space_of(shape) if pooled or not shape else 0, channels_first(shape, last)[0]
    pool: list[nn.Module] = [] if not space else [nn.AdaptiveAvgPool2d(2)] if space == 2 else [nn.AdaptiveAvgPool1d(4)]
    if pool and last:
        pool.insert(0, Turn())
    if kind == "cnn":
        tail: list[nn.Module] = [nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(channels), nn.Flatten()]
        return nn.Sequential(*_convolved(channels, 3, layers), *tail, nn.Linear(4 * channels, classes))
    if kind == "mlp-sr":
        wide = 4 * channels
        quarter = nn.AdaptiveAvgPool2d((ceil(shape[1] / 4), ceil(shape[2] / 4)))
        body = [quarter, *_convolved(channels, 1, layers), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*body, *_dense([wide] * 4, norm=True), nn.Linear(wide, classes))
    size = 4 * channels if pool else prod(shape)
    sizes = [size] if kind == "linear" else [size, *[width] * layers]
    return nn.Sequential(*pool, nn.Flatten(), *_dense(sizes, norm=bool(pool)), nn.Linear(sizes[-1], classes))


class Scaled(nn.BatchNorm1d):
    """BatchNorm with a scale and no shift, the last layer of SimCLR's projection head."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_parameter("bias", None)


def projection(shape: Sequence[int], layers: int, out: int, side: int = 1, convolutions: int = 0, last: bool = False) -> nn.Sequential:
    """Build the projection head of SimCLR (arXiv 2002.05709, §4.2; three layers: arXiv 2006.10029): activations [N, *shape] -> [N, out].

    Average to ``side`` × ``side``, then ``layers`` times Linear–BN–ReLU of the input's width, of which the last is Linear–BN of width
    ``out`` without shift and ReLU. One layer is the linear head, none the control without a head: the averages themselves, [N, features].
    The children layer1, layer2, … can be kept for fine-tuning.

    Args:
        shape: (C, H, W), (features,), or that of sequences, (C, L) or (T, D).
        layers: 0 or more.
        out: output features; not used without layers.
        side: side of the square that maps are averaged to; sequences are averaged to this length.
        convolutions: 3×3 conv–BN–ReLU layers before the average of maps (the deeper local decoders of Xiong et al. 2020).
        last: whether a sequence's features come last, (T, D).

    """
    space, (channels, *sides) = space_of(shape), channels_first(shape, last)
    s = min(side, *sides) if space else 1
    width = channels * s**space
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    if space == 2 and convolutions:
        stages["decode"] = nn.Sequential(*_convolved(channels, 3, convolutions))
    if last:
        stages["turn"] = Turn()
    if space:
        stages["pool"] = nn.AdaptiveAvgPool2d(s) if space == 2 else nn.AdaptiveAvgPool1d(s)
    stages["flatten"] = nn.Flatten()
    for i in range(1, layers):
        stages[f"layer{i}"] = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
    if layers:
        stages[f"layer{layers}"] = nn.Sequential(nn.Linear(width, out, bias=False), Scaled(out))
    return nn.Sequential(stages)
