"""What two captures must share to be compared, and how they differ besides their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from gradlens.analysis.captures.loaded import LoadedCapture
from gradlens.analysis.captures.names import Names
from gradlens.gradients.fingerprints import distance
from gradlens.runtime.errors import InputError

_NOISE = 1e-6  # of fingerprints, whose sums are partly in float32


def must_be_comparable(a: LoadedCapture, b: LoadedCapture, names: Names, others: bool) -> list[str]:
    """Return what differs of weights and inputs, a sentence each.

    Args:
        a: the first capture.
        b: the second one.
        names: which names of b are which of a.
        others: whether captures of other weights and inputs are compared.

    Raises:
        InputError: they have no tensor in common, or other weights or inputs, which is not asked for.

    """
    if not any(names.in_b(key) for key in a.keys if not key.startswith("batch/")):
        raise InputError(f"{a.path} and {b.path} share no layer and no parameter; --map gives b's names a's")
    found = [*_weights(a, b, names), *_inputs(a, b)]
    if found and not others:
        raise InputError(f"{found[0]}, so their gradients are not of the same step; --others compares them anyway")
    return found


def _weights(a: LoadedCapture, b: LoadedCapture, names: Names) -> Iterator[str]:
    worst = 0.0, ""
    for name, mine in a.header["weights"].items():
        keys = names.in_b(f"parameter/{name}")
        there = keys.keys[0].partition("/")[2] if keys is not None and len(keys.keys) == 1 else ""
        if len(mine) != len(b.header["weights"].get(there, ())) or len(a.files) != len(b.files):
            continue
        if _shapes_differ(a, b, name, there):
            yield f"{name} has another shape in {b.path} than in {a.path}"
            continue
        rounding = max(_unit(a, name), _unit(b, there)) if _dtype(a, name) != _dtype(b, there) else 0.0
        apart = distance(mine, b.header["weights"][there])
        if apart > 4 * rounding + _NOISE:
            worst = max(worst, (apart, name))
    if worst[1]:
        yield f"{a.path} and {b.path} have other weights ({worst[1]} is {worst[0]:.2g} apart)"


def _shapes_differ(a: LoadedCapture, b: LoadedCapture, here: str, there: str) -> bool:
    shapes = a.header["parameters"].get(here, {}).get("shape"), b.header["parameters"].get(there, {}).get("shape")
    return None not in shapes and shapes[0] != shapes[1]


def _dtype(capture: LoadedCapture, name: str) -> torch.dtype:
    found = getattr(torch, str(capture.header["parameters"].get(name, {}).get("dtype", "float32")), torch.float32)
    return found if isinstance(found, torch.dtype) else torch.float32


def _unit(capture: LoadedCapture, name: str) -> float:
    dtype = _dtype(capture, name)
    return torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0


def _inputs(a: LoadedCapture, b: LoadedCapture) -> Iterator[str]:
    mine, theirs = a.header["inputs"], b.header["inputs"]
    if len(mine) != len(theirs) or len(a.files) != len(b.files):
        return
    for (name, one), other in zip(mine.items(), theirs.values(), strict=True):
        if len(one) == len(other) and distance(one, other) > 0.01:
            yield f"{a.path} and {b.path} have other inputs (input {name} of the model is {distance(one, other):.2g} apart)"


def remarks(a: LoadedCapture, b: LoadedCapture, names: Names) -> list[str]:
    """Return how the captures differ besides their numbers, and what they did not see."""
    found = [*_order(a, b, names), *_ties(a, b, names)]
    mine, theirs = a.header["unseen"], b.header["unseen"]
    found += [f"in {'both' if sentence in theirs else 'a'}: {sentence}" for sentence in mine]
    found += [f"in b: {sentence}" for sentence in theirs if sentence not in mine]
    for capture, letter in ((a, "a"), (b, "b")):
        if off := [key.partition("/")[2] for key in capture.keys if key.startswith("parameter/") and capture.ranks_differ(key)]:
            found.append(f"in {letter}: the ranks have different gradients of {len(off)} parameters, first {off[0]}: not reduced")
    counts = [(name, a.header[name], b.header[name]) for name in ("forwards", "backwards")]
    found += [f"{name[:-1]} passes: {one} in a, {other} in b" for name, one, other in counts if one != other]
    return found


def _order(a: LoadedCapture, b: LoadedCapture, names: Names) -> Iterator[str]:
    """Yield the first layer that is called at another place."""
    theirs = list(dict.fromkeys(names.in_a(f"activation/{label}").partition("/")[2] for label in b.header["calls"]))
    mine = list(a.header["calls"])
    both = set(mine) & set(theirs)
    for one, other in zip((x for x in mine if x in both), (x for x in theirs if x in both), strict=True):
        if one != other:
            yield f"the layers are called in different orders: where a calls {one or 'the model'}, b calls {other or 'the model'}"
            return


def _ties(a: LoadedCapture, b: LoadedCapture, names: Names) -> Iterator[str]:
    mine, theirs = tied(a.header["parameters"]), tied(b.header["parameters"])
    renamed = {names.in_a(f"parameter/{n}").partition("/")[2]: names.in_a(f"parameter/{f}").partition("/")[2] for n, f in theirs.items()}
    for letter, here, there in (("a", mine, renamed), ("b", renamed, mine)):
        for name in sorted(set(here) - set(there)):
            yield f"{name} and {here[name]} are one parameter in {letter} alone, so its gradient there is the sum of both uses"


def tied(parameters: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Return later name -> first name of the parameters that have several."""
    return {name: str(fact["tied"]) for name, fact in parameters.items() if "tied" in fact}
