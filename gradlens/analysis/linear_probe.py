"""Linear probes: how well a linear classifier reads the labels from each block of a frozen network.

The protocol, stored with the numbers. A block's output in eval mode, pooled to one feature budget at every depth
(:func:`gradlens.models.feature_pooling.pooled`), standardised by the training images. Multinomial logistic regression at its optimum
(:mod:`.logistic_regression`). Its l2 is the one of a grid that is best on a fifth of the training images when fitted to the rest, strong
penalties first; the grid is left once accuracy is two standard errors below the best. Then it is fitted to all training images. Test
images take part in nothing but the last number.

Controls. The same on raw pixels and on the untrained network: what a block's features give without training. And with the training
labels permuted, at the l2 of the true ones: test accuracy is then chance, and training accuracy says how much of any labelling so many
features can hold. Whether some training images are *strictly* separable is decided with a certificate (:mod:`.linear_separability`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradlens.analysis.activations import FORWARD_BATCH, FrozenModel, collect_activations, freeze_module, frozen_eval_mode, load_snapshots
from gradlens.analysis.logistic_regression import TOLERANCE
from gradlens.analysis.probe_block import CERTIFICATE_SECONDS, GRID, HELD_OUT, ProbeFeatures, ProbeRecord, certificates, probe_block
from gradlens.data.split import Data, Split
from gradlens.models.feature_pooling import BUDGET, described, pooled
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.rng import generator
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.context import RunContext, load_data
from gradlens.training.run_directory import Run, load_result, load_run, plain, save_result
from gradlens.training.run_groups import group_runs

NAME = "probe"
TRAINED, UNTRAINED, PIXELS = "trained", "untrained", "pixels"


@dataclass(frozen=True)
class ProbeOptions:
    """What is probed, and with how much."""

    features: int = BUDGET  # of a block at most
    train_images: int | None = None  # a seeded choice; None: all that the run was trained on
    test_images: int | None = None  # a seeded choice; None: all
    blocks: tuple[str, ...] = ()  # only these; (): all
    over_time: bool = False  # at the snapshots too
    controls: bool = True  # raw pixels, the untrained network, permuted labels
    separability: int = 200  # training images whose strict separability is decided on every block; 0: none
    overwrite: bool = False  # compute anew what is stored
    grid: tuple[float, ...] = GRID


# --------------------------------------------------------------------------------------------------------- one network


ProbeCache = dict[
    str, tuple[list[ProbeRecord], list[ProbeRecord]]
]  # digest of features -> their rows and certificates, under the same options


class ProbeResult(NamedTuple):
    """What one block gave."""

    rows: list[ProbeRecord]
    separability: list[ProbeRecord]
    seconds: float  # spent in the network, for all blocks that were read with it


def probe_network(
    frozen: FrozenModel,
    train: Split,
    test: Split,
    classes: int,
    options: ProbeOptions = ProbeOptions(),
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
        known: what was found for some features; given to several runs, what they have in common is computed once.

    Raises:
        InputError: an unknown block, activations that are NaN (the block is named), one class only, fewer images than classes.

    """
    blocks = [name for name in frozen.names if not options.blocks or frozen.block(name) in {frozen.block(b) for b in options.blocks}]
    start = time.monotonic()
    with frozen_eval_mode(frozen):
        shapes = dict(zip(frozen.names, (h.shape[1:] for h in frozen.read(frozen.to_input(train.images[:1]))), strict=True))
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
    train: Split, test: Split, classes: int, options: ProbeOptions = ProbeOptions(), seed: int = 0, known: ProbeCache | None = None
) -> ProbeResult:
    """The same on raw pixels under the same feature budget; arguments as :func:`probe_network`."""
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
    place = {key: about[key] for key in ("step", "block", "network")}
    return ProbeResult([{**about, **row} for row in known[key][0]], [{**place, **row} for row in known[key][1]], seconds)


def probe_module(
    model: nn.Module,
    layers: Sequence[str] | None,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    options: ProbeOptions = ProbeOptions(),
    classes: int | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[ProbeRecord]:
    """Probe the named layers of any module: the rows of ``probe.json``, without the controls that need a run.

    Args:
        model: any module; it is left as it was.
        layers: dotted paths as in ``model.named_modules()``, in the order in which they run; None: its direct children,
            or of a model without children itself, ``""``.
        train: what the model reads [N, *in] and labels [N]; put into a seeded random order here.
        test: the same, held out.
        options: what is probed.
        classes: how many there are; default: the largest label + 1.
        seed: of the order and the permuted labels.
        progress: called with (done, in all, what).

    Raises:
        InputError: an unknown layer, and as :func:`probe_network`.

    """
    halves = Split(*train), Split(*test)
    classes = int(max(half.labels.max() for half in halves)) + 1 if classes is None else classes
    chosen = _chosen(halves[0], options.train_images, "train", seed, classes), _chosen(halves[1], options.test_images, "test", seed)
    return [row for probed in probe_network(freeze_module(model, layers), *chosen, classes, options, seed, progress) for row in probed.rows]


# --------------------------------------------------------------------------------------------------------------- a run


def _chosen(split: Split, images: int | None, half: str, seed: int, classes: int = 0) -> Split:
    """So many images of a split in a seeded random order."""
    count = len(split) if images is None else images
    if not 1 <= count <= len(split):
        raise InputError(f"--{half}-images {count}: there are {len(split)} of them")
    if classes and count < HELD_OUT:
        raise InputError(f"{count} training images are too few: one in {HELD_OUT} is held out to choose l2 on")
    if (fitted := count - count // HELD_OUT) < classes:
        raise InputError(
            f"{fitted} training images (a fifth of {count} is held out) are fewer than the {classes} classes they are to be told apart into"
        )
    order = torch.randperm(len(split), generator=generator(seed, f"probe {half}"))[:count]
    return split.take(order.to(split.labels.device))


def check_probe_runs(paths: Sequence[Path], options: ProbeOptions, place: RunContext) -> list[Run]:
    """Read runs and check, before anything costly, that they can be probed.

    Raises:
        InputError: no run, a run without checkpoint, an unknown block, no image to probe with.

    """
    if not paths:
        raise InputError("no run to probe")
    if options.features < 1:
        raise InputError(f"--features: must be 1 or more, got {options.features}")
    runs = [load_run(path) for path in paths]
    group_runs(runs)  # the same run twice is found here
    for run in runs:
        _must_have(run, place, options.blocks)
        _halves(run, _data(run, place), options)
    return runs


def _must_have(run: Run, place: RunContext, blocks: Sequence[str]) -> None:
    """Read the last weights, and find unknown blocks before anything is computed."""
    frozen = next(load_snapshots(run, place))
    for name in blocks:
        frozen.block(name)


def _data(run: Run, place: RunContext) -> Data:
    data = load_data(run.config, place)
    run.require_data(data)
    return data


def _halves(run: Run, data: Data, options: ProbeOptions) -> tuple[Split, Split]:
    seed = run.config.seed
    train = _chosen(data.train, options.train_images, "train", seed, len(data.classes))
    return train, _chosen(data.test, options.test_images, "test", seed)


def protocol_of(run: Run, data: Data, options: ProbeOptions) -> ProbeRecord:
    """How a run's numbers are made, as stored with them; a stored result of another protocol does not count."""
    train, test = _halves(run, data, options)
    held = len(train) // HELD_OUT
    path = run.path / "checkpoint.pt"
    load_checkpoint(path)  # says what is wrong with it
    return {
        "probe": "multinomial logistic regression, mean cross-entropy + l2/2 |W|^2, biases free",
        "images": {"train": len(train), "of these, to choose l2 on": held, data.test_name: len(test)},
        "label_noise": run.config.label_noise,
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
        "weights": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    }


def probe_run(
    path: Path,
    place: RunContext,
    options: ProbeOptions = ProbeOptions(),
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda _: None,
    known: ProbeCache | None = None,
) -> ProbeRecord:
    """Probe a run's blocks at its last weights (``options.over_time``: at every saved step) and store the numbers in ``probe.json``.

    Each block's rows are stored as soon as they are known; stored ones of the same protocol are not computed again.

    Args:
        path: the run directory; no other file of it changes.
        place: device and data folder.
        options: what is probed.
        progress: called with (done, in all, what).
        say: called with a sentence where stored numbers do not count.
        known: see :func:`probe_network`.

    Returns:
        {protocol, rows: [{step, block, network: trained | untrained | pixels, labels: true | permuted, features, pooling, l2, train,
        validation, test (shares), loss, gradient_norm, bound, passes, seconds}], separability: [{step, block, network, labels, and
        :func:`gradlens.analysis.linear_separability.row_of`}], seconds: {activations, probes}}.

    Raises:
        InputError: no run, one without checkpoint, an unknown block, NaN activations (the block is named), fewer images than classes.

    """
    run = load_run(path)
    data = _data(run, place)
    _must_have(run, place, options.blocks)
    protocol, seed = protocol_of(run, data, options), run.config.seed
    result = _stored(path, protocol, options, say)
    train, test = (half.to(place.device) for half in _halves(run, data, options))
    classes, names, last = len(data.classes), [PIXELS], int(run.checkpoint()["step"])

    def in_order(row: ProbeRecord) -> tuple[int, int, int]:
        known = names.index(row["block"]) if row["block"] in names else len(names)
        return (PIXELS, UNTRAINED, TRAINED).index(row["network"]), row["step"], known

    def keep(probed: ProbeResult) -> None:
        for name, more in (("rows", probed.rows), ("separability", probed.separability)):
            result[name] = sorted([*result[name], *more], key=in_order)
        result["seconds"]["activations"] = round(result["seconds"]["activations"] + probed.seconds, 3)
        result["seconds"]["probes"] = round(sum(row["seconds"] for row in result["rows"]), 3)
        save_result(path, NAME, result)

    if options.controls and not any(row["network"] == PIXELS for row in result["rows"]):
        progress(0, 1, "probe of raw pixels")
        keep(probe_pixels(train, test, classes, options, seed, known))
    for which in (*((UNTRAINED,) if options.controls else ()), "all" if options.over_time else "last"):
        for frozen in load_snapshots(run, place, which):
            names = frozen.names
            if missing := _missing(frozen, result["rows"], options):
                own = replace(options, blocks=missing, separability=options.separability if frozen.step in (0, last) else 0)
                for probed in probe_network(frozen, train, test, classes, own, seed, progress, known):
                    keep(probed)
    return load_result(path, NAME) or result


def _missing(frozen: FrozenModel, rows: Sequence[ProbeRecord], options: ProbeOptions) -> tuple[str, ...]:
    """The blocks of a network that are to be probed and have no row yet."""
    wanted = {frozen.block(name) for name in options.blocks} or set(range(len(frozen.names)))
    network = TRAINED if frozen.trained else UNTRAINED
    done = {row["block"] for row in rows if (row["network"], row["step"]) == (network, frozen.step)}
    return tuple(name for k, name in enumerate(frozen.names) if k in wanted and name not in done)


def _stored(path: Path, protocol: ProbeRecord, options: ProbeOptions, say: Callable[[str], None]) -> ProbeRecord:
    """What is stored of the same protocol, to be added to; or the beginning of a new result."""
    new: ProbeRecord = {"protocol": protocol, "rows": [], "separability": [], "seconds": {"activations": 0.0, "probes": 0.0}}
    stored = load_result(path, NAME)
    if stored is None or options.overwrite:
        return new
    before = stored.get("protocol")
    if before != plain(protocol):
        differ = [key for key in protocol if not isinstance(before, Mapping) or before.get(key) != plain(protocol[key])]
        say(f"{path / NAME}.json was made in another way ({', '.join(differ)} differ): computed anew")
        return new
    return {name: stored.get(name, empty) for name, empty in new.items()}
