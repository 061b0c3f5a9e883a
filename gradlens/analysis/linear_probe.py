"""Linear probes: how well a linear classifier reads the labels from each block of a frozen network.

The protocol, stored with the numbers. A block's output in eval mode, pooled to one feature budget at every depth
(:func:`gradlens.models.feature_pooling.pooled`), standardised by the training images. Multinomial logistic regression at its optimum
(:mod:`.logistic_regression`). Its l2 is the one of a grid that is best on a fifth of the training images when fitted to the rest, strong
penalties first; the grid is left once accuracy is two standard errors below the best. Then it is fitted to all training images. Test
images take part in nothing but the last number.

Controls. The same on raw pixels and on the untrained network: what a block's features give without training. And with the training
labels permuted, at the l2 of the true ones: test accuracy is then chance, and training accuracy shows how much of any labelling so many
features can hold. Whether some training images are *strictly* separable is decided with a certificate (:mod:`.linear_separability`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradlens.analysis.activations import (
    FORWARD_BATCH,
    FrozenModel,
    checkpoint_digest,
    collect_activations,
    freeze_module,
    frozen_eval_mode,
    last_step,
    load_snapshots,
)
from gradlens.analysis.logistic_regression import TOLERANCE
from gradlens.analysis.of_runs.interface import Keep
from gradlens.analysis.of_runs.options import FULL_PROBE, ProbeOptions
from gradlens.analysis.probe_block import CERTIFICATE_SECONDS, HELD_OUT, ProbeFeatures, ProbeRecord, certificates, probe_block
from gradlens.data.split import Data, Split
from gradlens.models.feature_pooling import described, pooled
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.rng import generator
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run

TRAINED, UNTRAINED, PIXELS = "trained", "untrained", "pixels"


# --------------------------------------------------------------------------------------------------------- one network


ProbeCache = dict[
    str, tuple[list[ProbeRecord], list[ProbeRecord]]
]  # digest of features -> their rows and certificates, under the same options


class ProbeResult(NamedTuple):
    """Results of one block."""

    rows: list[ProbeRecord]
    separability: list[ProbeRecord]
    seconds: float  # spent in the network, for all blocks that were read with it


def probe_network(
    frozen: FrozenModel,
    train: Split,
    test: Split,
    classes: int,
    options: ProbeOptions = FULL_PROBE,
    seed: int = 0,
    progress: Progress = no_progress,
    known: ProbeCache | None = None,
) -> Iterator[ProbeResult]:
    """Probe the blocks of a frozen network, all read in one pass over the images; one by one as they are done.

    Args:
        frozen: from :func:`gradlens.analysis.activations.load_snapshots` or :func:`gradlens.analysis.activations.freeze_module`.
        train: images to fit to, in random order (their last fifth chooses l2), and labels.
        test: held-out images and labels.
        classes: how many there are.
        options: what is probed.
        seed: of the permuted labels.
        progress: called with (done, in all, what).
        known: results for some features; given to several runs, what they have in common is computed once.

    Raises:
        InputError: an unknown block, activations that are NaN (the block is named), one class only, fewer images than classes.

    """
    blocks = [name for name in frozen.names if not options.blocks or frozen.block(name) in {frozen.block(b) for b in options.blocks}]
    start = time.monotonic()
    with frozen_eval_mode(frozen):
        shapes = dict(zip(frozen.names, (h.shape[1:] for h in frozen.read(frozen.to_input(train.images[:2]))), strict=True))
    x, z = (_read(frozen, half, blocks, options.features, what, progress) for half, what in ((train, "training"), (test, "test")))
    seconds = time.monotonic() - start
    network = TRAINED if frozen.trained else UNTRAINED
    for i, block in enumerate(blocks):
        progress(i, len(blocks), f"probe of {block}, {network} ({frozen.step} updates)")
        given = ProbeFeatures(x.pop(block), train.labels, z.pop(block), test.labels, classes, seed)
        about = {"step": frozen.step, "block": block, "network": network}
        yield _probed(given, about, described(shapes[block], options.features), options, seconds if i == 0 else 0.0, known)
    progress(len(blocks), len(blocks), network)


def _read(frozen: FrozenModel, half: Split, blocks: Sequence[str], features: int, what: str, progress: Progress) -> dict[str, Tensor]:
    def show(done: int, total: int, _: str) -> None:
        progress(done, total, f"{what} images through the network")

    return collect_activations(frozen, half.images, features, blocks=blocks, progress=show)


def probe_pixels(
    train: Split, test: Split, classes: int, options: ProbeOptions = FULL_PROBE, seed: int = 0, known: ProbeCache | None = None
) -> ProbeResult:
    """Measure the same on raw pixels under the same feature budget; arguments as :func:`probe_network`."""
    start = time.monotonic()
    x, z = (
        torch.cat([pooled(part.float() / 255, options.features) for part in torch.split(half.images, FORWARD_BATCH)])
        for half in (train, test)
    )
    about = {"step": 0, "block": PIXELS, "network": PIXELS}
    how = described(train.images.shape[1:], options.features)
    return _probed(ProbeFeatures(x, train.labels, z, test.labels, classes, seed), about, how, options, time.monotonic() - start, known)


def _probed(
    given: ProbeFeatures, about: ProbeRecord, pooling: str, options: ProbeOptions, seconds: float, known: ProbeCache | None
) -> ProbeResult:
    known = {} if known is None else known
    key = given.digest()
    if key not in known:
        rows = probe_block(given, options.grid, options.controls)
        known[key] = rows, certificates(given, options.separability, options.controls) if options.separability else []
    about = {**about, "features": given.train.shape[1], "pooling": pooling}
    context = {key: about[key] for key in ("step", "block", "network")}
    return ProbeResult([{**about, **row} for row in known[key][0]], [{**context, **row} for row in known[key][1]], seconds)


def probe_module(
    model: nn.Module,
    layers: Sequence[str] | None,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    options: ProbeOptions = FULL_PROBE,
    classes: int | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[ProbeRecord]:
    """Probe the named layers of any module: the rows of ``probe.json``, without the controls that need a run.

    Args:
        model: any module; it is left as it was.
        layers: dotted paths as in ``model.named_modules()``, in the order in which they run; None: its direct children, or of a model
            without children itself, ``""``. See :class:`gradlens.analysis.layer_outputs.LayerOutputs` for layers that give sequences,
            tuples or other than float numbers.
        train: what the model reads [N, *in] and labels [N], whole numbers of any type; put into a seeded random order here.
        test: the same, held out.
        options: what is probed.
        classes: how many there are, labels from 0; default: the different labels that occur, whatever they are.
        seed: of the order and the permuted labels.
        progress: called with (done, in all, what).

    Returns:
        for each layer its rows: a mapping from column to value.

    Raises:
        InputError: an unknown layer or one that cannot be read (named), labels that do not fit, and as :func:`probe_network`.

    """
    halves, classes = _labelled(train, test, classes)
    chosen = _chosen(halves[0], options.train_images, "train", seed, classes), _chosen(halves[1], options.test_images, "test", seed)
    return [row for probed in probe_network(freeze_module(model, layers), *chosen, classes, options, seed, progress) for row in probed.rows]


def _labelled(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int | None) -> tuple[tuple[Split, Split], int]:
    """Return both halves with labels from 0 to classes − 1, and how many classes there are."""
    halves = []
    for half, (x, y) in (("train", train), ("test", test)):
        if y.ndim != 1 or len(x) != len(y) or not len(y):
            raise InputError(f"{half}: a probe is given inputs [N, ...] and labels [N], not {list(x.shape)} and {list(y.shape)}")
        whole = y.real.long()
        if (broken := y[whole != y]).numel():  # NaN and infinite ones too
            raise InputError(f"{half}: labels must be whole numbers, got {broken[0].item()}")
        halves.append(Split(x, whole))
    seen, codes = torch.unique(torch.cat([half.labels for half in halves]), return_inverse=True)
    if classes is None:
        classes = len(seen)
        halves = [Split(half.images, code) for half, code in zip(halves, codes.split([len(half) for half in halves]), strict=True)]
    elif seen[0] < 0 or seen[-1] >= classes:
        raise InputError(f"labels from {int(seen[0])} to {int(seen[-1])} do not fit {classes} classes: they count from 0")
    if len(of_train := torch.unique(train[1])) < 2:
        raise InputError(f"a probe needs two classes or more, but all {len(train[1])} training labels are {of_train.item()}")
    return (halves[0], halves[1]), classes


# --------------------------------------------------------------------------------------------------------------- a run


def _chosen(split: Split, images: int | None, half: str, seed: int, classes: int = 0) -> Split:
    """Choose so many images of a split in a seeded random order."""
    count = len(split) if images is None else images
    if not 1 <= count <= len(split):
        raise InputError(f"--{half}-images {count}: there are {len(split)} of them")
    if classes and count < HELD_OUT:
        raise InputError(f"{count} training images are too few: one in {HELD_OUT} is held out to choose l2 on")
    if (fitted := count - count // HELD_OUT) < classes:
        raise InputError(f"{fitted} training images (a fifth of {count} is held out) are fewer than the {classes} classes")
    order = torch.randperm(len(split), generator=generator(seed, f"probe {half}"))[:count]
    return split.take(order.to(split.labels.device))


def must_be_probeable(run: Run, context: RunContext, options: ProbeOptions) -> None:
    """Check, before anything costly, that a run can be probed.

    Raises:
        InputError: other data than the run's, no checkpoint, weights that do not fit, an unknown block, no image to probe with.

    """
    frozen = next(load_snapshots(run, context))
    for name in options.blocks:
        frozen.block(name)
    data = run.data(context=context)
    _halves(run, data, options)


def _halves(run: Run, data: Data, options: ProbeOptions) -> tuple[Split, Split]:
    seed = run.config.seed
    train = _chosen(data.train, options.train_images, "train", seed, len(data.classes))
    return train, _chosen(data.test, options.test_images, "test", seed)


def probe_protocol(run: Run, context: RunContext, options: ProbeOptions) -> ProbeRecord:
    """Return how a run's numbers are made, as stored with them; a stored result of another protocol does not count."""
    data = run.data(context=context)
    train, test = _halves(run, data, options)
    held = len(train) // HELD_OUT
    return {
        "probe": "multinomial logistic regression, mean cross-entropy + l2/2 |W|^2, biases free",
        "images": {"train": len(train), "of these, to choose l2 on": held, data.test_name: len(test)},
        "label_noise": run.config.data.label_noise,
        "features": f"at most {options.features} of a block's output in eval mode, averaged over space to the largest square that fits",
        "standardised": "by mean and standard deviation of the images fitted to; constant features are 0",
        "l2_grid": list(options.grid),
        "l2_choice": "best accuracy on the held-out training images, the strongest of equals; strong to weak, until two standard errors"
        " below the best; then fitted to all training images",
        "solver": f"L-BFGS, preconditioned, until at most {TOLERANCE:g} nats above the minimum by the gradient's norm",
        "controls": "raw pixels, the untrained network, permuted training labels at the l2 of the true ones"
        if options.controls
        else "none",
        "separability": f"the first {options.separability} training images, at the last weights, {CERTIFICATE_SECONDS:g} s at most"
        if options.separability
        else "not asked",
        "seed": run.config.seed,
        "weights": checkpoint_digest(run),
    }


def probe_run(
    run: Run,
    context: RunContext,
    options: ProbeOptions,
    result: ProbeRecord,
    keep: Keep = no_progress,
    progress: Progress = no_progress,
    known: ProbeCache | None = None,
) -> ProbeRecord:
    """Probe a run's blocks at its last weights (``options.over_time``: at every saved step).

    Args:
        run: one that :func:`must_be_probeable`.
        context: device and data folder.
        options: what is probed.
        result: what is computed already, and its ``protocol`` from :func:`probe_protocol`; what has rows is not computed again.
        keep: called with the result as soon as a block's rows are computed.
        progress: called with (done, in all, what).
        known: see :func:`probe_network`.

    Returns:
        {protocol, rows: [{step, block, network: trained | untrained | pixels, labels: true | permuted, features, pooling, l2, train,
        validation, test (shares), loss, gradient_norm, bound, passes, seconds}], separability: [{step, block, network, labels, and
        :func:`gradlens.analysis.linear_separability.row_of`}], seconds: {activations, probes}}.

    Raises:
        InputError: NaN activations (the block is named), fewer images than classes.

    """
    data = run.data(context=context)
    seed, classes = run.config.seed, len(data.classes)
    empty: ProbeRecord = {"protocol": {}, "rows": [], "separability": [], "seconds": {"activations": 0.0, "probes": 0.0}}
    result = empty | result
    train, test = (half.to(context.device) for half in _halves(run, data, options))
    if options.controls and not any(row["network"] == PIXELS for row in result["rows"]):
        progress(0, 1, "probe of raw pixels")
        _add(result, probe_pixels(train, test, classes, options, seed, known), [PIXELS])
        keep(result)
    last = last_step(run)
    for which in (*((UNTRAINED,) if options.controls else ()), "all" if options.over_time else "last"):
        for frozen in load_snapshots(run, context, which):
            if missing := _missing(frozen, result["rows"], options):
                own = replace(options, blocks=missing, separability=options.separability if frozen.step in (0, last) else 0)
                for probed in probe_network(frozen, train, test, classes, own, seed, progress, known):
                    _add(result, probed, frozen.names)
                    keep(result)
    return result


def _add(result: ProbeRecord, probed: ProbeResult, names: Sequence[str]) -> None:
    """Add what was probed to a result, rows in the order of networks, steps and blocks (``names``)."""

    def in_order(row: ProbeRecord) -> tuple[int, int, int]:
        context = names.index(row["block"]) if row["block"] in names else len(names)
        return (PIXELS, UNTRAINED, TRAINED).index(row["network"]), row["step"], context

    for name, more in (("rows", probed.rows), ("separability", probed.separability)):
        result[name] = sorted([*result[name], *more], key=in_order)
    result["seconds"]["activations"] = round(result["seconds"]["activations"] + probed.seconds, 3)
    result["seconds"]["probes"] = round(sum(row["seconds"] for row in result["rows"]), 3)


def _missing(frozen: FrozenModel, rows: Sequence[ProbeRecord], options: ProbeOptions) -> tuple[str, ...]:
    """Return the blocks of a network that are to be probed and have no row yet."""
    wanted = {frozen.block(name) for name in options.blocks} or set(range(len(frozen.names)))
    network = TRAINED if frozen.trained else UNTRAINED
    done = {row["block"] for row in rows if (row["network"], row["step"]) == (network, frozen.step)}
    return tuple(name for k, name in enumerate(frozen.names) if k in wanted and name not in done)
