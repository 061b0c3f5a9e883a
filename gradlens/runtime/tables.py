"""Hold a table as a value (columns, rows, units, notes), and write it as text of any width, Markdown, LaTeX, HTML, csv and json.

Text, Markdown, LaTeX and HTML have rounded numbers and units in the headings; csv and json have unrounded numbers in the same units,
and the ends of intervals in separate columns.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from gradlens.runtime import text_tables
from gradlens.runtime.frames import frame_of
from gradlens.runtime.latex import latex_text

if TYPE_CHECKING:
    import pandas
    from rich.console import Console, ConsoleOptions, RenderResult

FORMATS = ("text", "md", "latex", "csv", "json")
PAGE = 6  # columns that fit on a page of LaTeX


class Cell(NamedTuple):
    """A cell of a table: its text, and its unrounded value in the column's unit."""

    text: str
    value: float | int | str | bool | None = None
    low: float = math.nan  # of the interval around a mean
    high: float = math.nan


class Column(NamedTuple):
    """A column: its heading and how it is set."""

    name: str
    unit: str = ""
    align: str = "right"  # left, right, center
    prose: bool = False  # sentences, which may be wrapped
    apart: bool = False  # a line is drawn before it if columns are printed as rows

    @property
    def heading(self) -> str:
        """Return the name, the unit in brackets behind it."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(repr=False)
class Table:
    """Rows of cells under columns, the first of which names the rows.

    Args:
        title: title above it.
        notes: sentences below it.
        turned: print columns as rows, for many columns and few rows.

    """

    title: str = ""
    notes: Sequence[str] = ()
    turned: bool = False
    columns: list[Column] = field(default_factory=list)
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    sections: set[int] = field(default_factory=set)  # a line is drawn before these rows

    def add_column(self, name: str, unit: str = "", *, align: str = "", prose: bool = False, apart: bool = False) -> None:
        """Add a column; by default the first one and prose are aligned left, the others right."""
        made = Column(name, unit, align or ("left" if prose or not self.columns else "right"), prose, apart)
        if made.name in (c.name for c in self.columns):
            raise ValueError(f"two columns are called {name}")
        self.columns.append(made)

    def add_row(self, *cells: Cell | str | int | None) -> None:
        """Add a row, a cell for each column; text is its own value, of a whole number too."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns")
        self.rows.append(tuple(c if isinstance(c, Cell) else Cell("" if c is None else str(c), c) for c in cells))

    def add_section(self) -> None:
        """Draw a line before the next row."""
        self.sections.add(len(self.rows))

    # --------------------------------------------------------------------------------------------------- formatted output

    def __repr__(self) -> str:
        return f"<Table{f' {self.title!r}' if self.title else ''}: {len(self.rows)} rows, {len(self.columns)} columns>"

    def __str__(self) -> str:
        return self.text(80)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from text_tables.rendered(self, console, options)

    def text(self, width: int) -> str:
        """Format the table for a console of ``width`` columns; longer names are not cut."""
        return text_tables.as_text(self, width)

    def read(self) -> Table:
        """Return the table as it is printed: itself, or with columns as rows."""
        return self.transposed() if self.turned else self

    def transposed(self) -> Table:
        """Return the table with columns as rows, units after their names."""
        made = Table(self.title, self.notes)
        made.add_column(self.columns[0].heading if self.columns else "")
        for row in self.rows:
            made.add_column(row[0].text)
        for i, column in enumerate(self.columns[1:], start=1):
            if column.apart and made.rows:
                made.add_section()
            made.add_row(column.heading, *(row[i] for row in self.rows))
        return made

    def _repr_html_(self) -> str:
        shown = self.read()
        head = "".join(f'<th style="text-align:{c.align}">{html.escape(c.heading)}</th>' for c in shown.columns)
        body = "".join(
            "<tr>"
            + "".join(f'<td style="text-align:{c.align}">{html.escape(v.text)}</td>' for c, v in zip(shown.columns, row, strict=True))
            + "</tr>"
            for row in shown.rows
        )
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def markdown(self) -> str:
        """Return a table as GitHub shows it, the title above and the notes below."""
        shown = self.read()
        marks = {"left": ":--", "right": "--:", "center": ":-:"}
        lines = [_piped(c.heading for c in shown.columns), f"| {' | '.join(marks[c.align] for c in shown.columns)} |"]
        lines += [_piped(cell.text for cell in row) for row in shown.rows]
        parts = [_md(self.title), "\n".join(lines), *map(_md, self.notes)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        r"""Return a ``table`` for ``\usepackage{booktabs}``; title and notes are its caption."""
        shown = self.read()
        # wider than a page, its columns become rows
        if len(shown.columns) > PAGE and not any(c.prose for c in self.columns):
            shown = min(self, self.transposed(), key=lambda table: len(table.columns))
        letters = "".join(r"p{0.5\linewidth}" if c.prose else c.align[0] for c in shown.columns)
        lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
        if caption := " ".join(part.rstrip(".") + "." for part in (self.title, *self.notes) if part):
            lines.append(rf"\caption{{{latex_text(caption)}}}")
        lines += [rf"\begin{{tabular}}{{{letters}}}", r"\toprule", _ampersands(c.heading for c in shown.columns), r"\midrule"]
        for i, row in enumerate(shown.rows):
            lines += [r"\midrule"] if i and i in shown.sections else []
            lines.append(_ampersands(cell.text for cell in row))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"

    # ------------------------------------------------------------------------------------------- machine-readable output

    def records(self, units: bool = False) -> list[dict[str, Any]]:
        """Return a dict per row: column (with its unit if ``units``) -> unrounded number or text, None if missing.

        A column with intervals is followed by two more for their ends.
        """
        found: list[dict[str, Any]] = [{} for _ in self.rows]
        for i, column in enumerate(self.columns):
            name = column.heading if units else column.name
            ends = any(math.isfinite(row[i].low) for row in self.rows)
            for record, row in zip(found, self.rows, strict=True):
                record[name] = _plain(row[i].value)
                if ends:
                    record[f"{name} low"], record[f"{name} high"] = _plain(row[i].low), _plain(row[i].high)
        return found

    def csv(self) -> str:
        """Write unrounded numbers as csv, units in the header; no title, no notes."""
        buffer = io.StringIO()
        records = self.records(units=True)
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(records[0] if records else [c.heading for c in self.columns])
        writer.writerows(["" if v is None else repr(v) if isinstance(v, float) else v for v in record.values()] for record in records)
        return buffer.getvalue()

    def content(self) -> dict[str, Any]:
        """Return the table's content for json."""
        columns = [{"name": c.name, "unit": c.unit} for c in self.columns]
        return {"title": self.title, "columns": columns, "rows": self.records(), "notes": list(self.notes)}

    def frame(self) -> pandas.DataFrame:
        """Return the unrounded numbers as a pandas DataFrame."""
        return frame_of(self.records(), [c.name for c in self.columns])


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _md(text: str) -> str:
    """Escape text for Markdown."""
    made = "".join("\\" + sign if sign in "\\`*<|[]~$" else sign for sign in " ".join(text.split()))
    return "".join(
        "\\_" if sign == "_" and not (made[i - 1 : i].isalnum() and made[i + 1 : i + 2].isalnum()) else sign for i, sign in enumerate(made)
    )


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_md, cells))} |"


def _ampersands(cells: Iterable[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def written(tables: Sequence[Table], form: str) -> str:
    r"""Write tables in a format of FORMATS other than text, one after the other; json is an object, or a list of them.

    >>> table = Table()
    >>> table.add_column("method"); table.add_column("accuracy", "%")
    >>> table.add_row("bp", Cell("98.9", 98.88, 98.0, 99.76))
    >>> print(written([table], "csv"), end="")
    method,accuracy (%),accuracy (%) low,accuracy (%) high
    bp,98.88,98.0,99.76
    >>> print(written([table], "md"), end="")
    | method | accuracy (%) |
    | :-- | --: |
    | bp | 98.9 |
    """
    if form == "json":
        found = [table.content() for table in tables]
        return json.dumps(found[0] if len(found) == 1 else found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return "\n".join(_in(table, form) for table in tables)


def _in(table: Table, form: str) -> str:
    return {"text": lambda: table.text(80), "md": table.markdown, "latex": table.latex, "csv": table.csv}[form]()
