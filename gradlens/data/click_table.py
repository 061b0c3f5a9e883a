"""Read a log of clicks from a file as ids: Criteo's tab-separated format, or any csv file with named columns; in chunks of rows.

Every column becomes a field of ids. Numbers are first put into bins. Values that occur fewer than ``rare`` times in the file share id 0,
the others are numbered from 1 in the order in which they are first seen. The file is read twice, to count and to number, and no more of it
is in memory at once than a chunk of rows and the ids.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gradlens.data.click_log import ClickLog
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.paths import is_folder, is_there, unreadable

CHUNK = 1 << 16  # rows
NONE = "NULL"  # the bin of an empty cell
NUMBERS, CATEGORIES = 13, 26  # columns of Criteo's format, after the label

Row = list[str]


class Columns(NamedTuple):
    """What a file's columns are."""

    width: int  # columns of a row
    header: bool  # whether the first row holds their names
    separator: str
    label: int  # which one holds the label
    fields: tuple[int, ...]  # which ones are read
    names: tuple[str, ...]  # of the fields
    binned: tuple[Callable[[str], str] | None, ...]  # of each field: what puts its numbers into bins; None: a category
    positive: str  # the label that stands for 1; empty: labels are 0 and 1


@lru_cache(maxsize=1 << 16)
def criteo_bin(cell: str) -> str:
    """Return the bin of a whole number in Criteo's protocol: floor(ln(v)²) for v above 2, else v − 2; an empty cell has its own.

    >>> criteo_bin(""), criteo_bin("2"), criteo_bin("-1"), criteo_bin("3"), criteo_bin("100")
    ('NULL', '0', '-3', '1', '21')
    """
    if not cell:
        return NONE
    value = int(cell)
    return str(math.floor(math.log(value) ** 2) if value > 2 else value - 2)


@lru_cache(maxsize=1 << 16)
def number_bin(cell: str) -> str:
    """Return the bin of a number v: ± floor(2 ln(|v| + 1)²) with its sign; an empty cell has its own.

    >>> number_bin(""), number_bin("0"), number_bin("40"), number_bin("-40"), number_bin("2.5")
    ('NULL', '0', '27', '-27', '3')
    """
    cell = cell.strip()
    if not cell:
        return NONE
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(cell)
    return str(int(math.copysign(math.floor(2 * math.log(abs(value) + 1) ** 2), value)))


def columns_of(path: Path, label: str, numeric: Sequence[str], categorical: Sequence[str], positive: str) -> Columns:
    """Find out what a file's columns are: by its first row it is of Criteo's format, or has the names of its columns.

    Args:
        path: the file.
        label: name of the column with the label, of a file with names; as the following.
        numeric: names of the columns of numbers.
        categorical: names of the columns of categories.
        positive: the label that stands for 1; empty: labels are 0 and 1.

    Raises:
        InputError: no such file, columns that are missing, named twice or not declared.

    """
    if not is_there(path) or is_folder(path):
        what = "is a folder" if is_folder(path) else "does not exist"
        raise InputError(f"{path} {what}: set --data to a csv file with named columns, or to one of Criteo's format")
    first = next(_lines(path), None)
    if first is None:
        raise InputError(f"{path} is empty: set --data to a csv file with named columns, or to one of Criteo's format")
    if first.count("\t") == NUMBERS + CATEGORIES:
        declared = [name for name, value in (("label", label), ("numeric", numeric), ("categorical", categorical)) if value]
        if declared:
            raise InputError(f"{path} is of Criteo's format, whose columns are known: leave out --set clicks.{declared[0]}")
        names = tuple([f"I{i + 1}" for i in range(NUMBERS)] + [f"C{i + 1}" for i in range(CATEGORIES)])
        turns = (criteo_bin,) * NUMBERS + (None,) * CATEGORIES
        return Columns(NUMBERS + CATEGORIES + 1, False, "\t", 0, tuple(range(1, NUMBERS + CATEGORIES + 1)), names, turns, positive)
    return _named_columns(path, next(csv.reader([first])), label, numeric, categorical, positive)


def _named_columns(path: Path, header: Row, label: str, numeric: Sequence[str], categorical: Sequence[str], positive: str) -> Columns:
    header = [name.strip() for name in header]
    if not label or not (numeric or categorical):
        missing = "label" if not label else "categorical"
        raise InputError(f"{path} has the columns {', '.join(header)}: declare them, as --set clicks.{missing}={header[-1] or 'NAME'}")
    wanted = [label, *numeric, *categorical]
    if twice := next((name for name, n in Counter(wanted).items() if n > 1), None):
        raise InputError(f"the column {twice!r} is declared twice: it is the label, a number or a category")
    for name in wanted:
        if name not in header:
            raise unknown(f"column of {path}", name, header)
        if header.count(name) > 1:
            raise InputError(f"{path} has {header.count(name)} columns named {name!r}: give each its own name")
    places = tuple(header.index(name) for name in wanted[1:])
    turns = (number_bin,) * len(numeric) + (None,) * len(categorical)
    return Columns(len(header), True, ",", header.index(label), places, tuple(wanted[1:]), turns, positive)


def read_click_table(path: Path, columns: Columns, rare: int, rows: int | None = None) -> ClickLog:
    """Read a log of clicks.

    Args:
        path: the file.
        columns: what its columns are.
        rare: values that occur fewer times share an id.
        rows: read no more than these, from the first on; None: all.

    Raises:
        InputError: a ragged row, a cell that is no number, a label that is none, a declared column with a single value.

    """
    counts = [Counter[str]() for _ in columns.fields]
    total = 0
    for done, chunk in _chunks(path, columns, rows):
        for counter, column in zip(counts, _cells(path, columns, chunk, done), strict=True):
            counter.update(column)
        total = done + len(chunk)
    for name, counter in zip(columns.names, counts, strict=True):
        if columns.header and len(counter) < 2:
            only = f"one value, {next(iter(counter))!r}," if counter else "no value"
            raise InputError(f"{path}: the column {name!r} has {only} in {total:,} rows, so nothing can be learned from it: leave it out")
    numbers = [_numbered(counter, rare) for counter in counts]
    ids, labels = np.empty((total, len(numbers)), np.int32), np.empty(total, np.int64)
    for done, chunk in _chunks(path, columns, rows):
        part = slice(done, done + len(chunk))
        labels[part] = _labels(path, columns, chunk, done)
        for f, (known, column) in enumerate(zip(numbers, _cells(path, columns, chunk, done), strict=True)):
            ids[part, f] = [known.get(value, 0) for value in column]
    sizes = tuple(len(known) + 1 for known in numbers)
    return ClickLog(torch.from_numpy(ids), torch.from_numpy(labels), sizes, columns.positive or "click")


def _numbered(counter: Counter[str], rare: int) -> dict[str, int]:
    kept = (value for value, n in counter.items() if n >= rare)
    return {value: i for i, value in enumerate(kept, 1)}


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, one after the other, with or without a byte order mark."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte 0x{error.object[error.start]:02x}): save it as UTF-8") from error


def _rows(path: Path, columns: Columns) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file that are not empty, and the number of the line on which each ends; a header is left out."""
    quoted = csv.QUOTE_MINIMAL if columns.header else csv.QUOTE_NONE
    reader = csv.reader(_lines(path), delimiter=columns.separator, quoting=quoted)  # type: ignore[arg-type]
    try:
        for i, row in enumerate(reader):
            if row and not (columns.header and i == 0):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def _chunks(path: Path, columns: Columns, rows: int | None) -> Iterator[tuple[int, list[Row]]]:
    """Yield the number of rows before a chunk, and its rows, all of one width."""
    found, done = islice(_rows(path, columns), rows), 0
    while chunk := list(islice(found, CHUNK)):
        for line, row in chunk:
            if len(row) != columns.width:
                raise InputError(
                    f"{path}, line {line}: {len(row)} columns where the first line has {columns.width}: repair it or remove it"
                )
        yield done, [row for _, row in chunk]
        done += len(chunk)


def _line(path: Path, columns: Columns, number: int) -> int:
    """Return the line on which a row ends, by its number from 0; read again, for an error."""
    return next(islice(_rows(path, columns), number, None))[0]


def _cells(path: Path, columns: Columns, chunk: Sequence[Row], done: int) -> Iterator[list[str]]:
    """Yield each field's values of a chunk, numbers in bins."""
    for place, name, turn in zip(columns.fields, columns.names, columns.binned, strict=True):
        cells = [row[place] for row in chunk]
        if turn is None:
            yield [cell.strip() for cell in cells] if columns.header else cells
            continue
        try:
            yield list(map(turn, cells))
        except ValueError:
            number, wrong = next((i, cell) for i, cell in enumerate(cells) if not _is_binned(turn, cell))
            kind = "a number" if columns.header else "a whole number"
            raise InputError(f"{path}, line {_line(path, columns, done + number)}: {name} is {wrong!r}, which is not {kind}") from None


def _is_binned(turn: Callable[[str], str], cell: str) -> bool:
    try:
        turn(cell)
    except ValueError:
        return False
    return True


def _labels(path: Path, columns: Columns, chunk: Sequence[Row], done: int) -> list[int]:
    cells = [row[columns.label].strip() for row in chunk]
    if columns.positive:
        return [int(cell == columns.positive) for cell in cells]
    wrong = next((i for i, cell in enumerate(cells) if cell not in ("0", "1")), None)
    if wrong is not None:
        where = f"{path}, line {_line(path, columns, done + wrong)}: the label is {cells[wrong]!r}"
        raise InputError(f"{where}, neither 0 nor 1: set the one that stands for 1, as --set clicks.positive={cells[wrong] or 'yes'}")
    return list(map(int, cells))
