"""Runs that differ in their seed alone as one group, and what to call each group among others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlens.runtime.errors import InputError

if TYPE_CHECKING:
    from gradlens.training.config import Config
    from gradlens.training.run_directory import Run


def settings(config: Config) -> dict[str, Any]:
    """A config's settings but for method and seed, with the method's options beside them.

    An option named like a setting is written ``method.option``.
    """
    shared = config.as_dict(exclude={"method", "options", "seed", "own"})
    shared |= {f"{kind}_file": f"{Path(kept['file']).name}@{kept['sha256'][:6]}" for kind, kept in config.own.items()}
    own = {f"{config.method}.{name}" if name in shared else name: value for name, value in config.options.items()}
    return {**shared, **own}


def _value(value: Any, rivals: Iterable[Any]) -> str:
    """A setting as a short word: a path by its last part, unless that would make it equal to a rival's."""
    if value is None or isinstance(value, bool):
        return {None: "none", False: "no", True: "yes"}[value]
    paths = {str(v) for v in (value, *rivals)}
    tails = {Path(p).name for p in paths}
    return Path(value).name if isinstance(value, str) and len(tails) == len(paths) else str(value)


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Each run's label, in the order of the runs: the method, and what tells its groups apart where there are several.

    >>> run_labels([bp_seed_0, bp_seed_1, dgl_linear, dgl_mlp])  # doctest: +SKIP
    ['bp', 'bp', 'dgl head=linear', 'dgl head=mlp']
    """
    keys = [repr(run.config.as_dict(exclude={"seed"})) for run in runs]
    configs = {key: run.config for key, run in zip(keys, runs, strict=True)}
    label = {}
    for key, config in configs.items():
        rivals = [settings(c) for c in configs.values() if c.method == config.method]
        columns = {name: [r[name] for r in rivals] for name in rivals[0]}
        differing = {name: values for name, values in columns.items() if any(v != values[0] for v in values)}
        own = settings(config)
        label[key] = " ".join([config.method, *(f"{name}={_value(own[name], values)}" for name, values in differing.items())])
    return [label[key] for key in keys]


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by label, in order of first appearance.

    Raises:
        InputError: no runs, or the same config and seed twice (it would make every interval too narrow).

    """
    if not runs:
        raise InputError("no runs to tabulate")
    found: dict[str, list[Run]] = {}
    for label, run in zip(run_labels(runs), runs, strict=True):
        for other in found.setdefault(label, []):
            if other.config.seed == run.config.seed:
                raise InputError(f"{other.path} and {run.path} are the same run ({label}, seed {run.config.seed}): give it once")
        found[label].append(run)
    return found
