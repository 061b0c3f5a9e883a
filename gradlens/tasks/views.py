"""The view task: an example and an item is a ray through a pixel of a photograph, the target the pixel's colour; the score is the PSNR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.data.scene import FOCAL, POSES, Scene, cast_rays
from gradlens.data.scenes import SCENES, load_scene
from gradlens.data.split import Data, Split
from gradlens.gradients.block_pass import ends_of_parts
from gradlens.gradients.items import Half, Items
from gradlens.gradients.losses import Loss
from gradlens.models.radiance_fields import DEPTHS, DIRECTIONS, DRAWS, PAIRS, POINTS, RAYS
from gradlens.models.volume_rendering import intervals, render, stratified
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.batch_shard import draw_sharded
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator
from gradlens.runtime.step_context import Context, current_context
from gradlens.tasks.psnr import decibels, no_hits, settings_of_network
from gradlens.tasks.task import Batch, Picture, Task, TaskOptions

if TYPE_CHECKING:
    from gradlens.data.files import DataFiles
    from gradlens.training.config import Config

OUTPUTS = ("red", "green", "blue", "density")
VIEW, BOUNDS = "view", "bounds"  # in the context: the view of each ray [N]; near, far, height and width of the scene [4]
FINE = 128  # points that a fine network samples beside those of the coarse one
COLOUR, BACKGROUND = 3, 4  # numbers of a target that are its colour; with the background's brightness, before the intervals


class ViewOptions(TaskOptions, frozen=True):
    """Options of the view task."""

    samples: int = Field(32, ge=2, description="points of a ray, one drawn in each of as many intervals from near to far")
    fine: int | None = Field(
        None, ge=1, description="more points of a ray, which the fine network of a pair samples where the coarse one is dense; default: 128"
    )
    near: float | None = Field(None, ge=0, description="depth at which rays begin; default: that of the scene, of Blender's 2")
    far: float | None = Field(None, gt=0, description="depth at which rays end; default: that of the scene, of Blender's 6")
    background: Literal["white", "black"] = Field("white", description="what is behind the scene")
    shrink: int = Field(1, ge=1, description="average boxes of so many pixels a side")
    premultiplied: bool = Field(False, description="colours of transparent pixels are multiplied by their opacity already")
    held_out: int = Field(10, ge=2, description="test on every n-th view, where the data have no views for testing")


def squared_colour_error(z: Tensor, y: Tensor) -> Tensor:
    """Compute the mean squared error of rendered colours over rays and channels.

    Args:
        z: [N, S, 4] colours and densities of the points of N rays; or [N, P, 5] of other points, with the lengths of their intervals.
        y: [N, 4 + S] colour, brightness of the background, lengths of the intervals.

    """
    made, true = _rendered(z, y)
    return (made - true).square().sum() / (COLOUR * global_items(y))


def _rendered(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colours of rays as rendered and as photographed, each [N, 3]."""
    lengths = y[:, BACKGROUND:] if z.shape[-1] == len(OUTPUTS) else z[..., len(OUTPUTS)].detach().to(y.dtype)
    return render(z[..., : len(OUTPUTS)].to(y.dtype), lengths, y[:, COLOUR]), y[:, :COLOUR]


class Views(Task):
    """View synthesis: x [N, S, 3] points of N rays, y [N, 4 + S] their colours, backgrounds and intervals; z [N, S, 4] colour and density.

    The loss is the mean squared error of the rendered colours, of a pair of networks the sum of both; the score the mean over
    held-out views of −10 log10 of it (of the fine network's), in dB.
    """

    summary = "learn a scene from photographs and render other views of it (NeRF)"
    item = example = "ray"
    reads = "rays"
    per_item = True
    classes_of_items = False
    losses: ClassVar = {"mse": squared_colour_error}
    score_name = "psnr"
    defaults: ClassVar[Mapping[str, Any]] = {"model": "nerf-tiny", "data": "solids", "batch_size": 512, "epochs": 5, "loss": "mse"}
    rule_options: ClassVar[Mapping[str, Any]] = {"head": "linear"}
    settings = frozenset({"validation"})
    context_changes = "the points and directions of each batch of rays are its own"
    Options: ClassVar[type[BaseModel]] = ViewOptions

    def defaults_for(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the learning rate of the network's code; another optimiser takes none."""
        return settings_of_network(given, self.defaults)

    def data_sets(self) -> Mapping[str, str]:
        """Return the generated scene."""
        return {name: scene.sentence for name, scene in SCENES.items()}

    def shape_and_classes(self, config: Config) -> tuple[tuple[int, ...], int] | None:
        """Return the points of a ray and the numbers at each, which no data change."""
        return (config.task_options["samples"], 3), len(OUTPUTS)

    def terms(self, blocks: Sequence[nn.Module]) -> Mapping[int, Loss]:
        """Return the same error of the coarse network, where there is one before the output's."""
        return {end: squared_colour_error for end in ends_of_parts(blocks) if end != len(blocks) - 1}

    def load(self, config: Config, files: DataFiles) -> Data:
        """Load a scene by name, a folder in Blender's format, or an ``.npz`` file; the last ones loaded are kept."""
        name, options, share = config.data.name, config.task_options, config.data.validation
        if options["fine"] is not None and config.model.name not in PAIRS:
            raise InputError(f"views.fine is read by a pair of networks, and {config.model.name} is one: set --model {' or '.join(PAIRS)}")
        place = name if name in SCENES else str(Path(name).absolute())
        how = (options[key] for key in ("samples", "near", "far", "background", "shrink", "held_out", "premultiplied"))
        return _data(place, _stamp(place), share, *how)

    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Cast the rays of some pixels and choose points on them: drawn in training, evenly spaced in evaluation."""
        near, far, height, width = examples.context[BOUNDS].tolist()
        view, samples = examples.x[:, 0].long(), config.task_options["samples"]
        origins, directions = cast_rays(
            examples.x[:, 1:].float(), examples.context[POSES][view], examples.context[FOCAL], (int(height), int(width))
        )
        drawn = _draws(len(view), samples, step, config.seed, "samples") if step >= 0 else None
        depths = stratified(near, far, samples, drawn).to(view.device).expand(len(view), -1)
        points = origins[:, None] + depths[..., None] * directions[:, None]
        length = directions.norm(dim=1, keepdim=True)
        background = torch.full_like(length, float(config.task_options["background"] == "white"))
        y = torch.cat([examples.y.float() / 255, background, intervals(depths) * length], 1)
        context = {POINTS: points, DIRECTIONS: (directions / length)[:, None], VIEW: view}
        if config.model.name in PAIRS:
            fine = config.task_options["fine"] or FINE
            draws = _draws(len(view), fine, step, config.seed, "fine samples") if step >= 0 else torch.linspace(0, 1, fine)[None]
            context |= {RAYS: torch.cat([origins, directions], 1), DEPTHS: depths, DRAWS: draws.to(view.device).expand(len(view), -1)}
        return Batch(points, y, context)

    def blank(self, shape: Sequence[int]) -> Batch:
        """Return one ray at the origin."""
        points = torch.zeros(1, *shape)
        y = torch.cat([torch.zeros(1, BACKGROUND), intervals(torch.zeros(1, shape[0]))], 1)
        context = {POINTS: points, DIRECTIONS: torch.zeros(1, 1, 3), VIEW: torch.zeros(1, dtype=torch.long)}
        context |= {RAYS: torch.zeros(1, 6), DEPTHS: torch.arange(shape[0])[None].float(), DRAWS: torch.full((1, FINE), 0.5)}
        return Batch(points, y, context)

    def halves(self, x: Tensor, y: Tensor, context: Context, rng: torch.Generator) -> Iterator[Half] | None:
        """Divide the rays into two halves, each with its part of the context."""
        rows = torch.arange(len(y), device=y.device)
        found = Items.halves(self, x, rows, context, rng)
        return None if found is None else (self._only(half, y, context) for half in found)

    @staticmethod
    def _only(half: Half, y: Tensor, context: Context) -> Half:
        return Half(half.x, y[half.y], {name: t[half.y] for name, t in context.items()}, half.shard)

    def hits(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Count nothing: a colour is no class."""
        return no_hits(y)

    def collect(self, z: Tensor, y: Tensor) -> Tensor:
        """Return view, sum of squared errors and number of channels of each view in the batch, a row each."""
        made, true = _rendered(z, y)
        error = (made - true).double().square().sum(1)
        views, which = current_context()[VIEW].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        sums = torch.zeros(len(views), 2, dtype=torch.float64, device=y.device)
        sums.index_add_(0, which, torch.stack([error, torch.full_like(error, COLOUR)], 1))
        return torch.cat([views.double()[:, None], sums], 1)

    def score(self, collected: Tensor) -> float:
        """Return the PSNR in dB, the mean over views."""
        views, which = collected[:, 0].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        sums = torch.zeros(len(views), 2, dtype=torch.float64).index_add_(0, which, collected[:, 1:])
        return float(decibels(sums[:, 0] / sums[:, 1]).mean())

    def pictures(self, data: Data) -> Sequence[Picture]:
        """Return the held-out views."""
        height, width = (int(n) for n in data.test.context[BOUNDS][2:])
        each = torch.arange(len(data.test)).split(height * width)  # type: ignore[no-untyped-call]
        return [Picture(f"view {int(data.test.x[rows[0], 0])}", data.test.take(rows), (height, width)) for rows in each]

    def colours(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rays' colours, rendered and true."""
        return _rendered(z, y)

    def running_score(self, loss: float, accuracy: float) -> float:
        """Return the PSNR of the mean squared error over all rays."""
        return float(decibels(torch.tensor(loss, dtype=torch.float64)))


def _draws(n: int, samples: int, step: int, seed: int, purpose: str) -> Tensor:
    """Draw numbers for this rank's rays, [n, samples] on [0, 1)."""
    return draw_sharded(n, lambda rows: torch.rand(rows, samples, generator=generator(seed, purpose, step)))


def _stamp(place: str) -> Any:
    """Return what changes if the files of a scene do; of a named scene nothing."""
    path = Path(place)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=2)
def _data(
    place: str, stamp: Any, share: float, samples: int, near: float | None, far: float | None, background: str, shrink: int, *how: Any
) -> Data:
    scene = bounded(load_scene(place, background == "white", *how), near, far).shrunk(shrink)
    height, width = scene.size
    bounds = torch.tensor([scene.near, scene.far, height, width], dtype=torch.float64)
    context = {POSES: scene.poses, FOCAL: torch.tensor(scene.focal), BOUNDS: bounds}
    flat = scene.images.flatten(1, 2)
    parts = held_out_views(scene, share) if share else scene.parts
    train, validation, test = (Split(scene.pixels(views), flat[views].flatten(0, 1), context) for views in parts.values())
    selection, name = (validation if len(validation) else None), "validation" if share else "test"
    return Data(train, test, OUTPUTS, test_name=name, selection=selection, inputs=(samples, 3))


def held_out_views(scene: Scene, share: float) -> dict[str, Tensor]:
    """Hold out a share of the training views, evenly spaced, in place of the test views; the scene's own validation views are left out.

    Raises:
        InputError: a share that leaves no view on one side.

    """
    views = scene.parts["train"]
    count = round(share * len(views))
    if not 0 < count < len(views):
        raise InputError(f"--validation {share:g} holds out {count} of {len(views)} training views: set a share that leaves some of both")
    held = ((torch.arange(count) + 0.5) * len(views) / count).long()
    kept = torch.ones(len(views), dtype=torch.bool).index_fill(0, held, False)
    return {"train": views[kept], "val": views[:0], "test": views[held]}


def bounded(scene: Scene, near: float | None, far: float | None) -> Scene:
    """Return the scene with other bounds where some are given."""
    return replace(scene, near=scene.near if near is None else near, far=scene.far if far is None else far)


def clear_scene_cache() -> None:
    """Drop the loaded scenes."""
    _data.cache_clear()
