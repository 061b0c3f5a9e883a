"""Set a finished figure to the width of a column of a paper: letters keep their size, so panels, legends and titles are laid out anew."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.text import Text

SMALLEST = 8.0  # points: letters of a figure in a paper
PANEL = 1.3  # inches that a panel needs
SIDE = 0.6  # inches for the axis at the left of a grid of panels
LETTER = 0.078  # inches of a letter at 10 points, about
LOWEST, STEEPEST = 2.2, 0.8  # a single panel's height: inches, and of the width
LINE = 0.2  # inches of a line of text


def set_width(figure: Figure, width: float) -> None:
    """Make a figure so many inches wide; panels that have no room beside each other go below, titles and legends are broken into lines."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_fontsize(max(SMALLEST, float(text.get_fontsize())))
    beside = [legend for ax in figure.axes if (legend := _beside(ax, width))]
    names = [[text.get_text() for text in legend.get_texts()] for legend in (*beside, *figure.legends)]
    grown = _panels_below(figure, width)
    figure.set_layout_engine("constrained")
    lines = _titles(figure, width)
    for legend, labels in zip([*beside, *figure.legends], names, strict=True):
        columns = max(1, min(len(labels), int(width / (0.75 + LETTER * max(map(len, labels), default=1)))))
        title = legend.get_title().get_text() or None
        lines += math.ceil(len(labels) / columns) - (0 if legend in beside else math.ceil(len(labels) / legend._ncols))
        handles = legend.legend_handles
        legend.remove()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title)
    height = figure.get_figheight() * grown
    if len(figure.axes) == 1 and not figure.axes[0].texts:  # texts at the ends of lines need the height they were placed for
        height = min(height, max(LOWEST, STEEPEST * width))
    figure.set_size_inches(width, height + LINE * lines)


def _beside(ax: Axes, width: float) -> Any:
    """Return the legend at the right of some axes, if it would take more than a third of the width."""
    legend = ax.get_legend()
    if legend is None or legend.get_bbox_to_anchor().x0 < ax.bbox.x1:
        return None
    longest = max((len(text.get_text()) for text in legend.get_texts()), default=0)
    return legend if 0.75 + LETTER * longest > width / 3 else None


def _titles(figure: Figure, width: float) -> int:
    """Break the heading at blanks, and place it and the common label of panels where the layout puts them; return the new lines."""
    label = figure.get_supylabel()
    if label:
        figure._supylabel.remove()  # type: ignore[attr-defined]
        figure._supylabel = None  # type: ignore[attr-defined]
        figure.supylabel(label, fontsize=10)
    heading = figure.get_suptitle()
    extra = 0
    for ax in figure.axes:
        for where in ("left", "center"):
            title = ax.get_title(loc=where)  # type: ignore[arg-type]
            broken = _broken(title, width)
            extra = max(extra, broken.count("\n") - title.count("\n"))
            if title:
                ax.set_title(broken, loc=where)  # type: ignore[arg-type]
    if not heading:
        return extra
    figure._suptitle.remove()  # type: ignore[attr-defined]
    figure._suptitle = None  # type: ignore[attr-defined]
    figure.suptitle(_broken(heading, width), x=0.1 / width, ha="left", fontsize=10)
    return extra + _broken(heading, width).count("\n") - heading.count("\n")


def _broken(text: str, width: float) -> str:
    """Return a text in lines that fit into a width, broken at blanks."""
    fits = max(16, int((width - 0.2) / LETTER))
    return "\n".join("\n".join(textwrap.wrap(part, fits, break_long_words=False)) for part in text.split("\n"))


def _panels_below(figure: Figure, width: float) -> float:
    """Put the panels of a grid into as many columns as have room; returns how many times as many rows there are now."""
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    grids = {ax.get_subplotspec().get_gridspec() for ax in panels}  # type: ignore[union-attr]
    if len(grids) != 1 or len(figure.axes) != len(panels):  # a grid in a grid, a colour bar: the layout finds the room
        return 1.0
    (grid,) = grids
    fitting = max(1, min(grid.ncols, int((width - SIDE) / PANEL)))
    rows = math.ceil(len(panels) / fitting)
    columns = math.ceil(len(panels) / rows)
    new = GridSpec(rows, columns, figure=figure)
    common = len(panels) > 1 and len(panels[0].get_shared_y_axes().get_siblings(panels[0])) > 1
    for i, ax in enumerate(panels):
        ax.set_subplotspec(new[i // columns, i % columns])
        if common:
            last = i + columns >= len(panels)
            ax.tick_params(labelleft=i % columns == 0, labelbottom=last)
            ax.set_xlabel(panels[-1].get_xlabel() if last else "")
    return rows / grid.nrows
