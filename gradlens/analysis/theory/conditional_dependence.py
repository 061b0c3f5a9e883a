"""Conditional dependence of two views given the label, and how many labels it saves to predict one view from the other.

Lee, Lei, Saunshi & Zhuo (2021, arXiv 2008.01064), "Predicting What You Already Know Helps": a pretext task learns ψ, which predicts a view
X2 from another one X1, without labels; downstream, labels are predicted linearly from ψ(X1). If X1 ⊥ X2 | Y, then E[Y | X1] is linear in
ψ* = E[X2 | X1] (Lemma 3.1) and k classes need some k labels instead of some d1. How far data are from that is ε_CI (Definition 4.1), which
:func:`conditional_dependence` estimates from any two views and labels.

It is regularised by nothing but a pseudo-inverse of S₁₁, without directions below 1e-10 of the widest one: S₁₂|Y has no part in directions
in which x1 is constant, so this is the limit of a ridge that goes to zero. A ridge of finite size would make the measure depend on x1's
scaling. Features that outnumber the samples are refused instead; take principal components of x1 first.

:class:`ViewMixture` is the paper's simulation (its figure 1) with everything about it in closed form. All in float64; covariances are
centred and every predictor has an intercept, so that no result depends on where the origin is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gradlens.analysis.representation_similarity import centred
from gradlens.analysis.theory.view_mixture import AffineArrays as AffineArrays
from gradlens.analysis.theory.view_mixture import Sample as Sample
from gradlens.analysis.theory.view_mixture import ViewMixture as ViewMixture
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

Array = NDArray[np.float64]

CUTOFF = 1e-10  # singular values below this share of the largest are rounding errors of a rank that is not full

# ------------------------------------------------------------------------------------------------ dependence in given data


class Dependence(NamedTuple):
    """ε_CI of two views given labels, and what of it is chance."""

    eps: float  # ε_CI as it is in the sample, in units of x2; biased upwards, about √(d1 tr Cov(x2 | y) / N) for independent views
    bias: float  # of eps², estimated
    corrected: float  # √max(eps² − bias, 0); cut at 0, so average eps² − bias instead where it is near 0
    share: float  # (eps² − bias) / tr Cov(x2 | y): of x2's variance within classes, unit-free; may be below 0; NaN without such variance
    null: float  # mean eps over the shuffles within classes; NaN without shuffles
    p: float  # of independence given the label; NaN without shuffles
    n: int  # samples
    classes: int
    rank: int  # of x1's covariance


def conditional_dependence(
    x1: Tensor | ArrayLike, x2: Tensor | ArrayLike, y: Tensor | ArrayLike, shuffles: int = 0, seed: int = 0
) -> Dependence:
    """Estimate ε_CI = ‖S₁₁^{-1/2} S₁₂|Y‖_F (Lee et al. 2021, Definition 4.1, linear class): 0 if x1 predicts x2 linearly no better than y.

    S₁₁ is the covariance of x1 (or of any features φ1(x1)), S₁₂|Y = S₁₂ − S₁Y S_YY⁻¹ S_Y2 the partial covariance given one-hot labels:
    the covariance of what is left of x1 and x2 after each class's mean. It does not change under invertible affine maps of x1, rotations
    and shifts of x2, other names of the classes, and shifts of x2 that depend on the class; it scales with x2. ε_CI² is at most
    tr Cov(x2 | y). It measures linear dependence only: give features φ1(x1) to measure more.

    Bias. Noise alone makes eps² some d1 tr Cov(x2 | y) / N where classes overlap. ``bias`` is ‖P U‖² tr Σ / N, with U an orthonormal
    basis of the centred x1, P the removal of class means, and Σ the residual covariance of x2 regressed on x1 and y, over
    N − classes − rank(P U) degrees of freedom. Given x1 and y, eps² − bias is unbiased where E[x2 | x1, y] = A x1 + b_y with noise of one
    covariance; otherwise it is approximate.
    A shuffle deals the x2 of each class to other samples of the class: under independence given the label all dealings are equally
    likely, so p = (1 + #{shuffled eps ≥ eps}) / (1 + shuffles) is exact at any N and for any distribution.

    Args:
        x1: one view, or features of it [N, *]; axes after the first are flattened.
        x2: the other view [N, *].
        y: labels [N], of any kind that can be compared.
        shuffles: how many; 0: no ``null`` and no ``p``.
        seed: of the shuffles.

    Returns:
        ε_CI, its bias and corrected value, its share of x2's variance within classes, and with ``shuffles`` the null and the p value.

    Raises:
        InputError: shapes that do not fit, numbers that are not finite, a constant x1, no more samples than classes and directions of x1.

    """
    a, b, at, classes = _samples(x1, x2, y)
    if shuffles < 0:
        raise InputError(f"shuffles are 0 or more, got {shuffles}")
    n = len(a)
    u = _basis(a)
    if not u.shape[1]:
        raise InputError("x1 is constant: there is nothing that x2 could depend on")
    z, r = _within(u, at, classes), _within(b, at, classes)
    q = _basis(z, least=CUTOFF)  # u's columns have norm 1, so that an absolute bound finds the rank within classes
    freedom = n - classes - q.shape[1]
    if freedom < 1:
        raise InputError(
            f"{n} samples of {classes} classes are too few for {u.shape[1]} directions of x1 (needed: more than classes and directions "
            "together); take principal components of x1 first"
        )
    squared = _squared(z, r)
    total = float((r**2).sum())
    noise = max(total - float(((q.T @ r) ** 2).sum()), 0.0) / freedom
    bias = float((z**2).sum()) * noise / n
    share = n * (squared - bias) / total if total > 0 else math.nan
    nulls = np.array([_squared(z, r[order]) for order in _dealings(at, shuffles, seed)])
    null, p = math.nan, math.nan
    if shuffles:
        null = float(np.sqrt(nulls).mean())
        p = (1 + int((nulls >= squared * (1 - 1e-12)).sum())) / (1 + shuffles)  # equal ones differ by rounding
    return Dependence(math.sqrt(squared), bias, math.sqrt(max(squared - bias, 0.0)), share, null, p, n, classes, u.shape[1])


def _samples(x1: Tensor | ArrayLike, x2: Tensor | ArrayLike, y: Tensor | ArrayLike) -> tuple[Array, Array, NDArray[np.intp], int]:
    """Return both views [N, d], each sample's class as a number [N], and how many classes there are.

    Raises:
        InputError: shapes that do not fit, numbers that are not finite.

    """
    a, b = _view(x1, "x1"), _view(x2, "x2")
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if not len(a) == len(b) == labels.size or labels.ndim != 1:
        raise InputError(f"two views and labels [N] of the same samples are needed, got {len(a)}, {len(b)} and {list(labels.shape)}")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InputError("labels hold NaN or infinite numbers: leave samples without a label out")
    known, at = np.unique(labels, return_inverse=True)
    return a, b, at, len(known)


def _view(x: Tensor | ArrayLike, name: str) -> Array:
    """Convert a view to centred float64 [N, d]."""
    try:
        t = x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no array of numbers [N, *]: {error}") from error
    if t.ndim == 0 or not t.numel():
        raise InputError(f"{name} holds no samples: its shape is {list(t.shape)}")
    found: Array = centred(t.reshape(len(t), -1), f"conditional dependence on {name}").numpy()
    return found


def _basis(x: Array, least: float = 0.0) -> Array:
    """Compute an orthonormal basis [N, rank] of the span of x's columns, without singular values at rounding level or below ``least``."""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return u[:, (s > CUTOFF * s.max()) & (s > least)]


def _within(x: Array, at: NDArray[np.intp], classes: int) -> Array:
    """Subtract each class's mean from x [N, d]."""
    sums = np.zeros((classes, x.shape[1]))
    np.add.at(sums, at, x)
    means: Array = sums / np.bincount(at, minlength=classes)[:, None]
    return x - means[at]


def _squared(z: Array, r: Array) -> float:
    """Compute ε_CI²: N U Uᵀ whitens x1, so that S₁₁^{-1/2} S₁₂|Y is Uᵀ R / √N up to a rotation."""
    return float(((z.T @ r) ** 2).sum()) / len(z)


def _dealings(at: NDArray[np.intp], shuffles: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield orders of the samples in which every place is taken by a sample of its class."""
    by_class = np.argsort(at, kind="stable")
    for i in range(shuffles):
        keys = torch.rand(len(at), generator=generator(seed, "conditional dependence", i), dtype=torch.float64).numpy()
        order = np.empty_like(by_class)
        order[by_class] = np.lexsort((keys, at))
        yield order


# ------------------------------------------------------------------------------------------------------ linear predictors


def fit_affine(x: Array, t: Array) -> AffineArrays:
    """Fit argmin over W, b of Σ ‖t_i − W x_i − b‖²: W = S_TX S_XX⁻¹, the smallest W where several do.

    With x = x1 and t = x2 it is the linear class's pretext solution, with x = ψ(x1) and one-hot t the downstream one.

    Args:
        x: [N, in].
        t: targets [N, out].

    """
    centre: Array = x.mean(0)
    mean: Array = t.mean(0)
    # numpy's own cutoff is near the rounding errors of a ψ without full rank; they would become huge weights
    weight = np.linalg.lstsq(x - centre, t - mean, rcond=CUTOFF)[0].T
    return AffineArrays(weight, mean - weight @ centre)


def principal(psi: AffineArrays, x1: Array, m: int) -> AffineArrays:
    """Compute ψ's top m principal components on a sample (Lee et al. 2021, after Theorem 4.2): downstream dimension m, not d2."""
    out = psi(x1)
    axes = np.linalg.svd(out - out.mean(0), full_matrices=False)[2][:m]
    return AffineArrays(axes @ psi.weight, axes @ psi.bias)
