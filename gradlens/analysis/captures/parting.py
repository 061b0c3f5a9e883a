"""Where two captured steps part: the first output that differs, else the scale, else the layer whose backward pass is another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradlens.analysis.captures.measured import LayerDifference

NEARLY_ALL = 0.8  # share of layers whose parameters' gradients differ, from which it is no matter of single layers
FEWEST = 3  # … and their least number


@dataclass(frozen=True)
class Parting:
    """Where two captures part.

    Attributes:
        part: forward (an output differs), scale (all of b is a multiple of a), loss (the gradient that enters the network differs),
            backward (a layer's backward pass does), parameters (only parameters' gradients differ, nearly everywhere), unknown (the files
            cannot show it).
        name: label or name of the first tensor that differs.
        layer: the layer that is the origin; of a scale empty.
        of: activation, gradient or parameter.
        factor: of a scale, b / a; NaN otherwise.
        answer: one sentence.

    """

    part: str
    name: str
    layer: str
    of: str
    factor: float
    answer: str


def find_parting(rows: Sequence[LayerDifference], ties: Mapping[str, Sequence[str]], reads: Mapping[str, str]) -> Parting | None:
    """Return where two captures part and mark each row's state; None: nowhere.

    Args:
        rows: with floors, in order.
        ties: name of a parameter -> the layers that use it.
        reads: key of a tensor that is missing on one side -> why.

    """
    for row in rows:
        if row.state == "same" and not row.agrees:
            row.state = "propagated"
        if row.key in reads:
            row.why = reads[row.key]
    forward = [row for row in rows if row.of == "activation" and row.state in ("propagated", "missing") and row.apart > row.floor]
    differing = [row for row in forward if row.state == "propagated"]
    if differing:
        return _forward(rows, differing[0])
    gradients = [row for row in rows if row.of == "gradient"]
    parameters = [row for row in rows if row.of == "parameter"]
    if all(row.agrees or row.state == "unknown" for row in (*gradients, *parameters)):
        return None
    return _scale(gradients, parameters) or _backward(rows, gradients, parameters, ties)


def _forward(rows: Sequence[LayerDifference], first: LayerDifference) -> Parting:
    first.state = "origin"
    before = None
    for row in rows:
        if row is first:
            break
        before = row if row.of == "activation" and row.state == "same" else before
    after = f"; the output of {_named(before.name)}, called before it, agrees" if before is not None else ""
    return Parting(
        "forward", first.name, first.layer, first.of, math.nan, f"they part at {_named(first.name)} (output, {_far(first)}){after}"
    )


# --------------------------------------------------------------------------------------------------------------- scale


def _factor(rows: Sequence[LayerDifference]) -> float:
    """Return the common ratio of rows that are parallel within their floors; NaN if there is none."""
    used = [row for row in rows if row.norm > 0 and row.state not in ("unknown", "missing")]
    if not used or any(not math.isfinite(row.norm_ratio) for row in used):
        return math.nan
    largest = max(used, key=lambda row: row.norm)
    factor = largest.norm_ratio
    for row in used:
        # of vectors whose ratio is f and cosine c, b/f − a has the length √(1 + (r/f)² − 2 c r/f) relative to a
        ratio = row.norm_ratio / factor
        gap = math.sqrt(max(0.0, 1 + ratio**2 - 2 * row.cosine * ratio))
        rounding = row.floor * max(1.0, 1 / row.relative_norm)
        if not gap <= max(2 * rounding, 1e-7):
            return math.nan
    return factor


def _scale(gradients: Sequence[LayerDifference], parameters: Sequence[LayerDifference]) -> Parting | None:
    """Return the parting if b is a multiple of a."""
    everything = [row for row in (*gradients, *parameters) if row.state != "missing"]
    if all(row.agrees for row in everything):
        return None
    factor = _factor(everything)
    if math.isfinite(factor):
        return Parting(
            "scale", "", "", "gradient" if gradients else "parameter", factor, f"all of b is {_number(factor)} × a: {_guess(factor)}"
        )
    if gradients and all(row.agrees for row in gradients) and not any(row.agrees for row in parameters if row.norm):
        factor = _factor(parameters)
        if math.isfinite(factor):
            answer = (
                f"the gradients of all parameters in b are {_number(factor)} × a's, those at the layers' outputs agree: a sum over ranks "
                "or steps instead of a mean, or the reverse?"
            )
            return Parting("scale", "", "", "parameter", factor, answer)
    return None


def _guess(factor: float) -> str:
    larger = max(factor, 1 / factor)
    power = math.log2(larger)
    if power > 7.5 and abs(power - round(power)) < 1e-3:
        return "a loss scale that was not divided out?"
    return "a denominator?"


# ------------------------------------------------------------------------------------------------------------- backward


def _backward(
    rows: Sequence[LayerDifference],
    gradients: Sequence[LayerDifference],
    parameters: Sequence[LayerDifference],
    ties: Mapping[str, Sequence[str]],
) -> Parting:
    """Return the origin nearest to the loss; mark all."""
    known = [row for row in gradients if row.state != "unknown"]
    if known and not known[0].agrees:
        known[0].state = "origin" if known[0].state != "missing" else "missing"
        why = f": {known[0].why}" if known[0].why else ""
        where = f"the gradient at {_named(known[0].name)}, the first of the backward pass, differs"
        answer = f"they part at the loss: {where} ({_far(known[0])}){why}"
        return Parting("loss", known[0].name, known[0].layer, "gradient", math.nan, answer)
    arrives: dict[str, bool] = {}  # layer -> whether the gradients at its outputs agree
    for row in gradients:
        arrives[row.layer] = arrives.get(row.layer, True) and row.agrees
    origins: list[tuple[int, Parting]] = []
    place = {row.layer: i for i, row in enumerate(gradients)}
    for row in parameters:
        layers = ties.get(row.name) or [row.layer]
        if row.agrees or row.state == "unknown" or not all(arrives.get(layer, False) for layer in layers):
            continue
        row.state = "origin" if row.state != "missing" else "missing"
        origins.append((max(place.get(layer, 0) for layer in layers), _at_parameter(row, layers)))
    for i, (row, behind) in enumerate(zip(known[1:], known, strict=False), 1):
        if not row.agrees and behind.agrees:
            row.state = "origin" if row.state != "missing" else "missing"
            origins.append((i - 1, _before(row, behind)))
    if not origins:
        return _unknown(rows)
    everywhere = _nearly_everywhere(parameters, arrives, [found for _, found in origins])
    return everywhere or min(origins, key=lambda each: each[0])[1]


def _at_parameter(row: LayerDifference, layers: Sequence[str]) -> Parting:
    kind = row.name.rpartition(".")[2]
    shared = f"; it is shared by {' and '.join(layers)}: is one of its uses left out?" if len(layers) > 1 else ""
    why = f": {row.why}" if row.why else ""
    if row.state == "missing":
        answer = f"they part at {_named(row.layer)} (no gradient of its {kind}{why})"
    else:
        answer = f"they part at {_named(row.layer)} ({kind} gradient, {_far(row)}; the gradient at its output agrees){shared}"
    return Parting("backward", row.name, row.layer, "parameter", math.nan, answer)


def _before(row: LayerDifference, behind: LayerDifference) -> Parting:
    what = "is missing" if row.state == "missing" else "differs"
    why = f": {row.why}" if row.why else f", {_far(row)}" if row.state != "missing" else ""
    hint = ", detached?" if row.state == "missing" else ""
    answer = (
        f"they part at {_named(behind.name)} (backward: the gradient at its output agrees, that at {_named(row.name)}, "
        f"called before it, {what}{why}{hint})"
    )
    return Parting("backward", row.name, behind.layer, "gradient", math.nan, answer)


def _nearly_everywhere(parameters: Sequence[LayerDifference], arrives: Mapping[str, bool], origins: Sequence[Parting]) -> Parting | None:
    """Return the parting if the gradients at all outputs agree and nearly no parameter's does."""
    off = [row for row in parameters if row.state == "origin"]
    if any(found.of == "gradient" for found in origins) or not all(arrives.values()):
        return None
    if len(off) < max(FEWEST, NEARLY_ALL * len(parameters)):
        return None
    least = min(row.cosine for row in off)
    answer = (
        f"the gradients of {len(off)} of {len(parameters)} parameters differ (least cosine {least:.2f}), "
        "those at all layers' outputs agree: is a reduction over ranks (no_sync) or a micro-batch missing?"
    )
    return Parting("parameters", off[0].name, "", "parameter", math.nan, answer)


def _unknown(rows: Sequence[LayerDifference]) -> Parting:
    """Return the parting where no layer is seen whose gradient agrees."""
    first = next(row for row in rows if row.of != "activation" and not row.agrees and row.state != "unknown")
    first.state = "unknown"
    answer = (
        f"they part where the files cannot show it: {first.of} {_named(first.name)} differs ({_far(first)}), and no gradient at the "
        "output of its layer was captured"
    )
    return Parting("unknown", first.name, first.layer, first.of, math.nan, answer)


def _named(label: str) -> str:
    return label or "the model itself"


def _far(row: LayerDifference) -> str:
    """Return the numbers of a row, for a sentence."""
    if row.state == "missing" or not math.isfinite(row.cosine):
        return row.why or "one of the two is zero"
    if not math.isfinite(row.apart):
        return row.why
    text = f"cosine {row.cosine:.2f}" if row.cosine < 0.995 else f"1 − cosine {1 - row.cosine:.1e}"
    return text if abs(row.norm_ratio - 1) < 0.01 else f"{text}, {_number(row.norm_ratio)} × as long"


def _number(factor: float) -> str:
    return f"{factor:.2f}" if 0.1 <= factor < 1000 else f"{factor:.6g}"
