"""Output of a command: its tables in the requested format, and notices, which go to stderr where stdout is not text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from gradlens.runtime.errors import InputError
from gradlens.runtime.tables import FORMATS, Table, written
from gradlens.runtime.terminal import print_table, say, write_out

if TYPE_CHECKING:
    from gradlens.reporting.figure_folder import Selection

SYNONYMS = {"markdown": "md", "tex": "latex", "txt": "text"}
FIGURE_FORMATS = ("png", "svg", "pdf")


def one_of_formats(value: str) -> str:
    """Return one of FORMATS, also by its other names.

    Raises:
        InputError: none of them.

    """
    found = SYNONYMS.get(value.lower(), value.lower())
    if found not in FORMATS:
        raise InputError(f"--format {value}: expected one of {', '.join(FORMATS)}")
    return found


def figure_formats(typed: Sequence[str] | None) -> tuple[str, ...]:
    """Return formats of figures as they were typed, several with commas between them; png where nothing was.

    Raises:
        InputError: one that figures are not written in.

    """
    names = [word.lower() for word in words_of(typed)]
    for name in names:
        if name not in FIGURE_FORMATS:
            raise InputError(f"no figure is written as {name!r}: expected one of {', '.join(FIGURE_FORMATS)}")
    return tuple(dict.fromkeys(names)) or ("png",)


TableFormat = Annotated[
    str,
    typer.Option("--format", callback=one_of_formats, help=f"of the table: {', '.join(FORMATS)} (stdout then has no notices)"),
]
FigureFormat = Annotated[
    list[str] | None,
    typer.Option("--figure-format", callback=figure_formats, help=f"of figures: {', '.join(FIGURE_FORMATS)}; several with commas [png]"),
]


class Drawing(NamedTuple):
    """Options of a command's figures."""

    formats: Sequence[str] = ("png",)
    width: float | None = None  # inches; None: each figure's own
    layers: Sequence[str] = ()  # patterns of layers' names; none: all
    methods: Sequence[str] = ()  # none: all

    def selection(self) -> Selection:
        """Return which part of the runs is drawn."""
        from gradlens.reporting.figure_folder import Selection

        return Selection(tuple(self.layers), tuple(self.methods), self.width)


def words_of(typed: Sequence[str] | None) -> tuple[str, ...]:
    """Return what was typed for an option that may be repeated, several words with commas between them."""
    return tuple(word for text in typed or () for word in text.replace(",", " ").split())


class Output:
    """The stdout of a command that prints tables.

    Args:
        form: one of FORMATS.

    """

    def __init__(self, form: str = "text") -> None:
        self.form = form

    def tables(self, tables: Iterable[Table]) -> None:
        """Print the tables of a command, all at once."""
        if self.form == "text":
            for table in tables:
                print_table(table)
            return
        write_out(written(list(tables), self.form))

    def notice(self, text: str) -> None:
        """Print a notice, which is no table."""
        if text:
            say(text, aside=self.form != "text")
