"""Multiclass linear learners on a stream, each with the bound that its theorem gives for its regret."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradlens.models.feature_pooling import pooled

FEATURES = 128  # of a block, at most
SLOPE = 2**0.5  # G: ‖softmax − one_hot‖ ≤ √2, times ‖x‖ ≤ 1
Array = NDArray[np.float64]


def features(centred: Tensor, budget: int) -> Tensor:
    """Return what a learner reads: [N, d] -> (x / ‖x‖, 1) / √2 [N, ≤ budget + 1], float64, of norm 1 (less only where x is 0)."""
    x = pooled(centred.double(), budget)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.cat([x, torch.ones_like(x[:, :1])], 1) / 2**0.5


def loss_and_slope(w: Tensor, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return the mean multinomial logistic loss of W [classes, D] on x [N, D], y [N], in nats, and its slope in W."""
    z = x @ w.T
    log_p = z - z.logsumexp(1, keepdim=True)
    rows = torch.arange(len(y))
    p = log_p.exp()
    p[rows, y] -= 1
    return -float(log_p[rows, y].mean()), p.T @ x / len(y)


def onto_ball(u: Tensor, radius: float, shrink: Callable[[float], tuple[Tensor, Tensor]]) -> Tensor:
    """Return the point of the ball ‖w‖ ≤ radius nearest to u in the norm of a positive definite A: (I + ν A⁻¹)⁻¹ u for the ν ≥ 0 that fits.

    ν is found by Newton's method on 1/‖w(ν)‖ − 1/radius, which is concave and rises to 0 from ν = 0 (Moré & Sorensen 1983).

    Args:
        u: any vector.
        radius: of the ball.
        shrink: ν -> w(ν) and (I + ν A⁻¹)⁻¹ A⁻¹ w(ν).

    """
    w, nu = u, 0.0
    for _ in range(60):
        length = float(w.norm())
        if length <= radius * (1 + 1e-12):
            break
        w, falls = shrink(nu)
        length = float(w.norm())
        nu += (1 / radius - 1 / length) * length**3 / float(w @ falls)
    return w * min(1.0, radius / max(float(w.norm()), radius))


class Learner(ABC):
    """A multiclass linear learner on a stream: predict, incur the loss, step; its whole state is in ``vars``."""

    features: ClassVar[int] = FEATURES
    radius: ClassVar[float] = 10.0  # B

    def __init__(self, classes: int, size: int) -> None:
        self.w = torch.zeros(classes, size, dtype=torch.float64)
        self.rounds = 0

    def step(self, x: Tensor, y: Tensor) -> float:
        """Play one round: the loss of the present weights on x [N, size], y [N], then a step on its gradient."""
        loss, slope = loss_and_slope(self.w, x, y)
        self.rounds += 1
        self.w = self.moved(slope.flatten()).reshape(self.w.shape)
        return loss

    @abstractmethod
    def moved(self, slope: Tensor) -> Tensor:
        """Return the weights after a round with that slope, both flat."""

    @abstractmethod
    def bound(self) -> float:
        """Return the upper bound on the regret of the rounds so far."""


class GradientDescent(Learner):
    """w ← Π(w − η_t g), η_t = D / (G √t), with Π the nearest point of the ball: regret ≤ 3/2 G D √T.

    Zinkevich 2003, theorem 1, with this step size and constant theorem 3.1 of Hazan, Introduction to Online Convex Optimization. (For a
    T known beforehand and a fixed η, Shalev-Shwartz, Online Learning and Online Convex Optimization, corollary 2.7: B G √(2T).)
    """

    def moved(self, slope: Tensor) -> Tensor:
        """Step against the slope, then project onto the ball."""
        rate: float = 2 * self.radius / (SLOPE * math.sqrt(self.rounds))
        w = self.w.flatten() - rate * slope
        return w * min(1.0, self.radius / max(float(w.norm()), self.radius))

    def bound(self) -> float:
        """Return 3/2 G D √T."""
        return 1.5 * SLOPE * 2 * self.radius * math.sqrt(self.rounds)


class AdaGrad(Learner):
    """w ← Π_H(w − η g / H), H = √(Σ g²) for each weight, Π_H the nearest point in the norm of H: regret ≤ √2 D Σ_i ‖g_{1:T,i}‖.

    Duchi, Hazan & Singer 2011, theorem 5 and corollary 6 (mirror descent, diagonal, δ = 0), with η = D / √2 and D ≥ ‖w − u‖_∞ in the ball.
    That rate is made for the largest change of a single weight; in a ball of radius 10 it would be far too high for all of them.
    """

    radius = 2.0

    def __init__(self, classes: int, size: int) -> None:
        super().__init__(classes, size)
        self.squares = torch.zeros(classes * size, dtype=torch.float64)

    def moved(self, slope: Tensor) -> Tensor:
        """Make a step in which each weight has its own rate; a weight whose slope was always 0 stays 0."""
        self.squares = self.squares + slope**2
        h = self.squares.sqrt()
        inverse = torch.where(h > 0, 1 / h, 0)
        u = self.w.flatten() - 2 * self.radius / 2**0.5 * slope * inverse

        def shrink(nu: float) -> tuple[Tensor, Tensor]:
            w = u / (1 + nu * inverse)
            return w, w * inverse / (1 + nu * inverse)

        return onto_ball(u, self.radius, shrink)

    def bound(self) -> float:
        """Return √2 D Σ_i ‖g_{1:T,i}‖."""
        return 2**0.5 * 2 * self.radius * float(self.squares.sqrt().sum())


class NewtonStep(Learner):
    """w ← Π_A(w − A⁻¹ g / β), A = ε I + Σ g gᵀ, ε = 1 / (β D)²: regret ≤ (1 + log det(A / ε)) / 2β.

    Hazan, Agarwal & Kale 2007, theorem 2, as its proof has it before log det(A / ε) ≤ n log(T + 1) is put in; β = ½ min(1 / 4GD, α).

    The loss is α-exp-concave with α = exp(−√2 B) / (classes − 1) in the ball. (With u = v − v_y, E under softmax p:
    var v = E u² − (E u)² and (E u)² ≤ (1 − p_y) E u² give var v ≥ p_y / (1 − p_y) (E u)², which is the definition; a mean of α-exp-concave
    losses is α-exp-concave.) α falls exponentially with B, hence a ball of radius 1.
    """

    features = 64
    radius = 1.0

    def __init__(self, classes: int, size: int) -> None:
        super().__init__(classes, size)
        alpha = math.exp(-(2**0.5) * self.radius) / (classes - 1)
        self.beta = 0.5 * min(1 / (4 * SLOPE * 2 * self.radius), alpha)
        self.inverse = torch.eye(classes * size, dtype=torch.float64) * (self.beta * 2 * self.radius) ** 2
        self.log_det = 0.0  # of A / ε

    def moved(self, slope: Tensor) -> Tensor:
        """Step in the metric of all slopes so far; A⁻¹ is kept by the Sherman–Morrison formula."""
        along = self.inverse @ slope
        grown = 1 + float(slope @ along)
        self.inverse.addr_(along, along, alpha=-1 / grown)
        self.log_det += math.log(grown)
        u = self.w.flatten() - self.inverse @ slope / self.beta

        def shrink(nu: float) -> tuple[Tensor, Tensor]:
            factor = torch.linalg.cholesky(torch.eye(len(u), dtype=torch.float64) + nu * self.inverse)
            w = torch.cholesky_solve(u[:, None], factor)[:, 0]
            return w, torch.cholesky_solve((self.inverse @ w)[:, None], factor)[:, 0]

        return onto_ball(u, self.radius, shrink)

    def bound(self) -> float:
        """Return (1 + log det(A / ε)) / 2β."""
        return (1 + self.log_det) / (2 * self.beta)


LEARNERS: dict[str, type[Learner]] = {"ogd": GradientDescent, "adagrad": AdaGrad, "newton": NewtonStep}
