"""What differs in a gradient that enters the network: micro-batches by factors, or rows that only one of two losses counts."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from gradlens.analysis.captures.loaded import LoadedCapture
from gradlens.analysis.captures.names import Names
from gradlens.analysis.captures.parting import Parting
from gradlens.gradients.alignment import measure


def about_the_loss(found: Parting, a: LoadedCapture, b: LoadedCapture, names: Names) -> Parting:
    """Add to the answer what the rows of the gradient show; sketches show none."""
    key = f"gradient/{found.name}"
    there = names.in_b(key)
    if a.sketch is not None or b.sketch is not None or there is None or key not in a.keys:
        return found
    mine = a.tensor(key)
    other = there.read(list(mine.shape))
    if mine.shape != other.shape or not mine.ndim or not (mine.isfinite().all() and other.isfinite().all()):
        return found
    rows = b.rows(there.keys[0]) or a.rows(key)
    said = _by_micro_batch(mine, other, rows) or _rows_of_one_only(mine, other)
    return dataclasses.replace(found, answer=f"{found.answer}; {said}") if said else found


def _by_micro_batch(a: Tensor, b: Tensor, rows: list[int]) -> str:
    """Say by which factors the micro-batches differ."""
    if len(rows) < 2 or sum(rows) != len(a):
        return ""
    factors = []
    for one, other in zip(torch.split(a, rows), torch.split(b, rows), strict=True):
        got = measure(other, one, ("cosine", "norm_ratio"))
        if not got["cosine"] > 0.999:
            return ""
        factors.append(got["norm_ratio"])
    sizes = ", ".join(map(str, rows))
    return f"micro-batches of {sizes} rows are {', '.join(f'{f:.3g}' for f in factors)} × a's: is their mean not weighted by size?"


def _rows_of_one_only(a: Tensor, b: Tensor) -> str:
    """Say how many rows are zero in one of the two only, or else by which factor the others differ."""
    ones, others = (v.flatten(0, -2) if v.ndim > 1 else v[:, None] for v in (a, b))
    zero, none = ((v == 0).all(1) for v in (ones, others))
    for letter, only in (("b", zero & ~none), ("a", none & ~zero)):
        if count := int(only.sum()):
            return f"{count} of {len(zero)} rows are zero in {'a' if letter == 'b' else 'b'} only: does the loss of {letter} count padding?"
    norms = torch.linalg.vector_norm(others.double(), dim=1) / torch.linalg.vector_norm(ones.double(), dim=1)
    spread = norms[norms.isfinite()]
    if len(spread) and float(spread.max() - spread.min()) < 1e-3 * float(spread.max()) and math.isfinite(float(spread.max())):
        return f"each row is {float(spread.mean()):.3g} × as long as in a"
    return ""
