"""Multinomial logistic regression at its optimum, with a bound on the distance to it: the solver of the linear probes.

The objective, of weights W [k, d] and biases b [k] on n points x_i with labels y_i:

    f(W, b) = 1/n Σ_i −log softmax(W x_i + b)_{y_i} + l2/2 ‖W‖_F²

The biases are not penalised. scikit-learn's ``LogisticRegression(C=1 / (n · l2))`` has the same minimiser.

How near. F(W) = min_b f(W, b) is l2-strongly convex (the minimum over b of f − l2/2 ‖W‖², which is convex in both, is convex), and
where b is that minimum, ∇F(W) = ∂f/∂W. Strong convexity alone then bounds what is missing (Boyd & Vandenberghe, Convex Optimization,
§9.1.2, inequality 9.9): F(W) − min F ≤ ‖∇F(W)‖² / (2 l2). A finished probe has its b solved for in float64 and its gradient computed
in float64 at the weights that are returned, so the bound is one on these weights and not on the solver's idea of them.

How fast. L-BFGS (Liu & Nocedal 1989), whose first guess of the Hessian is the Hessian at W = 0: on directions that sum to zero over
the classes, as all gradients do, it is XᵀX / (k n) + l2 I, the same for each class. XᵀX is replaced by its Nyström approximation from a
few of its columns, as in Frangella, Tropp & Udell (2023), so that solving with it costs little beside a pass over X. A pass reads X
once: scores and gradient of some rows while these are in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

TOLERANCE = 3e-5  # nats that may be missing to the minimum, by the bound
MOST_PASSES = 2000  # over the data
HISTORY = 10  # pairs that L-BFGS remembers
COLUMNS = 512  # of XᵀX that the preconditioner is made from
ROWS = 2048  # of X that it looks at
CACHED = 2**19  # numbers of X that are worked on at once: 2 MB


class Standard(NamedTuple):
    """Zero mean and unit variance by some training features; features that were constant there become 0."""

    mean: Tensor  # [d]
    factor: Tensor  # [d] 1 / standard deviation, 0 where there is none

    @staticmethod
    def of(x: Tensor) -> Standard:
        """Return the statistics of features [N, d]."""
        spread = x.std(0, correction=0)
        return Standard(x.mean(0), torch.where(spread > 1e-6 * x.abs().amax(0), 1 / spread, 0))

    def __call__(self, x: Tensor) -> Tensor:
        """Standardise features [M, d] by these statistics."""
        return (x - self.mean).mul_(self.factor)


@dataclass(frozen=True)
class LogisticProbe:
    """A linear classifier and how near it is to the best one of its objective."""

    weight: Tensor  # [k, d], of the features' precision; 0 for classes that had no point
    bias: Tensor  # [k] float64; −inf for classes that had no point
    l2: float
    loss: float  # mean cross-entropy, without the penalty
    objective: float  # with it
    gradient_norm: float  # ‖∇f‖ in float64; the part of the biases is zero up to rounding
    passes: int  # over the data, two matrix products each

    @property
    def bound(self) -> float:
        """Bound by how many nats the objective is above its minimum: at most ‖∇F‖² / (2 l2)."""
        return self.gradient_norm**2 / (2 * self.l2)

    def scores(self, x: Tensor) -> Tensor:
        """Compute logits [N, k] float64 of features [N, d]."""
        return (x @ self.weight.T).double() + self.bias

    def answers(self, x: Tensor) -> Tensor:
        """Predict labels [N] of features [N, d]."""
        return self.scores(x).argmax(1)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Compute the accuracy on features [N, d] with labels [N]."""
        return float((self.answers(x) == y).double().mean())


class Fitting:
    """Features and labels made ready: several l2 can be solved for, each from where the last one ended.

    Args:
        x: [N, d] features, float32 or float64; what is computed is computed in their precision. Best standardised.
        y: [N] integer labels.
        classes: how many there are; default: the largest label + 1.

    Raises:
        InputError: shapes that do not fit, NaN or infinite features, labels out of range, one class only, fewer points than classes.

    """

    def __init__(self, x: Tensor, y: Tensor, classes: int | None = None) -> None:
        self.x, self.classes = x, _checked(x, y, classes)
        self.present, self.y = torch.unique(y, return_inverse=True)
        n, d = x.shape
        rows = max(32, CACHED // max(1, d)) if x.device.type == "cpu" else n
        self.parts = torch.split(x, rows)
        onehot = F.one_hot(self.y, len(self.present)).T.to(x.dtype)
        self.onehot = [part.contiguous() for part in torch.split(onehot, rows, 1)]
        self.theta = x.new_zeros(len(self.present), d + 1)  # weights, and the bias as a last column
        self.passes = 0

    def solve(self, l2: float, tolerance: float = TOLERANCE, most: int = MOST_PASSES) -> LogisticProbe:
        """Return the minimiser for one l2, from where the last one ended.

        Args:
            l2: penalty, above 0.
            tolerance: the gradient is made so small that the bound on what is missing is this many nats; in float32 it may stay above.
            most: passes over the data.

        Raises:
            InputError: an l2 that is not above 0.

        """
        if not 0 < l2 < math.inf:
            raise InputError(f"l2 must be above 0, got {l2:g}: without it the best weights of separable points are infinite")
        before, enough = self.passes, math.sqrt(2 * l2 * tolerance) / 2  # half: solving for the biases moves the gradient once more
        while True:
            moved = self._descend(l2, enough, before + most)
            probe = self._certified(l2, before)
            if probe.bound <= tolerance or not moved or self.passes >= before + most:
                return probe
            enough /= 2

    def value_and_gradient(self, theta: Tensor, l2: float) -> tuple[float, Tensor]:
        """Return the objective and its gradient [k, d + 1], in one pass."""
        self.passes += 1
        weight, bias = theta[:, :-1], theta[:, -1:]
        gradient = torch.zeros_like(theta)
        loss = 0.0
        for x, onehot in zip(self.parts, self.onehot, strict=True):
            log_p = torch.addmm(bias, weight, x.T).log_softmax(0)
            loss -= float(torch.dot(log_p.view(-1), onehot.view(-1)))
            error = log_p.exp_().sub_(onehot)
            gradient[:, :-1].addmm_(error, x)
            gradient[:, -1] += error.sum(1)
        gradient /= len(self.x)
        gradient[:, :-1] += l2 * weight
        return loss / len(self.x) + l2 / 2 * float(weight.square().sum()), gradient

    def _descend(self, l2: float, enough: float, most: int) -> bool:
        """Run L-BFGS until the gradient's norm is small enough, or as small as the precision allows; return whether it made a step."""
        theta, precondition = self.theta, self._preconditioner(l2)
        value, gradient = self.value_and_gradient(theta, l2)
        steps: list[LBFGSStep] = []
        noise = 4 * torch.finfo(theta.dtype).eps
        while float(gradient.norm()) > enough and self.passes < most:
            direction = -quasi_newton(gradient, steps, precondition)
            slope = float((gradient * direction).sum())
            t, moved = 1.0, False
            for _ in range(20):
                new = theta + t * direction
                new_value, new_gradient = self.value_and_gradient(new, l2)
                ahead = float((new_gradient * direction).sum())
                # downhill still, so lower by convexity; or lower by Armijo's rule; or as low as the precision resolves, and flatter
                if ahead <= 0 or new_value <= value + 1e-4 * t * slope or (new_value <= value + noise * abs(value) and ahead <= -slope / 2):
                    moved = True
                    break
                t *= min(0.5, max(0.1, slope / (slope - ahead)))  # where the slope along the line would vanish if it were a parabola's
            if not moved:
                break
            change = new_gradient - gradient
            product = ((new - theta) * change).sum()
            if product > 0:
                steps = [*steps[1 - HISTORY :], LBFGSStep(new - theta, change, 1 / product)]
            theta, value, gradient = new, new_value, new_gradient
        arrived = theta is not self.theta
        self.theta = theta
        return arrived

    def _preconditioner(self, l2: float) -> Callable[[Tensor], Tensor]:
        """Return the inverse of the Hessian at W = 0, approximately; of the biases' part too."""
        k = len(self.present)
        inverse = self.curvature.plus(l2 * k)

        def solve(gradient: Tensor) -> Tensor:
            return torch.cat([inverse(gradient[:, :-1]), gradient[:, -1:]], 1) * k

        return solve

    @cached_property
    def curvature(self) -> Nystrom:
        """Approximate XᵀX / n."""
        return Nystrom.of(self.x)

    def _certified(self, l2: float, before: int) -> LogisticProbe:
        """Return the weights reached, with the biases that are best for them, and loss and gradient of both in float64."""
        n, theta = len(self.x), self.theta.double()
        z = torch.cat([theta[:, :-1] @ part.T.double() for part in self.parts], 1)
        onehot = torch.cat(self.onehot, 1).double()
        bias = best_bias(z, onehot, theta[:, -1])
        log_p = (z + bias[:, None]).log_softmax(0)
        error = (log_p.exp() - onehot) / n
        gradient = l2 * theta[:, :-1]
        for part, e in zip(self.parts, torch.split(error, len(self.parts[0]), 1), strict=True):
            gradient = gradient + e @ part.double()
        self.theta[:, -1] = bias
        loss = -float((log_p * onehot).sum() / n)
        norm = math.hypot(float(gradient.norm()), float(error.sum(1).norm()))
        weight, biases = self.x.new_zeros(self.classes, self.x.shape[1]), bias.new_full((self.classes,), -math.inf)
        weight[self.present], biases[self.present] = self.theta[:, :-1], bias
        objective = loss + l2 / 2 * float(theta[:, :-1].square().sum())
        if float(error.sum(1).norm()) > 1e-9:  # b is no minimum, so the bound, which is one on F, does not hold
            norm = math.inf
        return LogisticProbe(weight, biases, l2, loss, objective, norm, self.passes - before)


class LBFGSStep(NamedTuple):
    """What L-BFGS stores of a step."""

    s: Tensor
    change: Tensor  # of the gradient
    inverse: Tensor  # 1 / their inner product


def quasi_newton(gradient: Tensor, steps: Sequence[LBFGSStep], precondition: Callable[[Tensor], Tensor]) -> Tensor:
    """Run the two loops of L-BFGS (Liu & Nocedal 1989) around a preconditioner: an estimate of Hessian⁻¹ · gradient."""
    q = gradient.clone()
    shares = []
    for s, change, inverse in reversed(steps):
        shares.append(inverse * (s * q).sum())
        q -= shares[-1] * change
    q = precondition(q)
    for (s, change, inverse), share in zip(steps, reversed(shares), strict=True):
        q += (share - inverse * (change * q).sum()) * s
    return q


def best_bias(z: Tensor, onehot: Tensor, start: Tensor) -> Tensor:
    """Return the biases [k] that minimise the cross-entropy of scores z [k, n] + biases, to the end of float64's precision.

    Newton's method; where its step does not flatten the slope, one of generalized iterative scaling (Darroch & Ratcliff 1972), which
    never ascends, however far the start.
    """
    wanted, n = onehot.mean(1), z.shape[1]
    fixed = 1 / len(wanted) + 1e-12 * torch.eye(len(wanted), dtype=z.dtype, device=z.device)  # along 1 nothing changes
    bias, flattest = start, math.inf
    scaled = start
    for _ in range(100):
        log_p = (z + bias[:, None]).log_softmax(0)
        p = log_p.exp()
        share = p.mean(1)
        slope = share - wanted
        norm = float(slope.norm())
        if norm < 1e-13:
            break
        if norm < flattest:
            flattest, scaled = norm, bias + wanted.log() - log_p.logsumexp(1) + math.log(n)
            bias = bias - torch.linalg.solve(torch.diag(share) - p @ p.T / n + fixed, slope)
        else:
            flattest, bias = math.inf, scaled
    return bias


def _factor(symmetric: Tensor, shift: float) -> Tensor:
    """Factorise (Cholesky) a matrix that is positive semidefinite but for rounding, with the least shift of a few that makes it so."""
    while True:
        shifted = symmetric.clone()
        shifted.diagonal().add_(shift)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not failed:
            return factor
        shift *= 10  # exactly collinear features: what float32 rounds is more than the first one


class Nystrom(NamedTuple):
    """G = XᵀX / n as BᵀB + rest · I, from r of its columns."""

    b: Tensor  # [r, d]
    bbt: Tensor  # [r, r]
    rest: float  # the mean of what the columns leave out of the diagonal

    @staticmethod
    def of(x: Tensor) -> Nystrom:
        """Build the preconditioner from features [n, d], of which enough evenly spaced rows are read."""
        x = x[:: max(1, len(x) // ROWS)]
        n, d = x.shape
        chosen = torch.randperm(d, generator=generator(0, "nystrom", d))[:COLUMNS].to(x.device)
        columns = x[:, chosen].T @ x / n  # [r, d]
        # a shift keeps the inner matrix positive definite in this precision (Frangella, Tropp & Udell 2023, algorithm 2.1)
        shift = max(math.sqrt(d) * torch.finfo(x.dtype).eps * float(columns.norm()), torch.finfo(x.dtype).tiny)
        inner = columns[:, chosen].double()
        b = torch.linalg.solve_triangular(_factor((inner + inner.T) / 2, shift).to(x.dtype), columns, upper=False)
        rest = float(x.square().sum() / n - b.square().sum()) / d
        return Nystrom(b, b @ b.T, max(0.0, rest))

    def plus(self, shift: float) -> Callable[[Tensor], Tensor]:
        """Return (G + shift · I)⁻¹ as a function of rows [m, d], by Woodbury's identity."""
        base = shift + self.rest
        inner = self.bbt.clone()
        inner.diagonal().add_(base)
        factor = torch.linalg.cholesky(inner)

        def solve(rows: Tensor) -> Tensor:
            return (rows - torch.cholesky_solve((rows @ self.b.T).T, factor).T @ self.b) / base

        return solve


def fit_logistic_regression(
    x: Tensor, y: Tensor, l2: float, classes: int | None = None, tolerance: float = TOLERANCE, most: int = MOST_PASSES
) -> LogisticProbe:
    """Fit a multinomial logistic regression: the minimiser of mean cross-entropy + l2/2 ‖W‖² (biases free), with a bound on its distance.

    Args:
        x: [N, d] features, float32 or float64, best standardised (:class:`Standard`).
        y: [N] integer labels.
        l2: penalty, above 0.
        classes: how many there are; default: the largest label + 1. Those without a point are never answered.
        tolerance: nats that may be missing to the minimum, by the bound.
        most: passes over the data.

    Returns:
        the weights [classes, d] and biases [classes], the loss, and a bound on how far its objective is above the minimum.

    Raises:
        InputError: shapes that do not fit, NaN or infinite features, labels out of range, one class only, fewer points than classes,
            an l2 that is not above 0.

    """
    return Fitting(x, y, classes).solve(l2, tolerance, most)


def _checked(x: Tensor, y: Tensor, classes: int | None) -> int:
    """Check features and labels, and return the number of classes."""
    if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
        raise InputError(f"a probe is fitted to features [N, d] and labels [N], not to {list(x.shape)} and {list(y.shape)}")
    if x.dtype not in (torch.float32, torch.float64) or y.is_floating_point():
        raise InputError(f"a probe needs float32 or float64 features and integer labels, not {x.dtype} and {y.dtype}")
    lowest, highest = int(y.min()), int(y.max())
    classes = highest + 1 if classes is None else classes
    if lowest < 0 or highest >= classes:
        raise InputError(f"labels from {lowest} to {highest} do not fit {classes} classes")
    if lowest == highest:
        raise InputError(f"a probe needs two classes or more; all {len(y)} points are of class {lowest}")
    if len(x) < classes:
        raise InputError(f"{len(x)} points are fewer than the {classes} classes")
    if not math.isfinite(float(x.sum())) and not bool(x.isfinite().all()):  # the sum is faster to check, and sufficient
        raise InputError("a probe cannot be fitted: the features hold NaN or infinite numbers")
    return classes
