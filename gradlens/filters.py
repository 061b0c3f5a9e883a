"""What the first convolution of a network looks for: its filters, put in order, and numbers that say how they look.

Every number stands beside the same number for the untrained stem of the same seed and for filters drawn at random: small filters look
like something by chance. Filters are [F, C, k, k] in float64; but for ``moved`` and ``dead_share``, no number depends on a filter's
scale, which a BatchNorm behind it takes out anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor, nn

from gradlens.activations import Frozen, Progress, at_rest, networks, no_progress
from gradlens.errors import InputError
from gradlens.experiments import Place, data_of
from gradlens.run import Run, load, load_checkpoint, save_result
from gradlens.seeding import generator
from gradlens.tables import groups

Array = NDArray[np.float64]

DECIDES = 7  # pixels: on smaller kernels noise is fitted too (at 5x5 one patch in four, at 3x3 nearly all), and a Gabor share says nothing
WELL = 0.5  # R² from which on a filter is well fitted
STARTS = 3  # of the fit, the best of a dictionary
FAINT = 0.01  # of the median norm: filters below it are dead
IMAGES = 500  # on which a filter must change its block's output once, or it is dead
RANDOM = 128  # random filters that the null is taken from, at least
STORED = 64  # filters that a result holds
NOTHING = 1e-20  # share of a filter's energy that is rounding

NUMBERS = {
    "gabor_share": "share of filters whose luminance a Gabor fits with R² > 0.5 (7x7 and larger)",
    "frequency_entropy": "entropy of a filter's power spectrum without its mean, in bits, mean over filters",
    "frequency": "centroid of the same spectrum in cycles a pixel, mean over filters",
    "colour_share": "share of a filter's energy that is colour and not luminance, mean over filters",
    "dead_share": "share of filters of hardly any weight, or that never change their block's output",
    "effective_rank": "effective rank of the filters, each scaled to norm 1",
    "moved": "distance from the initial weights, as a multiple of their norm",
}
Numbers = dict[str, float | None]  # None: undecided, or not defined for such filters

LUMINANCE, RED_GREEN, YELLOW_BLUE = (
    np.array(axis) / np.linalg.norm(axis) for axis in ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 1.0, -2.0))
)


# --------------------------------------------------------------------------------------------------------- the filters


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """The first ``Conv2d`` in the order of ``named_modules``, with its dotted name.

    Raises:
        InputError: there is none, or its kernel is not square.

    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.kernel_size[0] != module.kernel_size[1]:
                raise InputError(f"{name} has kernels of {'x'.join(map(str, module.kernel_size))} and not square ones")
            return name, module
    raise InputError("this network has no convolution, and so no filters to look at")


def filters_of(model: nn.Module) -> Array:
    """A copy of the first convolution's weights, [F, C, k, k] in float64.

    Raises:
        InputError: no such convolution, or weights that are not finite.

    """
    name, convolution = first_convolution(model)
    weights: Array = convolution.weight.detach().cpu().double().contiguous().numpy().copy()
    if not np.isfinite(weights).all():
        raise InputError(f"the weights of {name} are not finite (NaN or infinite)")
    return weights


def energies(filters: Array) -> Array:
    """Each filter's squared norm, [F]."""
    squares: Array = np.square(filters).sum((1, 2, 3))
    return squares


def luminance(filters: Array) -> Array:
    """The filters' part along (1, …, 1)/√C in colour space: [F, C, k, k] -> [F, k, k]."""
    grey: Array = np.tensordot(filters, np.full(filters.shape[1], filters.shape[1] ** -0.5), (1, 0))
    return grey


def colour_shares(filters: Array) -> Array:
    """Each filter's share of energy along the two colour axes, red−green and yellow−blue, orthogonal to luminance: [F].

    NaN for a filter of zeros. Noise that is alike in all three channels' variances has 2/3.
    """
    colour = sum(np.square(np.einsum("fckl,c->fkl", filters, axis)).sum((1, 2)) for axis in (RED_GREEN, YELLOW_BLUE))
    return _ratio(colour, energies(filters))


def hues(filters: Array) -> Array:
    """The direction of each filter's mean colour in degrees: 0 red, 90 yellow, 180 green, 270 blue; [F], from [0, 360)."""
    mean = filters.mean((2, 3))
    angles: Array = np.degrees(np.arctan2(mean @ YELLOW_BLUE, mean @ RED_GREEN)) % 360
    return angles


def spectra(filters: Array) -> tuple[Array, Array]:
    """The filters' normalised power spectra without their mean, and the frequencies they are over.

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
    return _ratio(shares, total[:, None]), np.hypot(steps[i], steps[j])[one_of_two]


def frequency_entropies(filters: Array) -> Array:
    """Entropy of each filter's spectrum (:func:`spectra`) in bits: 0 for a grating of the k×k grid, log2 n at most; [F]."""
    shares, _ = spectra(filters)
    entropies: Array = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)
    return entropies if shares.shape[1] else np.full(len(filters), np.nan)  # a 1×1 filter is all mean


def frequencies(filters: Array) -> Array:
    """Centroid of each filter's spectrum (:func:`spectra`) in cycles a pixel; [F]."""
    shares, over = spectra(filters)
    centroids: Array = shares @ over
    return centroids if shares.shape[1] else np.full(len(filters), np.nan)


def effective_rank(filters: Array) -> float:
    """exp of the entropy of the normalised singular values of the matrix [F, C·k·k] (Roy & Vetterli 2007, definition 1).

    Each filter is scaled to norm 1 first, filters of zeros are left out: 1 for filters that are all alike, F for orthogonal ones; NaN if
    nothing is left.
    """
    rows = filters.reshape(len(filters), -1)
    norms = np.linalg.norm(rows, axis=1)
    rows = rows[norms > 0] / norms[norms > 0, None]
    if not len(rows):
        return float("nan")
    values = np.linalg.svd(rows, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def dead(filters: Array, silent: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Which filters do nothing: norm at most 1 % of the median norm, or said to be silent; [F]."""
    norms = np.sqrt(energies(filters))
    faint: NDArray[np.bool_] = norms <= FAINT * np.median(norms)
    return faint if silent is None else faint | silent


def order(filters: Array) -> list[int]:
    """The filters' places in a picture: those mostly of luminance by frequency, low first, then those mostly of colour by hue.

    Colour is more than half of the energy; only images of three channels have it. Filters of zeros come last.
    """
    coloured = colour_shares(filters) > 0.5 if filters.shape[1] == 3 else np.zeros(len(filters), bool)
    by = np.where(coloured, hues(filters) if filters.shape[1] == 3 else 0, np.nan_to_num(frequencies(filters)))
    places: list[int] = np.lexsort((by, coloured, energies(filters) == 0)).tolist()
    return places


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, NaN where the whole is nothing."""
    shares: Array = np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole > 0)
    return shares


# ----------------------------------------------------------------------------------------------------------- Gabor fits


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
    """Lower and upper ends of x, y, frequency, σ_u, σ_v at kernel k.

    The centre is inside the kernel, the wave has half a cycle to k/2 cycles in k pixels, each σ is k/8 to k/2: an envelope that is neither
    one pixel nor a plane.
    """
    half = (k - 1) / 2
    return np.array([-half, -half, 0.5 / k, k / 8, k / 8]), np.array([half, half, 0.5, k / 2, k / 2])


@lru_cache(maxsize=8)
def _grid(k: int) -> tuple[Array, Array]:
    """x and y of the k·k pixels."""
    y, x = np.divmod(np.arange(k * k), k)
    return x - (k - 1) / 2, y - (k - 1) / 2


def _waves(k: int, angle: Array, within: Array) -> tuple[Array, ...]:
    """u, v, and the even and the odd wave under the envelope, each [..., k·k], of angles [...] and values [..., 5] within bounds."""
    px, py = _grid(k)
    x, y, frequency, along, across = np.moveaxis(within, -1, 0)[..., None]
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    u, v = (px - x) * cos + (py - y) * sin, (py - y) * cos - (px - x) * sin
    envelope = np.exp(-(u**2) / (2 * along**2) - v**2 / (2 * across**2))
    return u, v, envelope * np.cos(2 * np.pi * frequency * u), envelope * np.sin(2 * np.pi * frequency * u)


@lru_cache(maxsize=8)
def _dictionary(k: int) -> tuple[Array, Array, Array]:
    """Where fits begin: angles [n], values within bounds [n, 5], and an orthonormal basis of each even–odd pair [n, k·k, 2]."""
    centres = np.linspace(-(k - 1) / 4, (k - 1) / 4, 5)
    axes = (centres, centres, np.arange(8) * np.pi / 8, [0.1, 0.17, 0.25, 0.35, 0.45], [k / 6, k / 3])
    x, y, angle, frequency, sigma = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    within = np.stack([x, y, np.maximum(frequency, 0.5 / k), sigma, sigma], 1)
    _, _, even, odd = _waves(k, angle, within)
    return angle, within, np.linalg.qr(np.stack([even, odd], -1))[0]


def _starts(patch: Array, k: int) -> Iterator[tuple[float, Array]]:
    """The best entries of the dictionary for a patch [k·k] of norm 1, no two of the same wave."""
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
        """Where the fit begins: amplitudes by linear least squares; not on a bound, where slopes vanish."""
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
    """The Gabor function nearest to a patch [k, k] in least squares, within :func:`bounds`; None where the patch is flat.

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


def fits(filters: Array) -> list[Gabor | None]:
    """The Gabor nearest to each filter's luminance; None where a filter has none, as a filter of pure colour."""
    grey, energy = luminance(filters), energies(filters)
    return [fit_gabor(patch) if np.square(patch).sum() > NOTHING * whole else None for patch, whole in zip(grey, energy, strict=True)]


# ------------------------------------------------------------------------------------------------------------- numbers


def _mean(values: Array) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def numbers(
    filters: Array,
    *,
    silent: NDArray[np.bool_] | None = None,
    start: Array | None = None,
    gabors: Sequence[Gabor | None] | None = None,
) -> Numbers:
    """The numbers of NUMBERS for filters [F, C, k, k].

    Args:
        filters: the filters.
        silent: [F], those that never change their block's output; default: not known.
        start: the filters before training, for ``moved``.
        gabors: from :func:`fits`, where they are there already.

    """
    share = None
    if filters.shape[-1] >= DECIDES:
        found = fits(filters) if gabors is None else gabors
        share = sum(g is not None and g.r2 > WELL for g in found) / len(filters)
    rank = effective_rank(filters)
    return {
        "gabor_share": share,
        "frequency_entropy": _mean(frequency_entropies(filters)),
        "frequency": _mean(frequencies(filters)),
        "colour_share": _mean(colour_shares(filters)) if filters.shape[1] == 3 else None,
        "dead_share": float(dead(filters, silent).mean()),
        "effective_rank": rank if np.isfinite(rank) else None,
        "moved": float(np.linalg.norm(filters - start) / np.linalg.norm(start)) if start is not None else None,
    }


@lru_cache(maxsize=16)
def _random(count: int, channels: int, k: int) -> Mapping[str, float | None]:
    sets = [
        numbers(torch.randn(count, channels, k, k, dtype=torch.float64, generator=generator(0, "random filters", draw)).numpy())
        for draw in range(-(-RANDOM // count))
    ]
    means = {name: _mean(np.array([np.nan if one[name] is None else one[name] for one in sets], float)) for name in NUMBERS}
    return means | {"dead_share": None, "moved": None}


def random_numbers(count: int, channels: int, k: int) -> Numbers:
    """What chance gives: the mean numbers of sets of ``count`` gaussian filters, 128 filters or more in all, always the same."""
    return dict(_random(count, channels, k))


# ---------------------------------------------------------------------------------------------------------------- runs


def _silent(frozen: Frozen, images: Tensor, count: int) -> NDArray[np.bool_] | None:
    """Which channels of the first convolution's block give one number at all pixels of all images; None if it has other channels."""
    name, _ = first_convolution(frozen.modules[0])
    block = frozen.block(name.split(".")[0])
    lows, highs = [], []
    with at_rest(frozen):
        for part in torch.split(images, 250):
            h = next(h for k, h in enumerate(frozen.read(frozen.to_input(part))) if k == block)
            if h.ndim != 4 or h.shape[1] != count:
                return None
            lows.append(h.amin((0, 2, 3)))
            highs.append(h.amax((0, 2, 3)))
    constant: NDArray[np.bool_] = (torch.stack(lows).amin(0) == torch.stack(highs).amax(0)).cpu().numpy()
    return constant


def _images(run: Run, place: Place) -> Tensor:
    """Up to 500 held-out images of a run, always the same ones."""
    images = data_of(run.config, place).test.images
    chosen = torch.randperm(len(images), generator=generator(0, "filters", len(images)))[:IMAGES]
    return images[chosen].to(place.device)


def _rounded(filters: Array) -> list[Any]:
    """Nested lists of four significant digits."""
    return [[[[float(f"{w:.4g}") for w in row] for row in channel] for channel in one] for one in filters.tolist()]


def _protocol(filters: Array, images: int, watched: bool) -> dict[str, Any]:
    k = filters.shape[-1]
    low, high = bounds(k)
    never = f", or an output that is one number on all {images} images" if watched else ""
    return {
        "numbers": NUMBERS,
        "gabor": {
            "parameters": len(Gabor._fields) - 1,
            "pixels": k * k,
            "well_fitted_from_r2": WELL,
            "starts": STARTS,
            "bounds": {name: [float(low[i]), float(high[i])] for i, name in enumerate(("x", "y", "frequency", "along", "across"))},
            "decided": k >= DECIDES,
        },
        "dead": f"norm at most {FAINT:g} of the median norm{never}",
        "images": images,
        "random": f"mean over {-(-RANDOM // len(filters))} sets of {len(filters)} gaussian filters",
    }


class Look(NamedTuple):
    """A network's filters at one moment, and what there is to say of them."""

    filters: Array  # [F, C, k, k]
    gabors: list[Gabor | None] | None  # None where the kernel is too small to decide
    numbers: Numbers
    watched: bool  # whether the filters' outputs on images were looked at


def look(frozen: Frozen, images: Tensor, start: Array | None = None) -> Look:
    """The first-layer filters of a network and their numbers.

    Args:
        frozen: from :func:`gradlens.activations.networks`.
        images: what ``frozen.to_input`` takes, to find filters that never change their block's output.
        start: the filters before training; default: these.

    Raises:
        InputError: no convolution, or weights that are not finite.

    """
    filters = filters_of(frozen.modules[0])
    gabors = fits(filters) if filters.shape[-1] >= DECIDES else None
    silent = _silent(frozen, images, len(filters))
    found = numbers(filters, silent=silent, start=filters if start is None else start, gabors=gabors)
    return Look(filters, gabors, found, silent is not None)


def checked(paths: Sequence[Path], place: Place) -> list[Run]:
    """The runs of some directories, looked at before anything is computed.

    Raises:
        InputError: no run directory, the same run twice, no checkpoint, a network without convolution.

    """
    runs = [load(path) for path in paths]
    groups(runs)
    for run in runs:
        load_checkpoint(run.path / "checkpoint.pt")
        (untrained,) = networks(run, place, "untrained")
        try:
            first_convolution(untrained.modules[0])
        except InputError as error:
            raise InputError(f"{run.path}: {run.config.model}: {error}") from error
    return runs


def filters_run(path: Path, place: Place, over_time: bool = False, progress: Progress = no_progress) -> dict[str, Any]:
    """Look at a run's first-layer filters and store what was found as ``filters.json`` in its directory; nothing else changes.

    Args:
        path: the run directory.
        place: device and data folder.
        over_time: the numbers at every saved step too (``--keep-checkpoints``).
        progress: called with (done, in all, what comes next).

    Returns:
        ``protocol``; ``layer``, ``kernel``, ``filters``, ``channels``, ``step``; ``numbers`` as name -> {trained, change, untrained,
        random}, each a number or None, ``change`` being of what training added; ``gabor``, one fit a filter, or None where the kernel
        is too small to decide; ``order`` and ``untrained_order`` of all filters; ``weights`` and ``untrained_weights`` of the first 64;
        ``over_time``, a list of {step, numbers}, where asked for.

    Raises:
        InputError: no run directory, no checkpoint, a network without convolution, weights that are not finite.

    """
    progress(0, 1, "reading the run and its images")
    (run,) = checked([path], place)
    images = _images(run, place)
    (untrained,) = networks(run, place, "untrained")
    layer, _ = first_convolution(untrained.modules[0])
    moments = list(networks(run, place, "all" if over_time else "last"))
    progress(0, len(moments) + 2, "untrained filters")
    control = look(untrained, images)
    progress(1, len(moments) + 2, "random filters")
    count, channels, k, _ = control.filters.shape
    chance = random_numbers(count, channels, k)
    seen = []
    for i, frozen in enumerate(moments, 2):
        progress(i, len(moments) + 2, f"filters after {frozen.step} updates")
        seen.append(look(frozen, images, control.filters))
    last = seen[-1]
    change = numbers(last.filters - control.filters) | {"dead_share": None}
    result: dict[str, Any] = {
        "protocol": _protocol(last.filters, len(images), last.watched),
        "layer": layer,
        "kernel": k,
        "filters": count,
        "channels": channels,
        "step": moments[-1].step,
        "numbers": {
            name: {"trained": last.numbers[name], "change": change[name], "untrained": control.numbers[name], "random": chance[name]}
            for name in NUMBERS
        },
        "gabor": None if last.gabors is None else [None if g is None else g._asdict() for g in last.gabors],
        "order": order(last.filters),
        "untrained_order": order(control.filters),
        "weights": _rounded(last.filters[:STORED]),
        "untrained_weights": _rounded(control.filters[:STORED]),
    }
    if over_time:
        result["over_time"] = [{"step": m.step, "numbers": s.numbers} for m, s in zip(moments, seen, strict=True)]
    save_result(run.path, "filters", result)
    return result
