"""Style of all figures: colours and dashes of methods, matplotlib's settings, headings and legends, and how a figure is saved.

Figures are built on matplotlib's ``Figure`` without pyplot: no global state, no display needed. matplotlib's own defaults
are used instead of the user's matplotlibrc, so that the same table gives the same file.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image

from gradlens.reporting.figure_width import set_width
from gradlens.runtime.csv_tables import write_csv
from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import reason
from gradlens.runtime.text_files import encode

FORMULAE = ("$10^{", "$\\mathdefault{")  # how the labels of logarithmic ticks begin: ours and matplotlib's
RC: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # long enough to distinguish the dash patterns
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.35",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,  # TrueType: letters can be searched and edited, as journals require
    "svg.fonttype": "path",  # the same letters on machines without this font
    "svg.hashsalt": "gradlens",  # ids in the file do not change from one saving to the next
}
LOOK: list[str | Path | dict[str, Any]] = ["default", RC]
DPI = 150  # a README shows some 900 px: figures of 6.4 to 9 inches
PIXELS_IN_SVG = 80  # dots per inch of lines too long to be vectors
LARGEST = 300_000  # bytes of one picture
# Okabe & Ito's colours without their yellow, which is too pale for lines
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# for rules whose own colour is taken in the figure: as far from those as from each other
MORE_COLOURS = ("#882255", "#999933", "#332288", "#8B5A2B", "#44AA99", "#AA4466", "#556B2F")
PATTERNS = ((), (6, 1.5), (6, 1.5, 1.2, 1.5), (2.5, 1.2), (9, 1.5, 1.2, 1.5, 1.2, 1.5), (1.2, 1))  # on, off, … in line widths
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
MOST_IN_LEGEND = 8  # lines that an eye finds by colour, dash and marker; more are labelled at their ends or drawn in parts
GREY = "0.45"  # of controls and reference lines


class Style(NamedTuple):
    """Line style of one label."""

    colour: str
    dash: Any  # a line style of matplotlib
    marker: str


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return each label's style, in the order in which labels are listed; every label gets a style of its own.

    The colour is the method's in every figure, unless a method listed before it has the same: then it is one that none here has, as long
    as there are any. Groups of one method (``dgl head=linear``, ``dgl head=mlp``) share it and differ in tint, dashes and marker, unless
    there is no other method: then they are coloured like methods. Rules of users' files follow the ones of this package in
    alphabetical order.
    """
    unique = list(dict.fromkeys(names))
    method = {label: label.split(" ")[0] for label in unique}
    from gradlens.methods import SHIPPED  # imports torch, which tables and figures do without

    known = [*SHIPPED, *sorted(set(method.values()) - set(SHIPPED))]
    ordered = sorted(unique, key=lambda label: known.index(method[label]))
    alone = len(set(method.values())) == 1
    colours = _own_colours([known.index(name) for name in dict.fromkeys(method[label] for label in ordered)])
    found: dict[str, Style] = {}
    for label in ordered:
        variant = sum(method[other] == method[label] for other in found)
        place = known.index(method[label])
        rgb = colours[place] if not alone else _own_colours(range(place, place + variant + 1))[place + variant]
        place += variant if alone else 0
        tint = 0.0 if alone else 1 - 0.7**variant
        colour = np.array(to_rgb(rgb)) * (1 - tint) + np.array(to_rgb("0.8")) * tint
        look = place + (0 if alone else variant)
        hexa = "#" + "".join(f"{round(255 * c):02x}" for c in colour)
        found[label] = Style(hexa, (0, PATTERNS[look % len(PATTERNS)] or None), MARKERS[look % len(MARKERS)])
    return found


def _own_colours(places: Iterable[int]) -> dict[int, str]:
    """Place among all methods -> colour: of COLOURS in turn, and of MORE_COLOURS where that is taken already."""
    spare, found = list(MORE_COLOURS), dict[int, str]()
    for place in places:
        usual = COLOURS[place % len(COLOURS)]
        found[place] = spare.pop(0) if usual in found.values() and spare else usual
    return found


def _luminance(colour: str) -> float:
    """Return the relative luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2)."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def readable_ink(colour: str) -> str:
    """Return white or black, whichever is easier to read on a colour."""
    return max(("#ffffff", "#000000"), key=lambda ink: contrast(ink, colour))


# ----------------------------------------------------------------------------------------------------- parts of figures


def joined(*parts: str) -> str:
    """Return the parts that are not empty, with dots between them."""
    return " · ".join(part for part in parts if part)


def text_width(text: str, points: float = 10) -> float:
    """Return the inches that a line of text takes."""
    drawn = text.encode("utf-8", "replace").decode()  # a path may hold bytes that are no text
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # said, or looked for in other fonts, where it is drawn
        width, _, _ = text_to_path.get_text_width_height_descent(drawn, FontProperties(size=points), ismath=False)
    return float(width) / 72


def wrapped(text: str, width: float) -> list[str]:
    """Return a text in lines of at most so many inches, broken at blanks but not at those that do not break."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip(" ")
        if lines[-1] and text_width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def in_lines(parts: Iterable[str], width: float) -> list[str]:
    """Return :func:`joined` in as many lines as it takes in a figure so many inches wide; one line at least."""
    lines = [""]
    for part in filter(None, parts):
        longer = joined(lines[-1], part)
        if lines[-1] and text_width(longer) > width - 0.3:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def over_seeds(seeds: int, interval: str) -> str:
    """Name the number of seeds of the means, in words, and what is drawn of their interval."""
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds, {interval}"


def head(figure: Figure, *lines: str) -> None:
    """Write the lines above all panels, aligned left, broken where the figure ends; empty ones are left out."""
    width = figure.get_figwidth()
    broken = [part for line in lines if line for one in line.split("\n") for part in wrapped(one, width - 0.3)]
    figure.suptitle("\n".join(broken), x=0.1 / width, ha="left", fontsize=10)


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """Make so many axes in rows of at most ``columns``; the last row's surplus is removed.

    Args:
        figure: where they are made.
        count: of panels.
        columns: of the grid.
        options: of ``Figure.subplots``.

    """
    grid: list[Axes] = figure.subplots(math.ceil(count / columns), columns, squeeze=False, **options).ravel().tolist()
    for ax in grid[count:]:
        ax.remove()
    return grid[:count]


def band(ax: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, alpha: float) -> None:
    """Draw the band of an interval about a line, where it has one."""
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0)


def line_handles(looks: Iterable[tuple[str, Style]]) -> list[Line2D]:
    """Return what a legend shows of lines with markers, by their names and styles."""
    return [Line2D([], [], color=c, linestyle=d, marker=m, markersize=4, label=name) for name, (c, d, m) in looks]


# -------------------------------------------------------------------------------------------------------------- saving


@style.context(LOOK)
def save_figure(
    figure: Figure, rows: Sequence[Any], folder: str | Path, name: str, *, formats: Sequence[str] = ("png",), width: float | None = None
) -> list[Path]:
    """Write a figure as ``name.png`` (or in other formats) with its table ``name.csv`` beside it; same input, same bytes.

    Lines too long for a small svg are put into it as pixels; text stays vector.

    Args:
        figure: what to draw.
        rows: the table it was drawn from.
        folder: made if it is not there.
        name: without an ending.
        formats: of png, svg, pdf.
        width: of the figure in inches, see :func:`gradlens.reporting.figure_width.set_width`; default: its own.

    Returns:
        the paths, in the order of ``formats``, the csv last.

    Raises:
        InputError: no rows, or the folder cannot be written.

    """
    _write_names_out(figure)
    if width is not None:
        set_width(figure, width)
    drawn = {ending: WRITERS[ending](figure) for ending in formats}
    paths = [Path(folder) / f"{name}.{ending}" for ending in (*drawn, "csv")]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, drawn.values(), strict=False):
            path.write_bytes(content)
    except OSError as error:
        raise InputError(f"cannot write figures to {folder}: {reason(error)}") from error
    write_csv(paths[-1], rows)
    return paths


def _write_names_out(figure: Figure) -> None:
    """Escape names of files and data in a figure: dollars in them begin no formula, bytes that are no UTF-8 are escaped."""
    for text in figure.findobj(Text):
        content = text.get_text()
        if not content.isascii():
            text.set_text(encode(content).decode())
        if "$" in content and not content.startswith(FORMULAE):  # a tick has no text yet
            text.set_parse_math(False)


def _save(figure: Figure, **how: Any) -> bytes:
    """Return a figure in a format of matplotlib's; signs that its font lacks are boxes, without a warning."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, **how)
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    """Return the figure as pixels."""
    png = _save(figure, format="png", dpi=DPI, pil_kwargs={"optimize": True})
    return png if len(png) <= LARGEST else _in_256_colours(png)


def _in_256_colours(png: bytes) -> bytes:
    """Return an image at about a third of its bytes; plots have few colours, so the difference is invisible."""
    image = Image.open(io.BytesIO(png))
    opaque = image.getchannel("A").getextrema() == (255, 255)
    few = image.convert("RGB").quantize(256) if opaque else image.quantize(256, Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    few.save(buffer, format="png", optimize=True, dpi=image.info.get("dpi"))
    return buffer.getvalue()


def _small_svg(figure: Figure) -> bytes:
    """Return the figure as vectors; where they are too many, lines are pixels."""
    svg = _svg(figure)
    if len(svg) <= LARGEST:
        return svg
    for ax in figure.axes:
        for artist in (*ax.lines, *ax.collections):
            artist.set_rasterized(True)
    return _svg(figure)


def _svg(figure: Figure) -> bytes:
    """Return the figure as vectors, coordinates to a hundredth of a point; the parts drawn as pixels are packed."""
    svg = _save(figure, format="svg", dpi=PIXELS_IN_SVG, metadata={"Date": None, "Creator": "gradlens"})
    short = re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), svg)
    return re.sub(rb"(?<=data:image/png;base64,)[^\"]*", lambda data: b64encode(_in_256_colours(b64decode(data[0]))), short)


def _pdf(figure: Figure) -> bytes:
    """Return the figure as vectors for papers, its fonts embedded; no date, so that the same figure gives the same bytes."""
    return _save(figure, format="pdf", dpi=DPI, metadata={"CreationDate": None, "Creator": "gradlens", "Producer": None})


WRITERS: dict[str, Callable[[Figure], bytes]] = {"png": _png, "svg": _small_svg, "pdf": _pdf}
