"""Predict rows of a map from the rows above them: a masked context network, and a bilinear map for each offset."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RowsAbove(nn.Conv2d):
    """A 3×3 convolution whose kernel ends at its own row: output row i depends on rows i−1 and i; ``strict``: i−2 and i−1.

    Args:
        read: input channels.
        given: output channels.
        strict: whether to exclude row i, too.
        wide: 3 columns; else 1, for maps of one column.

    """

    def __init__(self, read: int, given: int, strict: bool, wide: bool = True) -> None:
        super().__init__(read, given, (2, 3 if wide else 1))
        self.margins = (int(wide), int(wide), 1 + strict, -int(strict))  # left, right, above, below

    def forward(self, input: Tensor) -> Tensor:
        """Map [N, read, H, W] to [N, given, H, W]."""
        return super().forward(F.pad(input, self.margins))


class GatedRows(nn.Module):
    """x + W (tanh(a) ⊙ σ(b)), (a, b) a convolution of the rows above; the strict one is without x, which contains row i."""

    def __init__(self, channels: int, strict: bool, wide: bool) -> None:
        super().__init__()
        self.strict = strict
        self.above = RowsAbove(channels, 2 * channels, strict, wide)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H, W]."""
        a, b = self.above(x).chunk(2, 1)
        h: Tensor = self.out(a.tanh() * b.sigmoid())
        return h if self.strict else x + h


def masked_context(channels: int, layers: int, wide: bool = True) -> nn.Sequential:
    """Build a gated PixelCNN (van den Oord et al. 2016) of the rows above: row i of [N, C, H, W] depends on rows 0 … i−1 of its input.

    The first layer is strict, the others may use their own row; the last layer is a 1×1 convolution. Each layer extends the receptive
    field by one row.

    Args:
        channels: input and output channels.
        layers: 1 or more.
        wide: whether kernels extend one column to each side.

    """
    return nn.Sequential(*[GatedRows(channels, i == 0, wide) for i in range(layers)], nn.Conv2d(channels, channels, 1))


class RowsAhead(nn.Module):
    """Contexts c_i of rows up to i and targets W_k z_{i+k+skip}, for each offset k.

    With a masked context, c_i is its row i + 1, which depends on the rows up to i; without one c_i is z_i itself. So both predict the
    same rows from the same position, as in the code of Löwe et al. 2019 (arXiv 1905.11786), whose masks include a context's own row. The
    last rows predict nothing, the first ones are no targets.

    Args:
        channels: channels of z.
        steps: offsets k = 1 … steps.
        skip: rows between context and first target, left out because neighbouring patches share half their pixels.
        layers: layers of the masked context; 0: none.
        wide: whether the maps have more than one column.

    """

    def __init__(self, channels: int, steps: int, skip: int, layers: int, wide: bool = True) -> None:
        super().__init__()
        self.skip = skip
        self.context = masked_context(channels, layers, wide) if layers else None
        self.ahead = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in range(steps))

    def forward(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return contexts and targets [P, C] for each offset from maps [N, C, H, W], paired row by row; P = N · W · rows."""
        c = z if self.context is None else self.context(z)[:, :, 1:]
        found = []
        for k, project in enumerate(self.ahead, 1):
            rows = z.shape[2] - k - self.skip
            found.append((listed(c[:, :, :rows]), listed(project(z[:, :, k + self.skip :]))))
        return found


def listed(z: Tensor) -> Tensor:
    """Flatten maps [N, C, H, W] to [N · H · W, C]."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)
