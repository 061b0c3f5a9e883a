"""Contents of a run directory: its tables' rows, reading all of it, and the results of analyses stored in it."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradlens.data.split import Data
from gradlens.gradients.measurements import Measurements
from gradlens.gradients.rows import Measurement
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.frames import frame_of
from gradlens.runtime.paths import is_there
from gradlens.runtime.tables import Table
from gradlens.runtime.terminal import notice, shell_word
from gradlens.runtime.text_files import encode, read_json
from gradlens.tasks.registry import TASKS
from gradlens.training.checkpoint import load_checkpoint, weights_digest
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.metrics import ACCURACY, held_out, score_of, score_text
from gradlens.training.run_data import data_info, is_place, others, place_now
from gradlens.training.run_files import must_be_run, write

if TYPE_CHECKING:
    import pandas


class Metric(NamedTuple):
    """One row of ``metrics.csv``: no smoothing, so that spikes stay visible."""

    split: str  # train (running, in train mode, over the epoch); after it, in eval mode: test or validation, train-eval
    epoch: int  # 0: the untrained network
    step: int  # updates made
    loss: float
    accuracy: float  # share; NaN for rules without labels
    best: float  # best score of this split so far: of images the highest accuracy
    score: float = math.nan  # the task's: of images the accuracy
    score_name: str = ""  # empty: there is none, or a version before 0.2.0 wrote the row and the score is the accuracy


class Timing(NamedTuple):
    """One row of ``timing.csv``: the part of a run that differs from machine to machine."""

    epoch: int
    seconds: float  # wall clock spent in training steps, evaluation excluded
    images_per_s: float
    memory_mb: float  # peak resident memory of the process so far (CUDA: peak allocated)


class OnlineRow(NamedTuple):
    """One row of ``online.csv``: a round of one learner of the online probe (see ``training/online_probe/``)."""

    step: int  # the update it was read from
    block: str
    learner: str
    loss: float  # of this round, in nats
    cumulative: float  # of all rounds so far
    bound: float  # the theorem's upper bound on the regret so far


TABLES: dict[str, type[Any]] = {"metrics": Metric, "timing": Timing, "gradients": Measurement, "online": OnlineRow}

SOURCES = ("init_from", "teacher")  # settings that name a run whose weights this one uses

STREAMS = "online/*.bin"  # raw rounds of the online probe, a file a block; like tables, they grow and are rewound


def commit_of(folder: Path) -> str | None:
    """Return the commit of a package's folder, with ``-dirty`` if files have changed since; None where git does not track the folder.

    git looks for a repository in all folders above: one that merely contains an installed package is not its code's.
    """
    try:
        for command in (["ls-files", "--error-unmatch", "__init__.py"], ["describe", "--always", "--dirty"]):
            done = subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, encoding="utf-8", errors="replace", timeout=5, check=False
            )
            if done.returncode:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def environment() -> dict[str, Any]:
    """Return versions and command line of this process, for the record."""
    import numpy
    import torchvision

    from gradlens._version import PACKAGE, __version__

    versions = {
        "gradlens": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
    }
    command = " ".join(map(shell_word, [Path(sys.argv[0]).name, *sys.argv[1:]]))
    return {"versions": versions, "git": commit_of(PACKAGE), "threads": torch.get_num_threads(), "command": command}


def columns_of(table: str) -> tuple[str, ...]:
    """Return the columns of one of a run's tables.

    Raises:
        InputError: another name.

    """
    kinds: dict[str, Any] = {**TABLES, "measured": Measurement}
    if table not in kinds:
        raise unknown("table", table, kinds)
    columns: tuple[str, ...] = kinds[table]._fields
    return columns


@dataclass(repr=False)
class Run:
    """A run read from its directory, for notebooks: ``run.frame()`` is the long table of its gradients."""

    path: Path
    config: Config
    info: dict[str, Any]  # versions, git commit, device, command line, hashes of data, labels and the weights it was given
    metrics: list[Metric]
    timing: list[Timing]
    gradients: list[Measurement]  # recorded while training
    measured: list[Measurement]  # added later by `gradlens measure`
    summary: dict[str, Any]  # best and final accuracy; empty while unfinished
    online: list[OnlineRow] = field(default_factory=list)  # the online probe's rounds, with --online-probe
    data_at: str | None = None  # where its data lie now, if not where they were: a folder, an .npz file, FILE.py:build

    @property
    def finished(self) -> bool:
        """Return whether the run reached its last update."""
        return bool(self.summary)

    def __repr__(self) -> str:
        facts = self.facts()
        words = [facts.pop("state"), f"{self.config.method} of {facts.pop('data')}", *(f"{value} {name}" for name, value in facts.items())]
        return f"<Run {self.path}: {', '.join(words)}>"

    def facts(self) -> dict[str, str]:
        """Return how far the run came and how accurate it is: what, and how much."""
        last = self.metrics[-1] if self.metrics else None
        answered = [m for m in held_out(self.metrics) if math.isfinite(score_of(m))]
        found = {"state": "finished" if self.finished else "unfinished", "data": self.config.data.name}
        found |= {"epochs": str(last.epoch), "updates": f"{last.step:,}"} if last else {}
        if not answered:
            return found
        end = answered[-1]
        return found | {f"{end.split} {end.score_name or ACCURACY}": score_text(score_of(end), end.score_name)}

    def _repr_html_(self) -> str:
        table = Table(str(self.path))
        table.add_column("run")
        table.add_column(self.path.name)
        table.add_row("method", self.config.method)
        for name, value in self.facts().items():
            table.add_row(name, value)
        return table._repr_html_()

    def frame(self, table: str = "gradients") -> pandas.DataFrame:
        """Return one of the run's tables as a DataFrame of pandas: gradients, metrics, timing, measured or online.

        Raises:
            InputError: another name, or pandas is not installed.

        """
        columns = columns_of(table)
        return frame_of(getattr(self, table), columns)

    def checkpoint(self) -> dict[str, Any]:
        """Load the state saved last: model, method, optimizer, position; a config.json that was changed since is reported in a line."""
        saved = load_checkpoint(self.path / "checkpoint.pt")
        if text := edited(self.path, self.config, saved):
            notice(text)
        return saved

    def saved_state(self) -> dict[str, Any]:
        """Load :meth:`checkpoint` without a notice; empty where nothing is saved."""
        file = self.path / "checkpoint.pt"
        return load_checkpoint(file) if is_there(file) else {}

    def located(self) -> Config:
        """Return the config with its data under the name by which they are found now.

        Raises:
            InputError: they are not there, or ``data_at`` is given for a named set.

        """
        if self.data_at is None:
            return self.config.with_data(place_now(self.config, self.info, self.path))
        if not is_place(self.config.data.name):
            raise InputError(
                f"{self.path} was trained on {self.config.data.name}, which has no path: set --data-dir to the folder of its files"
            )
        return self.config.with_data(self.data_at)

    def data(self, path: str | Path | None = None, context: RunContext | None = None) -> Data:
        """Load the images and labels that the run was trained and tested on, checked to be the same.

        Args:
            path: where they lie now (a folder, an ``.npz`` file, ``FILE.py:build``); None: ``data_at``, or where they were.
            context: folder of the named sets, cache; None: the defaults.

        Raises:
            InputError: they are not there, or they are others.

        """
        run = self if path is None else replace(self, data_at=str(path))
        config = run.located()
        data = load_data(config, context or RunContext())
        self.require_data(data, place=run.data_at)
        return data

    def require_data(self, data: Data, advice: str = "", place: str | None = None) -> None:
        """Check that data are those the run was trained on.

        Args:
            data: as they were loaded.
            advice: ends the sentence.
            place: from where; None: as in the run's config.

        Raises:
            InputError: they are others.

        """
        if self.info.get("data_fingerprint") != data.fingerprint():
            place = place or self.config.data.name
            self.require_same_data(data_info(place, data), advice, place)

    def require_same_data(self, info: Mapping[str, Any], advice: str = "", place: str | None = None) -> None:
        """Check as :meth:`require_data`, by what :func:`gradlens.training.run_data.data_info` gives."""
        if self.info.get("data_fingerprint") != info["data_fingerprint"]:
            name, differ = place or self.config.data.name, others(self.info, info, TASKS[self.config.task])
            raise InputError(f"the data {name!r} are not the ones {self.path} was trained on ({differ}){advice}")

    def require_sources(self, advice: str = "") -> None:
        """Check that the runs whose weights this one used hold the same ones now; a run that is gone is no error.

        Raises:
            InputError: they hold others; ``advice`` ends the sentence.

        """
        stored, there = self.info.get("source_weights", {}), source_weights(self.config)
        for setting in stored.keys() & there.keys():
            if stored[setting] != there[setting]:
                flag, source = setting.replace("_", "-"), self.config.as_dict()[setting]
                raise InputError(f"--{flag} {source} holds other weights than {self.path} was given{advice}")

    @property
    def num_classes(self) -> int:
        """Return the number of classes of the run's data.

        Raises:
            InputError: a run of an older version, on data without a name, that has no checkpoint.

        """
        if "classes" in self.info:
            return int(self.info["classes"])
        known = TASKS[self.config.task].shape_and_classes(self.config)
        if known is not None:
            return known[1]
        return [len(w) for w in self.checkpoint()["model"].values() if w.ndim][-1]  # the output block's bias, or what normalises its output

    def snapshots(self) -> list[Path]:
        """Return saved weights along the way, in order of their step."""
        return sorted((self.path / "snapshots").glob("step-*.pt"))


def source_weights(config: Config) -> dict[str, str]:
    """Return the digests of the weights that a config takes from other runs, by setting (init_from, teacher); of those that are there."""
    files = {setting: Path(run) / "checkpoint.pt" for setting, run in config.as_dict(include=SOURCES).items() if run}
    return {setting: weights_digest(load_checkpoint(file)) for setting, file in files.items() if file.exists()}


def edited(path: Path, config: Config, saved: Mapping[str, Any]) -> str:
    """Describe how a run's config.json differs from its checkpoint's; empty where it does not, or that is unknown."""
    if saved.get("config_digest", config.digest()) == config.digest():
        return ""
    return f"{path / 'config.json'} was changed after the run began: its settings are not those that {path.name} was trained with"


def load_run(run_dir: str | Path, data: str | Path | None = None) -> Run:
    """Read everything that a run directory holds.

    Args:
        run_dir: the directory.
        data: where the run's data lie now, if not where they were; nothing is read there yet.

    Raises:
        InputError: not a run directory, or one whose files cannot be read.

    """
    path = Path(run_dir)
    must_be_run(path)
    done = path / "summary.json"
    info = read_json(path / "config.json")
    summary = read_json(done) if done.exists() else {}
    try:
        config, summary = make_config(**info.pop("config")), dict(summary)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{path}/config.json: {error}") from error
        raise InputError(f"{path}: config.json or summary.json is not that of a gradlens run: {error}") from error
    tables = {name: read_table(path / f"{name}.csv", kind) for name, kind in TABLES.items()}
    tables["gradients"] = Measurements(tables["gradients"])
    measured = Measurements(read_table(path / "measured.csv", Measurement))
    return Run(path, config, info, **tables, measured=measured, summary=summary, data_at=None if data is None else str(data))


def read_config(path: Path) -> dict[str, Any]:
    """Read the settings stored in a run's config.json.

    Raises:
        InputError: not a file that a run has written.

    """
    content = read_json(path, wanted="the config of a gradlens run")
    settings = content.get("config") if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise InputError(f"{path} is not the config of a gradlens run")
    return settings


def plain(value: Any) -> Any:
    """Convert results to strict JSON: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


MADE_WITH = ("versions", "git", "command")  # of a run's environment, what is stored with every result


def save_result(run_dir: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Store what a command found about a finished run as ``<name>.json`` in its directory, versions beside it.

    Raises:
        InputError: the folder cannot be written; what was there before stays.

    """
    path = run_dir / f"{name}.json"
    versions = {key: value for key, value in environment().items() if key in MADE_WITH}
    write(path, encode(json.dumps(plain({**content, **versions}), indent=1) + "\n"))
    return path


def load_result(run_dir: str | Path, name: str) -> dict[str, Any] | None:
    """Return what :func:`save_result` stored, or None.

    Raises:
        InputError: the file is not such a result.

    """
    path = Path(run_dir) / f"{name}.json"
    if not is_there(path):
        return None
    content = read_json(path, wanted="a result of gradlens")
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a result of gradlens: expected an object")
    return content


def results_in(path: Path) -> list[Path]:
    """Return the files of :func:`save_result` in a run directory."""
    return [file for file in path.glob("*.json") if file.name not in ("config.json", "summary.json")]
