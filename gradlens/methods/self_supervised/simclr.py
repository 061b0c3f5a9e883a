"""Train by contrastive learning of two views, end to end and with gradient-isolated modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn

from gradlens.data.contrastive_views import ViewOptions, views
from gradlens.gradients.losses import nt_xent
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.self_supervised.encoder import PretextTask, SelfSupervised, stacked
from gradlens.models.heads import projection
from gradlens.runtime.errors import InputError


class SimCLROptions(ViewOptions, frozen=True):
    """Options of simclr."""

    temperature: float = Field(0.5, gt=0, description="temperature of NT-Xent")
    layers: int = Field(2, ge=0, le=3, description="layers of the projection head: 0 is no head, 1 is linear, 3 is SimCLRv2's")
    out: int = Field(128, ge=1, description="width of the projection: output features of the head's last layer; not to be set if layers=0")
    side: int = Field(1, ge=1, description="maps are averaged to side x side before the head")
    convolutions: int = Field(0, ge=0, description="3x3 convolutions of each head before that average")

    @model_validator(mode="after")
    def _without_head(self) -> SimCLROptions:
        if self.layers:
            return self
        if self.out != type(self).model_fields["out"].default:  # stored configs hold the default
            raise InputError(f"out={self.out} is the width of a head, and layers=0 is no head: set layers=1 or more, or no out")
        if self.convolutions:
            raise InputError(
                f"convolutions={self.convolutions} are layers of a head, and layers=0 is no head: set layers=1 or more, or convolutions=0"
            )
        return self


class LocalSimCLROptions(SimCLROptions, frozen=True):
    """Options of simclr-local and loco."""

    modules: int | list[int] | None = Field(None, description="parts of the encoder, or their sizes in blocks; default: each block")


class TwoViews(PretextTask):
    """Contrast two views of each image: projections of views of one image are pulled together, those of others apart."""

    name = "NT-Xent"

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        if net.image and net.image[0] not in (1, 3):
            raise InputError(f"views need images of 1 or 3 channels; these have {net.image[0]}")
        super().__init__(net, options)

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build a projection head; with ``layers=0`` it has no parameters and passes the averaged maps on."""
        o = self.options
        return projection(net.shapes[k], o.layers, o.out, o.side, o.convolutions, net.turned(k))

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Draw two views of each image: x [N, 2, C, H, W]; labels are not used."""
        return stacked(to_input(views(images, self.options, self.seed, step)), 2), labels

    def prepare_input(self, x: Tensor) -> Tensor:
        """Reshape [N, 2, C, H, W] to [2N, C, H, W]."""
        return x.flatten(0, 1)

    def loss(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """Compute NT-Xent of the views' projections."""
        return nt_xent(head(z), self.options.temperature)

    def kept_head(self, head: nn.Module, layers: int) -> nn.Module | None:
        """Return the first layers of the head, for fine-tuning (Chen et al. 2020, arXiv 2006.10029, §3)."""
        if not 1 <= layers <= self.options.layers:
            return None
        named = OrderedDict(head.named_children())
        return nn.Sequential(OrderedDict((n, m) for n, m in named.items() if not n.startswith("layer") or int(n[5:]) <= layers))


class SimCLR(SelfSupervised):
    """delta_K = d NT-Xent(a(h_K))/d h_K over two views of each image, delta_k = (dh_{k+1}/dh_k)ᵀ delta_{k+1}.

    Chen et al. 2020 (arXiv 2002.05709, eq. 1), with a projection head a; K is the last block before the network's output block.
    """

    summary = "two views of an image agree, end to end"
    other_names = ("contrastive", "contrastive learning")
    Options: ClassVar[type[BaseModel]] = SimCLROptions
    Pretext = TwoViews
    depends_on = frozenset({"input", "backward_message"})
    least_batch = 2


class SimCLRLocal(SelfSupervised):
    """delta_k = d NT-Xent(a_m(h))/d h_k inside each module m of blocks, which has its own projection head a_m.

    The loss is that of Chen et al. 2020 (arXiv 2002.05709, eq. 1), the gradient-isolated modules are those of Löwe, O'Connor & Veeling
    2019 (arXiv 1905.11786): a module sends no backward message.
    """

    summary = "simclr, a local loss per module"
    other_names = ("local simclr", "greedy simclr")
    Options: ClassVar[type[BaseModel]] = LocalSimCLROptions
    Pretext = TwoViews
    least_batch = 2
    local = True
