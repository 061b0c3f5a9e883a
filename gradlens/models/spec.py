"""What networks are built from: sizes and options, activations, and how blocks are put together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
ATTENTIONS = ("none", "se", "sk")  # how a residual block weighs its channels by what the whole image shows


@dataclass(frozen=True)
class ModelSpec:
    """What a model is built from; None means the model's own default."""

    shape: tuple[int, int, int]  # (C, H, W) of the input
    classes: int
    width: int | None = None
    depth: int | None = None
    stem: int | None = None
    activation: str = "relu"
    attention: str = "none"

    def act(self) -> nn.Module:
        """A fresh activation module."""
        return ACTIVATIONS[self.activation]()


def conv_block(c_in: int, c_out: int, kernel: int, act: nn.Module, pool: bool = False, bias: bool = True) -> nn.Sequential:
    """Conv (odd ``kernel``, resolution kept)–BN–act, and a 2×2 max-pool if ``pool``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias), norm=nn.BatchNorm2d(c_out), act=act
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def numbered(blocks: Sequence[nn.Module], top: nn.Module) -> nn.Sequential:
    """The network block1, block2, …, top."""
    named = [(f"block{i}", block) for i, block in enumerate(blocks, 1)]
    return nn.Sequential(OrderedDict([*named, ("top", top)]))


def pooled_top(channels: int, classes: int) -> nn.Sequential:
    """Average over the image, then Linear: [N, channels, H, W] -> [N, classes]."""
    return nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), out=nn.Linear(channels, classes)))
