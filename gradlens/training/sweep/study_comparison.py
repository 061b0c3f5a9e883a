"""The ``comparison.json`` beside a study's tables: a study's folder is a comparison folder, whose runs lie in it directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradlens.runtime.errors import InputError
from gradlens.training.comparison import Comparison, digest_of, is_comparison, read_comparison
from gradlens.training.sweep.study import StudyPoint
from gradlens.training.sweep.study_file import Study


def must_be_this_study(out: Path, points: Sequence[StudyPoint]) -> None:
    """Refuse a folder that holds another comparison; the same study with more or fewer points continues in its folder.

    Raises:
        InputError: a comparison that has no run in common with the study.

    """
    if not is_comparison(out):
        return
    other = read_comparison(out)
    names = {point.name for point in points}
    if other.made_by != "sweep" or not any(path.name in names for path in other.run_paths):
        raise InputError(f"{out} holds another comparison (`{other.command}`): set another folder with --out")


def study_comparison(study: Study, points: Sequence[StudyPoint], out: Path, command: str, finished: bool = False) -> Comparison:
    """Describe a study's folder."""
    return Comparison(
        out,
        tuple(out / point.name for point in points),
        "sweep",
        digest_of([point.name for point in points]),
        command,
        finished=finished,
        methods=tuple(study.methods),
        seeds=tuple(study.seeds),
    )
