"""Numbers and settings as sentences and tables of the page say them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gradlens.reporting.aggregate import Interval


def listed(names: Iterable[str]) -> str:
    """Names as in a sentence.

    >>> listed(["bp", "dgl", "dni"])
    'bp, dgl and dni'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def short_number(value: float, digits: int = 2, sign: bool = False) -> str:
    """A number with a real minus sign, and no sign on a zero; a dash for none.

    >>> short_number(-0.004), short_number(-0.126), short_number(2.04, 1, sign=True), short_number(float("nan"))
    ('0.00', '−0.13', '+2.0', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−")


def with_interval(value: Interval, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A mean with half its interval, where there is one.

    >>> with_interval(Interval(0.5, 0.4, 0.6, 3)), with_interval(Interval(0.5, float("nan"), float("nan"), 1))
    ('0.50 ± 0.10', '0.50')
    """
    text = short_number(value.mean * scale, digits, sign)
    return f"{text} ± {short_number((value.high - value.mean) * scale, digits)}" if math.isfinite(value.low) else text


def in_words(value: Any) -> str:
    """A setting as it is shown."""
    return {None: "none", False: "no", True: "yes"}[value] if value is None or isinstance(value, bool) else str(value)
