"""The filters of a network's first convolution, ordered, and numbers that describe them.

Every number stands beside the same number for the untrained stem of the same seed and for filters drawn at random: small filters look
like something by chance. Filters are [F, C, k, k] in float64; but for ``moved`` and ``dead_share``, no number depends on a filter's
scale, which a BatchNorm behind it takes out anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradlens.analysis.activations import FrozenModel, frozen_eval_mode, load_snapshots
from gradlens.analysis.filter_measures import (
    FAINT,
    NOTHING,
    Array,
    colour_shares,
    dead,
    energies,
    filters_effective_rank,
    frequencies,
    frequency_entropies,
    luminance,
    order,
)
from gradlens.analysis.gabor import STARTS, Gabor, bounds, fit_gabor
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.rng import generator
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run

DECIDES = (
    7  # pixels: on smaller kernels noise is fitted too (at 5x5 one patch in four, at 3x3 nearly all), and a Gabor share is meaningless
)
WELL = 0.5  # R² from which on a filter is well fitted
IMAGES = 500  # on which a filter must change its block's output once, or it is dead
RANDOM = 128  # random filters that the null is taken from, at least
STORED = 64  # filters that a result holds

FILTER_STATISTICS = {
    "gabor_share": "share of filters whose luminance a Gabor fits with R² > 0.5 (7x7 and larger)",
    "frequency_entropy": "entropy of a filter's power spectrum without its mean, in bits, mean over filters",
    "frequency": "centroid of the same spectrum in cycles a pixel, mean over filters",
    "colour_share": "share of a filter's energy that is colour and not luminance, mean over filters",
    "dead_share": "share of filters of hardly any weight, or that never change their block's output",
    "effective_rank": "effective rank of the filters, each scaled to norm 1",
    "moved": "distance from the initial weights, as a multiple of their norm",
}
FilterStatistics = dict[str, float | None]  # None: undecided, or not defined for such filters


# --------------------------------------------------------------------------------------------------------- the filters


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the first ``Conv2d`` in the order of ``named_modules``, with its dotted name.

    Raises:
        InputError: there is none, or its kernel is not square.

    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.kernel_size[0] != module.kernel_size[1]:
                raise InputError(f"{name} has kernels of {'x'.join(map(str, module.kernel_size))} and not square ones")
            return name, module
    raise InputError("this network has no convolution, and therefore no filters")


def filters_of(model: nn.Module) -> Array:
    """Return a copy of the first convolution's weights, [F, C, k, k] in float64.

    Raises:
        InputError: no such convolution, or weights that are not finite.

    """
    name, convolution = first_convolution(model)
    weights: Array = convolution.weight.detach().cpu().double().contiguous().numpy().copy()
    if not np.isfinite(weights).all():
        raise InputError(f"the weights of {name} are not finite (NaN or infinite)")
    return weights


def fit_gabors(filters: Array) -> list[Gabor | None]:
    """Return the Gabor nearest to each filter's luminance; None where a filter has none, as a filter of pure colour."""
    grey, energy = luminance(filters), energies(filters)
    return [fit_gabor(patch) if np.square(patch).sum() > NOTHING * whole else None for patch, whole in zip(grey, energy, strict=True)]


# ------------------------------------------------------------------------------------------------------------- numbers


def _mean(values: Array) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def filter_statistics(
    filters: Array,
    *,
    silent: NDArray[np.bool_] | None = None,
    start: Array | None = None,
    gabors: Sequence[Gabor | None] | None = None,
) -> FilterStatistics:
    """Return the numbers of NUMBERS for filters [F, C, k, k].

    Args:
        filters: the filters.
        silent: [F], those that never change their block's output; default: unknown.
        start: the filters before training, for ``moved``.
        gabors: from :func:`fit_gabors`, where they are there already.

    """
    share = None
    if filters.shape[-1] >= DECIDES:
        found = fit_gabors(filters) if gabors is None else gabors
        share = sum(g is not None and g.r2 > WELL for g in found) / len(filters)
    rank = filters_effective_rank(filters)
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
        filter_statistics(torch.randn(count, channels, k, k, dtype=torch.float64, generator=generator(0, "random filters", draw)).numpy())
        for draw in range(-(-RANDOM // count))
    ]
    means = {name: _mean(np.array([np.nan if one[name] is None else one[name] for one in sets], float)) for name in FILTER_STATISTICS}
    return means | {"dead_share": None, "moved": None}


def random_filter_statistics(count: int, channels: int, k: int) -> FilterStatistics:
    """Return what chance gives: the mean numbers of sets of ``count`` gaussian filters, 128 filters or more in all, always the same."""
    return dict(_random(count, channels, k))


# ---------------------------------------------------------------------------------------------------------------- runs


def _silent(frozen: FrozenModel, images: Tensor, count: int) -> NDArray[np.bool_] | None:
    """Return which channels of the first convolution's block give one number at all pixels of all images; None if it has other channels."""
    name, _ = first_convolution(frozen.modules[0])
    block = frozen.block(name.split(".")[0])
    lows, highs = [], []
    with frozen_eval_mode(frozen):
        for part in torch.split(images, 250):
            h = next(h for k, h in enumerate(frozen.read(frozen.to_input(part))) if k == block)
            if h.ndim != 4 or h.shape[1] != count:
                return None
            lows.append(h.amin((0, 2, 3)))
            highs.append(h.amax((0, 2, 3)))
    constant: NDArray[np.bool_] = (torch.stack(lows).amin(0) == torch.stack(highs).amax(0)).cpu().numpy()
    return constant


def _images(run: Run, context: RunContext) -> Tensor:
    """Return up to 500 held-out images of a run, always the same ones."""
    images = run.data(context=context).test.images
    chosen = torch.randperm(len(images), generator=generator(0, "filters", len(images)))[:IMAGES]
    return images[chosen].to(context.device)


def _rounded(filters: Array) -> list[Any]:
    """Return nested lists of four significant digits."""
    return [[[[float(f"{w:.4g}") for w in row] for row in channel] for channel in one] for one in filters.tolist()]


def _filter_protocol(filters: Array, images: int, watched: bool) -> dict[str, Any]:
    k = filters.shape[-1]
    low, high = bounds(k)
    never = f", or an output that is one number on all {images} images" if watched else ""
    return {
        "numbers": FILTER_STATISTICS,
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


class FilterDescription(NamedTuple):
    """A network's filters at one moment, and the numbers that describe them."""

    filters: Array  # [F, C, k, k]
    gabors: list[Gabor | None] | None  # None where the kernel is too small to decide
    numbers: FilterStatistics
    watched: bool  # whether the filters' outputs on images were measured


def describe_filters(frozen: FrozenModel, images: Tensor, start: Array | None = None) -> FilterDescription:
    """Return the first-layer filters of a network and their numbers.

    Args:
        frozen: from :func:`gradlens.analysis.activations.load_snapshots`.
        images: what ``frozen.to_input`` takes, to find filters that never change their block's output.
        start: the filters before training; default: these.

    Raises:
        InputError: no convolution, or weights that are not finite.

    """
    filters = filters_of(frozen.modules[0])
    gabors = fit_gabors(filters) if filters.shape[-1] >= DECIDES else None
    silent = _silent(frozen, images, len(filters))
    found = filter_statistics(filters, silent=silent, start=filters if start is None else start, gabors=gabors)
    return FilterDescription(filters, gabors, found, silent is not None)


def must_have_filters(run: Run, context: RunContext) -> None:
    """Check that a run's weights can be read and its network begins with a convolution.

    Raises:
        InputError: they cannot, or it does not.

    """
    run.checkpoint()
    (untrained,) = load_snapshots(run, context, "untrained")
    try:
        first_convolution(untrained.modules[0])
    except InputError as error:
        raise InputError(f"{run.path}: {run.config.model.name}: {error}") from error


def filters_run(run: Run, context: RunContext, over_time: bool = False, progress: Progress = no_progress) -> dict[str, Any]:
    """Measure a run's first-layer filters.

    Args:
        run: of a network that :func:`must_have_filters`.
        context: device and data folder.
        over_time: the numbers at every saved step too (``--keep-checkpoints``).
        progress: called with (done, in all, what comes next).

    Returns:
        ``protocol``; ``layer``, ``kernel``, ``filters``, ``channels``, ``step``; ``numbers`` as name -> {trained, change, untrained,
        random}, each a number or None, ``change`` being of what training added; ``gabor``, one fit a filter, or None where the kernel
        is too small to decide; ``order`` and ``untrained_order`` of all filters; ``weights`` and ``untrained_weights`` of the first 64;
        ``over_time``, a list of {step, numbers}, where requested.

    Raises:
        InputError: no checkpoint, a network without convolution, weights that are not finite.

    """
    progress(0, 1, "reading the run and its images")
    images = _images(run, context)
    (untrained,) = load_snapshots(run, context, "untrained")
    moments = list(load_snapshots(run, context, "all" if over_time else "last"))
    progress(0, len(moments) + 2, "untrained filters")
    control = describe_filters(untrained, images)
    progress(1, len(moments) + 2, "random filters")
    chance = random_filter_statistics(*control.filters.shape[:3])
    seen = []
    for i, frozen in enumerate(moments, 2):
        progress(i, len(moments) + 2, f"filters after {frozen.step} updates")
        seen.append(describe_filters(frozen, images, control.filters))
    layer, _ = first_convolution(untrained.modules[0])
    result = {
        "protocol": _filter_protocol(seen[-1].filters, len(images), seen[-1].watched),
        **_filter_result(layer, moments[-1].step, seen[-1], control, chance),
    }
    if over_time:
        result["over_time"] = [{"step": m.step, "numbers": s.numbers} for m, s in zip(moments, seen, strict=True)]
    return result


def _filter_result(layer: str, step: int, last: FilterDescription, control: FilterDescription, chance: FilterStatistics) -> dict[str, Any]:
    """Collect a result's numbers of the last filters, beside the untrained ones (``control``) and random ones."""
    count, channels, k, _ = control.filters.shape
    change = filter_statistics(last.filters - control.filters) | {"dead_share": None}
    return {
        "layer": layer,
        "kernel": k,
        "filters": count,
        "channels": channels,
        "step": step,
        "numbers": {
            name: {"trained": last.numbers[name], "change": change[name], "untrained": control.numbers[name], "random": chance[name]}
            for name in FILTER_STATISTICS
        },
        "gabor": None if last.gabors is None else [None if g is None else g._asdict() for g in last.gabors],
        "order": order(last.filters),
        "untrained_order": order(control.filters),
        "weights": _rounded(last.filters[:STORED]),
        "untrained_weights": _rounded(control.filters[:STORED]),
    }
