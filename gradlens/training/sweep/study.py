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
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.text_files import read_text
from gradlens.training.config import Config
from gradlens.training.config_builder import configs_of
from gradlens.training.config_fields import EVERYTHING, settings_of
from gradlens.training.context import RunContext

KEYS = ("methods", "seeds", "baseline", "settings", "grid")
FLAGS = {name.replace("_", "-"): said for name, said in settings_of(Config).items() if said.text}
HERE = ("device", "threads", "data-dir", "download", "no-cache")  # where a run is made, not what it is
SETTINGS = (*FLAGS, "set", *HERE)
ELSEWHERE = {  # flags of train that a study says in another place, or the command line does
    "seed": "seeds = [...]", "seeds": "seeds = [...]", "out": "--out", "run-name": "each run's own name", "resume": "always",
    "overwrite": "a fresh --out", "quiet": "--quiet", "config": "[settings]", "tensorboard": "gradlens tensorboard afterwards",
    **{name: "one process a run" for name, said in FLAGS.items() if said.path[0] == "parallel"},
}  # fmt: skip


class Study(NamedTuple):
    """What a study file asks for."""

    methods: list[str]
    seeds: list[int]
    baseline: str
    settings: dict[str, Any]  # flag with underscores -> value
    grid: dict[str, list[Any]]


class StudyPoint(NamedTuple):
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
    text = read_text(path, "the study")
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path} is not TOML: it is nested too deeply") from error
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
    known = [flag for flag in SETTINGS if flag not in ELSEWHERE]
    if spelled not in known:
        raise unknown(f"flag in {path}", spelled, known, EVERYTHING)
    return spelled.replace("-", "_")


def place_settings(study: Study) -> dict[str, Any]:
    """The settings that say where runs are made, by flag."""
    return {name: study.settings[name.replace("-", "_")] for name in HERE if name.replace("-", "_") in study.settings}


def study_points(study: Study, context: RunContext) -> list[StudyPoint]:
    """The runs of a study: grid points as they are written, then methods, then seeds; what comes to the same run is one.

    Raises:
        InputError: settings that a method does not take, values that cannot be.

    """
    found: dict[str, StudyPoint] = {}
    what = {name: value for name, value in study.settings.items() if name.replace("_", "-") not in HERE}
    for values in itertools.product(*study.grid.values()):
        chosen = dict(zip(study.grid, values, strict=True))
        given = {name: Path(value) if name == "config" else value for name, value in {**what, **chosen}.items()}
        for group in configs_of(study.methods, given, context):
            for seed in study.seeds:
                point = StudyPoint(group[0].replace(seed=seed), chosen)
                found.setdefault(point.name, point)
    return list(found.values())
