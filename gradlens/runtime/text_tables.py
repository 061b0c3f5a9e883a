"""Print tables on a console without cutting names: a table that is too wide is transposed, then split into parts below each other."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.cells import cell_len

from gradlens.runtime.terminal import rich_console

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from gradlens.runtime.tables import Column, Table

GAP = 2  # blanks between columns
PARTS = r"[^\s.]*\.|[^\s.]+(?: \([^()]*\)$)?"  # of a heading, which stay whole
PROSE = 24  # a column of sentences is not made narrower than this


def as_text(table: Table, width: int) -> str:
    """Render a table for a console of ``width`` columns, without colours."""
    buffer = io.StringIO()
    rich_console(file=buffer, width=width, color_system=None, legacy_windows=False).print(table, crop=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def rendered(table: Table, console: Console, options: ConsoleOptions) -> RenderResult:
    """Yield title, grids and notes; titles and notes are wrapped, grids are as wide as their names need."""
    from rich.text import Text

    if table.title:
        yield Text(table.title, style="italic")
    for i, (piece, columns) in enumerate(pieces(table, options.max_width)):
        if i:
            yield Text("")
        yield from _grid(piece, columns, console, options)
    for note in table.notes:
        yield Text(note, style="dim")


def pieces(table: Table, width: int) -> list[tuple[Table, list[int]]]:
    """Return the table or its transpose, and the columns of each part that is printed below the others."""
    names = naming(table)
    distinct = len({row[0].text for row in table.rows}) == len(table.rows)  # else two columns would have one name
    turnable = distinct and len(table.columns) > 2 and names == 1 and not any(column.prose for column in table.columns)
    ways = [table.transposed()] if table.turned and turnable else [table, *([table.transposed()] if turnable else [])]
    split = [(way, list(_split(way, width, names))) for way in ways]
    way, parts = min(split, key=lambda found: len(found[1]))
    return [(way, part) for part in parts]


def naming(table: Table) -> int:
    """Return how many of the first columns identify the rows: one, or the two or three that do together."""
    for count in (1, 2, 3):
        if len({tuple(cell.value for cell in row[:count]) for row in table.rows}) == len(table.rows):
            return count
    return 1


def _split(table: Table, width: int, names: int) -> Iterator[list[int]]:
    """Yield the columns of parts that fit into a width; each part repeats the columns that identify the rows."""
    widths = [_narrowest(table, i) for i in range(len(table.columns))]
    every = list(range(min(names, len(widths))))
    first = sum(widths[i] for i in every) + GAP * (len(every) - 1)
    part, used = list(every), first
    for i in range(len(every), len(widths)):
        if used + GAP + widths[i] > width and len(part) > len(every):
            yield part
            part, used = list(every), first
        part.append(i)
        used += GAP + widths[i]
    yield part


def _words(text: str) -> int:
    """Return the width of the widest word."""
    return max(map(cell_len, text.split()), default=0)


def _lines(text: str) -> int:
    return max(map(cell_len, text.split("\n")), default=0)


def _narrowest(table: Table, i: int) -> int:
    """Return the width that a column needs: whole numbers and names; of row names and sentences at least the longest word."""
    column, cells = table.columns[i], [row[i].text for row in table.rows]
    head = max(map(cell_len, _breakable(column.heading)))
    if column.prose or i == 0:
        whole = max(map(_lines, cells), default=0)
        return max(head, *map(_words, cells), min(whole, PROSE)) if cells else head
    return max([head, *map(_lines, cells)])


def _breakable(heading: str) -> list[str]:
    """Return the parts of a heading that stay whole: it is broken at blanks, but for the one before a unit, and after dots.

    >>> _breakable("block1.conv (%)")
    ['block1.', 'conv (%)']
    """
    return re.findall(PARTS, heading) or [""]


def _set_heading(heading: str, width: int) -> str:
    """Return a heading in lines of a width, as few as they can be."""
    lines = [""]
    for word in re.findall(rf"{PARTS}|\s+", heading):
        grown = lines[-1] + word
        if cell_len(grown.rstrip()) > width and lines[-1]:
            lines.append(word.strip())
        else:
            lines[-1] = grown
    return "\n".join(line.strip() for line in lines)


def _grid(table: Table, columns: list[int], console: Console, options: ConsoleOptions) -> RenderResult:
    """Yield one part, as rich lays it out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Grid

    grid = Grid(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    needed = sum(_narrowest(table, i) for i in columns) + GAP * (len(columns) - 1)
    for i in columns:
        _add_column(grid, table.columns[i], [row[i].text for row in table.rows], _narrowest(table, i), broken=i == 0)
    for i, row in enumerate(table.rows):
        if i and i in table.sections:
            grid.add_section()
        grid.add_row(*(row[j].text for j in columns))
    yield from console.render(grid, options.update(width=max(needed, options.max_width)))


def _add_column(grid: object, column: Column, cells: list[str], narrowest: int, *, broken: bool) -> None:
    from rich.table import Table as Grid

    assert isinstance(grid, Grid)
    may_wrap = column.prose or broken
    width = max([narrowest, *map(_lines, cells)]) if not may_wrap else narrowest
    grid.add_column(
        _set_heading(column.heading, max(width, *(map(_lines, cells) if may_wrap and cells else (0,)))),
        justify=column.align,  # type: ignore[arg-type]
        no_wrap=not may_wrap,
        min_width=narrowest,
        overflow="fold",
    )
