"""Files of a run directory: how one is recognised, and atomic writes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from gradlens.runtime.errors import ALIKE, InputError, nearest
from gradlens.runtime.paths import is_file, is_folder, is_there, reason


def is_run(path: str | Path) -> bool:
    """Return whether a path is a run directory: it holds a config.json."""
    return is_file(Path(path) / "config.json")


def is_finished(path: str | Path) -> bool:
    """Return whether a path is the directory of a run that has reached its end: it holds a summary.json, too."""
    return is_run(path) and is_file(Path(path) / "summary.json")


def must_exist(path: Path) -> None:
    """Refuse a path that is not there; the message lists similar names beside it.

    Raises:
        InputError: there is no such file or folder.

    """
    if is_there(path):
        return
    parent = next(folder for folder in path.parents if is_folder(folder))
    missing = path.relative_to(parent).parts[0]
    others = [other.name for other in parent.iterdir() if not other.name.startswith(".")] if os.access(parent, os.R_OK) else []
    near = [str(parent / name) for name in nearest(missing, others, ALIKE)]
    raise InputError(f"{path} does not exist{'; nearest: ' * bool(near)}{', '.join(near)}")


def must_be_run(path: str | Path) -> None:
    """Refuse what is no run directory.

    Raises:
        InputError: it is not there, or holds no config.json.

    """
    if not is_run(path):
        must_exist(Path(path))
        raise InputError(f"{path} is not a run directory: it has no config.json")


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under a temporary name, then renamed.

    Raises:
        InputError: the disk is full or the folder cannot be written; what was there before stays.

    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written, nothing may be there to remove
            temporary.unlink()
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """Return the refusal of a file that could not be written, with what is safe of its run."""
    run = is_run(path.parent) or is_run(path.parent.parent)
    kept = "; what the run had saved before is intact and --resume continues from it" if run else ""
    return InputError(f"cannot write {path}: {reason(error)}{kept}")


def must_be_writable(path: Path) -> None:
    """Check, before anything costly, that a file or folder can be made there; nothing is written.

    Raises:
        InputError: it cannot.

    """
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK) or (there != path and not there.is_dir()):
        raise InputError(f"cannot write {path}: {there} is not a folder that can be written to")
