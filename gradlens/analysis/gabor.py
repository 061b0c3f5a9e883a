"""The Gabor function nearest to a patch in least squares."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from gradlens.analysis.filter_measures import NOTHING, Array

STARTS = 3  # of the fit, the best of a dictionary


class Gabor(NamedTuple):
    """A Gabor function, A · exp(−u²/2σ_u² − v²/2σ_v²) · cos(2π f u + φ), with u along the wave and v across it; eight parameters.

    Lengths are in pixels from the middle of the kernel, x to the right and y down.
    """

    r2: float  # 1 − squared error / squared distance of the patch from its own mean
    amplitude: float
    x: float  # centre
    y: float
    orientation: float  # degrees from x to the wave's direction, [0, 180)
    frequency: float  # cycles a pixel
    phase: float  # degrees
    along: float  # σ_u
    across: float  # σ_v


def bounds(k: int) -> tuple[Array, Array]:
    """Return lower and upper ends of x, y, frequency, σ_u, σ_v at kernel k.

    The centre is inside the kernel, the wave has half a cycle to k/2 cycles in k pixels, each σ is k/8 to k/2: an envelope that is neither
    one pixel nor a plane.
    """
    half = (k - 1) / 2
    return np.array([-half, -half, 0.5 / k, k / 8, k / 8]), np.array([half, half, 0.5, k / 2, k / 2])


@lru_cache(maxsize=8)
def _grid(k: int) -> tuple[Array, Array]:
    """Return x and y of the k·k pixels."""
    y, x = np.divmod(np.arange(k * k), k)
    return x - (k - 1) / 2, y - (k - 1) / 2


def _waves(k: int, angle: Array, within: Array) -> tuple[Array, ...]:
    """Return u, v, and the even and the odd wave under the envelope, each [..., k·k], of angles [...] and values [..., 5] within bounds."""
    px, py = _grid(k)
    x, y, frequency, along, across = np.moveaxis(within, -1, 0)[..., None]
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    u, v = (px - x) * cos + (py - y) * sin, (py - y) * cos - (px - x) * sin
    envelope = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
    return u, v, envelope * np.cos(2 * np.pi * frequency * u), envelope * np.sin(2 * np.pi * frequency * u)


@lru_cache(maxsize=8)
def _dictionary(k: int) -> tuple[Array, Array, Array]:
    """Return where fits begin: angles [n], values within bounds [n, 5], and an orthonormal basis of each even–odd pair [n, k·k, 2]."""
    centres = np.linspace(-(k - 1) / 4, (k - 1) / 4, 5)
    axes = (centres, centres, np.arange(8) * np.pi / 8, [0.1, 0.17, 0.25, 0.35, 0.45], [k / 6, k / 3])
    x, y, angle, frequency, sigma = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    within = np.stack([x, y, np.maximum(frequency, 0.5 / k), sigma, sigma], 1)
    _, _, even, odd = _waves(k, angle, within)
    return angle, within, np.linalg.qr(np.stack([even, odd], -1))[0]


def _starts(patch: Array, k: int) -> Iterator[tuple[float, Array]]:
    """Yield the best entries of the dictionary for a patch [k·k] of norm 1, no two of the same wave."""
    angle, within, bases = _dictionary(k)
    fit = np.square(np.tensordot(bases, patch, (1, 0))).sum(1)
    taken: set[tuple[float, float]] = set()
    for i in np.argsort(-fit):
        wave = float(angle[i]), float(within[i, 2])
        if wave not in taken:
            yield wave[0], within[i]
            taken.add(wave)
        if len(taken) == STARTS:
            return


class _Misfit:
    """Residuals of a patch and their slopes; the bounded parameters are lo + (hi − lo)(1 + sin p)/2 of free ones (as in MINUIT)."""

    def __init__(self, patch: Array, k: int) -> None:
        self.patch, self.k = patch, k
        self.low, self.high = bounds(k)

    def within(self, free: Array) -> Array:
        inside: Array = self.low + (self.high - self.low) * (1 + np.sin(free[3:])) / 2
        return inside

    def free(self, angle: float, within: Array) -> Array:
        """Return where the fit begins: amplitudes by linear least squares; not on a bound, where slopes vanish."""
        _, _, even, odd = _waves(self.k, np.array(angle), within)
        amplitudes = np.linalg.lstsq(np.stack([even, odd], 1), self.patch, rcond=None)[0]
        inside = np.clip(2 * (within - self.low) / (self.high - self.low) - 1, -0.98, 0.98)
        return np.concatenate([amplitudes, [angle], np.arcsin(inside)])

    def residuals(self, free: Array) -> Array:
        _, _, even, odd = _waves(self.k, free[2], self.within(free))
        off: Array = free[0] * even + free[1] * odd - self.patch
        return off

    def slopes(self, free: Array) -> Array:
        within = self.within(free)
        _, _, frequency, along, across = within
        u, v, even, odd = _waves(self.k, free[2], within)
        cos, sin = np.cos(free[2]), np.sin(free[2])
        value, turned = free[0] * even + free[1] * odd, 2 * np.pi * (free[1] * even - free[0] * odd)
        by_u, by_v = turned * frequency - u / along**2 * value, -v / across**2 * value
        bounded = [-cos * by_u + sin * by_v, -sin * by_u - cos * by_v, turned * u, value * u**2 / along**3, value * v**2 / across**3]
        chain = (self.high - self.low) / 2 * np.cos(free[3:])
        return np.stack([even, odd, by_u * v - by_v * u, *(c * b for c, b in zip(chain, bounded, strict=True))], 1)


def fit_gabor(patch: Array) -> Gabor | None:
    """Return the Gabor function nearest to a patch [k, k] in least squares, within :func:`bounds`; None where the patch is flat.

    Levenberg-Marquardt (``scipy.optimize.least_squares``) over all eight parameters, from the three best of 2,000 dictionary entries
    (orientation × frequency × centre × width). There is no offset: a Gabor function has none.
    """
    k = len(patch)
    scale = float(np.linalg.norm(patch - patch.mean()))
    if scale**2 <= NOTHING * float(np.square(patch).sum()) or scale == 0:
        return None
    misfit = _Misfit(patch.ravel() / scale, k)
    best = None
    for angle, within in _starts(misfit.patch, k):
        start = misfit.free(angle, within)
        found = least_squares(misfit.residuals, start, misfit.slopes, method="lm", ftol=1e-6, xtol=1e-6, max_nfev=100)
        best = found if best is None or found.cost < best.cost else best
        if best.cost < 5e-4:
            break
    assert best is not None
    even, odd, angle = best.x[:3]
    x, y, frequency, along, across = misfit.within(best.x).tolist()
    turns, orientation = divmod(np.degrees(angle), 180)
    phase = np.degrees(np.arctan2(-odd, even)) * (-1 if turns % 2 else 1)  # half a turn runs through the wave backwards
    return Gabor(
        1 - 2 * float(best.cost), float(np.hypot(even, odd)) * scale, x, y, float(orientation), frequency, float(phase), along, across
    )
