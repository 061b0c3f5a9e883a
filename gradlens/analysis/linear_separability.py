"""Strict linear separability of a labelled set, decided as a convex problem, with a certificate that is a proof.

The question. Points x_i in R^d with labels y_i are strictly separable when there are a_k in R^d and b_k with
(a_y − a_j)·x_i + b_y − b_j > 0 for every i and every other label j. Affine maps of x do not change the verdict, so it is decided on
x~ = (x − centre) / scale, with scale the largest ‖x_i − centre‖. The bias b is free; a separator's *margin* is the least of those
numbers when ‖A‖_F = 1, in units of scale. For two classes it is √2 times the geometric margin of a hard-margin support vector machine.

The two sides. With v_ij = (e_y − e_j) ⊗ (x~_i, 1), Gordan's theorem of the alternative (Boyd & Vandenberghe, Convex Optimization,
example 2.21 and §5.8; for margins it is the duality of §8.6.1): either some W has W·v_ij > 0 for all i, j, or some λ ≥ 0 with
Σ λ = 1 has Σ λ_ij v_ij = 0, never both. And any λ bounds every margin: margin ≤ ‖Σ λ_ij (e_y − e_j) ⊗ x~_i‖ + √2 ‖Σ λ_ij (e_y − e_j)‖₁,
where the second term pays for the free bias (a separator with ‖A‖ = 1 has |b_y − b_j| ≤ √2, since |x~| ≤ 1).

Both from one function. min over A, b of log Σ exp(−W·v_ij) + ½ μ ‖A‖² has the gradient μA − Σ λ_ij v_ij, with λ the softmax of −W·v:
its minimiser is a W, its softmax a λ that is positive everywhere, and margin and bound close in on each other as μ goes to 0.

What is proven. Floating-point numbers are compared with the bound of their rounding errors, |fl(a·b) − a·b| ≤ γ_m |a|·|b| with
γ_m = m u / (1 − m u) (Higham, Accuracy and Stability of Numerical Algorithms, 2002, §3.1), so that a verdict does not rest on a solver:

- *separable*: every (a_y − a_j)·x~_i + b_y − b_j is above the rounding bound of computing it.
- *not separable*: an exact λ exists. Either one point carries two labels; or the given λ is one in rational arithmetic (small
  supports); or one lies beside the given λ > 0: with M = Σ λ v vᵀ ⪰ m I (proven by a Cholesky factorisation, Rump 2006) and residual
  r = Σ λ v, the numbers λ_ij (1 − v_ij·M⁻¹r) are an exact witness as soon as max ‖v‖ ‖r‖ < m. They are what is handed out, as floats.
- *undecided*: neither; the largest margin lies between ``margin`` and ``bound``.

A witness is returned only if its residual, computed anew from what is returned, has no entry above 1e-12.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog, minimize
from scipy.stats import binom
from torch import Tensor

from gradlens.analysis.separability_proofs import (
    Array,
    Best,
    affinely_independent,
    difference_vectors,
    exact_beside,
    is_witness,
    rational_witness,
    signed_weights,
)
from gradlens.runtime.errors import InputError

SEPARABLE, NOT_SEPARABLE, UNDECIDED = "separable", "not separable", "undecided"
SMOOTHING = tuple(10.0**-k for k in range(1, 10))  # μ, largest first
LARGEST_PROGRAM = 2_000_000  # entries of the linear program that looks for a small support


@dataclass(frozen=True)
class Certificate:
    """A verdict and what proves it; :meth:`margins` and :meth:`residual` let anybody check it."""

    verdict: str  # separable, not separable or undecided
    why: str  # what the proof rests on, in words
    n: int
    features: int
    labels: tuple[int, ...]  # the classes that occur, in the order of W's rows and of the witness's columns
    margin: float  # proven for W (see the module); 0 where none is proven
    bound: float  # no separator has a larger margin
    W: Tensor | None  # [classes, d + 1] float64, ‖A‖_F = 1, acts on ((x − centre) / scale, 1); only if separable
    witness: Tensor | None  # [n, classes] float64 λ ≥ 0, sum 1, 0 at the own class, residual ≤ 1e-12; only if not separable
    centre: Tensor  # [d] float64
    scale: float
    any_labels: bool  # the points are affinely independent, proven: every labelling of them is separable

    def margins(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (a_y − a_j)·x~_i + b_y − b_j of every point and class [n, classes], infinite at the own class; float64, from W alone.

        Raises:
            InputError: this certificate holds no W.

        """
        if self.W is None:
            raise InputError(f"a certificate of a set that is {self.verdict} holds no separator")
        z = (x.double() - self.centre) / self.scale @ self.W[:, :-1].T + self.W[:, -1]
        own = y[:, None] == torch.tensor(self.labels)
        return (z[own][:, None] - z).masked_fill(own, torch.inf)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """Return Σ λ_ij (e_y − e_j) ⊗ (x~_i, 1) [classes, d + 1], float64, from the witness alone: zero up to rounding.

        Raises:
            InputError: this certificate holds no witness.

        """
        if self.witness is None:
            raise InputError(f"a certificate of a set that is {self.verdict} holds no witness")
        own = (y[:, None] == torch.tensor(self.labels)).double()
        scaled = torch.cat([(x.double() - self.centre) / self.scale, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        return (own * self.witness.sum(1, keepdim=True) - self.witness).T @ scaled


def cover_probability(n: int, features: int) -> float:
    """Return the share of all two-class labellings of n points in general position that a hyperplane with bias separates.

    C(n, d + 1) / 2ⁿ with C(n, D) = 2 Σ_{k<D} binom(n − 1, k) (Cover 1965, theorem 1): a binomial tail, ½ at the capacity n = 2 (d + 1).
    """
    return float(binom.cdf(features, n - 1, 0.5))


def row_of(certificate: Certificate, **beside: Any) -> dict[str, Any]:
    """Return a certificate as one row of a table, the counts that put it in proportion beside it.

    Few points in many dimensions are separable whatever their labels: ``cover_probability`` is the share of two-class labellings that
    would be (for more classes: of one class against the rest), ``cover_capacity`` the number of points at which that is a half.
    ``gap`` is [largest margin proven, bound on every margin]; ``margin`` is None where no separator is proven.
    """
    c = certificate
    return {
        **beside,
        "n": c.n,
        "features": c.features,
        "classes": len(c.labels),
        "verdict": c.verdict,
        "why": c.why,
        "margin": c.margin if c.verdict == SEPARABLE else None,
        "gap": [c.margin, c.bound],
        "any_labels": c.any_labels,
        "n_per_feature": c.n / c.features,
        "cover_capacity": 2 * (c.features + 1),
        "cover_probability": cover_probability(c.n, c.features),
    }


def certify_separability(x: Tensor, y: Tensor, classes: int | None = None, seconds: float = 20.0, tolerance: float = 0.1) -> Certificate:
    """Decide whether labelled points are strictly linearly separable, with a bias.

    Args:
        x: [n, d] features; they count as the exact numbers that they are.
        y: [n] labels.
        classes: how many classes there are meant to be; None: those that occur. Those that do not occur do not matter.
        seconds: after about so long the best interval found is returned.
        tolerance: a separator's margin is improved until it is within this share of the bound on all margins, where time allows.

    Returns:
        the verdict (separable, not separable, undecided) and its proof: a separator W [classes, d + 1] with its margin, or a witness
        [n, classes]; both can be checked.

    Raises:
        InputError: shapes that do not fit, numbers that are not finite, one class only, fewer points than classes.

    """
    points, own, labels = _checked(x, y, classes)
    deadline = time.monotonic() + seconds
    centre, scale = _frame(points)
    s = (points - centre) / scale
    best = Best()
    why, witness = "one point carries two labels", _one_point_two_labels(points, own)
    if witness is None:
        why, witness = "an exact witness lies within rounding errors of this one", _search(s, own, best, deadline, tolerance)
    if witness is None and best.margin == 0 and (solved := _program(s, own, deadline - time.monotonic())):
        best.see(s, own, *solved)
        why, witness = "the witness is exact in rational arithmetic", rational_witness(points, own, solved[1])
    if witness is not None and not is_witness(s, own, witness):
        witness = None
    if witness is not None:
        verdict, best = NOT_SEPARABLE, Best(bound=0.0)
    elif best.margin > 0:
        verdict, why = SEPARABLE, "every margin is above the bound of its rounding error"
    else:
        verdict, why = UNDECIDED, "neither a separator nor a witness could be proven"
    n, features = points.shape
    return Certificate(
        verdict, why, n, features, labels, best.margin, best.bound,
        None if best.W is None else torch.from_numpy(best.W), None if witness is None else torch.from_numpy(witness),
        torch.from_numpy(centre), scale, witness is None and affinely_independent(s),
    )  # fmt: skip


def _search(s: Array, own: Array, best: Best, deadline: float, tolerance: float) -> Array | None:
    """Follow μ down until margin and bound meet, or return a witness as soon as one is proven."""
    idle = 0
    for w, lam in _path(s, own, deadline):
        idle = 0 if best.see(s, own, w, lam) else idle + 1
        if best.margin >= (1 - tolerance) * best.bound or idle == 2:
            return None
        if best.margin == 0 and (witness := exact_beside(s, own, lam)) is not None:
            return witness
    return None


# --------------------------------------------------------------------------------------------------------- what is given


def _checked(x: Tensor, y: Tensor, classes: int | None) -> tuple[Array, Array, tuple[int, ...]]:
    """Return the points [n, d] and the one-hot labels [n, classes] as float64, and which labels these are."""
    if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
        raise InputError(f"separability needs features [n, d] and labels [n], not {list(x.shape)} and {list(y.shape)}")
    points, given = x.detach().cpu().double().numpy(), y.detach().cpu().numpy()
    if not np.isfinite(points).all():
        raise InputError("separability cannot be decided: the features hold NaN or infinite numbers")
    labels = tuple(int(label) for label in np.unique(given))
    if len(labels) < 2:
        raise InputError(f"separability needs two classes or more; all {len(points)} points are of class {labels[0]}")
    if classes is not None and len(points) < classes:
        raise InputError(f"{len(points)} points are fewer than the {classes} classes")
    return points, (given[:, None] == np.array(labels)).astype(np.float64), labels


def _frame(points: Array) -> tuple[Array, float]:
    """Return the mean, exact in columns that are constant, and the largest distance from it."""
    lowest, highest = points.min(0), points.max(0)
    centre = np.where(lowest == highest, lowest, points.mean(0))
    with np.errstate(over="ignore"):  # refused below
        peak = np.abs(points - centre).max()
        scale = float(np.linalg.norm((points - centre) / peak, axis=1).max() * peak) if peak else 1.0
    if not np.isfinite(scale):
        raise InputError("separability cannot be decided: the features are too large for double precision")
    return centre, scale


def _one_point_two_labels(points: Array, own: Array) -> Array | None:
    """Return the exact witness that one point with two labels is, if there is one."""
    seen: dict[bytes, int] = {}
    for i, row in enumerate(points + 0.0):  # −0 becomes 0
        k = seen.setdefault(row.tobytes(), i)
        if own[i] @ own[k] == 0:
            return 0.5 * (np.eye(len(own))[:, [i, k]] @ own[[k, i]])
    return None


# ------------------------------------------------------------------------------------------------- W and λ, not proven yet


def _softmax(s: Array, own: Array, w: Array) -> tuple[float, Array]:
    """Log Σ exp(−W·v_ij) and the softmax λ [n, classes] of the same numbers."""
    z = s @ w[:, :-1].T + w[:, -1]
    e = z - (z * own).sum(1, keepdims=True)
    e[own > 0] = -np.inf
    top = float(e.max())
    lam = np.exp(e - top)
    total = float(lam.sum())
    return top + float(np.log(total)), lam / total


def _path(s: Array, own: Array, deadline: float) -> Iterator[tuple[Array, Array]]:
    """Yield (W, λ) as μ falls, each minimised by L-BFGS from the one before."""
    q, reduced = np.eye(0), s
    if len(s) < s.shape[1]:  # A is a combination of the points: as many numbers as there are points are enough
        q, r = np.linalg.qr(s.T)
        reduced = r.T
    classes, size = own.shape[1], reduced.shape[1] + 1

    def smooth(flat: Array, mu: float) -> tuple[float, Array]:
        w = flat.reshape(classes, size)
        value, lam = _softmax(reduced, own, w)
        signed, slope = signed_weights(own, lam), np.empty_like(w)
        slope[:, :-1] = mu * w[:, :-1] - signed.T @ reduced
        slope[:, -1] = -signed.sum(0)
        return value + 0.5 * mu * float((w[:, :-1] ** 2).sum()), slope.ravel()

    def in_time(flat: Array) -> None:
        if time.monotonic() > deadline:
            raise StopIteration

    flat = np.zeros(classes * size)
    for mu in SMOOTHING:
        options = {"maxiter": 500, "maxfun": 1000, "maxcor": 20, "gtol": 1e-10, "ftol": 1e-15}
        flat = minimize(smooth, flat, args=(mu,), jac=True, method="L-BFGS-B", callback=in_time, options=options).x
        w = flat.reshape(classes, size)
        lam = _softmax(reduced, own, w)[1]
        yield (np.hstack([w[:, :-1] @ q.T, w[:, -1:]]) if q.size else w), lam
        if time.monotonic() > deadline:
            return


def _program(s: Array, own: Array, seconds: float) -> tuple[Array, Array] | None:
    """Return (W, λ) from max t with W·v_ij ≥ t, a linear program, where it is small; λ is the basic solution of its dual.

    |W| ≤ 1 where each feature is measured in units of its largest value, so that features of very different sizes all count.
    """
    (n, classes), size = own.shape, s.shape[1] + 1
    if seconds <= 0 or n * (classes - 1) ** 2 * size > LARGEST_PROGRAM:
        return None
    units = np.abs(s).max(0)
    units[units == 0] = 1.0
    v = difference_vectors(s / units, own)
    cost = np.append(np.zeros(v.shape[1]), -1.0)
    found = linprog(
        cost, np.hstack([-v, np.ones((len(v), 1))]), np.zeros(len(v)),
        bounds=[(-1, 1)] * v.shape[1] + [(None, 1)], method="highs-ds", options={"time_limit": seconds},
    )  # fmt: skip
    if found.status != 0:
        return None
    lam = np.zeros_like(own)
    lam[own == 0] = np.maximum(-found.ineqlin.marginals, 0)
    w = np.vstack([found.x[:-1].reshape(classes - 1, size), np.zeros((1, size))])
    w[:, :-1] /= units
    return w, lam / lam.sum()
