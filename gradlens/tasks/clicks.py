"""The click-through task: an example is a row of a log, an item too, the target whether it was clicked; the score is the AUC."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, Field, field_validator
from torch import Tensor

from gradlens.data.click_log import FIELDS, GENERATED, IDS, LOGS, generated, shared_out
from gradlens.data.click_table import columns_of, read_click_table
from gradlens.data.datasets import DEFAULT
from gradlens.data.split import Data, Split
from gradlens.data.subsets import choose
from gradlens.gradients.losses import LOSSES
from gradlens.runtime.errors import unknown
from gradlens.runtime.paths import is_there
from gradlens.tasks.task import Batch, Task, TaskOptions

if TYPE_CHECKING:
    from gradlens.data.files import DataFiles
    from gradlens.training.config import Config

USUAL: Mapping[str, Any] = {
    "model": "deep-cross", "data": GENERATED, "loss": "bce", "batch_size": 512, "lr": 1e-3, "epochs": 5,
}  # fmt: skip
OF_NETWORK: Mapping[str, Mapping[str, Any]] = {"deep-cross": {"clip": 100.0}, "deepfm": {"dropout": 0.5}}


class ClickOptions(TaskOptions, frozen=True):
    """Options of the click-through task; the columns are those of a csv file."""

    label: str = Field("", description="name of the column that holds the label")
    positive: str = Field("", description="the label that stands for 1 (default: labels are 0 and 1)")
    numeric: list[str] = Field([], description="columns of numbers, as age,hours")
    categorical: list[str] = Field([], description="columns of categories")
    rare: int = Field(10, ge=1, description="values that occur fewer times share an id")
    rows: int | None = Field(None, ge=1, description="read only the first N rows of a file")

    @field_validator("numeric", "categorical", mode="before")
    @classmethod
    def _by_commas(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("label", "positive", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class Clicks(Task):
    """Click-through: x [N, F] ids, y [N] 0 or 1; the network's output [N, 1] is the log odds, the loss the mean log loss."""

    summary = "predict whether a row of a log is clicked, or a row of a table has a label"
    item = example = "row"
    reads = "ids"
    losses = {"bce": LOSSES["bce"]}  # noqa: RUF012
    score_name = "auc"
    defaults = USUAL
    settings = frozenset({"limit", "limit_test"})
    least_classes = 1
    Options: ClassVar[type[BaseModel]] = ClickOptions

    def defaults_for(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings of the network's paper beside the task's own."""
        return {**USUAL, **OF_NETWORK.get(str(given.get("model", USUAL["model"])), {})}

    def data_sets(self) -> Mapping[str, str]:
        """Return the generated log."""
        return LOGS

    def shape_and_classes(self, config: Config) -> tuple[tuple[int, ...], int] | None:
        """Return the numbers of ids of the generated log's fields, and one class."""
        return ((IDS,) * FIELDS, 1) if config.data.name in LOGS else None

    def load(self, config: Config, files: DataFiles) -> Data:
        """Generate a log or read a file, number its values and divide its rows; the last ones loaded are kept."""
        c, options = config.data, config.task_options
        if c.name not in LOGS and (c.name == DEFAULT or not (is_there(c.name) or "/" in c.name or Path(c.name).suffix)):
            raise unknown("log", c.name, LOGS, "gradlens list data")
        columns = options["label"], tuple(options["numeric"]), tuple(options["categorical"]), options["positive"]
        name = c.name if c.name in LOGS else str(Path(c.name).absolute())
        data = _data(name, _stamp(name), columns, options["rare"], options["rows"])
        if c.limit is None and c.limit_test is None:
            return data
        chosen = choose((data.train, data.test, data.classes), c.limit, limit_test=c.limit_test, seed=config.seed)
        return replace(chosen, selection=data.selection, inputs=data.inputs)

    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Return ids of 64 bits, and labels."""
        return Batch(examples.x.long(), examples.y)

    def blank(self, shape: Sequence[int]) -> Batch:
        """Return one row of each field's first id."""
        return Batch(torch.zeros(1, len(shape), dtype=torch.long), torch.zeros(1, dtype=torch.long))

    def hits(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Count rows whose log odds have the sign of the label."""
        return ((logits[..., 0] > 0) == (y > 0)).sum(), torch.tensor(y.numel(), device=y.device)

    def collect(self, z: Tensor, y: Tensor) -> Tensor:
        """Return log odds and label, a row each."""
        return torch.stack([z[:, 0].double(), y.double()], 1)

    def score(self, collected: Tensor) -> float:
        """Return the area under the ROC curve: how often a clicked row is above one that is not, ties counted half."""
        from sklearn.metrics import roc_auc_score

        log_odds, labels = collected.unbind(1)
        if len(set(labels.tolist())) != 2 or not log_odds.isfinite().all():
            return float("nan")
        return float(roc_auc_score(labels.numpy(), log_odds.numpy()))

    def running_score(self, loss: float, accuracy: float) -> float:
        """Return NaN: ranks are not summed up on the way."""
        return float("nan")


def _stamp(name: str) -> Any:
    """Return what changes if a file of this name does; of a named log nothing."""
    if name in LOGS or not is_there(name):
        return None
    state = os.stat(name)
    return state.st_size, state.st_mtime_ns, state.st_ino


@lru_cache(maxsize=2)
def _data(name: str, stamp: Any, columns: tuple[str, tuple[str, ...], tuple[str, ...], str], rare: int, rows: int | None) -> Data:
    if name in LOGS:
        return shared_out(generated(), name)
    path = Path(name)
    return shared_out(read_click_table(path, columns_of(path, *columns), rare, rows), name)


def clear_log_cache() -> None:
    """Drop the loaded logs."""
    _data.cache_clear()
