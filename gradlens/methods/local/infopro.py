"""Train with information-preserving local losses: the image is also reconstructed from each module's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import HeadOptions, Local, LocalLosses, Window, split
from gradlens.models.decoders import decoder
from gradlens.runtime.batch_shard import sharded_mean
from gradlens.runtime.errors import InputError


class InfoProOptions(HeadOptions, frozen=True):
    """Options of infopro; the defaults are the reference's ResNet-110 settings: of 2 modules for the first, of 16 for the last.

    The reconstruction loss differs from the reference's, see :class:`InfoPro`.
    """

    lambda1_first: float = Field(5.0, ge=0, allow_inf_nan=False, description="weight of the reconstruction at the first local module")
    lambda1_last: float = Field(0.5, ge=0, allow_inf_nan=False, description="weight of the reconstruction at the last local module")
    lambda2_first: float = Field(0.5, ge=0, allow_inf_nan=False, description="weight of the task loss at the first local module")
    lambda2_last: float = Field(1.0, ge=0, allow_inf_nan=False, description="weight of the task loss at the last local module")
    chunks: int | list[int] | None = Field(
        None, description="number of modules, or their sizes in units, first to last ([2,1]); default: each unit is a module"
    )


class InfoHead(nn.Module):
    """A module's two auxiliary heads: a classifier and a decoder, either of which may be missing."""

    def __init__(self, task: nn.Module | None, image: nn.Module | None) -> None:
        super().__init__()
        self.task, self.image = task, image

    def forward(self, h: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Map activations [N, *shape] to logits [N, C] and reconstruction [N, C, H, W]."""
        return self.task(h) if self.task is not None else None, self.image(h) if self.image is not None else None


class InfoPro(LocalLosses):
    """delta_k = d l_m/d h_k with l_m = lambda1_m · mean ½ (D_m(h_m) − x)² + lambda2_m · loss(a_m(h_m), y); modules m send no gradient.

    Wang et al. 2021 (arXiv 2101.10832); the lambdas are interpolated linearly from the first to the last local module, the last module has
    the network's own loss. Instead of their Bernoulli likelihood of pixels in [0, 1] (cross-entropy), D predicts the mean of a Gaussian
    of unit variance: the images are compared as normalised for the network. A lambda of 0 makes no decoder or
    no head; with lambda1 = 0 and lambda2 = 1 this is dgl. In a module of several units each block also waits for block k+1.

    The default lambdas are theirs, for a steeper loss here. With reconstruction r and image x in [0, 1], the slope at the decoder's
    last layer is r − x for their cross-entropy of a sigmoid and (r − x)/σ here, where the normalisation divides by σ: 1/2 to reach [-1, 1],
    0.25 for unit variance on CIFAR-10. Lambda1 times σ gives their balance (``lambda1_first=2.5``, ``lambda1_last=0.25`` for [-1, 1]).
    """

    summary = "local losses that also reconstruct the image"
    other_names = ("information propagation", "informative local propagation")
    Options: ClassVar[type[BaseModel]] = InfoProOptions
    images_only = "it reconstructs the image"
    depends_on = frozenset({"input", "labels", "image"})

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """Return the modules."""
        return super().windows(net) if self.options.chunks is None else split(self.options.chunks, net)

    def lambdas(self, k: int) -> tuple[float, float]:
        """Interpolate (lambda1, lambda2) of the local module that ends at unit k."""
        o, local = self.options, sorted(self.reach.first)[:-1]
        share = local.index(k) / max(1, len(local) - 1)
        return o.lambda1_first * (1 - share) + o.lambda1_last * share, o.lambda2_first * (1 - share) + o.lambda2_last * share

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build the classifier and the decoder whose loss has a non-zero weight."""
        lambda1, lambda2 = self.lambdas(k)
        if not lambda1 and not lambda2:
            raise InputError(f"infopro: the module that ends at {net.name(k)} has no loss: lambda1 and lambda2 are both 0; set one of them")
        task = super().make_head(k, net) if lambda2 else None
        return InfoHead(task, decoder(net.shapes[k], net.image) if lambda1 else None)

    def local_loss(self, k: int, p: Pass) -> Local:
        """Compute the weighted sum of reconstruction and task loss."""
        lambda1, lambda2 = self.lambdas(k)
        logits, image = self.heads[str(k)](p.z)
        losses: list[Tensor] = []
        if logits is not None:
            losses.append(lambda2 * self.loss(logits, p.y))
        if image is not None:
            losses.append(lambda1 * 0.5 * sharded_mean((image - p.image).square()))
        return Local(torch.stack(losses).sum(), logits)
