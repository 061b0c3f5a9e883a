"""The picture task: an example and an item is a pixel of one picture, its input the place, its target the colour; the score is the PSNR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from gradlens.data.image_file import decode
from gradlens.data.scene import box_average
from gradlens.data.split import Data, Split
from gradlens.data.subsets import choose
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.paths import is_file, is_there
from gradlens.tasks.psnr import decibels, no_hits, settings_of_network
from gradlens.tasks.task import Batch, Picture, Task, TaskOptions

if TYPE_CHECKING:
    from gradlens.data.files import DataFiles
    from gradlens.training.config import Config

SAMPLES = {"china": "a temple, 427x640 pixels (scikit-learn)", "flower": "a flower, 427x640 pixels (scikit-learn)"}
CHANNELS = ("red", "green", "blue")


class PictureOptions(TaskOptions, frozen=True):
    """Options of the picture task."""

    shrink: int = Field(1, ge=1, description="average boxes of so many pixels a side")


def squared_error(z: Tensor, y: Tensor) -> Tensor:
    """Compute the mean over pixels and channels of (sigmoid(z) − y)²; z and y [N, 3]."""
    return (z.to(y.dtype).sigmoid() - y).square().sum() / (len(CHANNELS) * global_items(y))


class Pictures(Task):
    """Regression of one picture: x [N, 2] places between −1 and 1 (down, across), y [N, 3] colours between 0 and 1, z before a sigmoid.

    Every second pixel of every second row is for training, the others for testing, as in Tancik et al. 2020 (arXiv 2006.10739, §6.1).
    """

    summary = "learn the colours of a picture's pixels from their places"
    item = example = "pixel"
    reads = "coordinates"
    classes_of_items = False
    losses: ClassVar = {"mse": squared_error}
    score_name = "psnr"
    defaults: ClassVar[Mapping[str, Any]] = {"model": "coordinate-mlp", "data": "china", "batch_size": 4096, "epochs": 10, "loss": "mse"}
    settings = frozenset({"validation"})
    rule_options: ClassVar[Mapping[str, Any]] = {"head": "linear"}
    Options: ClassVar[type[BaseModel]] = PictureOptions

    def defaults_for(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the learning rate of the network; another optimiser takes none."""
        return settings_of_network(given, self.defaults)

    def data_sets(self) -> Mapping[str, str]:
        """Return scikit-learn's two photographs."""
        return SAMPLES

    def shape_and_classes(self, config: Config) -> tuple[tuple[int, ...], int] | None:
        """Return two coordinates and three channels."""
        return (2,), len(CHANNELS)

    def load(self, config: Config, files: DataFiles) -> Data:
        """Load a picture by name, or an image file; the last ones loaded are kept."""
        name = config.data.name
        place = name if name in SAMPLES else str(Path(name).absolute())
        stamp = Path(place).stat().st_mtime_ns if is_there(place) else 0
        return _data(place, stamp, config.task_options["shrink"], config.data.validation, config.seed if config.data.validation else 0)

    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Return the places and colours of the pixels."""
        return Batch(examples.x, examples.y.float() / 255)

    def blank(self, shape: Sequence[int]) -> Batch:
        """Return the pixel in the middle."""
        return Batch(torch.zeros(1, *shape), torch.zeros(1, len(CHANNELS)))

    def hits(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Count nothing: a colour is no class."""
        return no_hits(y)

    def collect(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the sum of squared errors and the number of channels, as one row."""
        error = (z.to(y.dtype).sigmoid() - y).double().square()
        return torch.stack([error.sum(), torch.full_like(error, 1).sum()])[None]

    def score(self, collected: Tensor) -> float:
        """Return the PSNR in dB."""
        error, channels = collected.sum(0)
        return float(decibels(error / channels))

    def pictures(self, data: Data) -> Sequence[Picture]:
        """Return the whole picture, pixels of the training among the held-out ones."""
        both = Split(torch.cat([data.train.x, data.test.x]), torch.cat([data.train.y, data.test.y]))
        down, across = (both.x[:, i].unique(return_inverse=True) for i in range(2))  # type: ignore[no-untyped-call]
        order = (down[1] * len(across[0]) + across[1]).argsort()
        return [Picture("picture", both.take(order), (len(down[0]), len(across[0])))]

    def colours(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels' colours, the network's and the true ones."""
        return z.to(y.dtype).sigmoid(), y

    def running_score(self, loss: float, accuracy: float) -> float:
        """Return the PSNR of the mean loss."""
        return float(decibels(torch.tensor(loss, dtype=torch.float64)))


def picture(name: str, shrink: int = 1) -> Tensor:
    """Read a picture: a name in ``SAMPLES``, or an image file; [H, W, 3] uint8.

    Raises:
        InputError: nothing that can be read, or that has fewer than 4 pixels a side.

    """
    if name in SAMPLES:
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    elif is_there(name) and not is_file(name):
        raise InputError(f"{name} is a folder: --task pictures reads one image file")
    elif is_there(name):
        pixels = decode(name).pixels
    else:
        raise unknown("picture", name, SAMPLES, "gradlens list data")
    shown = torch.from_numpy(np.array(pixels))
    shown = shown[..., None].expand(*shown.shape, 3) if shown.ndim == 2 else shown
    height, width = (side // shrink * shrink for side in shown.shape[:2])
    if min(height, width) < 4 * shrink:
        raise InputError(f"{name} has {shown.shape[0]}x{shown.shape[1]} pixels: a picture needs 4 a side, after pictures.shrink={shrink}")
    return box_average(shown[None, :height, :width], shrink, name, "pictures.shrink")[0]


@lru_cache(maxsize=2)
def _data(place: str, stamp: int, shrink: int, share: float, seed: int) -> Data:
    pixels = picture(place, shrink)
    height, width = pixels.shape[:2]
    down, across = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in (height, width))
    everything = Split(torch.cartesian_prod(down, across), pixels.flatten(0, 1))
    known = torch.zeros(height, width, dtype=torch.bool)
    known[::2, ::2] = True
    halves = everything.take(known.flatten()), everything.take(~known.flatten()), CHANNELS
    return choose(halves, validation=share, seed=seed)


def clear_picture_cache() -> None:
    """Drop the loaded pictures."""
    _data.cache_clear()
