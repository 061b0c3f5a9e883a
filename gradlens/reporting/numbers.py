"""Numbers as tables, figures and the page write them; a dash where there is none."""

from __future__ import annotations

import math

from gradlens.runtime.tables import Cell

DASH = "–"  # where there is no value: None, NaN, infinite
NONE = Cell(DASH)  # the same in a table


def short_number(value: float | None, digits: int = 2, sign: bool = False, scale: float = 1.0, unit: str = "") -> str:
    """Return a number times ``scale`` with a real minus sign, no sign on a zero, and the unit behind it; a dash for none.

    >>> short_number(-0.004), short_number(-0.126), short_number(2.04, 1, sign=True), short_number(0.5, 1, scale=100, unit=" %")
    ('0.00', '−0.13', '+2.0', '50.0 %')
    >>> short_number(None), short_number(float("nan"), unit="x")
    ('–', '–')
    """
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value * scale:{'+' if sign else ''}.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−") + unit


def number_text(mean: float, low: float = math.nan, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """Return a mean with half its interval, which begins at ``low``; without one, the mean alone.

    >>> number_text(0.5, 0.4), number_text(0.5), number_text(0.5, 0.4, 1, 100), number_text(float("nan"))
    ('0.50 ± 0.10', '0.50', '50.0 ± 10.0', '–')
    """
    text = short_number(mean, digits, sign, scale)
    return f"{text} ± {short_number(mean - low, digits, scale=scale)}" if math.isfinite(mean) and math.isfinite(low) else text


def number_cell(value: float | None, digits: int = 2, scale: float = 1.0, *, unit: str = "") -> Cell:
    """Return a number of a table; ``unit`` follows it only in text for people.

    >>> number_cell(0.5, 1, 100)
    Cell(text='50.0', value=50.0, low=nan, high=nan)
    """
    return Cell(short_number(value, digits, scale=scale, unit=unit), None if value is None else value * scale)


def mean_cell(mean: float, low: float = math.nan, digits: int = 2, scale: float = 1.0, *, high: float = math.nan) -> Cell:
    """Return a mean of a table with half its interval; ``high`` is the interval's other end where it is not symmetric.

    >>> mean_cell(0.5, 0.25, 1, 100)
    Cell(text='50.0 ± 25.0', value=50.0, low=25.0, high=75.0)
    """
    upper = high if math.isfinite(high) else 2 * mean - low
    return Cell(number_text(mean, low, digits, scale), mean * scale, low * scale, upper * scale)


def count_cell(value: float | None, digits: int = 0) -> Cell:
    """Return a large number of a table, its thousands set apart."""
    return Cell(with_thousands(value, digits), value)


def with_ends(mean: float, low: float, high: float, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """Return a mean and the ends of its interval, which need not be symmetric.

    >>> with_ends(0.5, 0.4, 0.7, 1, 100), with_ends(-0.5, float("nan"), float("nan"), sign=True), with_ends(*[float("nan")] * 3)
    ('50.0 [40.0, 70.0]', '−0.50', '–')
    """
    text, *ends = (short_number(value, digits, sign, scale) for value in (mean, low, high))
    return f"{text} [{', '.join(ends)}]" if math.isfinite(mean) and math.isfinite(low) else text


def with_thousands(value: float | None, digits: int = 0) -> str:
    """Return a count, or another large number, with its thousands set apart; a dash for none.

    >>> with_thousands(12345.6), with_thousands(12345.6, 1), with_thousands(None)
    ('12,346', '12,345.6', '–')
    """
    return DASH if value is None or not math.isfinite(value) else f"{value:,.{digits}f}".replace("-", "−")


def cell_text(value: float, log: bool = False) -> str:
    """Return a value in at most five signs, with a real minus; on a log scale small values keep their power of ten.

    >>> cell_text(-0.123), cell_text(-0.004), cell_text(0.004, log=True), cell_text(1234.5)
    ('−0.12', '0.00', '4e−3', '1e3')
    """
    if abs(value) >= 999.5 or (log and 0 < abs(value) < 0.005):
        digits, power = f"{value:.0e}".split("e")
        text = f"{digits}e{int(power)}"
    else:
        text = f"{value:.{2 if abs(value) < 9.995 else 0}f}".replace("-0.00", "0.00")
    return text.replace("-", "−")
