"""The page of a difference of two captured steps: the answer, layers as coloured squares, every tensor's numbers. Works offline."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from gradlens._version import __version__
from gradlens.analysis.captures.difference import Difference
from gradlens.analysis.captures.measured import LayerDifference
from gradlens.reporting.html.charts import compact, cosine_bin, cosine_colours
from gradlens.reporting.html.page import environment, script_hash
from gradlens.reporting.html.parts import Table, TableCell
from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import encode
from gradlens.training.run_files import must_be_writable, write

MARK = "<!-- gradlens diff -->"
TITLES = {
    "activation": ("Outputs", "in the order of the calls"),
    "gradient": ("Gradients at outputs", "in the order of the backward pass"),
    "parameter": ("Gradients of parameters", "in the order of the model"),
}


class Square(NamedTuple):
    """A tensor in the strip."""

    text: str  # shown while the mouse is over it
    colour: int | None  # of its cosine; None: there is none
    state: str
    place: int  # of its line in the table


def difference_page(found: Difference) -> str:
    """Return the page as html."""
    templates = files("gradlens.reporting.html") / "template"
    style, script = ((templates / name).read_text(encoding="utf-8") for name in ("report.css", "difference.js"))
    strips = [
        (title, order, [_square(i, row) for i, row in enumerate(found.rows) if row.of == of]) for of, (title, order) in TITLES.items()
    ]
    return (
        environment()
        .get_template("difference.html.j2")
        .render(
            version=__version__,
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src {script_hash(script)}",
            style=Markup(style),
            script=Markup(script),
            colours={name: cosine_colours(name == "dark") for name in ("light", "dark")},
            title=f"{found.a.name} and {found.b.name}",
            found=found,
            strips=[strip for strip in strips if strip[2]],
            table=_table(found),
        )
    )


def _square(place: int, row: LayerDifference) -> Square:
    numbers = f"cosine {_digits(row.cosine)}, |b|/|a| {_digits(row.norm_ratio)}, apart {_digits(row.apart)} (floor {_digits(row.floor)})"
    colour = cosine_bin(row.cosine) if row.state not in ("missing", "unknown") else None
    return Square(f"{row.name or 'the model'}: {row.state}; {row.why or numbers}", colour, row.state, place)


def _table(found: Difference) -> Table:
    columns = ["tensor", "of", "cosine", "|b| / |a|", "same signs", "apart", "floor", "state"]
    rows = []
    for i, row in enumerate(found.rows):
        state = f"{row.state}: {row.why}" if row.why else row.state
        numbers = [_number(v) for v in (row.norm_ratio, row.sign_agreement, row.apart, row.floor)]
        cosine = TableCell(_digits(row.cosine), compact(row.cosine), cosine_bin(row.cosine))
        rows.append(
            [TableCell(row.name or "the model", i), TableCell(row.of, row.of), cosine, *numbers, TableCell(state, state, words=True)]
        )
    return Table("Every tensor", columns, rows, f"Floor: {found.floor}.")


def _number(value: float) -> TableCell:
    return TableCell(_digits(value), compact(value))


def _digits(value: float) -> str:
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.3g}"


def must_be_free(path: Path, overwrite: bool) -> None:
    """Refuse a file for the page that is there and is no page of a difference.

    Raises:
        InputError: it is another file, a folder, or cannot be written.

    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: -o names the file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    must_be_writable(path)
    if path.exists() and not overwrite:
        with path.open("rb") as there:
            there.seek(max(0, path.stat().st_size - 100))
            if MARK.encode() not in there.read():
                raise InputError(f"{path} exists: -o names another file, --overwrite replaces it")


def write_difference(found: Difference, out: str | Path) -> None:
    """Write the page of a difference.

    Raises:
        InputError: it cannot be written.

    """
    write(Path(out), encode(f"{difference_page(found).rstrip()}\n{MARK}\n"))
