"""Measures of a pair of tensors: the gradient that was used and the true one. All sums are taken in float64.

Exact zeros are never hidden: a cosine with a zero vector is NaN (not 0, not 1), and the share of zeros is a quantity of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.runtime.errors import InputError, unknown

CHUNK = 1 << 17  # entries turned to float64 at a time on the CPU: one megabyte a tensor, which stays in cache


class Moments(NamedTuple):
    """Sums over the entries of a used gradient g and the true gradient t, each divided by a scale of its own.

    Complex entries are taken as pairs of real numbers: ``gt`` is Re⟨g, t⟩, the product of the two directions of descent.
    """

    g_scale: float  # max |g| for float64 (1 where that is 0), 1 for narrower types
    t_scale: float  # the same of t
    gg: float  # Σ (g/g_scale)²
    tt: float
    gt: float
    same_sign: int  # entries where g·t > 0; complex ones: Re(g* t) > 0
    g_zeros: int  # exact zeros
    t_zeros: int
    n: int


def _flat(v: Tensor, like: Tensor) -> Tensor:
    """The entries in one order for both tensors: channels-last memory is read as it lies, without a copy."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        v = v.permute(0, 2, 3, 1)
    return v.detach().reshape(-1)


def dense(v: Tensor) -> Tensor:
    """A sparse tensor's entries with the zeros between them; others as they are."""
    return v if v.layout in (torch.strided, torch.jagged) else v.to_dense()


def _same_sign(p: Tensor, q: Tensor) -> Tensor:
    """Where p·q > 0, without a product of two small numbers that vanishes."""
    return (torch.sgn(p).conj() * q).real > 0 if p.is_complex() or q.is_complex() else torch.sign(p) * q > 0


def _real_float64(v: Tensor, other: Tensor) -> Tensor:
    """Entries [n] in float64, as their real and imaginary parts [2n] where either of two vectors is complex."""
    if v.is_complex() or other.is_complex():
        return torch.view_as_real(v.to(torch.complex128).resolve_conj()).reshape(-1)
    return v.double()


def float64(v: Tensor) -> Tensor:
    """A tensor in float64, on the CPU where its device has none (Apple's mps)."""
    return (v.cpu() if v.device.type == "mps" else v).double()


def moments(g: Tensor, t: Tensor) -> Moments:
    """All sums that the measures of a pair need, in one pass.

    Dividing float64 by its largest entry first keeps the squares of tiny gradients (norm 1e-200) from vanishing;
    ``torch.nn.functional.cosine_similarity(v, v)`` is 0.001 at norm 3e-10.

    Args:
        g: the used gradient, any shape.
        t: the true gradient, of the same shape.

    Raises:
        InputError: shapes differ.

    """
    if g.shape != t.shape:
        raise InputError(f"gradients of different shapes: {list(g.shape)} and {list(t.shape)}")
    if g.device.type == "mps":  # no float64 there
        g, t = g.cpu(), t.cpu()
    g, t = dense(g), dense(t)
    a, b = _flat(g, g), _flat(t, g)
    n = a.numel()
    if n == 0:
        return Moments(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0)
    wide = torch.float64 in (g.real.dtype, t.real.dtype)  # squares of anything narrower fit into a float64 as they are
    scales = torch.ones(2, dtype=torch.float64, device=a.device)
    if wide:
        largest = torch.stack([v.abs().max().double() for v in (a, b)])
        scales = torch.where(largest > 0, largest, scales)
    total = torch.zeros(6, dtype=torch.float64, device=a.device)
    chunk = CHUNK if a.device.type == "cpu" else n
    for i in range(0, n, chunk):
        p, q = a[i : i + chunk], b[i : i + chunk]
        counts = torch.count_nonzero(_same_sign(p, q)), len(p) - torch.count_nonzero(p), len(q) - torch.count_nonzero(q)
        u, v = _real_float64(p, q), _real_float64(q, p)
        if wide:
            u, v = u / scales[0], v / scales[1]  # after counting: this may turn an entry to zero
        total += torch.stack([u @ u, v @ v, u @ v, *(s.double() for s in counts)])
    total = torch.where(total.isfinite(), total, math.nan)  # an infinite entry has no direction
    (g_scale, t_scale), (gg, tt, gt, *counted) = scales.tolist(), total.tolist()
    same_sign, g_zeros, t_zeros = map(int, counted)
    return Moments(g_scale, t_scale, gg, tt, gt, same_sign, g_zeros, t_zeros, n)


def _cosine(m: Moments) -> float:
    if not (m.gg > 0 and m.tt > 0):
        return math.nan
    return max(-1.0, min(1.0, m.gt / math.sqrt(m.gg) / math.sqrt(m.tt)))


def _norm(m: Moments) -> float:
    return m.g_scale * math.sqrt(m.gg)


def _true_norm(m: Moments) -> float:
    return m.t_scale * math.sqrt(m.tt)


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def _difference(m: Moments) -> float:
    """‖g − t‖ / ‖t‖ from the sums, with the scales put back as a ratio."""
    if not m.tt > 0:
        return math.nan
    r = m.g_scale / m.t_scale
    if r > 1:  # r² must not overflow
        return r * math.sqrt(max(m.gg - 2 * m.gt / r + m.tt / r / r, 0.0) / m.tt)
    return math.sqrt(max(r * r * m.gg - 2 * r * m.gt + m.tt, 0.0) / m.tt)  # max keeps a NaN in first place


QUANTITIES: dict[str, tuple[Callable[[Moments], float], str]] = {
    "cosine": (_cosine, "cos(g, t); NaN where one of them is exactly zero"),
    "angle": (lambda m: math.degrees(math.acos(_cosine(m))), "angle between g and t in degrees"),
    "norm_ratio": (lambda m: _ratio(_norm(m), _true_norm(m)), "|g| / |t|"),
    "sign_agreement": (lambda m: _ratio(m.same_sign, m.n - m.t_zeros), "share of t's non-zero entries whose sign g has"),
    "norm": (_norm, "|g|"),
    "true_norm": (_true_norm, "|t|"),
    "zeros": (lambda m: _ratio(m.g_zeros, m.n), "share of g's entries that are exactly zero"),
    "true_zeros": (lambda m: _ratio(m.t_zeros, m.n), "share of t's entries that are exactly zero"),
    "projection": (lambda m: _ratio(_norm(m) * _cosine(m), _true_norm(m)), "<g, t> / |t|²: the step along t, 1 for t itself"),
    "relative_error": (_difference, "|g - t| / |t|"),
}
RECORDED = ("cosine", "angle", "norm_ratio", "sign_agreement", "norm", "true_norm", "zeros", "true_zeros")


def measure(g: Tensor, t: Tensor, quantities: tuple[str, ...] = RECORDED) -> Mapping[str, float]:
    """The named quantities of a used gradient g and the true gradient t, of any one shape.

    >>> measure(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]), ("cosine", "norm"))
    {'cosine': 1.0, 'norm': 5.0}

    Raises:
        InputError: an unknown quantity, or shapes that differ.

    """
    for name in quantities:
        if name not in QUANTITIES:
            raise unknown("quantity", name, QUANTITIES)
    m = moments(g, t)
    return {name: QUANTITIES[name][0](m) for name in quantities}


def cosine(g: Tensor, t: Tensor) -> float:
    """cos(g, t) over all entries, in float64; NaN where one is exactly zero."""
    return _cosine(moments(g, t))
