"""The simulation of Lee, Lei, Saunshi & Zhuo (2021, arXiv 2008.01064, figure 1), with everything about it in closed form.

All in float64; covariances are centred and every predictor has an intercept, so that no result depends on where the origin is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

Array = NDArray[np.float64]


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

    Attributes:
        mu1: [k, d1] the classes' means in the first view.
        mu2: [k, d2] the classes' means of X̂2.
        alpha: share of the first view in the second one, from 0 to 1.

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
        """Draw a mixture whose centres are uniform on [0, spread), the same ones for every α.

        Args:
            k: number of classes.
            alpha: share of the first view in the second one, from 0 to 1.
            d1: features of the first view.
            d2: features of the second view.
            spread: upper end of the centres' coordinates.
            seed: keys the draw, together with ``k``.

        Returns:
            the mixture.

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
        """Return the number of classes.

        Returns:
            the number of rows of ``mu1``.

        """
        return len(self.mu1)

    def draw(self, n: int, seed: int, purpose: str = "train") -> Sample:
        """Draw N independent samples; the same seed and purpose give the same X1, X̂2 and Y for every α.

        Args:
            n: number of samples N.
            seed: keys the draw.
            purpose: part of the key: another one gives other samples for the same seed.

        Returns:
            x1 [N, d1], x2 [N, d2] and y [N].

        """
        g = generator(seed, f"mixture {purpose}", self.k, n)
        y = torch.randint(self.k, (n,), generator=g).numpy()
        x1 = self.mu1[y] + _normal(g, n, self.mu1.shape[1])
        own = self.mu2[y] + _normal(g, n, self.mu2.shape[1])
        return Sample(x1, (1 - self.alpha) * own + self.alpha * self.cut(x1), y)

    def cut(self, x1: Array) -> Array:
        """Apply T to samples: keep their first d2 features, or pad them with zeros.

        Args:
            x1: [N, d1] samples of the first view.

        Returns:
            [N, d2].

        """
        d1, d2 = self.mu1.shape[1], self.mu2.shape[1]
        return np.pad(x1[:, :d2], ((0, 0), (0, max(0, d2 - d1))))

    # ---- conditional expectations

    def posterior(self, x1: Array) -> Array:
        """Compute the posterior f*(x1) = E[one-hot Y | X1 = x1] = softmax_i(−‖x1 − μ1_i‖² / 2).

        Args:
            x1: [N, d1] samples of the first view.

        Returns:
            [N, k] probabilities.

        """
        # ‖x1‖² is the same for all classes, and left out
        return np.asarray(softmax(x1 @ self.mu1.T - (self.mu1**2).sum(1) / 2, axis=1))

    def psi(self, x1: Array) -> Array:
        """Compute ψ*(x1) = E[X2 | X1 = x1] = (1 − α) Σ_i f*_i μ2_i + α T(x1).

        Args:
            x1: [N, d1] samples of the first view.

        Returns:
            [N, d2].

        """
        found: Array = (1 - self.alpha) * self.posterior(x1) @ self.mu2 + self.alpha * self.cut(x1)
        return found

    def psi_through_label(self, x1: Array) -> Array:
        """Compute E[E[X2|Y] | X1 = x1] = Σ_i f*_i ((1 − α) μ2_i + α T(μ1_i)); equal to ψ* if the views are independent given Y.

        Args:
            x1: [N, d1] samples of the first view.

        Returns:
            [N, d2].

        """
        found: Array = self.posterior(x1) @ ((1 - self.alpha) * self.mu2 + self.alpha * self.cut(self.mu1))
        return found

    def eps_universal(self, x1: Array) -> float:
        """Estimate ε_CI = √E‖ψ*(X1) − E[E[X2 | Y] | X1]‖² (Definition 4.1, all functions), the mean over a sample of X1.

        α √min(d1, d2) where the classes do not overlap.

        Args:
            x1: [N, d1] samples of the first view.

        Returns:
            the estimate, in units of x2.

        """
        return math.sqrt(float(((self.psi(x1) - self.psi_through_label(x1)) ** 2).sum(1).mean()))

    # ---- the linear class, from the distribution's own covariances

    def _cov1(self) -> Array:
        """Compute Cov(X1) [d1, d1]."""
        c = self.mu1 - self.mu1.mean(0)
        found: Array = np.eye(c.shape[1]) + c.T @ c / self.k
        return found

    def linear_pretext(self) -> AffineArrays:
        """Compute the linear class's ψ without sampling error: B = S₂₁ S₁₁⁻¹, of rank k − 1 (at most) for α = 0.

        Returns:
            the affine map, weight [d2, d1] and bias [d2].

        """
        c1, c2 = self.mu1 - self.mu1.mean(0), self.mu2 - self.mu2.mean(0)
        own = np.linalg.solve(self._cov1(), c1.T @ c2 / self.k).T
        weight = (1 - self.alpha) * own + self.alpha * self.cut(np.eye(c1.shape[1])).T
        mean2 = (1 - self.alpha) * self.mu2.mean(0) + self.alpha * self.cut(self.mu1.mean(0)[None])[0]
        return AffineArrays(weight, mean2 - weight @ self.mu1.mean(0))

    def best_linear(self) -> AffineArrays:
        """Compute E^L[one-hot Y | X1], the best linear predictor: S_Y1 S₁₁⁻¹, with an intercept.

        Returns:
            the affine map, weight [k, d1] and bias [k].

        """
        c = self.mu1 - self.mu1.mean(0)
        weight = np.linalg.solve(self._cov1(), c.T / self.k).T
        return AffineArrays(weight, 1 / self.k - weight @ self.mu1.mean(0))

    def eps_linear(self) -> float:
        """Compute ε_CI of the linear class: S₁₂|Y = α Tᵀ, so it is α √tr(T S₁₁⁻¹ Tᵀ), a little below α √min(d1, d2).

        Returns:
            ε_CI, in units of x2; exact.

        """
        t = self.cut(np.eye(self.mu1.shape[1]))
        return self.alpha * math.sqrt(float(np.trace(t.T @ np.linalg.solve(self._cov1(), t))))

    def excess_risk(self, predictor: AffineArrays) -> float:
        """Compute the excess risk ER = ½ E‖E^L[Y | X1] − p(X1)‖² of an affine p, exactly, by the moments of X1.

        Args:
            predictor: an affine map from x1 to k outputs, weight [k, d1] and bias [k].

        Returns:
            the excess risk, 0 or more.

        """
        best = self.best_linear()
        d, m = best.weight - predictor.weight, self.mu1.mean(0)
        off = best.bias - predictor.bias + d @ m
        return float(np.einsum("ij,jk,ik->", d, self._cov1(), d) + off @ off) / 2

    def mse(self, predictor: AffineArrays) -> float:
        """Compute E‖one-hot Y − p(X1)‖² (summed over classes) of an affine p, exactly: the best linear one's, and twice the excess risk.

        Args:
            predictor: an affine map from x1 to k outputs, weight [k, d1] and bias [k].

        Returns:
            the error.

        """
        c = self.mu1 - self.mu1.mean(0)
        explained = float(np.trace(c @ np.linalg.solve(self._cov1(), c.T))) / self.k**2
        return 1 - 1 / self.k - explained + 2 * self.excess_risk(predictor)


def _uniform(g: torch.Generator, *shape: int) -> Array:
    return np.asarray(torch.rand(shape, generator=g, dtype=torch.float64))


def _normal(g: torch.Generator, *shape: int) -> Array:
    return np.asarray(torch.randn(shape, generator=g, dtype=torch.float64))
