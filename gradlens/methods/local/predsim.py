"""Train with two local losses: predict the class, and match the similarities of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import Local, LocalLosses
from gradlens.models.layouts import channels_first, space_of
from gradlens.runtime.batch_shard import all_gather_rows, sharded_mean


class PredSimOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of predsim."""

    beta: float = Field(0.99, ge=0, le=1, description="share of the similarity loss: 0 is pred, 1 is sim")
    dim: int = Field(4096, ge=1, description="most input features of the pred classifier: maps are halved by averaging until they fit")


def similarity(x: Tensor) -> Tensor:
    """Compute S(x): cosine similarities [N, N] of samples' centred features, x [N, F], [N, C, L] or [N, C, H, W].

    Columns are all samples of a shared batch. Maps of more than three channels and one row (sequences: one position) are first reduced to
    each channel's standard deviation over space.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # like every loss: bf16 has eight bits
    x = x.flatten(2).std(2) if x.ndim > 2 and x.shape[1] > 3 and x.shape[2] > 1 else x.flatten(1)
    x = x - x.mean(1, keepdim=True)
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-8)
    with torch.autocast(x.device.type, enabled=False):
        return (x @ all_gather_rows(x).T).clamp(-1, 1)


def pooled_size(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    """Return (height, width) to which maps [C, H, W] are averaged, or (length,) of [C, L]: halved, rounding up, until C·h·w ≤ ``dim``."""
    channels, *sides = shape
    while channels * prod(sides) > dim and prod(sides) > 1:
        longest = sides.index(max(sides))
        sides[longest] = ceil(sides[longest] / 2)
    return tuple(sides)


class PredSimHead(nn.Module):
    """Heads of the two losses: logits [N, classes] of a linear classifier initialised at zero, and S [N, N] of a convolution.

    Args:
        shape: [C, H, W], [features], or of sequences [C, L] or [T, D].
        classes: number of classes.
        beta: 0 makes no convolution, 1 no classifier.
        dim: most input features of the classifier.
        last: whether a sequence's features come last, [T, D].

    """

    def __init__(self, shape: Sequence[int], classes: int, beta: float, dim: int, last: bool = False) -> None:
        super().__init__()
        space, shape, self.turned = space_of(shape), channels_first(shape, last), last
        n = shape[0]
        self.pred: nn.Module | None = None
        self.sim: nn.Module | None = None
        if beta < 1:
            size = pooled_size(shape, dim)
            classifier = nn.Linear(n * prod(size), classes)
            nn.init.zeros_(classifier.weight)
            nn.init.zeros_(classifier.bias)
            pools = {0: nn.Identity, 1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}
            pool = [pools[space](size)] if size != shape[1:] else []
            self.pred = nn.Sequential(*pool, nn.Flatten(), classifier)
        if beta > 0:
            conv = nn.Conv2d if space == 2 else nn.Conv1d
            self.sim = conv(n, n, 3, padding=1, bias=False) if space else nn.Linear(n, n, bias=False)

    def forward(self, h: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Map activations [N, *shape] to logits and similarities."""
        if self.turned:
            h = h.transpose(1, 2)
        return self.pred(h) if self.pred is not None else None, similarity(self.sim(h)) if self.sim is not None else None


class PredSim(LocalLosses):
    """delta_k = d l_k/d h_k with l_k = (1 − beta) · loss(W pool(h_k), y) + beta · mean (S(conv(h_k)) − S(onehot(y)))²; no messages.

    Nøkland & Eidnes 2019 (arXiv 1901.06656) and their code; S are cosine similarities between the batch's samples. The last
    two blocks are one unit, whose loss is the network's own.

    pool(h) has the sizes of their code, and its values if it divides the map evenly. Otherwise (7×7 to 4×4) theirs pads the map with
    zeros, which its means count, so that features at one edge are smaller; here the windows are those of adaptive pooling, which overlap
    and contain only the map.
    """

    summary = "blocks predict classes and similarities"
    other_names = ("local error signals", "local errors", "local loss", "predictive similarity")
    Options: ClassVar[type[BaseModel]] = PredSimOptions
    images_only = "it compares every item of a batch with every other, here all {items}"

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.classes = net.classes

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build the classifier and the convolution of unit k."""
        return PredSimHead(net.shapes[k], net.classes, self.options.beta, self.options.dim, net.turned(k))

    def local_loss(self, k: int, p: Pass) -> Local:
        """Compute (1 − beta) pred + beta sim."""
        beta = self.options.beta
        logits, similarities = self.heads[str(k)](p.z)
        losses: list[Tensor] = []
        if logits is not None:
            losses.append((1 - beta) * self.loss(logits, p.y))
        if similarities is not None:
            target = similarity(F.one_hot(p.y, self.classes).to(similarities.dtype))
            losses.append(beta * sharded_mean((similarities - target).square()))
        return Local(torch.stack(losses).sum(), logits)
