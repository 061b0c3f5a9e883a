"""How far two tensors may be apart and count as the same: the spread over repeats, or one rounding of the lower precision, propagated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from gradlens.analysis.captures.loaded import LoadedCapture
from gradlens.analysis.captures.measured import LayerDifference

SUMMED, STORED = 8.0, 3.0  # roundings of a float32 sum, and of a tensor that is stored in a shorter type
SWITCHED = 1.5  # times the expected error that switched units cause
REPEATS = 3.0  # times the largest distance of repeats
_TF32 = 2.0**-11


def rounding(*captures: LoadedCapture) -> tuple[str, float]:
    """Return the shortest type in which a tensor of the captures was computed, and its unit roundoff."""
    found = [("float64", torch.finfo(torch.float64).eps / 2)]
    for capture in captures:
        types = {capture.dtype(key) for key in capture.keys if not key.startswith("batch/")}
        found += [(str(t).removeprefix("torch."), torch.finfo(t).eps / 2) for t in types if t.is_floating_point]
        found += [("float32", torch.finfo(torch.float32).eps / 2)] * (torch.complex64 in types)
        if capture.header.get("tf32") and capture.header.get("device") == "cuda":
            found.append(("tf32", _TF32))
    return max(found, key=lambda each: each[1])


def propagated(unit: float, place: int) -> float:
    """Return the relative error of a tensor that ``place`` others were computed before.

    Sums of float32 and float64 are rounded at each addition, so that errors add up as the root of their number. Shorter types are summed in
    float32 and rounded when they are stored.
    """
    return SUMMED * unit * math.sqrt(1 + place) if unit < _TF32 else STORED * unit * (1 + place) ** 0.25


def set_floors(rows: Sequence[LayerDifference], unit: float, repeats: Mapping[str, float] | None) -> None:
    """Set every row's floor; distances of sums that cancel are made relative to what was summed.

    Args:
        rows: of one comparison, in order.
        unit: unit roundoff of the lower precision.
        repeats: key -> the largest distance of repeats; None: rounding is propagated.

    """
    order = [row for row in rows if row.of != "parameter"]
    switched = _switched([row for place, row in enumerate(order) if row.of == "activation" and row.apart <= propagated(unit, place)])
    at_layer: dict[str, float] = {}  # layer -> the largest floor of the gradients at its outputs
    arrived: dict[str, float] = {}  # layer -> norm of the gradients at its outputs
    for place, row in enumerate(order):
        row.floor = propagated(unit, place)
        if row.of == "gradient":
            row.floor = math.hypot(row.floor, switched.get(row.name, max(switched.values(), default=0.0)))
            at_layer[row.layer] = max(at_layer.get(row.layer, 0.0), row.floor)
            arrived[row.layer] = math.hypot(arrived.get(row.layer, 0.0), row.norm)
    for row in rows:
        if row.of == "parameter":
            row.floor = 1.5 * at_layer.get(row.layer, max(at_layer.values(), default=propagated(unit, len(order))))
            if row.is_vector and (whole := arrived.get(row.layer, 0.0)) > row.norm > 0:  # a bias before BatchNorm, of keys: a sum of zero
                row.relative_norm = row.norm / whole
                row.apart *= row.relative_norm
        if repeats is not None:
            row.floor = max(REPEATS * repeats.get(row.key, 0.0), 2 * unit)


def _switched(activations: Sequence[LayerDifference]) -> dict[str, float]:
    """Estimate the relative error of gradients that units cause which rounding switches on or off (ReLU and its like), by label.

    A share p of switched units is an error of √(2p) in the gradients at all layers before them. Where an activation function is no layer,
    only the changed signs of what it reads are seen.
    """
    zeros = signs = 0.0
    found: dict[str, float] = {}
    for row in reversed(activations):
        zeros, signs = zeros + row.switched, max(signs, row.flipped)
        found[row.name] = SWITCHED * math.sqrt(2 * zeros + 4 * signs)
    return found
