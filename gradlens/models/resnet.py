"""Build residual networks for small images, and channel attention. A block of the network is its stem or one residual block."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.models.spec import ModelSpec, conv_block, numbered, pooled_top
from gradlens.runtime.errors import InputError

Act = Callable[[], nn.Module]


class Subsampled(nn.Module):
    """The shortcut without parameters (option A of He et al. 2016, arXiv:1512.03385, §3.3): every ``stride``-th pixel, zero channels.

    [N, C, H, W] -> [N, C + zeros, ceil(H / stride), ceil(W / stride)], the new channels last.
    """

    def __init__(self, stride: int, zeros: int) -> None:
        super().__init__()
        self.stride, self.zeros = stride, zeros

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C + zeros, H / stride, W / stride], rounded up."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.zeros))

    def extra_repr(self) -> str:
        """Return the text for ``print(model)``."""
        return f"stride={self.stride}, zeros={self.zeros}"


def _projection(c_in: int, c_out: int, stride: int, average: bool = False) -> nn.Sequential:
    """Build a shortcut of every ``stride``-th pixel, a 1×1 convolution and BN: equal to a 1×1 convolution of that stride.

    In channels-last layout the weight gradient of the latter writes out of bounds on some CPUs (oneDNN's AVX2 kernel, as of torch 2.14,
    input channels that are no multiple of 8). ``average``: the mean of ``stride`` × ``stride`` pixels instead, at the edge of the
    available ones (ResNet-D, He et al. 2018, arXiv:1812.01187, fig. 2c).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride > 1:
        layers["pick"] = nn.AvgPool2d(stride, ceil_mode=True) if average else Subsampled(stride, 0)
    layers["conv"], layers["norm"] = nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
    return nn.Sequential(layers)


# -------------------------------------------------------------------------------------------------- channel attention


class SqueezeExcitation(nn.Module):
    """x · sigmoid(W₂ act(W₁ x̄ + b₁) + b₂), x̄ the mean over the image (Hu et al. 2018, arXiv:1709.01507, §3); W₁ has C / 16 rows.

    [N, C, H, W] -> the same, each channel of each image scaled into 0…1 of itself.
    """

    def __init__(self, channels: int, act: Act) -> None:
        super().__init__()
        few = max(1, channels // 16)
        self.reduce, self.act, self.expand = nn.Linear(channels, few), act(), nn.Linear(few, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H, W]."""
        gate: Tensor = self.expand(self.act(self.reduce(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class SelectiveKernel(nn.Module):
    """Two 3×3 convolutions' outputs, mixed per channel with weights from the global mean, as in SimCLRv2 (``SK_Conv2D``).

    (u₁, u₂) = act(BN(conv3×3(x))), ``channels`` each;  m = V act(BN(W s)), s the mean over the image of u₁ + u₂;
    out = p₁ u₁ + p₂ u₂ with (p₁, p₂) = softmax over the two of (m₁, m₂). W has max(channels / 16, 32) rows; no biases.
    (Li et al. 2019, arXiv:1903.06586; there the two differ in their dilation.)

    [N, c_in, H, W] -> [N, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, c_in: int, channels: int, stride: int, act: Act) -> None:
        super().__init__()
        few = max(channels // 16, 32)
        self.conv = nn.Conv2d(c_in, 2 * channels, 3, stride, padding=1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(2 * channels), act()
        self.reduce, self.reduced_norm, self.reduced_act = nn.Linear(channels, few, bias=False), nn.BatchNorm1d(few), act()
        self.expand = nn.Linear(few, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, c_in, H, W] to [N, channels, H / stride, W / stride], rounded up."""
        one, two = self.act(self.norm(self.conv(x))).chunk(2, 1)
        seen = (one + two).mean((2, 3))
        mixed = self.expand(self.reduced_act(self.reduced_norm(self.reduce(seen))))
        p, q = torch.stack(mixed.chunk(2, 1)).softmax(0).to(one.dtype)[:, :, :, None, None]
        out: Tensor = p * one + q * two
        return out


# ---------------------------------------------------------------------------------------------------- residual blocks


class Residual(nn.Module):
    """act(branch(x) + shortcut(x)): [N, c_in, H, W] -> [N, c_out, ceil(H / stride), ceil(W / stride)].

    No operation is in place: ``x`` is read twice.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, c_in, H, W] to [N, c_out, H / stride, W / stride], rounded up."""
        y: Tensor = self.act(self.branch(x) + self.shortcut(x))
        return y


def _shortcut(c_in: int, c_out: int, stride: int, project: bool, attention: str) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return _projection(c_in, c_out, stride, attention == "sk") if project else Subsampled(stride, c_out - c_in)


def basic_residual(c_in: int, c_out: int, stride: int, act: Act, project: bool = True, attention: str = "none") -> Residual:
    """Build a residual block with branch conv3×3–BN–act–conv3×3–BN without biases (He et al. 2016, arXiv:1512.03385, fig. 2).

    The shortcut is the identity if the shape does not change, else a 1×1 convolution with BN (``project``) or :class:`Subsampled`.

    Args:
        c_in: input channels.
        c_out: output channels.
        stride: stride of the first convolution and of the shortcut.
        act: makes an activation; each of the two is a separate module.
        project: whether a shortcut that changes the shape has weights.
        attention: ``se``: the branch ends with :class:`SqueezeExcitation`; ``sk``: its first convolution is a
            :class:`SelectiveKernel` and a shortcut with weights is ResNet-D's.

    """
    branch: OrderedDict[str, nn.Module] = OrderedDict()
    if attention == "sk":
        branch["select"] = SelectiveKernel(c_in, c_out, stride, act)
    else:
        branch["conv1"] = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        branch["norm1"], branch["act1"] = nn.BatchNorm2d(c_out), act()
    branch["conv2"], branch["norm2"] = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)
    if attention == "se":
        branch["attention"] = SqueezeExcitation(c_out, act)
    return Residual(nn.Sequential(branch), _shortcut(c_in, c_out, stride, project, attention), act())


def bottleneck(c_in: int, c_out: int, stride: int, act: Act, project: bool = True, attention: str = "none") -> Residual:
    """Build a residual block with branch conv1×1–BN–act–conv3×3–BN–act–conv1×1–BN, ``c_out`` / 4 channels inside (He et al. 2016, fig. 5).

    The stride is the 3×3 convolution's, as in torchvision; that one is the :class:`SelectiveKernel` of ``attention=sk``.
    All else, and the arguments, as in :func:`basic_residual`.
    """
    c = c_out // 4
    branch: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(c_in, c, 1, bias=False), norm1=nn.BatchNorm2d(c), act1=act())
    if attention == "sk":
        branch["select"] = SelectiveKernel(c, c, stride, act)
    else:
        branch["conv2"] = nn.Conv2d(c, c, 3, stride, padding=1, bias=False)
        branch["norm2"], branch["act2"] = nn.BatchNorm2d(c), act()
    branch["conv3"], branch["norm3"] = nn.Conv2d(c, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
    if attention == "se":
        branch["attention"] = SqueezeExcitation(c_out, act)
    return Residual(nn.Sequential(branch), _shortcut(c_in, c_out, stride, project, attention), act())


def preactivated(c_in: int, c_out: int, stride: int, act: Act) -> Residual:
    """Build conv1×1(act(conv3×3(act(conv1×1(act(x)))))) + x, with biases, without BN, ``c_out`` / 4 channels inside.

    If the shape changes, a 1×1 convolution of act(x) replaces x (Löwe et al. 2019, arXiv:1905.11786, their code's
    ``PreActBottleneckNoBN``).
    """
    c = c_out // 4
    branch: OrderedDict[str, nn.Module] = OrderedDict(act1=act(), conv1=nn.Conv2d(c_in, c, 1))
    branch["act2"], branch["conv2"] = act(), nn.Conv2d(c, c, 3, stride, padding=1)
    branch["act3"], branch["conv3"] = act(), nn.Conv2d(c, c_out, 1)
    shortcut: OrderedDict[str, nn.Module] = OrderedDict()
    if stride != 1 or c_in != c_out:
        shortcut["act"] = act()
        if stride > 1:
            shortcut["pick"] = Subsampled(stride, 0)  # and no stride in the convolution, see _projection
        shortcut["conv"] = nn.Conv2d(c_in, c_out, 1)
    return Residual(nn.Sequential(branch), nn.Sequential(shortcut) if shortcut else nn.Identity(), nn.Identity())


# ----------------------------------------------------------------------------------------------------------- networks


class Form(NamedTuple):
    """The parameters that distinguish the residual networks."""

    stages: tuple[int, ...]  # number of residual blocks at each resolution
    width: int  # channels of the stem, and of the first stage's 3×3 convolutions
    block: Callable[..., Residual] = basic_residual
    expansion: int = 1  # output channels of a block, over those of its 3×3 convolutions
    project: bool = True  # whether a shortcut that changes the shape has weights


FORMS = {
    "resnet18": Form((2, 2, 2, 2), 64),
    "resnet20": Form((3, 3, 3), 16, project=False),
    "resnet32": Form((5, 5, 5), 16, project=False),
    "resnet50": Form((3, 4, 6, 3), 64, bottleneck, 4),
    "resnet152": Form((3, 8, 36, 3), 64, bottleneck, 4),
    "resnet-gim": Form((3, 4, 6), 64, preactivated, 4),
}
WITH_ATTENTION = tuple(name for name, form in FORMS.items() if form.block is not preactivated)


def _refuse_what_does_not_fit(spec: ModelSpec, name: str) -> None:
    _, height, wide = spec.shape
    halvings = len(FORMS[name].stages) - 1
    if spec.depth is not None:
        raise InputError(f"resnet models have a fixed depth: choose {', '.join(list(FORMS)[:-1])} or {list(FORMS)[-1]} instead of --depth")
    if min(height, wide) < 2**halvings:
        raise InputError(
            f"{name} halves the image {halvings} times and needs at least {2**halvings}x{2**halvings} pixels;"
            f" these images are {height}x{wide} (HxW)"
        )


def _deep_stem(channels: int, c: int, kernel: int, act: Act) -> nn.Sequential:
    """Build ResNet-D's stem (arXiv:1812.01187, fig. 2b) at full resolution: three conv–BN–act, c/2, c/2 and c channels."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sizes = (channels, max(1, c // 2), max(1, c // 2), c)
    for i in (1, 2, 3):
        k = kernel if i == 1 else 3
        layers[f"conv{i}"] = nn.Conv2d(sizes[i - 1], sizes[i], k, padding=k // 2, bias=False)
        layers[f"norm{i}"], layers[f"act{i}"] = nn.BatchNorm2d(sizes[i]), act()
    return nn.Sequential(layers)


def _bodied(spec: ModelSpec, name: str, stem: nn.Module, **options: object) -> nn.Sequential:
    """Build stem, a form's residual blocks, the first of each later stage with stride 2 and twice the channels, then the output block."""
    form = FORMS[name]
    width = spec.width or form.width
    blocks, c = [stem], width
    for stage, n in enumerate(form.stages):
        out = form.expansion * width * 2**stage
        for i in range(n):
            blocks.append(form.block(c, out, 2 if stage and i == 0 else 1, spec.act, **options))
            c = out
    return numbered(blocks, pooled_top(c, spec.classes))


def _resnet(spec: ModelSpec, name: str) -> nn.Sequential:
    _refuse_what_does_not_fit(spec, name)
    c, kernel = spec.width or FORMS[name].width, spec.stem or 3
    if spec.attention == "sk":
        stem = _deep_stem(spec.shape[0], c, kernel, spec.act)
    else:
        stem = conv_block(spec.shape[0], c, kernel, spec.act(), bias=False)
    return _bodied(spec, name, stem, project=FORMS[name].project, attention=spec.attention)


def resnet18(spec: ModelSpec) -> nn.Sequential:
    """ResNet-18 for small images (after kuangliu's pytorch-cifar): conv3×3–BN–act, 4 × 2 residual blocks, 11,173,962 parameters.

    The count is for 3×32×32 and 10 classes. Block = stem or residual block; shortcuts that change the shape are 1×1 convolutions
    with BN. ``width`` = channels of the stem and the first stage (64; then ×2, ×4, ×8), ``stem`` = first kernel (3).
    """
    return _resnet(spec, "resnet18")


def resnet20(spec: ModelSpec) -> nn.Sequential:
    """ResNet-20 (He et al. 2016, §4.2): conv3×3–BN–act, 3 × 3 residual blocks, 269,722 parameters at 3×32×32.

    Block = stem or residual block; shortcuts have no parameters (option A). ``width`` = channels of the stem and the first stage
    (16; then ×2, ×4), ``stem`` = first kernel (3).
    """
    return _resnet(spec, "resnet20")


def resnet32(spec: ModelSpec) -> nn.Sequential:
    """ResNet-32 (He et al. 2016, §4.2): as resnet20 with 3 × 5 residual blocks, 464,154 parameters at 3×32×32."""
    return _resnet(spec, "resnet32")


def resnet50(spec: ModelSpec) -> nn.Sequential:
    """ResNet-50 for small images: resnet18's stem, 3 + 4 + 6 + 3 bottleneck blocks, 23,520,842 parameters at 3×32×32.

    Block = stem or residual block. ``width`` = channels of the stem (64); the stages give ×4, ×8, ×16, ×32; ``stem`` = first
    kernel (3).
    """
    return _resnet(spec, "resnet50")


def resnet152(spec: ModelSpec) -> nn.Sequential:
    """ResNet-152 for small images: as resnet50 with 3 + 8 + 36 + 3 bottleneck blocks, 58,156,618 parameters at 3×32×32."""
    return _resnet(spec, "resnet152")


def resnet_gim(spec: ModelSpec) -> nn.Sequential:
    """Greedy InfoMax's encoder (Löwe et al. 2019): conv5×5, 3 + 4 + 6 preactivated bottleneck blocks, biases and no BatchNorm.

    Outputs of blocks have no activation, also before the average. ``width`` = channels of the stem (64); the stages give ×4, ×8, ×16;
    ``stem`` = first kernel (5). The paper's three modules are blocks 1–4, 5–8 and 9–14.
    """
    _refuse_what_does_not_fit(spec, "resnet-gim")
    kernel = spec.stem or 5
    stem = nn.Conv2d(spec.shape[0], spec.width or FORMS["resnet-gim"].width, kernel, padding=kernel // 2)
    return _bodied(spec, "resnet-gim", nn.Sequential(OrderedDict(conv=stem)))
