"""Folders of figures and pages: what gradlens made of the same runs is replaced, anything else only with --overwrite."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import encode, read_json
from gradlens.training.comparison import digest_of, folder_name
from gradlens.training.run_files import must_be_writable, write

if TYPE_CHECKING:
    from gradlens.training.config import Config

FILE = "figures.json"  # in a folder of figures: the runs that they show
DRAWN = Path("figures")  # where folders of figures are made by default


def default_folder(configs: Sequence[Config]) -> Path:
    """Return the folder for figures of runs of these configs: of one run by its name, of several by methods, data and a digest."""
    if len(configs) == 1:
        return DRAWN / configs[0].run_name()
    methods, data = (list(dict.fromkeys(names)) for names in ([c.method for c in configs], [Path(c.data.name).name for c in configs]))
    return DRAWN / folder_name(methods, data, digest_of(sorted(config.run_name() for config in configs)))


def _relative(runs: Sequence[Path], folder: Path) -> list[str]:
    """Return the runs as the folder's file names them: by paths that stay true when both are moved."""
    return sorted(Path(os.path.relpath(run, folder)).as_posix() for run in runs)


def must_be_replaceable(folder: Path, runs: Sequence[Path], overwrite: bool, flag: str = "--out") -> None:
    """Refuse a folder for figures that holds anything but figures of the same runs.

    Args:
        folder: is made later.
        runs: the directories of the runs to be drawn.
        overwrite: draw into it whatever it holds.
        flag: names the folder.

    Raises:
        InputError: it holds other files or figures of other runs, or cannot be written.

    """
    must_be_writable(folder / FILE)
    if overwrite or not folder.is_dir():
        return
    held = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    ways = f"{flag} names another folder, --overwrite draws into this one"
    if FILE not in held:
        if held:
            raise InputError(f"{folder} holds what gradlens did not draw ({', '.join(held[:3])}): {ways}")
        return
    content = read_json(folder / FILE, wanted="what gradlens wrote beside figures")
    drawn = content.get("runs") if isinstance(content, dict) else None
    if drawn != _relative(runs, folder):
        others = ", ".join(map(str, drawn[:3])) if isinstance(drawn, list) else "unknown"
        raise InputError(f"{folder} holds figures of other runs ({others}): {ways}")


def note_runs(folder: Path, runs: Sequence[Path]) -> None:
    """Write down of which runs the figures in a folder are; the folder is made.

    Raises:
        InputError: it cannot be written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write figures to {folder}: {(error.strerror or str(error)).lower()}") from error
    write(folder / FILE, encode(json.dumps({"runs": _relative(runs, folder)}, indent=1) + "\n"))


def mark(runs: Sequence[Path], file: Path) -> str:
    """Return the last line of a page of these runs, by which a later one of the same runs may replace it."""
    return f"<!-- gradlens report {digest_of(_relative(runs, file.parent))} -->\n"


def must_be_replaceable_page(file: Path, runs: Sequence[Path], overwrite: bool) -> None:
    """Refuse a file for a page that is there and is no page of the same runs.

    Raises:
        InputError: it is another file, or a page of other runs.

    """
    if overwrite or not file.exists():
        return
    with file.open("rb") as there:
        there.seek(max(0, file.stat().st_size - 100))
        end = there.read().decode(errors="replace")
    if not end.endswith(mark(runs, file)):
        kind = "is a page of other runs" if "<!-- gradlens report " in end else "exists"
        raise InputError(f"{file} {kind}: -o names another file, --overwrite replaces it")
