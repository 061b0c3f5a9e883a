"""Compare two captured steps: where they part, and how far each tensor is apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gradlens.analysis.captures.comparable import must_be_comparable, remarks, tied
from gradlens.analysis.captures.floors import REPEATS, rounding, set_floors
from gradlens.analysis.captures.loaded import LoadedCapture
from gradlens.analysis.captures.loss_rows import about_the_loss
from gradlens.analysis.captures.measured import LayerDifference, pairs
from gradlens.analysis.captures.names import Names
from gradlens.analysis.captures.parting import Parting, find_parting
from gradlens.runtime.frames import frame_of
from gradlens.runtime.tables import Cell, Table

if TYPE_CHECKING:
    import pandas

SHOWN = 20  # tensors in a short table
COLUMNS = ("name", "of", "layer", "cosine", "norm_ratio", "sign_agreement", "apart", "floor", "state", "why")


@dataclass(frozen=True, repr=False)
class Difference:
    """What ``gradlens.diff`` found.

    Attributes:
        a, b: paths of the captures.
        first: where they part; None if they do not.
        rows: one for each tensor: activations in the order of the calls, gradients in the opposite one, parameters.
        floor: what counts as the same, in words.
        remarks: how the captures differ besides, and what they did not see.

    """

    a: Path
    b: Path
    first: Parting | None
    rows: Sequence[LayerDifference]
    floor: str
    remarks: Sequence[str]

    @property
    def same(self) -> bool:
        """Return whether the captures are the same within the floor.

        Returns:
            whether they are.

        """
        return self.first is None

    @property
    def answer(self) -> str:
        """Return the answer in one line.

        Returns:
            where they part, or that they are the same.

        """
        return self.first.answer if self.first is not None else "same within the floor"

    def __repr__(self) -> str:
        return f"<Difference: {self.answer}; {len(self.rows)} tensors; .first, .rows, .table(), .frame()>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def frame(self) -> pandas.DataFrame:
        """Return the rows as a pandas DataFrame.

        Returns:
            a line for each tensor, as ``rows``.

        Raises:
            InputError: pandas is not installed.

        """
        return frame_of([{name: getattr(row, name) for name in COLUMNS} for row in self.rows], COLUMNS)

    def table(self, every: bool = True) -> Table:
        """Return a table with a line for each tensor.

        Args:
            every: False: only the first tensors that are not the same, and fewer columns.

        Returns:
            the table, the answer its title.

        """
        shown = [row for row in self.rows if every or row.state != "same"]
        left = 0 if every else max(0, len(shown) - SHOWN)
        more = [f"{left} more tensors differ."] if left else []
        made = Table(self.answer, [*more, f"Floor: {self.floor}.", *self.remarks])
        numbers = {"cosine": "cosine", "|b|/|a|": "norm_ratio", "same signs": "sign_agreement", "apart": "apart", "floor": "floor"}
        numbers = numbers if every else {name: value for name, value in numbers.items() if name not in ("same signs", "floor")}
        made.add_column("tensor")
        made.add_column("of", align="left")
        for name in numbers:
            made.add_column(name)
        made.add_column("state", align="left")
        for row in shown[: len(shown) - left]:
            state = f"{row.state}: {row.why}" if row.why else row.state
            cells = (_cell(getattr(row, value)) for value in numbers.values())
            made.add_row(row.name or "the model", row.of, *cells, Cell(state, state))
        return made


def _cell(value: float) -> Cell:
    return Cell(f"{value:.3g}" if math.isfinite(value) else "–", value)


def diff(
    a: str | Path, b: str | Path, *, map: Sequence[str] = (), floor: str | Path | Sequence[str | Path] = (), others: bool = False
) -> Difference:
    """Compare two steps that ``gradlens.capture`` stored, and find the layer at which they part.

    That is the first output that differs, in the order of the calls. If none does and all of b is a multiple of a, it is the factor. If
    not, it is the layer whose backward pass differs: the gradient at its output agrees, that of its weights or at the layer called before
    it does not.

    Args:
        a: the file that is taken for right.
        b: the other file.
        map: rules that give b's layers a's names: ``there=here`` with a regular expression, ``q,k,v=qkv`` for separate layers against a
            fused one.
        floor: captures that repeat a's step: three times as far as they are apart counts as the same. Default: one rounding of the lower
            precision of the two, propagated.
        others: compare captures of other weights or inputs too.

    Returns:
        the difference.

    Raises:
        InputError: a file that is no whole capture, captures that share no layer, of other weights or inputs, or a rule that fits no layer.

    """
    one, other = LoadedCapture(a), LoadedCapture(b)
    names = Names(map, other)
    notes = must_be_comparable(one, other, names, others)
    rows = list(pairs(one, other, names))
    kind, unit = rounding(one, other)
    repeats = [floor] if isinstance(floor, str | Path) else list(floor)
    set_floors(rows, unit, _spread(one, repeats) if repeats else None)
    first = find_parting(rows, _users(one), _reasons(one, other, names))
    if first is not None and first.part == "loss":
        first = about_the_loss(first, one, other, names)
    words = f"{REPEATS:g} × the spread over {len(repeats) + 1} repeats" if repeats else f"one rounding of {kind} ({unit:.1e}), propagated"
    return Difference(one.path, other.path, first, rows, words, [*notes, *remarks(one, other, names)])


def _spread(a: LoadedCapture, repeats: Sequence[str | Path]) -> dict[str, float]:
    """Return the largest distance of repeats from a, by key."""
    found: dict[str, float] = {}
    for path in repeats:
        again = LoadedCapture(path)
        names = Names((), again)
        must_be_comparable(a, again, names, others=False)
        for row in pairs(a, again, names):
            if math.isfinite(row.apart):
                found[row.key] = max(found.get(row.key, 0.0), row.apart)
    return found


def _users(a: LoadedCapture) -> dict[str, list[str]]:
    """Return parameter -> the layers that use it, where there are several."""
    found: dict[str, list[str]] = {}
    for name, first in tied(a.header["parameters"]).items():
        found.setdefault(first, [first.rpartition(".")[0]]).append(name.rpartition(".")[0])
    return found


def _reasons(a: LoadedCapture, b: LoadedCapture, names: Names) -> dict[str, str]:
    """Return key of a parameter's gradient that one side lacks -> why."""
    found = {}
    for letter, capture in (("a", a), ("b", b)):
        for name, fact in capture.header["parameters"].items():
            if "tied" not in fact and f"parameter/{name}" not in capture.keys:
                key = f"parameter/{name}" if letter == "a" else names.in_a(f"parameter/{name}")
                found[key] = f".grad is None in {letter}" if fact.get("trained", True) else f"frozen in {letter}"
    return found
