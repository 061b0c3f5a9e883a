"""Define the specification of a network, activations, and functions that assemble blocks."""

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
ATTENTIONS = ("none", "se", "sk")  # channel attention of a residual block


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a model: input shape, classes, sizes and options; None is the model's own default.

    Attributes:
        shape: of one input without the batch dimension: (C, H, W) of images, (length,) of token sequences, (features,) of nodes,
            (samples, 3) of the points of rays, (2,) of places in a picture; of rows of ids the number of ids of each field.
        classes: number of classes, the width of the output [N, classes].
        width: channels or features of the first block.
        depth: number of blocks.
        stem: kernel size of the first convolution.
        activation: a key of ``ACTIVATIONS``.
        attention: one of ``ATTENTIONS``.
        heads: attention heads of gat, transformer and autoint.
        dropout: of graph networks, transformer, and networks on rows of ids.
        attention_dropout: of gat's attention coefficients, of all layers, or of the hidden ones and the output layer; empty: 0.
        norm_first: whether a transformer is pre-LN.
        embedding: numbers of an id's vector.
        interactions: cross layers of deep-cross, attention layers of autoint, neurons of afn.

    """

    shape: tuple[int, ...]
    classes: int
    width: int | None = None
    depth: int | None = None
    stem: int | None = None
    activation: str = "relu"
    attention: str = "none"
    heads: int | None = None
    dropout: float = 0.0
    attention_dropout: tuple[float, ...] = ()
    norm_first: bool = False
    embedding: int | None = None
    interactions: int | None = None

    def act(self) -> nn.Module:
        """Make an activation module.

        Returns:
            a new module of the spec's ``activation``.

        """
        return ACTIVATIONS[self.activation]()


def conv_block(c_in: int, c_out: int, kernel: int, act: nn.Module, pool: bool = False, bias: bool = True) -> nn.Sequential:
    """Build conv (odd ``kernel``, same resolution)–BN–act, and a 2×2 max-pool if ``pool``."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias), norm=nn.BatchNorm2d(c_out), act=act
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def numbered(blocks: Sequence[nn.Module], top: nn.Module) -> nn.Sequential:
    """Build the network block1, block2, …, top."""
    named = [(f"block{i}", block) for i, block in enumerate(blocks, 1)]
    return nn.Sequential(OrderedDict([*named, ("top", top)]))


def pooled_top(channels: int, classes: int) -> nn.Sequential:
    """Build an output block: average over the image, then Linear, [N, channels, H, W] -> [N, classes]."""
    return nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), out=nn.Linear(channels, classes)))
