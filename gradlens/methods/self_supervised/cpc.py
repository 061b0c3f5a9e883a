"""Train by contrastive predictive coding of image patches, end to end and with gradient-isolated modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.data.patches import Grid, cropped, grey, grid_of, maps, patches
from gradlens.gradients.losses import info_nce, sampled_scores
from gradlens.gradients.method import Update
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.self_supervised.encoder import PretextTask, SelfSupervised
from gradlens.models.block_boundaries import output_shapes
from gradlens.models.masked_context import RowsAhead
from gradlens.runtime.batch_shard import draw_sharded, global_count
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

STEPS = 5  # rows ahead by default, where the grid has so many


class PatchOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the patches and of their prediction."""

    patch: int | None = Field(
        None, ge=1, description="side of a patch in pixels; default: a quarter of the image's smaller side, at least 4"
    )
    stride: int | None = Field(None, ge=1, description="pixels from one patch to the next; default: half a patch")
    crop: int | None = Field(
        None, ge=1, description="side of a random crop of each image, cut into patches (in evaluation the centre); default: the image"
    )
    flip: bool = Field(True, description="mirror images at random with probability 1/2 in training; never sequences")
    grey: bool = Field(True, description="convert images of 3 channels to grey, also for probes and features")
    negatives: int = Field(16, ge=1, description="negative targets per context, drawn in each step")
    steps: int | None = Field(None, ge=1, description=f"number of predicted rows ahead; default: {STEPS}, or as many as the grid has")
    skip: int = Field(1, ge=0, description="rows between context and first prediction, left out because they share pixels")


class CPCOptions(PatchOptions, frozen=True):
    """Options of cpc."""

    layers: int = Field(4, ge=0, le=12, description="masked convolutions that compute the context; 0: a row itself is its context")


class LocalCPCOptions(CPCOptions, frozen=True):
    """Options of cpc-local."""

    modules: int | list[int] | None = Field(None, description="parts of the encoder, or their sizes in blocks; default: each block")


QUANTITIES = {
    "information_bound": "log(negatives + 1) − InfoNCE, nats: lower bound on the information context and target share, mean over offsets",
}


class PatchPrediction(PretextTask):
    """Cut an image into a grid of patches, each a row of the batch; predict rows of the grid from the rows above them."""

    name = "InfoNCE"

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.window, self.grid = cut_up(net.image, options)
        self.steps = rows_ahead(self.grid, options)
        self.shapes = patch_shapes(net, self.grid)
        if (other := next((k for k, shape in enumerate(self.shapes) if len(shape) not in (1, 3)), None)) is not None:
            raise InputError(
                f"this rule needs one vector per patch, features [N, D] or the spatial mean of maps [N, C, H, W]; the output of"
                f" {net.name(other)} is [N, {', '.join(map(str, self.shapes[other]))}]"
            )

    @classmethod
    def input_shape(cls, image: tuple[int, ...], options: Any) -> tuple[int, ...]:
        """Return the shape of a patch."""
        return image[0], *cut_up(image, options)[1].patch

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build the context network and the bilinear maps; without an option ``layers`` a row's own features are its context."""
        layers = self.options.layers if isinstance(self.options, CPCOptions) else 0
        return RowsAhead(self.shapes[k][0], self.steps, self.options.skip, layers, wide=self.grid.columns > 1)

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return crops of the images [N, C, h, w], some mirrored; in evaluation the centre. Labels are not used."""
        rng = None if step < 0 else generator(self.seed, "windows", step)
        flip = self.options.flip and images.shape[2] > 1
        return to_input(cropped(images, self.window, flip, rng)), labels

    def prepare_input(self, x: Tensor) -> Tensor:
        """Cut [N, C, H, W] into grey patches [N · rows · columns, C, *patch]; of larger images the centre."""
        x = cropped(x, self.window, False, None)
        return patches(grey(x) if self.options.grey else x, self.grid)

    def probe_input(self, x: Tensor) -> Tensor:
        """Cut plain images into patches as in training."""
        return self.prepare_input(x)

    def features(self, h: Tensor) -> Tensor:
        """Average each patch's output over space: [N, C, rows, columns], patches at their place in the grid."""
        return maps(h, self.grid)

    def negatives(self, k: int, offset: int, targets: int, step: int) -> Tensor:
        """Draw the negatives' indices [targets, negatives] for each context, uniform over the whole batch, with replacement."""
        rng = generator(self.seed, "negatives", step, k, offset)
        everyone = global_count(targets)
        return draw_sharded(targets, lambda n: torch.randint(everyone, (n, self.options.negatives), generator=rng))

    def loss(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """Compute InfoNCE, the mean over offsets, with the negatives of the current step."""
        return self._info_nce(k, head, z, self.step)

    def _info_nce(self, k: int, head: nn.Module, z: Tensor, step: int) -> Tensor:
        losses = []
        for offset, (context, targets) in enumerate(head(maps(z, self.grid)), 1):
            wrong = self.negatives(k, offset, len(targets), step).to(targets.device, non_blocking=True)
            losses.append(info_nce(sampled_scores(context, targets, wrong)))
        return torch.stack(losses).mean()

    def evaluate(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """Compute InfoNCE with the same negatives in every evaluation: those of step -1."""
        return self._info_nce(k, head, z, -1)

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Return the bound on mutual information, at blocks with a head."""
        if update.signal.loss is None:
            return {}
        return {"information_bound": math.log(self.options.negatives + 1) - update.signal.loss}


class CPC(SelfSupervised):
    """delta_K = d mean_r InfoNCE(c_iᵀ W_r z_{i+r+1})/d h_K with z the map of patches' features, delta_k = (dh_{k+1}/dh_k)ᵀ delta_{k+1}.

    Van den Oord et al. 2018 (arXiv 1807.03748, eq. 4), in the form that Löwe, O'Connor & Veeling 2019 (arXiv 1905.11786) compare with:
    patches overlap by half, z is their spatial mean, c a masked context of the rows up to i, negatives are targets of the same offset
    anywhere in the batch, drawn with replacement (the positive can be among them).
    """

    summary = "patches predict the rows below, end to end"
    other_names = ("contrastive predictive coding",)
    Options: ClassVar[type[BaseModel]] = CPCOptions
    Pretext = PatchPrediction
    depends_on = frozenset({"input", "backward_message"})
    method_quantities: ClassVar[Mapping[str, str]] = QUANTITIES
    least_batch = 2


class CPCLocal(SelfSupervised):
    """delta_k = d mean_r InfoNCE/d h_k inside each module of blocks, which has its own context network.

    The loss is that of van den Oord et al. 2018 (arXiv 1807.03748, eq. 4), the gradient-isolated modules are those of Löwe, O'Connor &
    Veeling 2019 (arXiv 1905.11786): a module sends no backward message.
    """

    summary = "cpc, a local loss per module"
    other_names = ("local cpc", "greedy cpc")
    Options: ClassVar[type[BaseModel]] = LocalCPCOptions
    Pretext = PatchPrediction
    method_quantities: ClassVar[Mapping[str, str]] = QUANTITIES
    least_batch = 2
    local = True


def cut_up(image: Sequence[int], options: PatchOptions) -> tuple[tuple[int, int], Grid]:
    """Choose the crop of an image [C, H, W], height and width, and the grid of patches on it.

    Raises:
        InputError: a crop or patches larger than the image.

    """
    _, height, width = image
    crop = options.crop
    if crop is not None and crop > (width if height == 1 else min(height, width)):
        raise InputError(f"crop={crop} is larger than the images, which are {height}x{width} (HxW)")
    window = (height, width) if crop is None else (min(crop, height), crop)
    return window, grid_of(*window, options.patch, options.stride)


def rows_ahead(grid: Grid, options: PatchOptions) -> int:
    """Choose the number of predicted offsets: ``options.steps``, or ``STEPS``, or as many as the grid has pairs of rows for.

    Raises:
        InputError: too few rows.

    """
    high, wide = grid.patch
    rows = f"patches of {high}x{wide} pixels, {grid.stride} apart, make {grid.rows} row{'s' * (grid.rows != 1)} of patches"
    possible = grid.rows - 1 - options.skip
    if possible < 1:
        raise InputError(f"{rows}, and skip={options.skip} needs {options.skip + 2}: set a smaller patch or stride, or take larger images")
    if options.steps is not None and options.steps > possible:
        raise InputError(f"steps={options.steps} with skip={options.skip} needs {options.steps + options.skip + 1} rows, but {rows}")
    return options.steps or min(STEPS, possible)


def patch_shapes(net: NetworkInfo, grid: Grid) -> list[torch.Size]:
    """Compute the output shape of each block but the last for one patch, without the batch dimension.

    Raises:
        InputError: blocks that cannot run on a patch.

    """
    encoder = nn.Sequential()
    for k, block in enumerate(net.blocks[:-1]):
        encoder.add_module(net.name(k), block)
    high, wide = grid.patch
    try:
        return output_shapes(encoder, (net.image[0], high, wide)) if len(encoder) else []
    except RuntimeError as error:
        raise InputError(f"patches of {high}x{wide} pixels do not fit the blocks of this network: {str(error).splitlines()[0]}") from error
