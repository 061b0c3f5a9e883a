"""Numbers as tables, figures and the page write them; a dash where there is none."""

from __future__ import annotations

import math

from gradlens.reporting.aggregate import Interval


def number_text(mean: float, low: float, digits: int = 2, scale: float = 1.0) -> str:
    """A mean with half its interval, as 0.31 or 0.31 ±0.04; a dash for a value there is none of."""
    if math.isnan(mean):
        return "–"
    text = f"{mean * scale:.{digits}f}"
    return text if math.isnan(low) else f"{text} ±{(mean - low) * scale:.{digits}f}"


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


def with_thousands(text: float) -> str:
    """A count with thin thousands.

    >>> with_thousands(12345.6)
    '12,346'
    """
    return f"{text:,.0f}" if math.isfinite(text) else "–"


def cell_text(value: float, log: bool = False) -> str:
    """A value in at most five signs, with a real minus; on a log scale small values keep their power of ten.

    >>> cell_text(-0.123), cell_text(-0.004), cell_text(0.004, log=True), cell_text(1234.5)
    ('−0.12', '0.00', '4e−3', '1e3')
    """
    if abs(value) >= 999.5 or (log and 0 < abs(value) < 0.005):
        digits, power = f"{value:.0e}".split("e")
        text = f"{digits}e{int(power)}"
    else:
        text = f"{value:.{2 if abs(value) < 9.995 else 0}f}".replace("-0.00", "0.00")
    return text.replace("-", "−")


def with_ends(mean: float, low: float, high: float, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """A mean and the ends of its interval, which need not be symmetric.

    >>> with_ends(0.5, 0.4, 0.7, 1, 100), with_ends(0.5, float("nan"), float("nan"), sign=True), with_ends(*[float("nan")] * 3)
    ('50.0 [40.0, 70.0]', '+0.50', '–')
    """
    if not math.isfinite(mean):
        return "–"
    form = f"{'+' if sign else ''}.{digits}f"
    interval = f" [{low * scale:{form}}, {high * scale:{form}}]" if math.isfinite(low) else ""
    return f"{mean * scale:{form}}{interval}"
