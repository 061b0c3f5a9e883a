"""A study: methods × seeds × a grid of settings, read from a file, and what its runs say together.

methods = ["bp", "dgl"]
seeds = [0, 1, 2]
baseline = "bp"            # what the others are compared with; default: the first method
[settings]                 # any flag of `gradlens train`
data = "cifar10"
[grid]                     # flags with lists, crossed
lr = [1e-3, 3e-4]
"""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from gradlens.config import Config
from gradlens.errors import InputError, unknown
from gradlens.experiments import Place
from gradlens.flags import FLAGS, configs_of
from gradlens.methods import METHODS
from gradlens.run import Run
from gradlens.seeding import key
from gradlens.tables import final_values

KEYS = ("methods", "seeds", "baseline", "settings", "grid")
ELSEWHERE = {  # flags of train that a study says in another place, or the command line does
    "seed": "seeds = [...]", "seeds": "seeds = [...]", "out": "--out", "run-name": "each run's own name", "resume": "always",
    "overwrite": "a fresh --out", "quiet": "--quiet", "config": "[settings]", "parallel": "one process a run",
    "sync-batchnorm": "one process a run", "record-ranks": "one process a run", "split": "one process a run", "stale": "one process a run",
    "schedule": "one process a run", "microbatches": "one process a run", "tensorboard": "gradlens tensorboard afterwards",
}  # fmt: skip
HERE = ("device", "threads", "data-dir", "download")  # where a run is made, not what it is
RESAMPLES = 9999


class Study(NamedTuple):
    """What a study file asks for."""

    methods: list[str]
    seeds: list[int]
    baseline: str
    settings: dict[str, Any]  # flag with underscores -> value
    grid: dict[str, list[Any]]


class Point(NamedTuple):
    """One run of a study."""

    config: Config
    grid: dict[str, Any]  # its values of the grid's flags

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.config.run_name()


# ---------------------------------------------------------------------------------------------------------- the file


def read_study(path: Path) -> Study:
    """A study file.

    Raises:
        InputError: not readable, not TOML, unknown keys or flags, an empty list.

    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"cannot read the study {path}: {(error.strerror or str(error)).lower()}") from error
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    return _study(content, path)


def _study(content: Mapping[str, Any], path: Path) -> Study:
    for name in content:
        if name not in KEYS:
            raise unknown(f"key of the study {path}", name, KEYS)
    methods = _list(content, "methods", str, path)
    for name in methods:
        if name not in METHODS and ":" not in name:
            raise unknown("method", name, METHODS)
    seeds = _list({"seeds": [0], **content}, "seeds", int, path)
    baseline = content.get("baseline", methods[0])
    if baseline not in methods:
        raise InputError(f"{path}: baseline = {baseline!r} is none of its methods ({', '.join(methods)})")
    settings = {_flag(name, path): value for name, value in _table(content, "settings", path).items()}
    grid = {_flag(name, path): value for name, value in _table(content, "grid", path).items()}
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: [grid] {name} = {values!r}: wanted a list of values to try, with one at least")
        if name in settings:
            raise InputError(f"{path}: {name} stands in [settings] and in [grid]: one of them")
    return Study(methods, seeds, baseline, settings, grid)


def _list(content: Mapping[str, Any], name: str, kind: type, path: Path) -> list[Any]:
    values = content.get(name)
    if not isinstance(values, list) or not values or not all(type(v) is kind for v in values):
        wanted = "names of methods" if kind is str else "whole numbers"
        raise InputError(f"{path}: {name} = {values!r}: wanted a list of {wanted}, with one at least")
    return list(dict.fromkeys(values))


def _table(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name} is no table: write [{name}] and flags under it")
    return table


def _flag(name: str, path: Path) -> str:
    spelled = name.replace("_", "-")
    if spelled in ELSEWHERE:
        raise InputError(f"{path}: {name} is not said here but by: {ELSEWHERE[spelled]}")
    known = [flag.name for flag in FLAGS if flag.name not in ELSEWHERE]
    if spelled not in known:
        raise unknown(f"flag in {path}", spelled, known)
    return spelled.replace("-", "_")


def place_settings(study: Study) -> dict[str, Any]:
    """The settings that say where runs are made, by flag."""
    return {name: study.settings[name.replace("-", "_")] for name in HERE if name.replace("-", "_") in study.settings}


def points(study: Study, place: Place) -> list[Point]:
    """The runs of a study: grid points as they are written, then methods, then seeds; what comes to the same run is one.

    Raises:
        InputError: settings that a method does not take, values that cannot be.

    """
    found: dict[str, Point] = {}
    what = {name: value for name, value in study.settings.items() if name.replace("_", "-") not in HERE}
    for values in itertools.product(*study.grid.values()):
        chosen = dict(zip(study.grid, values, strict=True))
        given = {name: Path(value) if name == "config" else value for name, value in {**what, **chosen}.items()}
        for group in configs_of(study.methods, given, place):
            for seed in study.seeds:
                point = Point(group[0].model_copy(update={"seed": seed}), chosen)
                found.setdefault(point.name, point)
    return list(found.values())


# --------------------------------------------------------------------------------------------------------- statistics


class Mean(NamedTuple):
    """A mean over seeds."""

    mean: float
    low: float  # NaN with one seed
    high: float
    n: int


def bootstrap_mean(values: Sequence[float], name: str) -> Mean:
    """The mean of some seeds' values and its 95 % percentile bootstrap interval; values that are not finite are left out.

    With few seeds such an interval is too short; the t-intervals of the other tables are wider (docs/studies.md says by how much).

    Args:
        values: one a seed.
        name: names the draws, so that the interval is the same again.

    """
    x = np.array([v for v in values if math.isfinite(v)])
    if len(x) < 2:
        return Mean(float(x[0]) if len(x) else math.nan, math.nan, math.nan, len(x))
    rng = np.random.default_rng(key(0, name))
    drawn = stats.bootstrap((x,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return Mean(float(x.mean()), float(drawn.low), float(drawn.high), len(x))


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t-test that the mean difference is 0; NaN below two pairs, 1 where all are 0."""
    d = np.array([v for v in differences if math.isfinite(v)])
    if len(d) < 2:
        return math.nan
    if not d.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all differences the same: p is 0
        return float(stats.ttest_1samp(d, 0.0).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for so many comparisons (Holm 1979): the running maximum of (m − i) p_(i), i from 0; NaN stay and do not count."""
    order = sorted((i for i, p in enumerate(ps) if math.isfinite(p)), key=lambda i: ps[i])
    corrected, largest = [math.nan] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


# ------------------------------------------------------------------------------------------------------------- results


class Line(NamedTuple):
    """One row of ``summary.csv``: a quantity of a method at a grid point, and its difference from the baseline there."""

    method: str
    grid: str  # "lr=0.001 width=8", or empty
    quantity: str
    mean: float
    low: float
    high: float
    seeds: int
    difference: float  # mean of (this − baseline), seed by seed; NaN for the baseline
    difference_low: float
    difference_high: float
    pairs: int
    p: float  # paired t-test
    p_holm: float  # corrected for all comparisons of this quantity


def said(grid: Mapping[str, Any]) -> str:
    """A grid point in words."""
    return " ".join(f"{name}={value}" for name, value in grid.items())


def quantities(run: Run) -> dict[str, float]:
    """What is compared: best and final accuracy on held-out images, final losses, and each layer's final cosine with the true gradient."""
    found: dict[str, float] = {}
    for split, ends in run.summary.items():
        if not isinstance(ends, dict):
            continue
        names = ("final_loss",) if split == "train" else ("best_accuracy", "final_accuracy", "final_loss")
        found |= {f"{split} {name}": float(ends[name]) for name in names if ends.get(name) is not None}
    found |= {f"cosine {value.layer}": value.mean for value in final_values([run], "cosine")}
    return found


def summary(study: Study, runs: Sequence[tuple[Point, Run]]) -> list[Line]:
    """Means over seeds, and differences from the baseline method at the same grid point and seed, corrected for their number."""
    values: dict[tuple[str, str], dict[str, dict[int, float]]] = {}  # (method, grid) -> quantity -> seed -> value
    for point, run in runs:
        mine = values.setdefault((point.config.method, said(point.grid)), {})
        for quantity, value in quantities(run).items():
            mine.setdefault(quantity, {})[point.config.seed] = value
    lines: list[Line] = []
    for (method, grid), found in values.items():
        base = values.get((study.baseline, grid), {})
        for quantity, seeds in found.items():
            mean = bootstrap_mean(list(seeds.values()), f"{method} {grid} {quantity}")
            pairs = [] if method == study.baseline else [v - base[quantity][s] for s, v in seeds.items() if s in base.get(quantity, {})]
            d = bootstrap_mean(pairs, f"{method} {grid} {quantity} difference")
            lines.append(Line(method, grid, quantity, *mean, *d, paired_p(pairs), math.nan))
    for quantity in dict.fromkeys(line.quantity for line in lines):
        which = [i for i, line in enumerate(lines) if line.quantity == quantity]
        for i, p in zip(which, holm([lines[i].p for i in which]), strict=True):
            lines[i] = lines[i]._replace(p_holm=p)
    return lines


class Merged(NamedTuple):
    """One row of ``rows.csv``: what every run's ``metrics.csv`` holds, with the point it belongs to."""

    run: str
    method: str
    seed: int
    grid: str
    split: str
    epoch: int
    step: int
    loss: float
    accuracy: float
    best: float


def merged(runs: Sequence[tuple[Point, Run]]) -> list[Merged]:
    """All runs' metrics in one table, in the study's order."""
    return [
        Merged(point.name, point.config.method, point.config.seed, said(point.grid), *row) for point, run in runs for row in run.metrics
    ]
