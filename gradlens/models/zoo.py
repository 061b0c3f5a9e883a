"""Build networks as lists of named blocks: the children of an ``nn.Sequential``, the last one the output block ``top``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from gradlens.models.click_networks import CLICK_NETWORKS
from gradlens.models.graph_networks import GRAPH_NETWORKS
from gradlens.models.radiance_fields import RADIANCE_FIELDS, coordinate_mlp
from gradlens.models.resnet import WITH_ATTENTION, resnet18, resnet20, resnet32, resnet50, resnet152, resnet_gim
from gradlens.models.spec import ACTIVATIONS, ATTENTIONS, ModelSpec, conv_block, numbered, pooled_top
from gradlens.models.transformer import transformer
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.rng import seeded

VGG_LAYERS: dict[str, tuple[int, ...]] = {  # convolutions in each of the five resolutions
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def basic_cnn(spec: ModelSpec) -> nn.Sequential:
    """BasicCNN of the reference study: 3 × [Conv5×5(128)–BN–ReLU–MaxPool], then Linear(256)–ReLU–Linear; 1,357,066 parameters at 3×32×32.

    ``width`` = channels (128), ``depth`` = conv blocks (3), ``stem`` = first kernel (5).
    """
    channels, height, width = spec.shape
    c, depth = spec.width or 128, spec.depth or 3
    if min(height, width) < 2**depth:
        raise InputError(
            f"basic-cnn with {depth} blocks halves the image {depth} times and needs at least {2**depth}x{2**depth} pixels;"
            f" these images are {height}x{width} (HxW)"
        )
    blocks = [conv_block(channels if i == 0 else c, c, (spec.stem or 5) if i == 0 else 5, spec.act(), pool=True) for i in range(depth)]
    features = c * (height // 2**depth) * (width // 2**depth)
    top = OrderedDict(flatten=nn.Flatten(), hidden=nn.Linear(features, 256), act=spec.act(), out=nn.Linear(256, spec.classes))
    return numbered(blocks, nn.Sequential(top))


def vgg(layers: Sequence[int]) -> Callable[[ModelSpec], nn.Sequential]:
    """VGG with BatchNorm for small images (after kuangliu's pytorch-cifar): 3×3 convs, a pool after each resolution, one Linear.

    Block = conv–BN–act (–pool). ``width`` = channels of the first resolution (64; then ×2, ×4, ×8, ×8), ``stem`` = first
    kernel (3).
    """

    def build(spec: ModelSpec) -> nn.Sequential:
        channels, height, width = spec.shape
        if spec.depth is not None:
            raise InputError("vgg models have a fixed depth: set vgg11, vgg13, vgg16 or vgg19 instead of --depth")
        if min(height, width) < 32:
            raise InputError(
                f"vgg halves the image 5 times and needs at least 32x32 pixels; these images are {height}x{width} (HxW)"
                " (basic-cnn takes 8x8 and more)"
            )
        blocks: list[nn.Module] = []
        for stage, n in enumerate(layers):
            out = (spec.width or 64) * (1, 2, 4, 8, 8)[stage]
            for i in range(n):
                kernel = (spec.stem or 3) if not blocks else 3
                blocks.append(conv_block(channels, out, kernel, spec.act(), pool=i == n - 1))
                channels = out
        return numbered(blocks, pooled_top(channels, spec.classes))

    return build


def dcgan(spec: ModelSpec) -> nn.Sequential:
    """The context encoder's convolutions (Pathak et al. 2016, arXiv:1604.07379): conv4×4 of stride 2 to 4×4 pixels, then 4,000 numbers.

    Channels 64–64–128–256–512 at 128×128, 64–128–256 at 32×32: one block for each halving that leaves 4 pixels or more. The last
    block is a convolution over the whole remaining map. Blocks are conv–BN–act without biases, the first has no BN. Convolutions are
    initialised from N(0, 0.02²), BN scales from N(1, 0.02²). ``width`` = first channels (64), the 4,000 grow in proportion. ``relu``, the
    default activation, is leaky here (0.2).
    """
    channels, height, width = spec.shape
    if spec.depth is not None:
        raise InputError("dcgan has a block for each halving of the image: --depth does not apply to it")
    if spec.stem is not None:
        raise InputError("--stem sets the first convolution's kernel, 3, 5 or 7, and dcgan's are all 4x4")
    if min(height, width) < 8:
        raise InputError(f"dcgan needs at least 8x8 pixels; these images are {height}x{width} (HxW)")
    halvings, w = (min(height, width) // 4).bit_length() - 1, spec.width or 64
    sizes = [w] * (halvings - 4) + [w * 2**i for i in range(min(halvings, 4))]
    blocks: list[nn.Module] = []
    for c in sizes:
        blocks.append(_dcgan_block(nn.Conv2d(channels, c, 4, 2, padding=1, bias=False), bool(blocks), spec))
        channels = c
    rest = nn.Conv2d(channels, max(1, 4000 * w // 64), (height >> halvings, width >> halvings), bias=False)
    blocks.append(_dcgan_block(rest, True, spec))
    return numbered(blocks, nn.Sequential(OrderedDict(flatten=nn.Flatten(), out=nn.Linear(rest.out_channels, spec.classes))))


def _dcgan_block(conv: nn.Conv2d, normed: bool, spec: ModelSpec) -> nn.Sequential:
    nn.init.normal_(conv.weight, 0, 0.02)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if normed:
        layers["norm"] = norm = nn.BatchNorm2d(conv.out_channels)
        nn.init.normal_(norm.weight, 1, 0.02)
    layers["act"] = nn.LeakyReLU(0.2) if spec.activation == "relu" else spec.act()
    return nn.Sequential(layers)


def _refuse_stem(spec: ModelSpec, name: str) -> None:
    if spec.stem is not None:
        raise InputError(f"--stem sets the first convolution's kernel and {name} has no convolution")


def mlp(spec: ModelSpec) -> nn.Sequential:
    """``depth`` (3) blocks of Linear(``width`` = 256)–activation on flattened images, then Linear; no normalisation."""
    _refuse_stem(spec, "mlp")
    size, blocks = spec.shape[0] * spec.shape[1] * spec.shape[2], []
    for i in range(spec.depth or 3):
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten()) if i == 0 else OrderedDict()
        layers["linear"], layers["act"] = nn.Linear(size, spec.width or 256), spec.act()
        blocks.append(nn.Sequential(layers))
        size = spec.width or 256
    return numbered(blocks, nn.Sequential(OrderedDict(out=nn.Linear(size, spec.classes))))


def linear(spec: ModelSpec) -> nn.Sequential:
    """``depth`` (1) blocks of Linear(``width`` = 20) on flattened images, then Linear; no biases, no activation (not even a given one).

    The deep linear network of the reference study's theory: 30-20-10 on inputs of shape (1, 1, 30) and 10 classes.
    """
    _refuse_stem(spec, "linear")
    size, blocks = spec.shape[0] * spec.shape[1] * spec.shape[2], []
    for i in range(spec.depth or 1):
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten()) if i == 0 else OrderedDict()
        layers["linear"] = nn.Linear(size, spec.width or 20, bias=False)
        blocks.append(nn.Sequential(layers))
        size = spec.width or 20
    return numbered(blocks, nn.Sequential(OrderedDict(out=nn.Linear(size, spec.classes, bias=False))))


MODELS: dict[str, Callable[[ModelSpec], nn.Sequential]] = {
    "basic-cnn": basic_cnn,
    **{name: vgg(layers) for name, layers in VGG_LAYERS.items()},
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet50": resnet50,
    "resnet152": resnet152,
    "resnet-gim": resnet_gim,
    "dcgan": dcgan,
    "mlp": mlp,
    "linear": linear,
    **GRAPH_NETWORKS,
    "transformer": transformer,
    **CLICK_NETWORKS,
    **RADIANCE_FIELDS,
    "coordinate-mlp": coordinate_mlp,
}

INPUT = "images"  # the kind of input that a network reads if nothing else is stated, see Task.reads
INPUTS: dict[str, str] = {  # network -> the kind it reads instead
    **dict.fromkeys(GRAPH_NETWORKS, "nodes"),
    "transformer": "tokens",
    **dict.fromkeys(CLICK_NETWORKS, "ids"),
    **dict.fromkeys(RADIANCE_FIELDS, "rays"),
    "coordinate-mlp": "coordinates",
}


SHAPES: dict[str, tuple[int, ...]] = {
    "images": (3, 32, 32),
    "nodes": (8,),
    "tokens": (8,),
    "ids": (3, 4),
    "rays": (4, 3),
    "coordinates": (2,),
}  # kind of input -> one that all its networks take


def cut_before_pool(model: nn.Sequential) -> nn.Sequential:
    """Move each pool to the front of the next block, so that local losses read the input of the pool.

    Blocks without a child ``pool`` before or after them do not change, nor do blocks that are no ``nn.Sequential``.
    """
    blocks = OrderedDict(zip(model._modules, model, strict=True))
    for below, above in pairwise(blocks):
        giver, taker = blocks[below], blocks[above]
        pool = dict(giver.named_children()).get("pool")
        if pool is not None and isinstance(giver, nn.Sequential) and isinstance(taker, nn.Sequential):
            blocks[below] = nn.Sequential(OrderedDict((n, m) for n, m in giver.named_children() if n != "pool"))
            blocks[above] = nn.Sequential(OrderedDict([("pool_in", pool), *taker.named_children()]))
    return nn.Sequential(blocks)


READ_BY = {  # options of some networks only: field of the spec -> the flag, and the networks
    "heads": ("--heads", ("gat", "transformer", "autoint")),
    "dropout": ("--dropout", (*GRAPH_NETWORKS, "transformer", *CLICK_NETWORKS)),
    "attention_dropout": ("--attention-dropout", ("gat",)),
    "norm_first": ("--pre-norm", ("transformer",)),
    "embedding": ("--embedding", tuple(CLICK_NETWORKS)),
    "interactions": ("--interactions", ("deep-cross", "autoint", "afn")),
}


def _refuse_what_is_not_read(name: str, spec: ModelSpec) -> None:
    for field, (flag, networks) in READ_BY.items():
        if getattr(spec, field) and name not in networks:
            raise InputError(f"{flag} is of {', '.join(networks)}, and has no meaning for {name}: leave it out")


def build(
    name: str, spec: ModelSpec, cut: str = "after-pool", seed: int = 0, make: Callable[[ModelSpec], nn.Sequential] | None = None
) -> nn.Sequential:
    """Build a network of named blocks with PyTorch's default initialisation (dcgan: its own), keyed by (seed, "init").

    Args:
        name: a key of MODELS.
        spec: input shape, classes, sizes.
        cut: ``after-pool`` (a pool belongs to the block before it) or ``before-pool`` (to the block after it).
        seed: the run's seed.
        make: builds the network, if ``name`` is a user's own.

    Raises:
        InputError: unknown names, an image too small for the model, an option that the model does not have.

    """
    if make is None and name not in MODELS:
        raise unknown("model", name, MODELS)
    if spec.activation not in ACTIVATIONS:
        raise unknown("activation", spec.activation, ACTIVATIONS)
    if spec.attention not in ATTENTIONS:
        raise unknown("attention", spec.attention, ATTENTIONS)
    if spec.attention != "none" and name not in WITH_ATTENTION:
        raise InputError(f"--attention {spec.attention}: {name} has no place for channel attention; {', '.join(WITH_ATTENTION)} have")
    if make is None:
        _refuse_what_is_not_read(name, spec)
    with seeded(seed, "init"):
        model = (make or MODELS[name])(spec)
    return cut_before_pool(model) if cut == "before-pool" else model


def head_width(model: nn.Sequential) -> int:
    """Return the width of the network's output block: 256 for BasicCNN (its hidden layer), 512 for VGG (input of its one Linear)."""
    linears = [m for m in model[-1].modules() if isinstance(m, nn.Linear)]
    if not linears:  # a user's own output block
        return 256
    return linears[0].out_features if len(linears) > 1 else linears[0].in_features


def layers(model: nn.Module) -> list[str]:
    """Return the dotted paths of linear and convolutional layers, first to last: the rows of every table."""
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
