"""Convert rows to DataFrames; pandas is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradlens.runtime.errors import InputError

if TYPE_CHECKING:
    import pandas


def frame_of(rows: Sequence[Any], columns: Sequence[str]) -> pandas.DataFrame:
    """Make a DataFrame of dicts or tuples; ``columns`` names the fields of tuples, and the columns if there are no rows.

    Raises:
        InputError: pandas is not installed.

    """
    try:
        import pandas
    except ImportError as error:
        raise InputError("frame() needs pandas, which is not installed: `pip install pandas`") from error
    named = bool(rows) and isinstance(rows[0], dict)
    return pandas.DataFrame(list(rows), columns=None if named else list(columns))
