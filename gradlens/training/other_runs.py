"""Runs that another run starts from or learns from: read once, though each check, trial and seed loads them again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.run_directory import Run, load_run

Stamp = tuple[tuple[int, int] | None, ...]  # of files: (time of the last change in ns, bytes); None: not there


def other_run(path: str | Path) -> Run:
    """Load a run by :func:`load_run`, for reading only; the last ones are cached while their files are unchanged.

    Raises:
        InputError: as :func:`load_run`.

    """
    return _run(Path(path), _stamp(*(Path(path) / name for name in ("config.json", "summary.json", "checkpoint.pt"))))


def saved_weights(file: Path) -> dict[str, Any]:
    """Load model, method and step of a checkpoint or snapshot, to be copied from; the last ones are cached while the file is unchanged.

    Raises:
        InputError: as :func:`load_checkpoint`.

    """
    return _weights(file, _stamp(file))


def _stamp(*files: Path) -> Stamp:
    states = [file.stat() if file.exists() else None for file in files]
    return tuple(state and (state.st_mtime_ns, state.st_size) for state in states)


@lru_cache(maxsize=2)  # one to start from, and a teacher
def _run(path: Path, stamp: Stamp) -> Run:
    return load_run(path)


@lru_cache(maxsize=2)
def _weights(file: Path, stamp: Stamp) -> dict[str, Any]:
    saved = load_checkpoint(file)
    return {name: saved[name] for name in ("model", "method", "step")}
