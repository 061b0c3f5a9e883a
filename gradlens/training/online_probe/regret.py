"""Regret: a learner's cumulative loss on a stored stream minus that of the best fixed probe in hindsight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.errors import InputError
from gradlens.training.online_probe.learners import LEARNERS, Array, features
from gradlens.training.run_directory import OnlineRow

PRECISION = 1e-4  # nats a round, to which the best probe in hindsight is found


class Round(NamedTuple):
    """One round of a block's stream."""

    step: int
    x: Tensor  # [N, d] float32 pooled, centred
    y: Tensor  # [N] int64


def read_stream(path: Path) -> Iterator[Round]:
    """Yield the rounds of a stored stream, in order; one torn off by a crash is left out."""
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
    """Return the W [classes, D] with ‖W‖ ≤ radius of the least Σ weight · loss, within ``PRECISION`` · Σ weight where that can be reached.

    L-BFGS, free until it leaves the ball and then on the sphere that bounds it. Whatever it finds is evaluated by the gap
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
    """Return 1, 2, 4, … and the last round: where regret is measured."""
    return [2**k for k in range(rounds.bit_length()) if 2**k < rounds] + [rounds] * (rounds > 0)


def regret_rows(run_dir: Path, names: Sequence[str], classes: int) -> list[dict[str, Any]]:
    """Return each learner's regret on the stored stream of each block, on a geometric grid of rounds.

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
        raise InputError(f"{run_dir} holds no online probe: train it with --online-probe")
    rows: list[dict[str, Any]] = []
    for block in sorted({row.block for row in table}, key=names.index):
        path = run_dir / "online" / f"{block}.bin"
        stream = list(read_stream(path)) if path.exists() else []
        suffered = {name: [row for row in table if (row.block, row.learner) == (block, name)] for name in LEARNERS}
        if any([row.step for row in mine] != [r.step for r in stream] for mine in suffered.values()):
            raise InputError(f"{path} does not hold the rounds that {run_dir}/online.csv lists")
        rows += _of_block(block, stream, suffered, classes)
    return rows


def _of_block(block: str, stream: Sequence[Round], suffered: Mapping[str, Sequence[OnlineRow]], classes: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of one block; learners with the same input and ball share their best probe."""
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
