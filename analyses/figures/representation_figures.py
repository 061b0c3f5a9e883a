"""What the figures of representations say, from the rows that they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from gradlens.reporting.numbers import short_number
from gradlens.reporting.representations import RdmRow, SimilarityCell


def likeness_message(cells: Sequence[SimilarityCell]) -> str:
    """The mean likeness of a network's blocks to the same blocks of each other network."""
    same = [c for c in cells if c.block == c.other_block]
    found = {other: fmean(c.cka for c in same if c.other == other) for other in dict.fromkeys(c.other for c in same)}
    said = ", ".join(f"{value:.2f} to {other}".replace(" ", "\u00a0") for other, value in found.items())
    return f"Mean likeness (CKA) of {cells[0].run}'s blocks to the same blocks of other networks: {said}"


def class_gap(rows: Sequence[RdmRow]) -> float:
    """How much more dissimilar two images of different classes are than two of one class, of the rows of one matrix."""
    labels = [row.label for row in rows]
    values = [[float(v) for v in row.dissimilarities.split()] for row in rows]
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    apart = fmean(values[i][j] for i, j in pairs if labels[i] != labels[j])
    return apart - fmean(values[i][j] for i, j in pairs if labels[i] == labels[j])


def classes_apart(rows: Sequence[RdmRow]) -> str:
    """How far each network's last layer takes the classes apart."""
    last = rows[-1].block
    gaps = {run: class_gap([r for r in rows if (r.run, r.block) == (run, last)]) for run in dict.fromkeys(r.run for r in rows)}
    said = ", ".join(f"{short_number(gap)} in {run}".replace(" ", "\u00a0") for run, gap in gaps.items())
    return f"At {last}, images of two classes are further apart than those of one: by {said}"
