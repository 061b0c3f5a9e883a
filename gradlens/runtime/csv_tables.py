"""Long tables as csv files, one NamedTuple a row: floats read back bit for bit, a line torn off by a crash is left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from gradlens.runtime.errors import InputError

T = TypeVar("T")


def csv_line(values: Iterable[Any]) -> str:
    """One line of a table; floats are written in full."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([repr(v) if isinstance(v, float) else v for v in values])
    return buffer.getvalue()


def _parse(text: str, kind: type[T]) -> list[T]:
    """The rows of a whole table, header first."""
    types = get_type_hints(kind)
    header, *lines = csv.reader(io.StringIO(text))
    if header != list(types):
        raise ValueError(f"its columns are {', '.join(header)}, wanted {', '.join(types)}")
    return [kind(*(t(v) for t, v in zip(types.values(), line, strict=True))) for line in lines]


def read_table(path: Path, kind: type[T]) -> list[T]:
    """The rows of a table that may still be growing: a torn last line is left out, a missing file is an empty table.

    Raises:
        InputError: other columns, or a value of another type.

    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        return _parse(whole, kind) if whole else []
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a table of gradlens: {error}") from error


def read_csv(path: str | Path, kind: type[T]) -> list[T]:
    """The rows that :func:`write_csv` wrote.

    Args:
        path: the file.
        kind: the rows' NamedTuple, such as ``aggregate.CurvePoint``.

    Raises:
        InputError: no such file, other columns, or a value of another type.

    """
    try:
        return _parse(Path(path).read_text(encoding="utf-8"), kind)
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a table of {kind.__name__} rows: {error}") from error


def write_csv(path: str | Path, rows: Sequence[Any]) -> None:
    """Write a table to a file.

    Raises:
        InputError: no rows (the columns of an empty table are not known), or the file cannot be written.

    """
    if not rows:
        raise InputError("a table without rows cannot be written")
    text = "".join(csv_line(row) for row in [type(rows[0])._fields, *rows])
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
