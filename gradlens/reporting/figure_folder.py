"""Folders of figures and pages: what gradlens made of the same runs is replaced, anything else only with --overwrite."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import encode, read_json
from gradlens.training.comparison import digest_of, folder_name
from gradlens.training.run_files import must_be_writable, write

if TYPE_CHECKING:
    from gradlens.training.config import Config

FILE = "figures.json"  # in a folder of figures: the runs that they show, and which part of them
DRAWN = Path("figures")  # where folders of figures are made by default
LONGEST = 32  # characters of a selection in the name of a folder


class Selection(NamedTuple):
    """What of runs is drawn, and how wide; nothing set: all of them."""

    layers: tuple[str, ...] = ()  # patterns of their names
    methods: tuple[str, ...] = ()
    width: float | None = None  # of each figure, inches

    def __str__(self) -> str:
        parts = [f"{name} {', '.join(words)}" for name, words in (("methods", self.methods), ("layers", self.layers)) if words]
        return "; ".join([*parts, *([f"width {self.width:g}"] if self.width else [])]) or "all methods and layers"

    def beside(self, folder: Path) -> Path:
        """Return the folder for figures of this selection: the folder for all of them, or one beside it.

        >>> Selection().beside(Path("c/figures")).name, Selection(("top.out",), ("dgl",), 3.3).beside(Path("c/figures")).name
        ('figures', 'figures-dgl-top.out-3.3in')
        """
        words = [*sorted(set(self.methods)), *sorted(set(self.layers)), *([f"{self.width:g}in"] if self.width else [])]
        typed = "-".join(words)
        name = re.sub(r"[^\w.-]+", "", typed)
        if name != typed or len(name) > LONGEST:
            name = f"{name[:LONGEST].strip('-.')}-{digest_of(words)}".strip("-")
        return folder.with_name(f"{folder.name}-{name}") if name else folder


ALL = Selection()


def default_folder(configs: Sequence[Config]) -> Path:
    """Return the folder for figures of runs of these configs: of one run by its name, of several by methods, data and a digest."""
    if len(configs) == 1:
        return DRAWN / configs[0].run_name()
    methods, data = (list(dict.fromkeys(names)) for names in ([c.method for c in configs], [Path(c.data.name).name for c in configs]))
    return DRAWN / folder_name(methods, data, digest_of(sorted(config.run_name() for config in configs)))


def _relative(runs: Sequence[Path], folder: Path) -> list[str]:
    """Return the runs as the folder's file names them: by paths that stay true when both are moved."""
    return sorted(Path(os.path.relpath(run, folder)).as_posix() for run in runs)


def _content(folder: Path, runs: Sequence[Path], selection: Selection) -> dict[str, Any]:
    """Return what the folder's file holds."""
    layers, methods = sorted(set(selection.layers)), sorted(set(selection.methods))
    return {"runs": _relative(runs, folder), "layers": layers, "methods": methods, "width": selection.width}


def must_be_replaceable(folder: Path, runs: Sequence[Path], overwrite: bool, flag: str = "--out", selection: Selection = ALL) -> None:
    """Refuse a folder for figures that holds anything but figures of the same selection of the same runs.

    Args:
        folder: is made later.
        runs: the directories of the runs to be drawn.
        overwrite: draw into it whatever it holds.
        flag: names the folder.
        selection: what of the runs is to be drawn.

    Raises:
        InputError: it holds other files, figures of other runs or of another selection, or cannot be written.

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
    there: dict[str, Any] = _content(folder, [], ALL) | (content if isinstance(content, dict) else {"runs": None})
    drawn, wanted = there["runs"], _content(folder, runs, selection)
    if drawn != wanted["runs"]:
        others = ", ".join(map(str, drawn[:3])) if isinstance(drawn, list) else "unknown"
        which = "more runs than these" if isinstance(drawn, list) and set(wanted["runs"]) < set(drawn) else "other runs"
        raise InputError(f"{folder} holds figures of {which} ({others}): {ways}")
    if there != wanted:
        held_of = Selection(there["layers"], there["methods"], there["width"])
        raise InputError(f"{folder} holds figures of another selection of these runs ({held_of}): {ways}")


def note_runs(folder: Path, runs: Sequence[Path], selection: Selection = ALL) -> None:
    """Write down of which runs, and of what of them, the figures in a folder are; the folder is made.

    Raises:
        InputError: it cannot be written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write figures to {folder}: {(error.strerror or str(error)).lower()}") from error
    write(folder / FILE, encode(json.dumps(_content(folder, runs, selection), indent=1) + "\n"))


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
