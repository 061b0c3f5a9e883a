"""The image task, the default: an example is an image, an item too, its target a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradlens.data.datasets import DATASETS, files_state, source_of
from gradlens.data.files import DataFiles
from gradlens.data.folder_listing import FilesState
from gradlens.data.image_folder import ImageFolder
from gradlens.data.split import Data, Source, Split
from gradlens.data.subsets import choose
from gradlens.data.transforms import crop_and_flip, input_of
from gradlens.gradients.losses import LOSSES
from gradlens.runtime.paths import is_there
from gradlens.tasks.task import Batch, Task

if TYPE_CHECKING:
    from gradlens.training.config import Config


class Images(Task):
    """Images uint8 [N, C, H, W] and labels [N]; x is what the rule makes of the images: pixels, views, patches."""

    summary = "classify images"
    item = example = "image"
    reads = "images"
    all_are_items = True
    losses = LOSSES
    settings = frozenset({"limit", "limit_test", "labels", "label_noise", "validation", "augment", "normalize"})

    def load(self, config: Config, files: DataFiles) -> Data:
        """Load a data set by name, an image folder, an array file or a user's function; the last ones loaded are kept."""
        c = config.data
        name = c.name if c.name in DATASETS else str(Path(c.name).absolute()) if is_there(c.name) else c.name
        drawn = c.limit is not None or c.limit_test is not None or c.label_noise or c.validation or c.labels is not None
        seed = config.seed if drawn else 0  # one entry for all seeds where nothing is drawn
        choice = c.limit, c.label_noise, c.validation, seed, c.limit_test, c.labels
        return _data(name, _state(name, files), files.data_dir, files.download, files.cache, *choice)

    def data_sets(self) -> Mapping[str, str]:
        """Return the registered data sets."""
        return {name: entry.sentence for name, entry in DATASETS.items()}

    def shape_and_classes(self, config: Config) -> tuple[tuple[int, ...], int] | None:
        """Return (C, H, W) and the number of classes of a named data set."""
        known = DATASETS.get(config.data.name)
        return None if known is None else (known.shape, known.classes)

    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Return images, with ``--augment`` cropped and flipped in training, and labels."""
        augmented = config.data.augment and step >= 0
        return Batch(crop_and_flip(examples.x, config.seed, step) if augmented else examples.x, examples.y)

    def blank(self, shape: Sequence[int]) -> Batch:
        """Return one black image."""
        return Batch(torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long))

    def to_input(self, config: Config, data: Data, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the normalisation that ``--normalize`` sets."""
        return input_of(config.data.normalize, data, device)


@lru_cache(maxsize=2)
def _data(name: str, state: FilesState, data_dir: Path | None, download: bool, cache: bool, *choice: Any) -> Data:
    return choose(_source(name, state, data_dir, download, cache), *choice)


@lru_cache(maxsize=1)
def _source(name: str, state: FilesState, data_dir: Path | None, download: bool, cache: bool) -> Source | ImageFolder:
    """Return the whole data set that was read last, while its files stay as they are: seeds choose other images of the same set."""
    return source_of(name, data_dir, download, cache, state.listing)


def _state(name: str, files: DataFiles) -> FilesState:
    """Return the state of a data set's files: listing a large folder takes a second."""
    if files.states is None:
        return files_state(name)
    if name not in files.states:
        files.states[name] = files_state(name)
    return files.states[name]


def clear_data_cache() -> None:
    """Drop the loaded data."""
    _data.cache_clear()
    _source.cache_clear()
