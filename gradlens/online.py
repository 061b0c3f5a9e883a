"""The online probe: what a linear learner reads on a block's activations while the network is trained, and its regret.

Every time a rule has updated a block, its learners see that batch's first 32 images: they predict with the weights they have, suffer the
mean multinomial logistic loss, and take one step of online convex optimization. The *regret* after T rounds is what they suffered minus
what the best fixed probe of the same ball would have on the same rounds, known only in hindsight. It says how well one linear reading
fits a block's whole history: a block that settles early is read as well by one probe as by a learner that follows it.

What a learner reads. A block's output is pooled to at most 128 features (64 for the Newton step), a running mean of earlier rounds is
subtracted (momentum 0.1, as in BatchNorm; no labels and no later rounds are in it), and (x / ‖x‖, 1) / √2 is read: of norm 1 at most,
so that the slope of a round's loss in W is at most G = √2 in Frobenius norm, whatever the network does. The weights W [classes, d + 1]
stay in a ball ‖W‖ ≤ B, of diameter D = 2B. The theorems ask for nothing else: no assumption is made on the stream.

The stream is stored beside the run (``online/<block>.bin``, at most 4,096 rounds of 32 images: 69 MB a block), so that regret is measured
on just what was read. The best probe in hindsight is found to a certified gap: f(W) − min f ≤ ⟨∇f, W⟩ + B ‖∇f‖ for a convex f on
the ball (Frank & Wolfe 1956), so that regret is an interval that holds the exact one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from gradlens.activations import pooled
from gradlens.errors import InputError
from gradlens.longtable import read_table
from gradlens.method import Update
from gradlens.run import OnlineRow

IMAGES = 32  # of a batch in a round
ROUNDS = 4096  # that a block is read for; later ones are not
FEATURES = 128  # of a block, at most
MOMENTUM = 0.1  # of the running mean
SLOPE = 2**0.5  # G: ‖softmax − one_hot‖ ≤ √2, times ‖x‖ ≤ 1
PRECISION = 1e-4  # nats a round, to which the best probe in hindsight is found

Array = NDArray[np.float64]


def features(centred: Tensor, budget: int) -> Tensor:
    """What a learner reads: [N, d] -> (x / ‖x‖, 1) / √2 [N, ≤ budget + 1], float64, of norm 1 (less only where x is 0)."""
    x = pooled(centred.double(), budget)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.cat([x, torch.ones_like(x[:, :1])], 1) / 2**0.5


def loss_and_slope(w: Tensor, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """The mean multinomial logistic loss of W [classes, D] on x [N, D], y [N], in nats, and its slope in W."""
    z = x @ w.T
    log_p = z - z.logsumexp(1, keepdim=True)
    rows = torch.arange(len(y))
    p = log_p.exp()
    p[rows, y] -= 1
    return -float(log_p[rows, y].mean()), p.T @ x / len(y)


def onto_ball(u: Tensor, radius: float, shrink: Callable[[float], tuple[Tensor, Tensor]]) -> Tensor:
    """The point of the ball ‖w‖ ≤ radius nearest to u in the norm of a positive definite A: (I + ν A⁻¹)⁻¹ u for the ν ≥ 0 that fits.

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
    """A multiclass linear learner on a stream: predicts, suffers, steps; everything it knows is in ``vars``."""

    features: ClassVar[int] = FEATURES
    radius: ClassVar[float] = 10.0  # B

    def __init__(self, classes: int, size: int) -> None:
        self.w = torch.zeros(classes, size, dtype=torch.float64)
        self.rounds = 0

    def step(self, x: Tensor, y: Tensor) -> float:
        """One round: the loss of the weights there are on x [N, size], y [N], then the step it asks for."""
        loss, slope = loss_and_slope(self.w, x, y)
        self.rounds += 1
        self.w = self.moved(slope.flatten()).reshape(self.w.shape)
        return loss

    @abstractmethod
    def moved(self, slope: Tensor) -> Tensor:
        """The weights after a round with that slope, both flat."""

    @abstractmethod
    def bound(self) -> float:
        """What the regret of the rounds so far cannot exceed."""


class GradientDescent(Learner):
    """w ← Π(w − η_t g), η_t = D / (G √t), with Π the nearest point of the ball: regret ≤ 3/2 G D √T.

    Zinkevich 2003, theorem 1, with this step size and constant theorem 3.1 of Hazan, Introduction to Online Convex Optimization. (For a
    T known beforehand and a fixed η, Shalev-Shwartz, Online Learning and Online Convex Optimization, corollary 2.7: B G √(2T).)
    """

    def moved(self, slope: Tensor) -> Tensor:
        """A step against the slope, back onto the ball."""
        rate: float = 2 * self.radius / (SLOPE * math.sqrt(self.rounds))
        w = self.w.flatten() - rate * slope
        return w * min(1.0, self.radius / max(float(w.norm()), self.radius))

    def bound(self) -> float:
        """3/2 G D √T."""
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
        """A step in which each weight has its own rate; a weight whose slope was always 0 stays 0."""
        self.squares = self.squares + slope**2
        h = self.squares.sqrt()
        inverse = torch.where(h > 0, 1 / h, 0)
        u = self.w.flatten() - 2 * self.radius / 2**0.5 * slope * inverse

        def shrink(nu: float) -> tuple[Tensor, Tensor]:
            w = u / (1 + nu * inverse)
            return w, w * inverse / (1 + nu * inverse)

        return onto_ball(u, self.radius, shrink)

    def bound(self) -> float:
        """√2 D Σ_i ‖g_{1:T,i}‖."""
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
        """A step in the metric of all slopes so far; A⁻¹ is kept by the Sherman–Morrison formula."""
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
        """(1 + log det(A / ε)) / 2β."""
        return (1 + self.log_det) / (2 * self.beta)


LEARNERS: dict[str, type[Learner]] = {"ogd": GradientDescent, "adagrad": AdaGrad, "newton": NewtonStep}


# ------------------------------------------------------------------------------------------------------ while it is trained


class BlockProbe:
    """The learners of one block."""

    def __init__(self, classes: int, size: int) -> None:
        self.mean = torch.zeros(size, dtype=torch.float64)  # of the features, before the round that comes
        self.rounds = 0
        self.cumulative = dict.fromkeys(LEARNERS, 0.0)
        sizes = {name: min(size, kind.features) + 1 for name, kind in LEARNERS.items()}
        self.learners = {name: kind(classes, sizes[name]) for name, kind in LEARNERS.items()}

    def centred(self, x: Tensor) -> Tensor:
        """What the stream stores of pooled features [N, d]: the mean of earlier rounds subtracted, float32; moves the mean."""
        now = x.double().mean(0)
        if not self.rounds:
            self.mean = now
        centred = (x - self.mean).float()
        self.mean = torch.lerp(self.mean, now, MOMENTUM)
        self.rounds += 1
        return centred

    def state(self) -> dict[str, Any]:
        """Plain tensors and numbers, for a checkpoint; copies, since learners change theirs in place."""
        learners = {name: deepcopy(vars(learner)) for name, learner in self.learners.items()}
        return {"mean": self.mean, "rounds": self.rounds, "cumulative": dict(self.cumulative), "learners": learners}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.mean, self.rounds, self.cumulative = state["mean"], state["rounds"], dict(state["cumulative"])
        for name, learner in self.learners.items():
            vars(learner).update(deepcopy(state["learners"][name]))


class OnlineProbe:
    """All blocks' learners; told of each update of a training, it changes nothing of it.

    What is to be written waits in ``rows`` and ``streams`` until :meth:`taken`.
    """

    def __init__(self, names: Sequence[str], classes: int) -> None:
        self.names, self.classes = names, classes
        self.blocks: dict[str, BlockProbe] = {}
        self.rows: list[OnlineRow] = []
        self.streams: dict[str, bytes] = {}

    @torch.no_grad()
    def see(self, step: int, update: Update) -> None:
        """A block's round: the pass that its update was made from, with the labels that travelled with it.

        Activations that are not finite are no round: the loss will say so.
        """
        name, y = self.names[update.k], update.p.y[:IMAGES].cpu()
        h = update.p.h.detach()[:IMAGES].float()
        with torch.autocast(h.device.type, enabled=False):
            x = pooled(h, FEATURES).cpu()
        if not x.isfinite().all():
            return
        if name not in self.blocks:
            self.blocks[name] = BlockProbe(self.classes, x.shape[1])
        probe = self.blocks[name]
        if probe.rounds >= ROUNDS:
            return
        x = probe.centred(x)
        read = {budget: features(x, budget) for budget in {kind.features for kind in LEARNERS.values()}}
        for kind, learner in probe.learners.items():
            loss = learner.step(read[learner.features], y)
            probe.cumulative[kind] += loss
            self.rows.append(OnlineRow(step, name, kind, loss, probe.cumulative[kind], learner.bound()))
        record = [np.array([step, *x.shape], np.int32), y.numpy().astype(np.int32), x.numpy()]
        self.streams[name] = self.streams.get(name, b"") + b"".join(part.tobytes() for part in record)

    def taken(self) -> tuple[list[OnlineRow], dict[str, bytes]]:
        """The rows and the blocks' streams since it was last asked."""
        rows, streams = self.rows, self.streams
        self.rows, self.streams = [], {}
        return rows, streams

    def regret(self, run_dir: Path) -> list[dict[str, Any]]:
        """:func:`regret_rows` of the run that this probe was written to."""
        return regret_rows(run_dir, self.names, self.classes)

    def state(self) -> dict[str, Any]:
        """Plain tensors and numbers, for a checkpoint."""
        return {name: probe.state() for name, probe in self.blocks.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.blocks, self.rows, self.streams = {}, [], {}
        for name, saved in state.items():
            self.blocks[name] = BlockProbe(self.classes, len(saved["mean"]))
            self.blocks[name].restore(saved)


# ---------------------------------------------------------------------------------------------------------------- regret


class Round(NamedTuple):
    """One round of a block's stream."""

    step: int
    x: Tensor  # [N, d] float32 pooled, centred
    y: Tensor  # [N] int64


def read_stream(path: Path) -> Iterator[Round]:
    """The rounds of a stored stream, in order; one torn off by a crash is left out."""
    content = memoryview(path.read_bytes())
    at = 0
    while at + 12 <= len(content):
        step, n, size = (int(v) for v in np.frombuffer(content, np.int32, 3, at))
        end = at + 12 + 4 * n * (1 + size)
        if end > len(content):
            return
        y = torch.from_numpy(np.frombuffer(content, np.int32, n, at + 12).astype(np.int64))
        x = torch.from_numpy(np.frombuffer(content, np.float32, n * size, at + 12 + 4 * n).reshape(n, size).copy())
        yield Round(step, x, y)
        at = end


class Hindsight(NamedTuple):
    """The best fixed probe of a ball on some rounds."""

    w: Array  # [classes, D]
    loss: float  # suffered by w: the minimum is not above it
    low: float  # the minimum is not below it


def best_fixed(x: Array, y: Array, weight: Array, classes: int, radius: float, start: Array | None = None) -> Hindsight:
    """The W [classes, D] with ‖W‖ ≤ radius of the least Σ weight · loss, within ``PRECISION`` · Σ weight where that can be reached.

    L-BFGS, free until it leaves the ball and then on the sphere that bounds it. Whatever it finds is judged by the gap
    ⟨∇f, W⟩ + radius · ‖∇f‖, which no error of the solver can make too small.

    Args:
        x: [M, D] what the learner read.
        y: [M] labels.
        weight: [M] of each image's loss in the sum.
        classes: number of classes.
        radius: of the ball.
        start: [classes, D] where to begin.

    """
    total, rows = float(weight.sum()), np.arange(len(y))
    share = weight / total

    def mean(flat: Array) -> tuple[float, Array]:
        z = x @ flat.reshape(classes, -1).T
        z -= z.max(1, keepdims=True)
        p = np.exp(z)
        whole = p.sum(1, keepdims=True)
        value = float(share @ (np.log(whole[:, 0]) - z[rows, y]))
        p /= whole
        p[rows, y] -= 1
        return value, ((p * share[:, None]).T @ x).ravel()

    def on_sphere(v: Array) -> tuple[float, Array]:
        length = float(np.linalg.norm(v))
        value, slope = mean(radius / length * v)
        return value, radius / length * (slope - v * (v @ slope) / length**2)

    def left(flat: Array) -> None:
        if np.linalg.norm(flat) > radius:
            raise StopIteration

    options = {"maxiter": 500, "maxcor": 20, "gtol": PRECISION / (20 * radius), "ftol": 1e-14}
    flat = np.zeros(classes * x.shape[1]) if start is None else start.ravel()
    best, value, low = flat, np.inf, 0.0  # no loss is negative
    for _ in range(4):
        flat = minimize(mean, flat, jac=True, method="L-BFGS-B", callback=left, options=options).x
        if np.linalg.norm(flat) > radius:
            flat = minimize(on_sphere, flat, jac=True, method="L-BFGS-B", options=options).x
            flat = flat * (radius / np.linalg.norm(flat))
        here, slope = mean(flat)
        if here < value:
            best, value = flat, here
        low = max(low, here - max(0.0, float(slope @ flat + radius * np.linalg.norm(slope))))
        if value - low <= PRECISION:
            break
    return Hindsight(best.reshape(classes, -1), total * value, total * low)


def grid(rounds: int) -> list[int]:
    """1, 2, 4, … and the last round: where regret is measured."""
    return [2**k for k in range(rounds.bit_length()) if 2**k < rounds] + [rounds] * (rounds > 0)


def regret_rows(run_dir: Path, names: Sequence[str], classes: int) -> list[dict[str, Any]]:
    """Each learner's regret on the stored stream of each block, on a geometric grid of rounds.

    A row: block, learner, rounds, step (the update of the last round), loss (cumulative), best_in_hindsight (cumulative, of the probe
    found), regret_low = loss − best_in_hindsight and regret_high, between which the regret lies, regret (= regret_low, their difference
    being the certified gap), and bound.

    Args:
        run_dir: the run directory.
        names: the network's blocks, bottom first.
        classes: number of classes.

    Raises:
        InputError: the run holds no online probe, or stream and table do not fit each other.

    """
    table = read_table(run_dir / "online.csv", OnlineRow)
    if not table:
        raise InputError(f"{run_dir} holds no online probe: it was trained without --online-probe")
    rows: list[dict[str, Any]] = []
    for block in sorted({row.block for row in table}, key=names.index):
        path = run_dir / "online" / f"{block}.bin"
        stream = list(read_stream(path)) if path.exists() else []
        suffered = {name: [row for row in table if (row.block, row.learner) == (block, name)] for name in LEARNERS}
        if any([row.step for row in mine] != [r.step for r in stream] for mine in suffered.values()):
            raise InputError(f"{path} does not hold the rounds that {run_dir}/online.csv speaks of")
        rows += _of_block(block, stream, suffered, classes)
    return rows


def _of_block(block: str, stream: Sequence[Round], suffered: Mapping[str, Sequence[OnlineRow]], classes: int) -> Iterator[dict[str, Any]]:
    """The rows of one block; learners that read the same in the same ball share their best probe."""
    y = torch.cat([r.y for r in stream]).numpy()
    weight = np.concatenate([np.full(len(r.y), 1 / len(r.y)) for r in stream])
    ends = np.cumsum([len(r.y) for r in stream])
    hindsight: dict[tuple[int, float], dict[int, Hindsight]] = {}
    for name, kind in LEARNERS.items():
        key = kind.features, kind.radius
        if key not in hindsight:
            x = torch.cat([features(r.x, kind.features) for r in stream]).numpy()
            found: dict[int, Hindsight] = {}
            w = None
            for t in grid(len(stream)):
                m = ends[t - 1]
                found[t] = best_fixed(x[:m], y[:m], weight[:m], classes, kind.radius, w)
                w = found[t].w
            hindsight[key] = found
        for t, best in hindsight[key].items():
            row = suffered[name][t - 1]
            yield {
                "block": block, "learner": name, "rounds": t, "step": row.step, "loss": row.cumulative, "best_in_hindsight": best.loss,
                "regret": row.cumulative - best.loss, "regret_low": row.cumulative - best.loss,
                "regret_high": row.cumulative - best.low, "bound": row.bound,
            }  # fmt: skip
