"""Parts of the page: sections with sentences, charts, tables and pictures, and the runs that all of them describe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from gradlens.reporting.aggregate import LayerPoint, layer_points
from gradlens.reporting.html.charts import Chart, compact
from gradlens.reporting.html.standings import MethodSummary
from gradlens.reporting.html.wording import listed
from gradlens.reporting.numbers import number_text, short_number
from gradlens.reporting.statistics import Interval
from gradlens.reporting.style import Style
from gradlens.reporting.task_words import example_of, items_of
from gradlens.training.run_directory import Run


class TableCell(NamedTuple):
    """One cell of a table."""

    text: str
    key: float | str | None = None  # what it is sorted by; None: always last
    bin: int | None = None  # of the cosine's colour behind it
    method: int | None = None  # the place of a method whose line is drawn before the text
    words: bool = False  # a sentence, which may take several lines
    none: bool = False  # a cosine that is not there: striped, so that it is not taken for 0


class Table(NamedTuple):
    """A table that the reader can sort; its first column names the rows."""

    caption: str
    columns: list[str]
    rows: list[list[TableCell]]
    note: str = ""  # below it


class Picture(NamedTuple):
    """An image in the page."""

    name: str
    method: int  # the place of the method it is of
    source: str  # a data URI
    alt: str  # what it shows, in words
    dark: str = ""  # the same for a dark page; "": it is fit for both


class Sample(NamedTuple):
    """A text that a network wrote."""

    name: str
    method: int  # the place of the method it is of
    text: str


@dataclass
class ReportSection:
    """A part of the page, in the order in which it is read: sentences, charts, tables, what is missing."""

    id: str
    title: str
    text: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)  # how the numbers were made
    missing: list[str] = field(default_factory=list)  # sentences
    command: str = ""  # what would fill the section, where nothing has
    kind: str = "plain"  # which part of the template shows it

    @property
    def empty(self) -> bool:
        """Return whether the section holds no data, only the command that makes them."""
        return bool(self.command) and not (
            self.text or self.charts or self.tables or self.pictures or self.samples or self.facts or self.missing
        )


@dataclass(frozen=True)
class ReportContext:
    """The runs of a page, and what all sections need of them."""

    groups: Mapping[str, Sequence[Run]]  # label -> runs of all seeds, in the order in which methods are listed
    styles: Mapping[str, Style]
    standings: Sequence[MethodSummary]
    unfinished: Sequence[Run] = ()  # listed, and in nothing else on the page
    folder: Path | None = None  # the comparison folder of the runs: commands that the page names stand for it

    @property
    def runs(self) -> list[Run]:
        """Return all runs."""
        return [run for group in self.groups.values() for run in group]

    @cached_property
    def example(self) -> str:
        """Return the name of a row of the data: "image"."""
        return example_of(self.runs)

    @cached_property
    def items(self) -> str:
        """Return what losses are means over: "images"."""
        return items_of(self.runs)

    def place(self, label: str) -> int:
        """Return a label's place in the order of methods, which names its colour."""
        return list(self.styles).index(label)

    def named(self, label: str) -> TableCell:
        """Return the cell that names a method."""
        return TableCell(label, f"{self.place(label):04d}", method=self.place(label))

    @cached_property
    def cosines(self) -> list[LayerPoint]:
        """Return the cosines of the weight gradients at every recorded step."""
        return layer_points(self.runs, "cosine")


def with_empty_as_one(sections: Sequence[ReportSection]) -> list[ReportSection]:
    """Return the sections that hold something; what the empty ones would hold, and the commands for it, as one sentence at the end."""
    commands: dict[str, list[str]] = {}
    for section in sections:
        if section.empty:
            commands.setdefault(section.command, []).append(section.title[0].lower() + section.title[1:])
    filled = [section for section in sections if not section.empty]
    if not commands:
        return filled
    could = "; ".join(f"{listed(titles)} (`{command}`)" for command, titles in commands.items())
    return [*filled, ReportSection("more", "What could be added", [f"Nothing has measured these yet: {could}."])]


def number_cell(value: float, digits: int = 2, scale: float = 1.0) -> TableCell:
    """Return a number's cell."""
    return TableCell(short_number(value, digits, scale=scale), compact(value))


def mean_cell(value: Interval, digits: int = 2, scale: float = 1.0, sign: bool = False) -> TableCell:
    """Return a mean with half its interval."""
    return TableCell(number_text(value.mean, value.low, digits, scale, sign), compact(value.mean))


def ratio_cell(value: Interval) -> TableCell:
    """Return a ratio with the ends of its interval, which is not symmetric."""
    ends = f" ({short_number(value.low)} to {short_number(value.high)})" if math.isfinite(value.low) else ""
    return TableCell(short_number(value.mean) + ends, compact(value.mean))
