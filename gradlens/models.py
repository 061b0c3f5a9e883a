"""Networks as lists of named blocks: the children of an ``nn.Sequential``, the last one the top. None knows how it is trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parameter import is_lazy

from gradlens.errors import InputError, unknown
from gradlens.plan import ACTIVATIONS, ATTENTIONS, Plan, conv_block, numbered, pooled_top
from gradlens.resnet import WITH_ATTENTION, resnet18, resnet20, resnet32, resnet50, resnet152, resnet_gim
from gradlens.seeding import forked, seeded

VGG_LAYERS: dict[str, tuple[int, ...]] = {  # convolutions in each of the five resolutions
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


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
    blocks = [conv_block(channels if i == 0 else c, c, (plan.stem or 5) if i == 0 else 5, plan.act(), pool=True) for i in range(depth)]
    features = c * (height // 2**depth) * (width // 2**depth)
    top = OrderedDict(flatten=nn.Flatten(), hidden=nn.Linear(features, 256), act=plan.act(), out=nn.Linear(256, plan.classes))
    return numbered(blocks, nn.Sequential(top))


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
                blocks.append(conv_block(channels, out, kernel, plan.act(), pool=i == n - 1))
                channels = out
        return numbered(blocks, pooled_top(channels, plan.classes))

    return build


def dcgan(plan: Plan) -> nn.Sequential:
    """The context encoder's convolutions (Pathak et al. 2016, arXiv:1604.07379): conv4×4 of stride 2 to 4×4 pixels, then 4,000 numbers.

    Channels 64–64–128–256–512 at 128×128, 64–128–256 at 32×32: one block for each halving that leaves 4 pixels or more. The last
    block is a convolution over all that is left. Blocks are conv–BN–act without biases, the first has no BN. Convolutions start from
    N(0, 0.02²), BN scales from N(1, 0.02²). ``width`` = first channels (64), with which the 4,000 grow. ``relu``, the default
    activation, is leaky here (0.2).
    """
    channels, height, width = plan.shape
    if plan.depth is not None:
        raise InputError("dcgan has a block for each halving of the image: --depth does not apply to it")
    if plan.stem is not None:
        raise InputError("--stem sets the first convolution's kernel, 3, 5 or 7, and dcgan's are all 4x4")
    if min(height, width) < 8:
        raise InputError(f"dcgan needs at least 8x8 pixels; these images are {height}x{width}")
    halvings, w = (min(height, width) // 4).bit_length() - 1, plan.width or 64
    sizes = [w] * (halvings - 4) + [w * 2**i for i in range(min(halvings, 4))]
    blocks: list[nn.Module] = []
    for c in sizes:
        blocks.append(_dcgan_block(nn.Conv2d(channels, c, 4, 2, padding=1, bias=False), bool(blocks), plan))
        channels = c
    rest = nn.Conv2d(channels, max(1, 4000 * w // 64), (height >> halvings, width >> halvings), bias=False)
    blocks.append(_dcgan_block(rest, True, plan))
    return numbered(blocks, nn.Sequential(OrderedDict(flatten=nn.Flatten(), out=nn.Linear(rest.out_channels, plan.classes))))


def _dcgan_block(conv: nn.Conv2d, normed: bool, plan: Plan) -> nn.Sequential:
    nn.init.normal_(conv.weight, 0, 0.02)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if normed:
        layers["norm"] = norm = nn.BatchNorm2d(conv.out_channels)
        nn.init.normal_(norm.weight, 1, 0.02)
    layers["act"] = nn.LeakyReLU(0.2) if plan.activation == "relu" else plan.act()
    return nn.Sequential(layers)


def _refuse_stem(plan: Plan, name: str) -> None:
    if plan.stem is not None:
        raise InputError(f"--stem sets the first convolution's kernel and {name} has no convolution")


def mlp(plan: Plan) -> nn.Sequential:
    """``depth`` (3) blocks of Linear(``width`` = 256)–activation on flattened images, then Linear; no normalisation."""
    _refuse_stem(plan, "mlp")
    size, blocks = plan.shape[0] * plan.shape[1] * plan.shape[2], []
    for i in range(plan.depth or 3):
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten()) if i == 0 else OrderedDict()
        layers["linear"], layers["act"] = nn.Linear(size, plan.width or 256), plan.act()
        blocks.append(nn.Sequential(layers))
        size = plan.width or 256
    return numbered(blocks, nn.Sequential(OrderedDict(out=nn.Linear(size, plan.classes))))


def linear(plan: Plan) -> nn.Sequential:
    """``depth`` (1) blocks of Linear(``width`` = 20) on flattened images, then Linear; no biases and, whatever is asked for, no activation.

    The deep linear net of the documents' theory: 30-20-10 on inputs of shape (1, 1, 30) and 10 classes.
    """
    _refuse_stem(plan, "linear")
    size, blocks = plan.shape[0] * plan.shape[1] * plan.shape[2], []
    for i in range(plan.depth or 1):
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten()) if i == 0 else OrderedDict()
        layers["linear"] = nn.Linear(size, plan.width or 20, bias=False)
        blocks.append(nn.Sequential(layers))
        size = plan.width or 20
    return numbered(blocks, nn.Sequential(OrderedDict(out=nn.Linear(size, plan.classes, bias=False))))


MODELS: dict[str, Callable[[Plan], nn.Sequential]] = {
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
}


def cut_before_pool(model: nn.Sequential) -> nn.Sequential:
    """The same network with each pool moved to the front of the next block: local rules then read what goes into the pool.

    A block without a child ``pool`` to give or take is kept as it is; one that is no ``nn.Sequential`` neither gives nor takes.
    """
    blocks = OrderedDict(model.named_children())
    for below, above in pairwise(blocks):
        giver, taker = blocks[below], blocks[above]
        pool = dict(giver.named_children()).get("pool")
        if pool is not None and isinstance(giver, nn.Sequential) and isinstance(taker, nn.Sequential):
            blocks[below] = nn.Sequential(OrderedDict((n, m) for n, m in giver.named_children() if n != "pool"))
            blocks[above] = nn.Sequential(OrderedDict([("pool_in", pool), *taker.named_children()]))
    return nn.Sequential(blocks)


def build(name: str, plan: Plan, cut: str = "after-pool", seed: int = 0) -> nn.Sequential:
    """A network of named blocks with PyTorch's default initialisation (dcgan: its own), drawn from the keyed stream (seed, "init").

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
    if plan.attention not in ATTENTIONS:
        raise unknown("attention", plan.attention, ATTENTIONS)
    if plan.attention != "none" and name not in WITH_ATTENTION:
        raise InputError(f"--attention {plan.attention}: {name} has no place for channel attention; {', '.join(WITH_ATTENTION)} have")
    with seeded(seed, "init"):
        model = MODELS[name](plan)
    return cut_before_pool(model) if cut == "before-pool" else model


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Eval mode and random streams of its own inside; after it, each module's own mode, buffers and stashed tensors are back."""
    kept = [(m, dict(vars(m)), dict(m._buffers)) for m in model.modules()]
    contents = [(b, b._version, b.clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        with forked():
            model.eval()
            for m in model.modules():
                if isinstance(m, nn.modules.dropout._DropoutNd):
                    m.training = m.inplace  # in eval mode an in-place dropout does not show what it overwrites
            yield
    finally:
        for m, attributes, buffers in kept:
            m.training = attributes["training"]
            m._buffers.update(buffers)
            _put_back_tensors(vars(m), attributes)
        with torch.no_grad():
            for b, version, content in contents:
                if b._version != version:
                    b.copy_(content)


def _put_back_tensors(now: dict[str, object], before: dict[str, object]) -> None:
    """Undo what a forward pass stashed on a module: it would keep the blank image's graph alive, or be read by the next pass."""
    for name in [*now, *(before.keys() - now.keys())]:
        was, value = before.get(name), now.get(name)
        if was is value or not (isinstance(was, Tensor) or isinstance(value, Tensor)):
            continue
        if name in before:
            now[name] = was
        else:
            del now[name]


def _refuse_what_is_no_tensor(h: object, name: str, is_top: bool) -> None:
    if isinstance(h, Tensor):
        if not h.is_floating_point():
            raise InputError(f"{name} gives {h.dtype} numbers: a block must give floating-point ones, or no gradient goes back through it")
        return
    kind = type(h).__name__
    what = "None" if h is None else f"a {kind} of {len(h)}" if isinstance(h, Sized) else f"a {kind}"
    if is_top:
        raise InputError(f"{name} gives {what}: the network's answer must be one tensor")
    raise InputError(f"{name} gives {what}: a skip crosses the boundary to the block above; put both its ends into one block")


def _overwriter(block: nn.Module, x: Tensor) -> str:
    """The dotted path of the innermost module of a block that overwrites the block's input; empty: the block itself."""
    x, running, found = x.clone(), list[int](), list[str]()  # running: the copy's version when each running module began

    def begin(*_: object) -> None:
        running.append(x._version)

    def end(path: str) -> Callable[..., None]:
        return lambda *_: found.append(path) if running.pop() != x._version else None

    handles = [m.register_forward_pre_hook(begin) for m in block.modules()]
    handles += [m.register_forward_hook(end(path)) for path, m in block.named_modules()]
    try:
        block(x)
    finally:
        for handle in handles:
            handle.remove()
    return next(iter(found), "")  # a module ends after the modules within it


def _leaves(h: Tensor) -> list[Tensor]:
    """The leaves (parameters, block inputs) that a tensor's graph goes back to."""
    todo = [get_gradient_edge(h).node] if h.requires_grad else []
    seen, leaves = set(todo), []
    while todo:
        node = todo.pop()
        if isinstance(node, torch._C._functions.AccumulateGrad):
            leaves.append(node.variable)
        new = {below for below, _ in node.next_functions if below is not None} - seen
        seen |= new
        todo += new
    return leaves


def _refuse_overwriting(x: Tensor, block: nn.Module, name: str, lost: str) -> None:
    """``x``: the fresh copy that the block has read."""
    if not x._version:
        return
    path = _overwriter(block, x.detach())
    where = f" ({name}.{path})" if path else ""
    raise InputError(f"{name} begins with an in-place operation{where}, which would overwrite {lost}: use inplace=False")


def _refuse_skip(h: Tensor, k: int, owners: dict[Tensor, list[int]], names: Sequence[str]) -> None:
    """``owners``: parameters and block inputs -> the blocks they belong to."""
    strange = [owners[leaf] for leaf in _leaves(h) if k not in owners.get(leaf, [k])]
    if not strange:
        return
    other = min(strange, key=len)[0]  # a parameter that several blocks share says least about which of them is read
    raise InputError(
        f"{names[k]} reads from {names[other]} past its input: a skip crosses a boundary between them; put both its ends into one block"
    )


def output_shapes(model: nn.Sequential, shape: Sequence[int]) -> list[torch.Size]:
    """Each block's output shape without the batch dimension; refuses a network that cannot be cut at its block boundaries.

    Found by running one blank image in eval mode, each block on a leaf copy of what the one below gave, and by walking back
    each output's graph. No trace is left: modes, buffers, tensors stashed on modules, random streams and ``.grad`` stay.

    Args:
        model: the blocks, bottom first.
        shape: [*in] of one input.

    Raises:
        InputError: a block that hands on something other than one tensor of reals, overwrites its input in place, or reads
            from another block past its input.

    """
    names = [f"block {name}" if name.isdigit() else name for name in model._modules]
    owners: dict[Tensor, list[int]] = {}
    for k, block in enumerate(model):
        for p in block.parameters():
            owners.setdefault(p, []).append(k)
    first = next(model.parameters())
    h, shapes = torch.zeros(1, *shape, dtype=first.dtype, device=first.device), []
    with _as_it_was(model), torch.enable_grad():
        for k, block in enumerate(model):
            leaf = h.detach().requires_grad_()
            owners[leaf] = [k]
            x = leaf.clone()  # a leaf that takes a gradient cannot be overwritten: torch would complain in its own words
            h = block(x)
            _refuse_what_is_no_tensor(h, names[k], k == len(model) - 1)
            _refuse_overwriting(x, block, names[k], "what the block below gave" if k else "the network's input")
            _refuse_skip(h, k, owners, names)
            shapes.append(h.shape[1:])
    return shapes


def head_width(model: nn.Sequential) -> int:
    """How wide the network's own top is: 256 for BasicCNN (its hidden layer), 512 for VGG (what its one Linear reads)."""
    linears = [m for m in model[-1].modules() if isinstance(m, nn.Linear)]
    if not linears:  # a top of a user's own
        return 256
    return linears[0].out_features if len(linears) > 1 else linears[0].in_features


def layers(model: nn.Module) -> list[str]:
    """The dotted paths of linear and convolutional layers, bottom first: the rows of every table."""
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
