"""A study file, read without torch: methods × seeds × a grid of settings.

methods = ["bp", "dgl"]
seeds = [0, 1, 2]          # or their number: seeds = 3
baseline = "bp"            # what the others are compared with; default: the first method
[settings]                 # any flag of `gradlens train`
data = "cifar10"
[grid]                     # flags with lists, crossed
lr = [1e-3, 3e-4]
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.text_files import read_text

KEYS = ("methods", "seeds", "baseline", "settings", "grid")
HERE = ("device", "threads", "data-dir", "download", "no-cache")  # where a run is made, not what it is
ELSEWHERE = {  # flags of train that are set elsewhere: in another place of the study, or on the command line
    "seed": "seeds = [...]", "seeds": "seeds = [...]", "out": "--out", "run-name": "each run's own name", "resume": "always",
    "overwrite": "a fresh --out", "quiet": "--quiet", "config": "[settings]", "tensorboard": "gradlens tensorboard afterwards",
}  # fmt: skip
OF_RANKS = "Ranks"  # the heading of flags that several processes need, where a study has one a run


class Study(NamedTuple):
    """Contents of a study file."""

    methods: list[str]
    seeds: list[int]
    baseline: str
    settings: dict[str, Any]  # flag with underscores -> value
    grid: dict[str, list[Any]]


def read_study(path: Path, methods: Collection[str], flags: Mapping[str, str]) -> Study:
    """Read a study file.

    Args:
        path: the file.
        methods: the names of rules.
        flags: of settings, without dashes -> the heading of `gradlens train --help` under which each stands.

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
    return _study(content, path, methods, flags)


def _study(content: Mapping[str, Any], path: Path, known: Collection[str], flags: Mapping[str, str]) -> Study:
    for name in content:
        if name not in KEYS:
            raise unknown(f"key of the study {path}", name, KEYS)
    methods = _list(content, "methods", str, path)
    for name in methods:
        if name not in known and ":" not in name:
            raise unknown("method", name, known)
    seeds = _seeds(content, path)
    baseline = content.get("baseline", methods[0])
    if baseline not in methods:
        raise InputError(f"{path}: baseline = {baseline!r} is none of its methods ({', '.join(methods)})")
    settings = {_flag(name, path, flags): value for name, value in _table(content, "settings", path).items()}
    grid = {_flag(name, path, flags): value for name, value in _table(content, "grid", path).items()}
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: [grid] {name} = {values!r}: expected a list of values to try, with one at least")
        if name in settings:
            raise InputError(f"{path}: {name} stands in [settings] and in [grid]: one of them")
    return Study(methods, seeds, baseline, settings, grid)


def _seeds(content: Mapping[str, Any], path: Path) -> list[int]:
    """Return the seeds of a list, or the first ones where their number is given, as ``--seeds`` takes it."""
    seeds = content.get("seeds", 1)
    if type(seeds) is int and seeds >= 1:
        return list(range(seeds))
    if not isinstance(seeds, list):
        raise InputError(f"{path}: seeds = {seeds!r}: expected a list of whole numbers, or how many (2 is [0, 1])")
    return _list(content, "seeds", int, path)


def _list(content: Mapping[str, Any], name: str, kind: type, path: Path) -> list[Any]:
    values = content.get(name)
    if not isinstance(values, list) or not values or not all(type(v) is kind for v in values):
        wanted = "names of methods" if kind is str else "whole numbers"
        raise InputError(f"{path}: {name} = {values!r}: expected a list of {wanted}, with one at least")
    return list(dict.fromkeys(values))


def _table(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name} is no table: write [{name}] and flags under it")
    return table


def _flag(name: str, path: Path, flags: Mapping[str, str]) -> str:
    spelled = name.replace("_", "-")
    elsewhere = {**ELSEWHERE, **{flag: "one process a run" for flag, panel in flags.items() if panel == OF_RANKS}}
    if spelled in elsewhere:
        raise InputError(f"{path}: {name} cannot be set here, but by: {elsewhere[spelled]}")
    known = [flag for flag in (*flags, "set", *HERE) if flag not in elsewhere]
    if spelled not in known:
        raise unknown(f"flag in {path}", spelled, known, "gradlens train --help")
    return spelled.replace("-", "_")


def place_settings(study: Study) -> dict[str, Any]:
    """Return the settings on where runs are made, by flag."""
    return {name: study.settings[name.replace("-", "_")] for name in HERE if name.replace("-", "_") in study.settings}
