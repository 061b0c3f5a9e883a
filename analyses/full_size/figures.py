"""Draw what the csv files of figures/full_size hold: learning curves and the gradients' distance from the true ones, by layer and epoch.

For each family of items: ``learning.png`` (test accuracy and training loss; hollow marks are the reference study's readings),
``alignment.png`` (cosine with the true gradient and norm ratio of each layer; dotted: what chance gives; dashed: the noise ceiling, the
true gradient of one half of a batch against that of the other half) and ``table.md``. Half-done items are drawn as far as they are.

    python -m analyses.full_size.figures
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter, StrMethodFormatter

from analyses.full_size.items import Item, at_width, items
from analyses.full_size.readings import EPOCHS, of_family
from analyses.full_size.results import Rows, read_rows, summary
from gradlens.reporting.axes import label_ends
from gradlens.reporting.numbers import short_number
from gradlens.reporting.style import LOOK, Style, head, joined, save_figure, styles
from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import read_text, write_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "figures" / "full_size"
NO_BREAK = "\u00a0"  # a space that no line ends at
Family = dict[str, Rows]  # label -> rows of its longest run (several seeds: the first)


class Point(NamedTuple):
    """One drawn value."""

    label: str
    quantity: str  # test_accuracy, train_loss, cosine, norm_ratio, null, noise_ceiling; reading: of the reference study
    layer: str  # empty for the whole network
    epoch: int
    value: float


def families(results: Path) -> dict[str, Family]:
    """What there is to draw, in the list's order: family -> label -> rows."""
    found: dict[str, Family] = {}
    files = {path.stem: path for path in sorted(results.glob("*/*.csv"))}
    for name, path in _in_order(files):
        rows = read_rows(path)
        if len(rows) > 1 and rows[0]["seed"] == 0:
            found.setdefault(path.parent.name, {})[name] = rows
    return found


def _in_order(files: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """(label, file) of the items' csv files, whatever the width they were run at."""
    widths = {int(name.rpartition("-w")[2]) for name in files if name.rpartition("-w")[2].isdigit()}
    known: dict[str, Item] = {}
    for item in (*items(), *items(cpu=False)):
        for each in (item, *(at_width(item, width) for width in sorted(widths))):
            known.setdefault(each.name, each)
    return [(item.label, files[name]) for name, item in known.items() if name in files]


def points(family: Family) -> list[Point]:
    """All values of a family's rows as a long table; epochs without a value are left out."""
    found = []
    for label, rows in family.items():
        for row in rows:
            for key, value in row.items():
                quantity, _, layer = key.partition(":")
                if (layer or key in ("test_accuracy", "train_loss")) and not math.isnan(value):
                    found.append(Point(label, quantity, layer, row["epoch"], value))
    return found


def _line(ax: Axes, table: Sequence[Point], look: Style, **changes: Any) -> None:
    settings = {"color": look.colour, "ls": look.dash, "marker": look.marker, "ms": 4, "lw": 1.6, **changes}
    ax.plot([p.epoch for p in table], [p.value for p in table], **settings)


def message(family: Family) -> str:
    """What the curves say, in one sentence made from their numbers."""
    best = {label: max((r for r in rows if r["epoch"]), key=lambda r: r["test_accuracy"]) for label, rows in family.items()}
    order = sorted(best, key=lambda label: -best[label]["test_accuracy"])
    said = [f"{label} {100 * best[label]['test_accuracy']:.1f} % (epoch {best[label]['epoch']})" for label in order]
    return f"Best test accuracy: {', '.join(part.replace(' ', NO_BREAK) for part in said)}"


def _about(family: Family) -> str:
    """Machine and settings of the rows, for under the title."""
    first = next(iter(family.values()))[0]
    epochs = sorted({rows[-1]["epoch"] for rows in family.values()})
    span = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"{epochs[0]}"
    device = "CPU" if first["device"] == "cpu" else first["device"]
    width = f", width {first['width']}" if first["width"] else ""
    return f"{first['data']}, {first['model']}{width}, {span} epochs, one seed, {first['precision']} on {device}"


@style.context(LOOK)
def learning(name: str, family: Family) -> Figure:
    """Test accuracy and training loss over epochs, side by side; hollow marks: the reference study's readings."""
    look, table = styles(list(family)), points(family)
    last = max(p.epoch for p in table)
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    read = False
    named: dict[Axes, dict[str, tuple[float, float, str]]] = {}
    for ax, quantity, text in ((left, "test_accuracy", "test accuracy (%)"), (right, "train_loss", "training loss (nats)")):
        ends: dict[str, tuple[float, float, str]] = {}
        for label in family:
            mine = [p for p in table if p.label == label and p.quantity == quantity and p.epoch]
            scaled = [p._replace(value=100 * p.value) for p in mine] if quantity == "test_accuracy" else mine
            _line(ax, scaled, look[label])
            ends[label] = (scaled[-1].epoch, scaled[-1].value, look[label].colour)
        if quantity == "test_accuracy":
            read = _readings(ax, name, look, last)
        _epochs_axis(ax, last)
        ax.set_ylabel(text)
        named[ax] = ends
    head(figure, message(family), joined(_about(family), "hollow marks: the reference study (width 128, rate 3e-5)" if read else ""))
    figure.draw_without_rendering()  # names need the final limits
    for ax, ends in named.items():
        label_ends(ax, ends)
    return figure


def _readings(ax: Axes, name: str, look: Mapping[str, Style], last: int) -> bool:
    """Draw the reference study's readings of the rules shown; false where there is none."""
    shown = False
    for method, values in of_family(name).items():
        label = next((name for name in (f"{method} published", method) if name in look), None)
        if label is None:
            continue
        pairs = [(e, v) for e, v in zip(EPOCHS, values, strict=True) if e <= (1500 if last > 20 else last)]
        ax.plot(*zip(*pairs, strict=True), ls="", marker=look[label].marker, ms=7, mfc="none", mec=look[label].colour, mew=1.2)
        shown = True
    return shown


def _epochs_axis(ax: Axes, last: int) -> None:
    ax.set_xlabel("epoch")
    if last > 20:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(ScalarFormatter())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.04)


@style.context(LOOK)
def alignment(family: Family) -> Figure:
    """Cosine with the true gradient (above) and norm ratio (below) of each layer's weight gradient over epochs."""
    look, table = styles(list(family)), points(family)
    layers, exact = _informative(table)
    last = max(p.epoch for p in table)
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    grid = figure.subplots(2, len(layers), sharex=True, sharey="row", squeeze=False)
    for column, layer in enumerate(layers):
        for row, quantity in enumerate(("cosine", "norm_ratio")):
            ax = grid[row][column]
            for label in family:
                mine = [p for p in table if (p.label, p.quantity, p.layer) == (label, quantity, layer)]
                _line(ax, [p for p in mine if quantity == "cosine" or p.value > 0], look[label])
            if quantity == "cosine":
                ax.set_title(layer, fontsize=9.5)
                _floor_and_ceiling(ax, table, layer)
                lowest = min(p.value for p in table if p.quantity in ("cosine", "null", "noise_ceiling") and p.layer in layers)
                ax.set_ylim(min(-0.25, lowest - 0.05), 1.05)
            else:
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                ax.yaxis.set_minor_formatter(NullFormatter())
                ax.axhline(1, color="0.5", lw=0.8)
                _epochs_axis(ax, last)
    grid[0][0].set_ylabel("cosine with\nthe true gradient")
    grid[1][0].set_ylabel("norm ÷ norm of\nthe true gradient")
    low, high = grid[1][0].get_ylim()
    grid[1][0].set_ylim(min(low, 0.5), max(high, 2))
    notes = [f"{', '.join(exact)}: exactly the true gradient under every rule"] if exact else []
    grey = "grey, dotted: chance; grey, dashed: noise ceiling"
    head(figure, _alignment_message(family, layers), _about(family), joined(grey, *notes))
    figure.draw_without_rendering()  # names need the final limits
    below = [p for p in table if p.quantity == "norm_ratio" and p.layer == layers[-1] and p.value > 0]
    ends = {p.label: (p.epoch, p.value, look[p.label].colour) for p in sorted(below, key=lambda p: p.epoch)}
    label_ends(grid[1][-1], ends)
    return figure


def _informative(table: Sequence[Point]) -> tuple[list[str], list[str]]:
    """Layers to draw, and those that are not: where the cosine of every rule is 1 at every step."""
    cosines: dict[str, list[float]] = {}
    for p in table:
        if p.quantity == "cosine":
            cosines.setdefault(p.layer, []).append(p.value)
    exact = [layer for layer, values in cosines.items() if min(values) > 1 - 1e-6]
    return [layer for layer in cosines if layer not in exact] or list(cosines), exact if len(exact) < len(cosines) else []


def _floor_and_ceiling(ax: Axes, table: Sequence[Point], layer: str) -> None:
    """Chance and noise ceiling, the means over rules: grey."""
    for quantity, dash in (("null", ":"), ("noise_ceiling", "--")):
        by_epoch: dict[int, list[float]] = {}
        for p in table:
            if p.quantity == quantity and p.layer == layer:
                by_epoch.setdefault(p.epoch, []).append(p.value)
        ax.plot(list(by_epoch), [sum(v) / len(v) for v in by_epoch.values()], color="0.55", ls=dash, lw=1.1, zorder=1)


def _alignment_message(family: Family, layers: Sequence[str]) -> str:
    ends = {label: rows[-1].get(f"cosine:{layers[0]}", math.nan) for label, rows in family.items() if not label.startswith("bp")}
    said = ", ".join(f"{label} {short_number(value)}".replace(" ", NO_BREAK) for label, value in ends.items() if not math.isnan(value))
    return f"Cosine of {layers[0]} with the true gradient in the last epoch: {said}"


def table_of(family: Family) -> str:
    """A markdown table: each rule's cosines by layer in its last epoch, test accuracy best and final, minutes."""
    layers = list(dict.fromkeys(key.partition(":")[2] for rows in family.values() for key in rows[-1] if key.startswith("cosine:")))
    columns = [
        "rule",
        *(layer.replace(".", "<br>") for layer in layers),
        "test accuracy %<br>best (epoch)",
        "final",
        "epochs",
        "lr",
        "minutes",
    ]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for label, rows in family.items():
        best, end = max((r for r in rows if r["epoch"]), key=lambda r: r["test_accuracy"]), rows[-1]
        cosines = [_number(end.get(f"cosine:{layer}", math.nan)) for layer in layers]
        cells = [
            f"`{label}`", *cosines, f"{100 * best['test_accuracy']:.1f} ({best['epoch']})", f"{100 * end['test_accuracy']:.1f}",
            str(end["epoch"]) + (f" of {end['of_epochs']}" if end["epoch"] < end["of_epochs"] else ""),
            f"{end['lr']:g}", f"{summary(rows)['seconds'] / 60:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def with_tables(page: str, found: Mapping[str, Family]) -> str:
    """A page of the docs with each family's table between the marks that name the family."""
    for name, family in found.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
        before, mark, rest = page.partition(begin)
        if mark:
            page = before + begin + table_of(family) + end + rest.partition(end)[2]
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Draw every family that has a csv file; the exit status: 2 where there is none, or one that cannot be read."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analyses.full_size.figures", description=__doc__, formatter_class=form)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the csv files")
    args = parser.parse_args(argv)
    try:
        found = families(args.results)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not found:
        print(f"error: {args.results} holds no csv file of analyses.full_size: nothing to draw", file=sys.stderr)
        return 2
    for name, family in found.items():
        folder = args.results / name / "drawn"
        save_figure(learning(name, family), [p for p in points(family) if not p.layer], folder, "learning")
        if any(p.quantity == "cosine" for p in points(family)):
            save_figure(alignment(family), [p for p in points(family) if p.layer], folder, "alignment")
        write_text(folder / "table.md", table_of(family))
        print(f"wrote {folder}")
    if args.results == RESULTS:
        page = ROOT / "docs" / "results" / "full-size.md"
        write_text(page, with_tables(read_text(page), found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
