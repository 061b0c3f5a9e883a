"""Numbers of convolution filters [F, C, k, k]: spectra, colour, effective rank, dead ones, and the order in which they are shown."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gradlens.analysis.representation_similarity import effective_rank as spectral_rank

Array = NDArray[np.float64]

NOTHING = 1e-20  # share of a filter's energy that is rounding
FAINT = 0.01  # of the median norm: filters below it are dead
LUMINANCE, RED_GREEN, YELLOW_BLUE = (
    np.array(axis) / np.linalg.norm(axis) for axis in ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 1.0, -2.0))
)


def energies(filters: Array) -> Array:
    """Return each filter's squared norm, [F]."""
    squares: Array = np.square(filters).sum((1, 2, 3))
    return squares


def luminance(filters: Array) -> Array:
    """Return the filters' part along (1, …, 1)/√C in colour space: [F, C, k, k] -> [F, k, k]."""
    grey: Array = np.tensordot(filters, np.full(filters.shape[1], filters.shape[1] ** -0.5), (1, 0))
    return grey


def colour_shares(filters: Array) -> Array:
    """Return each filter's share of energy along the two colour axes, red−green and yellow−blue, orthogonal to luminance: [F].

    NaN for a filter of zeros. Noise that is alike in all three channels' variances has 2/3.
    """
    colour = sum(np.square(np.einsum("fckl,c->fkl", filters, axis)).sum((1, 2)) for axis in (RED_GREEN, YELLOW_BLUE))
    return _share(colour, energies(filters))


def hues(filters: Array) -> Array:
    """Return the direction of each filter's mean colour in degrees: 0 red, 90 yellow, 180 green, 270 blue; [F], from [0, 360).

    NaN where the mean has no colour but rounding.
    """
    mean = filters.mean((2, 3))
    yellow, red = mean @ YELLOW_BLUE, mean @ RED_GREEN
    angles: Array = np.degrees(np.arctan2(yellow, red)) % 360
    angles[angles == 360] = 0  # -1e-17 % 360 is 360
    angles[yellow**2 + red**2 <= NOTHING * energies(filters) / filters[0, 0].size] = np.nan
    return angles


def spectra(filters: Array) -> tuple[Array, Array]:
    """Return the filters' normalised power spectra without their mean, and the frequencies they are over.

    Power is that of the k×k discrete Fourier transform (no padding), summed over channels; u and −u, which are equal in a real filter, are
    one frequency.

    Returns:
        shares [F, n] (NaN for filters without any but their mean) and frequencies [n] in cycles a pixel; n = 24 at 7×7.

    """
    k = filters.shape[-1]
    power = np.square(np.abs(np.fft.fft2(filters))).sum(1).reshape(len(filters), k * k)
    i, j = np.divmod(np.arange(k * k), k)
    mirrored = (-i % k) * k + -j % k
    both = np.where(mirrored == np.arange(k * k), power, power + power[:, mirrored])
    one_of_two = (np.arange(k * k) <= mirrored) & (np.arange(k * k) > 0)
    steps = np.fft.fftfreq(k)
    shares = both[:, one_of_two]
    total = shares.sum(1)
    total[total <= NOTHING * power.sum(1)] = 0
    return _share(shares, total[:, None]), np.hypot(steps[i], steps[j])[one_of_two]


def frequency_entropies(filters: Array) -> Array:
    """Return the entropy of each filter's spectrum (:func:`spectra`) in bits: 0 for a grating of the k×k grid, log2 n at most; [F]."""
    shares, _ = spectra(filters)
    entropies: Array = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)
    return entropies if shares.shape[1] else np.full(len(filters), np.nan)  # a 1×1 filter is all mean


def frequencies(filters: Array) -> Array:
    """Return the centroid of each filter's spectrum (:func:`spectra`) in cycles a pixel; [F]."""
    shares, over = spectra(filters)
    centroids: Array = shares @ over
    return centroids if shares.shape[1] else np.full(len(filters), np.nan)


def filters_effective_rank(filters: Array) -> float:
    """Compute exp of the entropy of the normalised singular values of the matrix [F, C·k·k] (Roy & Vetterli 2007, definition 1).

    Each filter is scaled to norm 1 first, filters of zeros are left out: 1 for filters that are all alike, F for orthogonal ones; NaN if
    nothing is left.
    """
    rows = filters.reshape(len(filters), -1)
    norms = np.linalg.norm(rows, axis=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    if not len(rows):
        return float("nan")
    values = np.linalg.svd(rows, compute_uv=False)
    return spectral_rank(torch.from_numpy(values))


def dead(filters: Array, silent: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Find the inactive filters: norm at most 1 % of the median norm, or given as silent; [F]."""
    norms = np.sqrt(energies(filters))
    faint: NDArray[np.bool_] = norms <= FAINT * np.median(norms)
    return faint if silent is None else faint | silent


def order(filters: Array) -> list[int]:
    """Return the filters' places in a picture: those mostly of luminance by frequency, low first, then those mostly of colour by hue.

    Colour is more than half of the energy; only images of three channels have it. Filters of zeros come last.
    """
    coloured = colour_shares(filters) > 0.5 if filters.shape[1] == 3 else np.zeros(len(filters), bool)
    by = np.nan_to_num(np.where(coloured, hues(filters) if filters.shape[1] == 3 else 0, frequencies(filters)))
    places: list[int] = np.lexsort((by, coloured, energies(filters) == 0)).tolist()
    return places


def _share(part: Array, whole: Array) -> Array:
    """Return part / whole, NaN where the whole is nothing."""
    shares: Array = np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole > 0)
    return shares
