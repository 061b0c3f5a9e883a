"""Show rows of measurements: as a list with a short representation, a table, or a DataFrame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradlens.gradients.rows import Measurement
from gradlens.runtime.frames import frame_of
from gradlens.runtime.tables import Cell, Table

if TYPE_CHECKING:
    import pandas


class Measurements(list[Measurement]):
    """A list of :class:`Measurement` rows, shown as a table in notebooks; ``list(rows)`` is a plain list."""

    def __repr__(self) -> str:
        quantities, layers = dict.fromkeys(r.quantity for r in self), {r.layer for r in self}
        return f"<{len(self)} measurements: {', '.join(quantities) or 'nothing'} of {len(layers)} layers; .table(), .frame()>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def table(self) -> Table:
        """Return a table with a row per layer and a column per quantity, at the last step that has rows."""
        return measurement_table(self)

    def frame(self) -> pandas.DataFrame:
        """Return all rows as a pandas DataFrame, one column per field of :class:`Measurement`.

        Raises:
            InputError: pandas is not installed.

        """
        return frame_of(self, Measurement._fields)


def measurement_table(rows: Sequence[Measurement], title: str = "") -> Table:
    """Make a table with a row per layer and kind and a column per quantity: values of the last step."""
    table = Table(title)
    for name in ("layer", "of"):
        table.add_column(name, align="left")
    quantities = list(dict.fromkeys(row.quantity for row in rows))
    for name in quantities:
        table.add_column(name)
    last = {(row.layer, row.kind, row.quantity): row.value for row in sorted(rows, key=lambda row: row.step)}
    for layer, kind in dict.fromkeys((row.layer, row.kind) for row in rows):
        table.add_row(layer or "the model", kind, *(_cell(last.get((layer, kind, name), math.nan)) for name in quantities))
    return table


def _cell(value: float) -> Cell:
    """Format a number with three digits, or in scientific notation if it is very large or small.

    >>> [_cell(v).text for v in (0.98765, -0.5, 1234.5, 1.2e-7, float("nan"))]
    ['0.988', '−0.5', '1.23e+03', '1.2e-07', '–']
    """
    return Cell(f"{value:.3g}".replace("-", "−", 1) if value < 0 else f"{value:.3g}" if math.isfinite(value) else "–", value)
