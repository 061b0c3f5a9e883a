"""Conditional dependence of two views given the label, and how many labels it saves to predict one view from the other.

Lee, Lei, Saunshi & Zhuo (2021, arXiv 2008.01064), "Predicting What You Already Know Helps": a pretext task learns ψ, which predicts a view
X2 from another one X1, without labels; downstream, labels are predicted linearly from ψ(X1). If X1 ⊥ X2 | Y, then E[Y | X1] is linear in
ψ* = E[X2 | X1] (Lemma 3.1) and k classes need some k labels instead of some d1. How far data are from that is ε_CI (Definition 4.1), which
:func:`conditional_dependence` estimates from any two views and labels.

:class:`ViewMixture` is the paper's simulation (its figure 1) with everything about it in closed form. All in float64; covariances are
centred and every predictor has an intercept, so that no result depends on where the origin is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from torch import Tensor

from gradlens.analysis.representation_similarity import centred
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

    Regularisation. None but a pseudo-inverse of S₁₁, without directions below 1e-10 of the widest one: S₁₂|Y has no part in directions
    in which x1 is constant, so this is the limit of a ridge that goes to zero. A ridge of finite size would make the measure depend on
    x1's scaling. Features that outnumber the samples are refused instead; take principal components of x1 first.

    Args:
        x1: one view, or features of it [N, *]; axes after the first are flattened.
        x2: the other view [N, *].
        y: labels [N], of any kind that can be compared.
        shuffles: how many; 0: no ``null`` and no ``p``.
        seed: of the shuffles.

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


class AffineArrays(NamedTuple):
    """x ↦ W x + b on rows."""

    weight: Array  # [out, in]
    bias: Array  # [out]

    def __call__(self, x: Array) -> Array:
        """Apply the map to rows [N, in]; return [N, out]."""
        out: Array = x @ self.weight.T + self.bias
        return out

    def after(self, first: AffineArrays) -> AffineArrays:
        """Compose: apply this map to another one's output."""
        return AffineArrays(self.weight @ first.weight, self.weight @ first.bias + self.bias)


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


# ------------------------------------------------------------------------------------------------------------- simulation


class Sample(NamedTuple):
    """Draws of the simulation."""

    x1: Array  # [N, d1]
    x2: Array  # [N, d2]
    y: NDArray[np.int64]  # [N], from 0

    def onehot(self, k: int) -> Array:
        """Return the labels [N, k]."""
        return np.eye(k)[self.y]


@dataclass(frozen=True, eq=False)
class ViewMixture:
    """Y uniform on k classes, X1 ~ N(μ1_Y, I), X̂2 ~ N(μ2_Y, I), X2 = (1 − α) X̂2 + α T(X1); T cuts X1 off or pads it with zeros.

    α = 0: the views are independent given Y; α = 1: X2 is a function of X1 (Lee et al. 2021, §5, figure 1).
    """

    mu1: Array  # [k, d1]
    mu2: Array  # [k, d2]
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is between 0 (views independent given the label) and 1, got {self.alpha}")
        if not len(self.mu1) == len(self.mu2) > 0:
            raise InputError(f"each class has a centre in both views, got {len(self.mu1)} and {len(self.mu2)}")

    @classmethod
    def random(cls, k: int, alpha: float = 0.0, d1: int = 50, d2: int = 40, spread: float = 10.0, seed: int = 0) -> ViewMixture:
        """Draw centres uniform on [0, spread), the same ones for every α.

        Raises:
            InputError: no class or no feature, α outside 0…1, a spread that is not positive.

        """
        if min(k, d1, d2) < 1:
            raise InputError(f"a mixture has one class and one feature or more, got k={k}, d1={d1}, d2={d2}")
        if not 0 < spread < math.inf:
            raise InputError(f"the centres' spread is positive, got {spread}")
        g = generator(seed, "mixture centres", k)
        return cls(_uniform(g, k, d1) * spread, _uniform(g, k, d2) * spread, alpha)

    @property
    def k(self) -> int:
        """How many classes."""
        return len(self.mu1)

    def draw(self, n: int, seed: int, purpose: str = "train") -> Sample:
        """Draw N independent samples; the same seed and purpose give the same X1, X̂2 and Y for every α."""
        g = generator(seed, f"mixture {purpose}", self.k, n)
        y = torch.randint(self.k, (n,), generator=g).numpy()
        x1 = self.mu1[y] + _normal(g, n, self.mu1.shape[1])
        own = self.mu2[y] + _normal(g, n, self.mu2.shape[1])
        return Sample(x1, (1 - self.alpha) * own + self.alpha * self.cut(x1), y)

    def cut(self, x1: Array) -> Array:
        """Apply T: [N, d1] -> [N, d2]."""
        d1, d2 = self.mu1.shape[1], self.mu2.shape[1]
        return np.pad(x1[:, :d2], ((0, 0), (0, max(0, d2 - d1))))

    # ---- conditional expectations

    def posterior(self, x1: Array) -> Array:
        """Compute f*(x1) = E[one-hot Y | X1 = x1] = softmax_i(−‖x1 − μ1_i‖² / 2) [N, k]."""
        # ‖x1‖² is the same for all classes, and left out
        return np.asarray(softmax(x1 @ self.mu1.T - (self.mu1**2).sum(1) / 2, axis=1))

    def psi(self, x1: Array) -> Array:
        """Compute ψ*(x1) = E[X2 | X1 = x1] = (1 − α) Σ_i f*_i μ2_i + α T(x1) [N, d2]."""
        found: Array = (1 - self.alpha) * self.posterior(x1) @ self.mu2 + self.alpha * self.cut(x1)
        return found

    def psi_through_label(self, x1: Array) -> Array:
        """Compute E[E[X2|Y] | X1 = x1] = Σ_i f*_i ((1 − α) μ2_i + α T(μ1_i)) [N, d2]; equal to ψ* if the views are independent given Y."""
        found: Array = self.posterior(x1) @ ((1 - self.alpha) * self.mu2 + self.alpha * self.cut(self.mu1))
        return found

    def eps_universal(self, x1: Array) -> float:
        """Estimate ε_CI = √E‖ψ*(X1) − E[E[X2 | Y] | X1]‖² (Definition 4.1, all functions), the mean over a sample of X1.

        α √min(d1, d2) where the classes do not overlap.
        """
        return math.sqrt(float(((self.psi(x1) - self.psi_through_label(x1)) ** 2).sum(1).mean()))

    # ---- the linear class, from the distribution's own covariances

    def _cov1(self) -> Array:
        """Compute Cov(X1) [d1, d1]."""
        c = self.mu1 - self.mu1.mean(0)
        found: Array = np.eye(c.shape[1]) + c.T @ c / self.k
        return found

    def linear_pretext(self) -> AffineArrays:
        """Compute the linear class's ψ without sampling error: B = S₂₁ S₁₁⁻¹, of rank k − 1 (at most) for α = 0."""
        c1, c2 = self.mu1 - self.mu1.mean(0), self.mu2 - self.mu2.mean(0)
        own = np.linalg.solve(self._cov1(), c1.T @ c2 / self.k).T
        weight = (1 - self.alpha) * own + self.alpha * self.cut(np.eye(c1.shape[1])).T
        mean2 = (1 - self.alpha) * self.mu2.mean(0) + self.alpha * self.cut(self.mu1.mean(0)[None])[0]
        return AffineArrays(weight, mean2 - weight @ self.mu1.mean(0))

    def best_linear(self) -> AffineArrays:
        """Compute E^L[one-hot Y | X1], the best linear predictor: S_Y1 S₁₁⁻¹, with an intercept."""
        c = self.mu1 - self.mu1.mean(0)
        weight = np.linalg.solve(self._cov1(), c.T / self.k).T
        return AffineArrays(weight, 1 / self.k - weight @ self.mu1.mean(0))

    def eps_linear(self) -> float:
        """Compute ε_CI of the linear class: S₁₂|Y = α Tᵀ, so it is α √tr(T S₁₁⁻¹ Tᵀ), a little below α √min(d1, d2)."""
        t = self.cut(np.eye(self.mu1.shape[1]))
        return self.alpha * math.sqrt(float(np.trace(t.T @ np.linalg.solve(self._cov1(), t))))

    def excess_risk(self, predictor: AffineArrays) -> float:
        """Compute ER = ½ E‖E^L[Y | X1] − p(X1)‖² of an affine p [k outputs], exactly, by the moments of X1."""
        best = self.best_linear()
        d, m = best.weight - predictor.weight, self.mu1.mean(0)
        off = best.bias - predictor.bias + d @ m
        return float(np.einsum("ij,jk,ik->", d, self._cov1(), d) + off @ off) / 2

    def mse(self, predictor: AffineArrays) -> float:
        """Compute E‖one-hot Y − p(X1)‖² (summed over classes) of an affine p, exactly: the best linear one's, and twice the excess risk."""
        c = self.mu1 - self.mu1.mean(0)
        explained = float(np.trace(c @ np.linalg.solve(self._cov1(), c.T))) / self.k**2
        return 1 - 1 / self.k - explained + 2 * self.excess_risk(predictor)


def _uniform(g: torch.Generator, *shape: int) -> Array:
    return np.asarray(torch.rand(shape, generator=g, dtype=torch.float64))


def _normal(g: torch.Generator, *shape: int) -> Array:
    return np.asarray(torch.randn(shape, generator=g, dtype=torch.float64))
