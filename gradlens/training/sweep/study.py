"""The runs of a study (:mod:`gradlens.training.sweep.study_file`): grid points × methods × seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gradlens.methods import METHODS
from gradlens.training.config import Config
from gradlens.training.config_builder import configs_of
from gradlens.training.config_fields import settings_of
from gradlens.training.context import RunContext
from gradlens.training.sweep import study_file
from gradlens.training.sweep.study_file import HERE, Study

FLAGS = {name.replace("_", "-"): setting.panel for name, setting in settings_of(Config).items() if setting.text}


def read_study(path: Path) -> Study:
    """Read a study file (:func:`gradlens.training.sweep.study_file.read_study`) of the rules and settings that there are."""
    return study_file.read_study(path, METHODS, FLAGS)


class StudyPoint(NamedTuple):
    """One run of a study."""

    config: Config
    grid: dict[str, Any]  # its values of the grid's flags

    @property
    def name(self) -> str:
        """Return the name of the point's directory."""
        return self.config.run_name()


def study_points(
    study: Study, context: RunContext, with_default_batch: Callable[[Config], Config] = lambda config: config
) -> list[StudyPoint]:
    """Return the runs of a study: grid points as they are written, then methods, then seeds; what comes to the same run is one.

    Args:
        study: as it was read.
        context: where its runs are made.
        with_default_batch: see :func:`gradlens.training.config_builder.configs_of`.

    Raises:
        InputError: settings that a method does not take, values that cannot be.

    """
    found: dict[str, StudyPoint] = {}
    what = {name: value for name, value in study.settings.items() if name.replace("_", "-") not in HERE}
    for values in itertools.product(*study.grid.values()):
        chosen = dict(zip(study.grid, values, strict=True))
        given = {name: Path(value) if name == "config" else value for name, value in {**what, **chosen}.items()}
        for group in configs_of(study.methods, given, context, with_default_batch=with_default_batch):
            for seed in study.seeds:
                point = StudyPoint(group[0].replace(seed=seed), chosen)
                found.setdefault(point.name, point)
    return list(found.values())
