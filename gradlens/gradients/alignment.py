"""Compare a pair of tensors: the gradient that was used and the true one. All sums are in float64.

Exact zeros are never hidden: a cosine with a zero vector is NaN (not 0, not 1), and the share of zeros is a quantity of its own.
For two nearly equal gradients, ``relative_error`` and, if the cosine is near 1 or -1, ``angle`` are computed from their difference, which
floating-point numbers give to the last digit, and not from sums that cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.runtime.errors import InputError, unknown

CHUNK = 1 << 17  # entries converted to float64 at a time on the CPU: one megabyte per tensor, which stays in cache
NEARLY_PARALLEL = 0.99  # above this |cosine| the angle is inaccurate: an error ε of the cosine is one of ε/sin of the angle
SPLIT = 2.0**27 + 1  # splits a float64 into halves of 26 bits (Veltkamp), whose products are exact


class Moments(NamedTuple):
    """Sums over the entries of a used gradient g and the true gradient t, each divided by its own scale.

    Complex entries count as pairs of real numbers: ``gt`` is Re⟨g, t⟩, the product of the two directions of descent.
    """

    g_scale: float  # for float64 the power of two at or below max |g| (1 where that is 0), 1 for narrower types
    t_scale: float  # the same of t
    gg: float  # Σ (g/g_scale)²
    tt: float
    gt: float
    same_sign: int  # entries where g·t > 0; complex ones: Re(g* t) > 0
    g_zeros: int  # exact zeros
    t_zeros: int
    n: int


def _flat(v: Tensor, like: Tensor) -> Tensor:
    """Flatten ``v`` in the memory order of ``like``: channels-last memory is read without a copy."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        v = v.permute(0, 2, 3, 1)
    return v.detach().reshape(-1)


def dense(v: Tensor) -> Tensor:
    """Convert a sparse tensor to a dense one; return others unchanged."""
    return v if v.layout in (torch.strided, torch.jagged) else v.to_dense()


def _same_sign(p: Tensor, q: Tensor) -> Tensor:
    """Return where p·q > 0, without a product of two small numbers, which could underflow."""
    return (torch.sgn(p).conj() * q).real > 0 if p.is_complex() or q.is_complex() else torch.sign(p) * q > 0


def _real_float64(v: Tensor, other: Tensor) -> Tensor:
    """Convert entries [n] to float64, or to their real and imaginary parts [2n] if either of two vectors is complex."""
    if v.is_complex() or other.is_complex():
        return torch.view_as_real(v.to(torch.complex128).resolve_conj()).reshape(-1)
    return v.double()


def float64(v: Tensor) -> Tensor:
    """Convert a tensor to float64, on the CPU if its device has no float64 (Apple's mps)."""
    return (v.cpu() if v.device.type == "mps" else v).double()


def power_of_two(v: Tensor) -> float:
    """Return the power of two at or below the largest absolute entry; 1 if there is no entry, or if it is 0 or not finite."""
    largest = float(v.abs().max()) if v.numel() else 0.0
    return 2.0 ** (math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0


def _length(e: Tensor) -> float:
    """Compute ‖e‖ without underflow or overflow."""
    scale = power_of_two(e)
    e = e / scale
    return scale * math.sqrt(float(e @ e))


def _minus_product(e: Tensor, factor: float, v: Tensor) -> Tensor:
    """Compute e − factor · v as if the product had twice as many digits (Dekker 1971)."""
    high = SPLIT * factor - (SPLIT * factor - factor)
    low = factor - high
    above = SPLIT * v
    above = above - (above - v)
    below = v - above
    return e - high * above - high * below - low * above - low * below


class Pair:
    """A used gradient g and the true gradient t; each quantity is computed when first used.

    Dividing float64 by a power of two near its largest entry keeps the squares of tiny gradients (norm 1e-200) from vanishing and changes
    no digit; ``torch.nn.functional.cosine_similarity(v, v)`` is 0.001 at norm 3e-10.

    Args:
        g: the used gradient, any shape.
        t: the true gradient, of the same shape.

    Raises:
        InputError: shapes differ.

    """

    def __init__(self, g: Tensor, t: Tensor) -> None:
        if g.shape != t.shape:
            raise InputError(f"gradients of different shapes: {list(g.shape)} and {list(t.shape)}")
        if g.device.type == "mps":  # no float64 there
            g, t = g.cpu(), t.cpu()
        g, t = dense(g), dense(t)
        self._g, self._t = _flat(g, g), _flat(t, g)

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = self._g.numel()
        size = CHUNK if self._g.device.type == "cpu" else n
        for i in range(0, n, size):
            yield self._g[i : i + size], self._t[i : i + size]

    @cached_property
    def _scales(self) -> tuple[float, float]:
        """Choose (g_scale, t_scale): 1 if squares of the entries fit into a float64 as they are."""
        if torch.float64 not in (self._g.real.dtype, self._t.real.dtype):
            return 1.0, 1.0
        return power_of_two(self._g), power_of_two(self._t)

    def _scaled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield chunks of g/g_scale and t/t_scale in float64."""
        g_scale, t_scale = self._scales
        for p, q in self._chunks():
            u, v = _real_float64(p, q), _real_float64(q, p)
            yield (u if g_scale == 1 else u / g_scale), (v if t_scale == 1 else v / t_scale)

    @cached_property
    def moments(self) -> Moments:
        """Compute all sums in one pass."""
        n = self._g.numel()
        if n == 0:
            return Moments(1.0, 1.0, 0.0, 0.0, 0.0, 0, 0, 0, 0)
        total = torch.zeros(6, dtype=torch.float64, device=self._g.device)
        for (p, q), (u, v) in zip(self._chunks(), self._scaled(), strict=True):
            counts = torch.count_nonzero(_same_sign(p, q)), len(p) - torch.count_nonzero(p), len(q) - torch.count_nonzero(q)
            total += torch.stack([u @ u, v @ v, u @ v, *(s.double() for s in counts)])
        total = torch.where(total.isfinite(), total, math.nan)  # an infinite entry has no direction
        gg, tt, gt, *counted = total.tolist()
        same_sign, g_zeros, t_zeros = map(int, counted)
        return Moments(*self._scales, gg, tt, gt, same_sign, g_zeros, t_zeros, n)

    @cached_property
    def cosine(self) -> float:
        """Compute cos(g, t); NaN if one of them is zero."""
        m = self.moments
        if not (m.gg > 0 and m.tt > 0):
            return math.nan
        return max(-1.0, min(1.0, m.gt / math.sqrt(m.gg) / math.sqrt(m.tt)))

    @property
    def angle(self) -> float:
        """Compute the angle between g and t in degrees, to 12 digits or 1e-25: from g's part orthogonal to t if nearly parallel."""
        if not abs(self.cosine) > NEARLY_PARALLEL:
            return math.degrees(math.acos(self.cosine))
        if torch.equal(self._g, self._t):
            return 0.0
        m = self.moments
        return math.degrees(math.atan2(self._orthogonal(), m.gt / math.sqrt(m.tt)))

    def _orthogonal(self) -> float:
        """Compute ‖e‖/g_scale with e = g − (⟨g, t⟩/|t|²) t, the factor to more digits than one float64 has."""
        m, length = self.moments, 0.0
        factors = [m.gt / m.tt]
        for _ in range(2):
            along, lengths = 0.0, []
            for u, v in self._scaled():
                for factor in factors:
                    u = _minus_product(u, factor, v)
                along += float(u @ v)
                lengths.append(_length(u))
            length = math.hypot(*lengths)
            off = min(abs(along) / math.sqrt(m.tt), length)  # the remaining component along t
            if off <= 1e-3 * length:
                break
            factors.append(along / m.tt)
        return math.sqrt(length - off) * math.sqrt(length + off)

    @property
    def relative_error(self) -> float:
        """Compute ‖g − t‖ / ‖t‖ from the entries' differences."""
        m = self.moments
        if not m.tt > 0 or math.isnan(m.gg):
            return math.nan
        scale = max(m.g_scale, m.t_scale)  # a power of two, so that dividing by it changes no difference
        apart = math.hypot(*(_length(_real_float64(p, q) / scale - _real_float64(q, p) / scale) for p, q in self._chunks()))
        return apart / math.sqrt(m.tt) * (scale / m.t_scale)

    @property
    def norm(self) -> float:
        """Compute |g|."""
        return self.moments.g_scale * math.sqrt(self.moments.gg)

    @property
    def true_norm(self) -> float:
        """Compute |t|."""
        return self.moments.t_scale * math.sqrt(self.moments.tt)

    @property
    def projection(self) -> float:
        """Compute <g, t> / |t|²: exactly 0 if g is zero, exactly 1 if g is t; NaN if t is zero."""
        m = self.moments
        share = _ratio(m.gt, m.tt)
        return share * (m.g_scale / m.t_scale) if share else share


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


QUANTITIES: dict[str, tuple[Callable[[Pair], float], str]] = {
    "cosine": (lambda p: p.cosine, "cos(g, t); NaN where one of them is exactly zero"),
    "angle": (lambda p: p.angle, "angle between g and t in degrees"),
    "norm_ratio": (lambda p: _ratio(p.norm, p.true_norm), "|g| / |t|"),
    "sign_agreement": (
        lambda p: _ratio(p.moments.same_sign, p.moments.n - p.moments.t_zeros),
        "share of t's non-zero entries whose sign g has",
    ),
    "norm": (lambda p: p.norm, "|g|"),
    "true_norm": (lambda p: p.true_norm, "|t|"),
    "zeros": (lambda p: _ratio(p.moments.g_zeros, p.moments.n), "share of g's entries that are exactly zero"),
    "true_zeros": (lambda p: _ratio(p.moments.t_zeros, p.moments.n), "share of t's entries that are exactly zero"),
    "projection": (lambda p: p.projection, "<g, t> / |t|²: the step along t, 1 for t itself, 0 for nothing"),
    "relative_error": (lambda p: p.relative_error, "|g - t| / |t|"),
}
RECORDED = ("cosine", "angle", "norm_ratio", "sign_agreement", "norm", "true_norm", "zeros", "true_zeros")


def measure(g: Tensor, t: Tensor, quantities: tuple[str, ...] = RECORDED) -> Mapping[str, float]:
    """Compute quantities of a used gradient g and the true gradient t.

    >>> measure(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]), ("cosine", "norm"))
    {'cosine': 1.0, 'norm': 5.0}

    Args:
        g: the used gradient, any shape.
        t: the true gradient, of the same shape.
        quantities: names from ``QUANTITIES``.

    Returns:
        name -> value.

    Raises:
        InputError: an unknown quantity, or shapes that differ.

    """
    for name in quantities:
        if name not in QUANTITIES:
            raise unknown("quantity", name, QUANTITIES)
    pair = Pair(g, t)
    return {name: QUANTITIES[name][0](pair) for name in quantities}


def cosine(g: Tensor, t: Tensor) -> float:
    """Compute cos(g, t) over all entries, in float64.

    Args:
        g: a tensor of any shape.
        t: a tensor of the same shape.

    Returns:
        the cosine; NaN if g or t is exactly zero.

    Raises:
        InputError: shapes differ.

    """
    return Pair(g, t).cosine
