"""Networks as lists of named blocks: the children of an ``nn.Sequential``, the last one the top. None knows how it is trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gradlens.errors import InputError, unknown
from gradlens.seeding import seeded

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

VGG_LAYERS: dict[str, tuple[int, ...]] = {  # convolutions in each of the five resolutions
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


@dataclass(frozen=True)
class Plan:
    """What a model is built from; None means the model's own default."""

    shape: tuple[int, int, int]  # (C, H, W) of the input
    classes: int
    width: int | None = None
    depth: int | None = None
    stem: int | None = None
    activation: str = "relu"

    def act(self) -> nn.Module:
        """A fresh activation module."""
        return ACTIVATIONS[self.activation]()


def _conv_block(c_in: int, c_out: int, kernel: int, act: nn.Module, pool: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2), norm=nn.BatchNorm2d(c_out), act=act
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


def _numbered(blocks: Sequence[nn.Module], top: nn.Module) -> nn.Sequential:
    named = [(f"block{i}", block) for i, block in enumerate(blocks, 1)]
    return nn.Sequential(OrderedDict([*named, ("top", top)]))


def basic_cnn(plan: Plan) -> nn.Sequential:
    """The documents' BasicCNN: 3 × [Conv5×5(128)–BN–ReLU–MaxPool], then Linear(256)–ReLU–Linear; 1,357,066 parameters at 3×32×32.

    ``width`` = channels (128), ``depth`` = conv blocks (3), ``stem`` = first kernel (5).
    """
    channels, height, width = plan.shape
    c, depth = plan.width or 128, plan.depth or 3
    if min(height, width) < 2**depth:
        raise InputError(
            f"basic-cnn with {depth} blocks halves the image {depth} times and needs at least {2**depth}x{2**depth} pixels;"
            f" these images are {height}x{width}"
        )
    blocks = [_conv_block(channels if i == 0 else c, c, (plan.stem or 5) if i == 0 else 5, plan.act(), pool=True) for i in range(depth)]
    features = c * (height // 2**depth) * (width // 2**depth)
    top = OrderedDict(flatten=nn.Flatten(), hidden=nn.Linear(features, 256), act=plan.act(), out=nn.Linear(256, plan.classes))
    return _numbered(blocks, nn.Sequential(top))


def vgg(layers: Sequence[int]) -> Callable[[Plan], nn.Sequential]:
    """VGG with BatchNorm for small images (after kuangliu's pytorch-cifar): 3×3 convs, a pool after each resolution, one Linear.

    Block = conv–BN–act (–pool). ``width`` = channels of the first resolution (64; then ×2, ×4, ×8, ×8), ``stem`` = first
    kernel (3).
    """

    def build(plan: Plan) -> nn.Sequential:
        channels, height, width = plan.shape
        if plan.depth is not None:
            raise InputError("vgg models have a fixed depth: choose vgg11, vgg13, vgg16 or vgg19 instead of --depth")
        if min(height, width) < 32:
            raise InputError(
                f"vgg halves the image 5 times and needs at least 32x32 pixels; these images are {height}x{width}"
                " (basic-cnn takes 8x8 and more)"
            )
        blocks: list[nn.Module] = []
        for stage, n in enumerate(layers):
            out = (plan.width or 64) * (1, 2, 4, 8, 8)[stage]
            for i in range(n):
                kernel = (plan.stem or 3) if not blocks else 3
                blocks.append(_conv_block(channels, out, kernel, plan.act(), pool=i == n - 1))
                channels = out
        top = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), out=nn.Linear(channels, plan.classes))
        return _numbered(blocks, nn.Sequential(top))

    return build


def mlp(plan: Plan) -> nn.Sequential:
    """``depth`` (3) blocks of Linear(``width`` = 256)–activation on flattened images, then Linear; no normalisation."""
    if plan.stem is not None:
        raise InputError("--stem sets the first convolution's kernel and mlp has no convolution")
    size, blocks = plan.shape[0] * plan.shape[1] * plan.shape[2], []
    for i in range(plan.depth or 3):
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten()) if i == 0 else OrderedDict()
        layers["linear"], layers["act"] = nn.Linear(size, plan.width or 256), plan.act()
        blocks.append(nn.Sequential(layers))
        size = plan.width or 256
    return _numbered(blocks, nn.Sequential(OrderedDict(out=nn.Linear(size, plan.classes))))


MODELS: dict[str, Callable[[Plan], nn.Sequential]] = {
    "basic-cnn": basic_cnn,
    **{name: vgg(layers) for name, layers in VGG_LAYERS.items()},
    "mlp": mlp,
}


def cut_before_pool(model: nn.Sequential) -> nn.Sequential:
    """The same network with each pool moved to the front of the next block: local rules then read what goes into the pool."""
    blocks = OrderedDict((name, list(block.named_children())) for name, block in model.named_children())
    carried: list[tuple[str, nn.Module]] = []
    for name, children in blocks.items():
        pools = [child for child in children if child[0] == "pool" and name != "top"]
        blocks[name] = [("pool_in" if n == "pool" else n, m) for n, m in carried]
        blocks[name] += [child for child in children if child not in pools]
        carried = pools
    return nn.Sequential(OrderedDict((name, nn.Sequential(OrderedDict(children))) for name, children in blocks.items()))


def build(name: str, plan: Plan, cut: str = "after-pool", seed: int = 0) -> nn.Sequential:
    """A network of named blocks with PyTorch's default initialisation, drawn from the keyed stream (seed, "init").

    Args:
        name: a key of MODELS.
        plan: input shape, classes, sizes.
        cut: ``after-pool`` (pooling belongs to the block below it) or ``before-pool`` (to the block above).
        seed: the run's seed.

    Raises:
        InputError: unknown names, an image too small for the model, an option the model does not have.

    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if plan.activation not in ACTIVATIONS:
        raise unknown("activation", plan.activation, ACTIVATIONS)
    with seeded(seed, "init"):
        model = MODELS[name](plan)
    return cut_before_pool(model) if cut == "before-pool" else model


def output_shapes(model: nn.Sequential, shape: Sequence[int]) -> list[torch.Size]:
    """Each block's output shape without the batch dimension, found by running one blank image in eval mode (no trace left)."""
    training = model.training
    model.eval()
    first = next(model.parameters())
    x = torch.zeros(1, *shape, dtype=first.dtype, device=first.device)
    shapes = []
    with torch.no_grad():
        for block in model:
            x = block(x)
            shapes.append(x.shape[1:])
    model.train(training)
    return shapes


def head_width(model: nn.Sequential) -> int:
    """How wide the network's own top is: 256 for BasicCNN (its hidden layer), 512 for VGG (what its one Linear reads)."""
    linears = [m for m in model[-1].modules() if isinstance(m, nn.Linear)]
    return linears[0].out_features if len(linears) > 1 else linears[0].in_features


def layers(model: nn.Module) -> list[str]:
    """The dotted paths of linear and convolutional layers, bottom first: the rows of every table."""
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
