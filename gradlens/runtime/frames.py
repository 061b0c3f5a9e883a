"""Rows as DataFrames; pandas is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradlens.runtime.errors import InputError

if TYPE_CHECKING:
    import pandas


def frame_of(rows: Sequence[Any], columns: Sequence[str]) -> pandas.DataFrame:
    """A DataFrame of dicts or tuples; ``columns`` are its columns where there are no rows, and the names of tuples.

    Raises:
        InputError: pandas is not installed.

    """
    try:
        import pandas
    except ImportError as error:
        raise InputError("frame() makes a DataFrame of pandas, which is not installed: `pip install pandas`") from error
    named = bool(rows) and isinstance(rows[0], dict)
    return pandas.DataFrame(list(rows), columns=None if named else list(columns))
