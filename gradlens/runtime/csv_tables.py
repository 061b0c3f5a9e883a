"""Read and write long tables as csv files, one NamedTuple per row: floats are bit-exact, a line truncated by a crash is skipped."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import decode, read_bytes, read_text, write_text

T = TypeVar("T")
WORDS = {float: "a number", int: "a whole number"}


def csv_line(values: Iterable[Any]) -> str:
    """Return one line of a table; floats are written in full."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([repr(v) if isinstance(v, float) else v for v in values])
    return buffer.getvalue()


def _parse(text: str, kind: type[T]) -> list[T]:
    """Return the rows of a whole table, header first."""
    types = get_type_hints(kind)
    reader = csv.reader(io.StringIO(text))
    header = next((line for line in reader if line), None)
    if header is None:
        raise ValueError("it is empty")
    if header != list(types):
        later = set(types) - set(header)
        if header != [name for name in types if name not in later] or not later <= getattr(kind, "_field_defaults", {}).keys():
            raise ValueError(f"its columns are {', '.join(header)}, wanted {', '.join(types)}")
        types = {name: types[name] for name in header}  # a table of an earlier version
    return [_row(line, types, kind, reader.line_num) for line in reader if line]  # an editor may leave empty lines


def _row(line: Sequence[str], types: Mapping[str, Any], kind: type[T], number: int) -> T:
    """Return one row of a table."""
    if len(line) != len(types):
        raise ValueError(f"line {number} has {len(line)} cell{'s' * (len(line) != 1)}, wanted {len(types)}")
    values = []
    for (name, type_), cell in zip(types.items(), line, strict=True):
        try:
            values.append(type_(cell))
        except ValueError as error:
            raise ValueError(f"line {number}: {name} = {cell!r}: wanted {WORDS.get(type_, type_.__name__)}") from error
    return kind(*values)


def read_table(path: Path, kind: type[T]) -> list[T]:
    """Return the rows of a table that may still be growing: a torn last line is left out, a missing file is an empty table.

    Raises:
        InputError: other columns, or a value of another type.

    """
    if not path.exists():
        return []
    try:
        content = read_bytes(path)
        whole = decode(content[: max(content.rfind(b"\n"), content.rfind(b"\r")) + 1], path)
        return _parse(whole, kind) if whole.strip() else []
    except InputError:
        raise
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a table of gradlens: {error}") from error


def read_csv(path: str | Path, kind: type[T]) -> list[T]:
    """Return the rows that :func:`write_csv` wrote.

    Args:
        path: the file.
        kind: the rows' NamedTuple, such as ``aggregate.CurvePoint``.

    Raises:
        InputError: no such file, other columns, or a value of another type.

    """
    text = read_text(path)
    try:
        return _parse(text, kind)
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a table of {kind.__name__} rows: {error}") from error


def write_csv(path: str | Path, rows: Sequence[Any]) -> None:
    """Write a table to a file.

    Raises:
        InputError: no rows (the columns of an empty table are not known), or the file cannot be written.

    """
    if not rows:
        raise InputError("a table without rows cannot be written")
    write_text(path, "".join(csv_line(row) for row in [type(rows[0])._fields, *rows]))
