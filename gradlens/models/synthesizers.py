"""Build networks that predict a gradient or an activation: the synthesisers of decoupled neural interfaces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from gradlens.models.layouts import channels_first, space_of

Layer = nn.Conv2d | nn.Conv1d | nn.Linear


def _layer(space: int, a: int, b: int) -> Layer:
    """Make a layer from a to b channels: a convolution of 5 pixels a side that keeps the resolution, or without space a linear layer."""
    if not space:
        return nn.Linear(a, b)
    return nn.Conv2d(a, b, 5, padding=2) if space == 2 else nn.Conv1d(a, b, 5, padding=2)


def _turned(h: Tensor, last: bool) -> Tensor:
    """Move a sequence's features from last to first, or back; return other activations unchanged."""
    return h.transpose(1, 2) if last else h


class Regressor(nn.Module):
    """layer–BN–ReLU–layer–BN–ReLU–layer, the context's linear map added to the first layer's output before BN.

    Convolutions are 5×5, of sequences 5, and keep the resolution; without space the layers are linear (Jaderberg et al. 2017,
    arXiv 1608.05343; ConvSynthesizer of the reference study).

    Args:
        read: input channels or features.
        given: output channels or features.
        hidden: channels or features of the hidden layers.
        context: number of classes of the label input; 0: no label input.
        space: dimensions of space of the activations.

    """

    def __init__(self, read: int, given: int, hidden: int, context: int, space: int) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return nn.BatchNorm2d(hidden) if space == 2 else nn.BatchNorm1d(hidden)

        self.first = _layer(space, read, hidden)
        last = _layer(space, hidden, given)
        self.rest = nn.Sequential(
            OrderedDict(norm1=norm(), act1=nn.ReLU(), middle=_layer(space, hidden, hidden), norm2=norm(), act2=nn.ReLU(), last=last)
        )
        self.context = nn.Linear(context, hidden) if context else None

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Map h [N, read, *space] and context [N, classes] or None to [N, given, *space]."""
        first = self.first(h)
        if self.context is not None:
            added = self.context(context)
            first = first + added.reshape(*added.shape, *[1] * (first.ndim - 2))
        out: Tensor = self.rest(first)
        return out


class Synthesiser(Regressor):
    """S(h [, c]): [N, *shape] -> predicted gradient [N, *shape].

    The last layer's weight is initialised at zero, so that S is its bias at first; with ``zero_bias`` that is zero too. ``last``: a
    sequence [N, T, D] with the features last.
    """

    def __init__(self, shape: Sequence[int], context: int, width: int | None, zero_bias: bool, last: bool = False) -> None:
        space, channels = space_of(shape), channels_first(shape, last)[0]
        super().__init__(channels, channels, width or channels, context, space)
        self.turned = last
        output: Layer = self.rest.last  # type: ignore[assignment]
        nn.init.zeros_(output.weight)
        if zero_bias:
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Predict a gradient: h [N, *shape], context [N, classes] or None -> [N, *shape]."""
        return _turned(super().forward(_turned(h, self.turned), context), self.turned)


class LinearSynthesiser(nn.Module):
    """S(h [, c]) = A h [+ B c] + b: [N, *shape] -> predicted gradient [N, *shape]; with space, A is a convolution of 5 pixels a side.

    The synthesiser of Czarnecki et al. 2017 (arXiv 1703.00522): exact if the gradient is linear in h and the label. All parameters
    are initialised at zero; ``zero_bias=False`` leaves b at PyTorch's default.
    """

    def __init__(self, shape: Sequence[int], context: int, zero_bias: bool, last: bool = False) -> None:
        super().__init__()
        channels, self.turned = channels_first(shape, last)[0], last
        self.map = _layer(space_of(shape), channels, channels)
        self.context = nn.Linear(context, channels, bias=False) if context else None
        nn.init.zeros_(self.map.weight)
        if zero_bias:
            nn.init.zeros_(self.map.bias)  # type: ignore[arg-type]
        if self.context is not None:
            nn.init.zeros_(self.context.weight)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Predict a gradient: h [N, *shape], context [N, classes] or None -> [N, *shape]."""
        out: Tensor = self.map(_turned(h, self.turned))
        if self.context is not None:
            added = self.context(context)
            out = out + added.reshape(*added.shape, *[1] * (out.ndim - 2))
        return _turned(out, self.turned)


class InputSynthesiser(Regressor):
    """I(image [, c]): [N, C, H, W] -> predicted activations [N, *shape]; its last layer has the default initialisation.

    The image is brought to the activations' resolution by moving space to channels if the ratio is a whole number, else by
    averaging; for activations without space it is flattened, for sequences of length L its pixels are cut into L parts.
    """

    def __init__(self, image: Sequence[int], shape: Sequence[int], context: int, width: int | None, last: bool = False) -> None:
        first = channels_first(shape, last)
        fit, read = _fitted(image, first)
        super().__init__(read, first[0], width or first[0], context, space_of(shape))
        self.fit, self.turned = fit, last

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Map the image [N, C, H, W] and context [N, classes] or None to predicted activations [N, *shape]."""
        return _turned(super().forward(self.fit(h), context), self.turned)


class Parts(nn.Module):
    """Pixels in reading order cut into parts, [N, C, H, W] -> [N, C · pixels of a part, parts]; averaged if parts would differ in size."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, image: Tensor) -> Tensor:
        """Map images [N, C, H, W] to sequences [N, channels, parts]."""
        pixels = image.flatten(2)
        if pixels.shape[2] % self.parts:
            return nn.functional.adaptive_avg_pool1d(pixels, self.parts)
        return pixels.reshape(*pixels.shape[:2], self.parts, -1).transpose(2, 3).flatten(1, 2)


def _fitted(image: Sequence[int], shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Build the map from images [N, C, H, W] to the space of activations [N, *shape], features first; return its output channels too."""
    channels, high, wide = image
    if len(shape) == 1:
        return nn.Flatten(), prod(image)
    if len(shape) == 2:
        each, rest = divmod(high * wide, shape[1])
        return Parts(shape[1]), channels * (1 if rest else each)
    space = (shape[1], shape[2])
    times = high // space[0]
    if times > 0 and (high, wide) == (times * space[0], times * space[1]):
        return nn.PixelUnshuffle(times), channels * times**2
    return nn.AdaptiveAvgPool2d(space), channels
