"""Networks that predict a gradient or an activation: the synthesisers of decoupled neural interfaces."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn


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
