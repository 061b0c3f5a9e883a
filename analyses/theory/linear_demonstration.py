"""The linear networks of Lillicrap et al. 2016 and their learning, many at once: analyses/feedback_angles.py is the study of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gradlens.runtime.rng import generator

Array = NDArray[np.floating[Any]]
Rule = Literal["bp", "fa", "shallow"]

INPUTS, HIDDEN, OUTPUTS = 30, 20, 10


class Nets(NamedTuple):
    """Linear networks y = W W0 x with their teachers and feedback, stacked over any leading dimensions (here scales and seeds)."""

    teacher: Array  # [..., 10, 30] T: y* = T x
    w0: Array  # [..., 20, 30] W0: h = W0 x
    w: Array  # [..., 10, 20] W: y = W h
    b: Array  # [..., 20, 10] B


class Moment(NamedTuple):
    """One example, before the update it causes: W + lr · dW, W0 + lr · dW0."""

    w0: Array  # [..., 20, 30]
    w: Array  # [..., 10, 20]
    e: Array  # [..., 10] y* − y
    dw0: Array  # [..., 20, 30]
    dw: Array  # [..., 10, 20]


def draw(seed: int, scales: Sequence[float], ratio: float = 1.0) -> Nets:
    """A seed's networks, one a scale: the same draws at every scale, times the scale, and W times the ratio too."""

    def uniform(what: str, *shape: int) -> Array:
        unit: Array = torch.rand(shape, generator=generator(seed, what), dtype=torch.float64).numpy()
        return 2 * unit - 1

    size = np.reshape(scales, (-1, 1, 1))
    same = np.ones_like(size)
    return Nets(
        same * uniform("teacher", OUTPUTS, INPUTS),
        size * uniform("W0", HIDDEN, INPUTS),
        ratio * size * uniform("W", OUTPUTS, HIDDEN),
        0.5 * same * uniform("B", HIDDEN, OUTPUTS),
    )


def stack(seeds: Sequence[int], scales: Sequence[float], ratio: float = 1.0) -> Nets:
    """The networks of several seeds, [scales, seeds, ...]."""
    return Nets(*(np.stack(parts, axis=1) for parts in zip(*(draw(s, scales, ratio) for s in seeds), strict=True)))


def examples(seeds: Sequence[int], n: int) -> Array:
    """x ~ N(0, I), [n, seeds, 30]: each seed's sequence is the same for every rule, scale and learning rate."""
    drawn = (torch.randn(n, INPUTS, generator=generator(s, "examples"), dtype=torch.float64).numpy() for s in seeds)
    return np.stack(list(drawn), axis=1)


def times(matrix: Array, vector: Array) -> Array:
    """[..., m, n] · [..., n] -> [..., m]."""
    product: Array = (matrix @ vector[..., None])[..., 0]
    return product


def outer(a: Array, b: Array) -> Array:
    """[..., m], [..., n] -> [..., m, n]."""
    return a[..., :, None] * b[..., None, :]


def online(nets: Nets, xs: Iterable[Array], lr: float | Array, rule: Rule) -> Iterator[Moment]:
    """Train all networks at once, one example an update: dW = e hᵀ; dW0 = (B e) xᵀ (fa), (Wᵀ e) xᵀ (bp) or 0 (shallow).

    Args:
        nets: where they start.
        xs: [..., 30] the examples, one after the other.
        lr: of all networks, or an array [..., 1, 1] that tells them apart.
        rule: which one.

    """
    teacher, w0, w, b = nets
    for x in xs:
        h = times(w0, x)
        e = times(teacher, x) - times(w, h)
        signal = times(b, e) if rule == "fa" else times(w.swapaxes(-1, -2), e) if rule == "bp" else np.zeros_like(h)
        moment = Moment(w0, w, e, outer(signal, x), outer(e, h))
        yield moment
        w0, w = w0 + lr * moment.dw0, w + lr * moment.dw


def angle(a: Array, b: Array) -> Array:
    """The angle of two vectors [..., n] in degrees, 0 to 180."""
    cosine = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    degrees: Array = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return degrees


def nse(teacher: Array, w0: Array, w: Array) -> Array:
    """E|y* − y|² / E|y*|², exactly: for white inputs it is |T − W W0|² / |T|² (Frobenius)."""
    share: Array = ((teacher - w @ w0) ** 2).sum((-1, -2)) / (teacher**2).sum((-1, -2))
    return share


def least_shallow(nets: Nets) -> Array:
    """The NSE of the best W on top of a W0 that stays: what of T lies outside the row space of W0."""
    rows, _ = np.linalg.qr(nets.w0.swapaxes(-1, -2))  # [..., 30, 20]
    return nse(nets.teacher, rows.swapaxes(-1, -2), nets.teacher @ rows)
