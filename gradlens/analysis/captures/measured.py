"""Measure each pair of tensors of two captures, in the order in which they were computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlens.analysis.captures.loaded import LoadedCapture, layer_of
from gradlens.analysis.captures.names import Names, There
from gradlens.gradients.alignment import Pair
from gradlens.gradients.count_sketch import CountSketch


@dataclass
class LayerDifference:
    """How far one tensor of two captures is apart.

    Attributes:
        name: label of a call, or name of a parameter, in a.
        of: activation, gradient (with respect to the output), or parameter (its gradient).
        layer: path of the layer.
        cosine, norm_ratio, sign_agreement: of b's and a's; NaN where one is zero, where one is missing, and for signs of sketches.
        apart: ‖b − a‖ over the larger of their norms, or over what rounding is relative to where the entries cancel.
        floor: the largest ``apart`` that counts as the same.
        state: same, origin, propagated, missing, unknown.
        why: what there is to say about it.
        norm: the larger of the two norms.
        flipped: share of an activation's entries with another sign.
        switched: share of an activation's entries of which exactly one is zero.
        is_vector: whether it is a parameter with one dimension, whose gradient is a sum over items.
        relative_norm: ``norm`` over that of what was summed; 1 but for sums that cancel.

    """

    name: str
    of: str
    layer: str
    cosine: float = math.nan
    norm_ratio: float = math.nan
    sign_agreement: float = math.nan
    apart: float = math.nan
    floor: float = 0.0
    state: str = "same"
    why: str = ""
    norm: float = 0.0
    flipped: float = 0.0
    switched: float = 0.0
    is_vector: bool = False
    relative_norm: float = 1.0

    @property
    def agrees(self) -> bool:
        """Return whether both have it and they are the same within the floor."""
        return self.apart <= self.floor

    @property
    def key(self) -> str:
        """Return the tensor's key in a's file."""
        return f"{self.of}/{self.name}"


def pairs(a: LoadedCapture, b: LoadedCapture, names: Names) -> Iterator[LayerDifference]:
    """Yield a row for each tensor that either has: activations in the order of the calls, then gradients in the opposite one, parameters.

    Args:
        a: the first capture.
        b: the second one.
        names: which of b's tensors belongs to which of a's.

    """
    for key in _in_order(a, b, names):
        of, _, name = key.partition("/")
        layer = layer_of(name) if of != "parameter" else name.rpartition(".")[0]
        yield _measured(a, b, names, LayerDifference(name, of, layer))


def _in_order(a: LoadedCapture, b: LoadedCapture, names: Names) -> list[str]:
    theirs = {names.in_a(key): None for key in b.keys}
    labels = list(a.header["calls"])
    labels += [label for label in b.header["calls"] if names.in_a(f"activation/{label}").partition("/")[2] not in labels]
    known = {**a.keys, **theirs}
    later = [key for key in known if key.partition("/")[0] != "batch" and key.partition("/")[2] not in labels]
    wanted = [f"activation/{label}" for label in labels] + [f"gradient/{label}" for label in reversed(labels)]
    return [key for key in [*wanted, *later] if key in known]


def _measured(a: LoadedCapture, b: LoadedCapture, names: Names, row: LayerDifference) -> LayerDifference:
    """Fill in a row's numbers."""
    there = names.in_b(row.key)
    row.is_vector = row.of == "parameter" and len(a.header["parameters"].get(row.name, {}).get("shape", ())) == 1
    if row.key not in a.keys or there is None:
        row.state, row.apart = "missing", math.inf
        row.why = f"only in {'b' if there is not None else 'a'}"
        return row
    wrong = a.nonfinite(row.key), sum(map(b.nonfinite, there.keys))
    if any(wrong):
        row.apart = 0.0 if wrong[0] == wrong[1] else math.inf
        row.why = f"not finite: {wrong[0]:,} entries in a, {wrong[1]:,} in b"
    one, other, is_sketch = _vectors(a, b, row.key, there)
    if one is None or other is None or one.shape != other.shape:
        row.state, row.apart = "unknown", math.nan
        row.why = row.why or _why_not(a, b, row.key, one, other)
        return row
    one, other = (torch.nan_to_num(v, 0.0, 0.0, 0.0) if any(wrong) else v for v in (one, other))
    pair = Pair(other, one)
    row.cosine, row.norm_ratio = pair.cosine, pair.norm / pair.true_norm if pair.true_norm else math.nan
    n = pair.moments.n - pair.moments.t_zeros
    row.sign_agreement = math.nan if is_sketch or not n else pair.moments.same_sign / n
    row.norm = max(pair.norm, pair.true_norm)
    if not any(wrong):
        gap = pair.relative_error * pair.true_norm if pair.true_norm else pair.norm
        row.apart = gap / row.norm if row.norm else 0.0
    if row.of == "activation" and row.apart:
        row.flipped = math.acos(max(-1.0, row.cosine)) / math.pi if math.isfinite(row.cosine) else 0.0
        if not is_sketch:
            row.switched = float(((one == 0) != (other == 0)).double().mean())
            row.flipped = float((one.sign() * other.sign() < 0).double().mean()) if one.is_floating_point() else 0.0
    return row


def _vectors(a: LoadedCapture, b: LoadedCapture, key: str, there: There) -> tuple[Tensor | None, Tensor | None, bool]:
    """Return both tensors, or sketches of both; None for one that cannot be compared."""
    theirs = there.keys
    if a.sketch is None and b.sketch is None:
        like = [fact.get("whole", fact["shape"]) for fact in (*a.facts(key), *(f for k in theirs for f in b.facts(k)))]
        first = a.tensor(key, like[-1])
        other = there.read(list(first.shape))
        return first, other, False
    if a.sketch is not None and b.sketch is not None:
        fits = a.sketch == b.sketch and theirs == (key,) and _shape(a, key) == _shape(b, key)
        return (a.tensor(key), b.tensor(key), True) if fits else (None, None, True)
    if a.sketch is None:
        return _sketched(a.tensor(key, _shape(b, theirs[0])), theirs[0], b), b.tensor(theirs[0]) if len(theirs) == 1 else None, True
    return a.tensor(key), _sketched(there.read(_shape(a, key)), key, a), True


def _shape(capture: LoadedCapture, key: str) -> list[int]:
    """Return a tensor's whole shape."""
    fact = capture.facts(key)[0]
    return list(fact.get("whole", fact["shape"]))


def _sketched(whole: Tensor, key: str, by: LoadedCapture) -> Tensor | None:
    """Sketch a tensor as another capture's were."""
    if by.sketch is None or list(whole.shape) != _shape(by, key):
        return None
    made = CountSketch(key, *by.sketch)
    made.add(whole)
    return torch.from_numpy(made.buckets)


def _why_not(a: LoadedCapture, b: LoadedCapture, key: str, one: Tensor | None, other: Tensor | None) -> str:
    """Say why two tensors cannot be compared."""
    if one is not None and other is not None:
        return f"a has the shape {list(one.shape)}, b {list(other.shape)}"
    if a.sketch is not None and b.sketch is not None and a.sketch != b.sketch:
        return "sketches of different size or seed"
    return "sketches of different names or shapes"
