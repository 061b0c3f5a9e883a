"""What the blocks of a frozen network represent: rank and class separation of their activations, information on the images.

Spread: effective rank (Roy & Vetterli 2007) and participation ratio. Separable: between-class over within-class scatter (Fisher).
Held: how well a small decoder gives the image back and a small head the label (:mod:`gradlens.analysis.information`). How alike two
networks are: :mod:`gradlens.analysis.network_similarity`.

All numbers of a run are of its data set's test images, whatever it was trained on: two thirds fit decoder and head, the rest are held
out and everything is measured on them. The network is fixed for both parts alike, so a part of its own training images cannot be used:
what was memorized there would be attributed to the head, and runs of other seeds were trained on others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlens.analysis.activations import FrozenModel, checkpoint_digest, collect_activations, frozen_eval_mode, last_step, load_snapshots
from gradlens.analysis.information import DECODER_BATCH, DECODER_LR, HEAD_BATCH, HEAD_LR, LINEAR_LR, label_information, reconstruct
from gradlens.analysis.of_runs.interface import Keep, Result
from gradlens.analysis.of_runs.options import FULL_REPRESENTATIONS, RepresentationOptions
from gradlens.analysis.representation_similarity import effective_rank, fisher_ratio, participation_ratio, rdm, spectrum
from gradlens.data.datasets import DATASETS
from gradlens.data.split import Data, Split
from gradlens.models.feature_pooling import described, side
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.rng import generator
from gradlens.training.context import RunContext, load_data
from gradlens.training.run_directory import Run

FEATURES = 32_768  # of a block at most: 32 channels of 32 × 32
STORED = 60  # held-out images in the dissimilarity matrices that are stored


# ---------------------------------------------------------------------------------------------------- one network's blocks


@dataclass(frozen=True)
class Pictures:
    """The images that a network is shown."""

    fit: Split  # decoder and head learn on these
    held: Split  # everything is measured on these; any first part of them is balanced too
    classes: int

    def digest(self) -> str:
        """Return 16 hex digits of the images and labels."""
        parts = (self.fit.images, self.fit.labels, self.held.images, self.held.labels)
        return digest_of(*parts)


def digest_of(*tensors: Tensor) -> str:
    """Return 16 hex digits of what tensors hold."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def pictures(split: Split, classes: int, count: int) -> Pictures:
    """Return a seeded choice of labelled images, as many of each class as there are, a third of each class held out.

    Raises:
        InputError: fewer held-out images than classes.

    """
    order = torch.randperm(len(split), generator=generator(0, "representations"))
    labels = split.labels[order]
    turn = torch.zeros(len(split), dtype=torch.long)  # the how-manieth of its class an image is
    for label in set(labels.tolist()):
        here = labels == label
        turn[here] = torch.arange(int(here.sum()))
    dealt = (turn * (int(labels.max()) + 1) + labels).argsort()[:count]
    held = turn[dealt] % 3 == 2
    found = Pictures(split.take(order[dealt[~held]]), split.take(order[dealt[held]]), classes)
    if len(found.held) < max(4, classes + 1):
        raise InputError(
            f"{count} of {len(split)} images leave {len(found.held)} held out, too few for {classes} classes: a third of each class is"
        )
    return found


def _shapes(frozen: FrozenModel, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return each block's output shape, without the batch."""
    with frozen_eval_mode(frozen):
        return {name: tuple(h.shape[1:]) for name, h in zip(frozen.names, frozen.read(frozen.to_input(images)), strict=True)}


def _unflattened(flat: Tensor, shape: Sequence[int]) -> Tensor:
    """Return what :func:`gradlens.models.feature_pooling.pooled` gave for activations of a shape, with its space again."""
    if len(shape) != 3:
        return flat
    s = side(shape, FEATURES)
    if flat.shape[1] != shape[0] * s * s:
        return flat  # projected
    return flat.reshape(len(flat), shape[0], s, s).contiguous(memory_format=torch.channels_last)


RepresentationRecord = dict[str, Any]  # one block's row


def _numbers_of(h: Tensor, held_h: Tensor, shown: Pictures, options: RepresentationOptions) -> RepresentationRecord:
    """Measure everything of one block's activations [N, *shape]."""
    flat = held_h.flatten(1)
    singular = spectrum(flat)
    found: RepresentationRecord = {
        "features": flat.shape[1],
        "effective_rank": effective_rank(singular),
        "participation_ratio": participation_ratio(singular),
        "fisher": fisher_ratio(flat, shown.held.labels, shown.classes),
    }
    if options.steps:
        image = reconstruct(h, shown.fit.images, held_h, shown.held.images, options.steps)
        label = label_information(h, shown.fit.labels, held_h, shown.held.labels, shown.classes, options.steps)
        found |= {"reconstruction_r2": image.r2, "reconstruction_mse": image.mse}
        found |= {"information_y_bits": label.bits, "head_accuracy": label.accuracy}
    return found


def represent(
    frozen: FrozenModel,
    shown: Pictures,
    options: RepresentationOptions = FULL_REPRESENTATIONS,
    known: MutableMapping[str, RepresentationRecord] | None = None,
) -> Iterator[tuple[RepresentationRecord, Tensor]]:
    """Yield one network's blocks, bottom first: a row of numbers and the activations [N, d] of the held-out images.

    Rows: block, features, effective_rank, participation_ratio, fisher, and unless ``options.steps`` is 0 reconstruction_r2,
    reconstruction_mse, information_y_bits, head_accuracy. Blocks are read one after the other, so that one block's activations fit
    into memory.

    Args:
        frozen: from :func:`gradlens.analysis.activations.load_snapshots`, or for any module
            :func:`gradlens.analysis.activations.freeze_module`.
        shown: the images, from :func:`pictures`.
        options: what to measure.
        known: numbers by the digest of the activations they were computed from; read and added to.

    Yields:
        for each block, first to last: its row, a mapping from column to value, and the activations [held-out images, d].

    Raises:
        InputError: an unknown block, one that gives NaN or infinite numbers (named), one class only.

    """
    chosen = [frozen.names[k] for k in sorted({frozen.block(name) for name in options.blocks or frozen.names})]
    shapes = _shapes(frozen, shown.held.images[:2])
    images = torch.cat([shown.fit.images, shown.held.images]) if options.steps else shown.held.images
    known = {} if known is None else known
    of = f"{shown.digest()} {options.steps}"
    for name in chosen:
        all_h = collect_activations(frozen, images, FEATURES, blocks=[name])[name]
        held_h = all_h[-len(shown.held) :]
        key = f"{digest_of(all_h)} {of}"
        if key not in known:
            fit, held = (_unflattened(part, shapes[name]) for part in (all_h[: -len(shown.held)], held_h))
            known[key] = _numbers_of(fit, held, shown, options)
        yield {"block": name, "read": described(shapes[name], FEATURES), **known[key]}, held_h


# ---------------------------------------------------------------------------------------------------------------- runs

UNTRAINED, TRAINED = "untrained", "trained"


def _whole(run: Run, context: RunContext) -> Data:
    """Return a run's data set, all of it, labels clean."""
    run.data(context=context)  # what was chosen from it is what the run was trained on
    return load_data(run.located().replace(limit=None, limit_test=None, label_noise=0.0, validation=0.0), context)


def pictures_of(run: Run, context: RunContext, count: int) -> Pictures:
    """Return the test images that a run's network is shown: the same for every run of a data set.

    Raises:
        InputError: see :func:`pictures`; data that cannot be loaded.

    """
    data = _whole(run, context)
    shown = pictures(data.test, len(data.classes), count)
    return Pictures(shown.fit.to(context.device), shown.held.to(context.device), shown.classes)


def read_as() -> str:
    """Return how a block's output becomes features, in words."""
    return f"a block's whole output, averaged over space to the largest square of at most {FEATURES} features where it has more"


def representation_protocol(run: Run, context: RunContext, options: RepresentationOptions) -> dict[str, Any]:
    """Return what a run's numbers depend on beside its weights, and these by their digest."""
    shown = pictures_of(run, context, options.images)
    information = {
        "steps": options.steps,
        "decoder": "bilinear to the image, 3x3 conv(12)-BN-ReLU-3x3 conv (linear without space)",
        "decoder_training": f"Adam {DECODER_LR:g}, cosine to 0, batches of {DECODER_BATCH}",
        "head": "3x3 conv-BN-ReLU, 2x2, BN, linear (linear without space)",
        "head_training": f"Adam {HEAD_LR:g} (linear {LINEAR_LR:g}/sqrt(features)), cosine to 0, batches of {HEAD_BATCH}",
        "activations": "each channel with mean 0 and deviation 1 on the images that fit",
        "images_in": "pixels in [0, 1]",
    }
    return {
        "data": Path(run.config.data.name).name,
        "images": "test images, as many of each class as there are; a third of each class held out",
        "fit": len(shown.fit),
        "held_out": len(shown.held),
        "measured_on": "the held-out ones, eval mode",
        "pictures": shown.digest(),
        "features": read_as(),
        "fisher": f"tr(between) / tr(within); {(shown.classes - 1) / (len(shown.held) - shown.classes):.4f} where classes do not differ",
        "information": information if options.steps else None,
        "weights": checkpoint_digest(run),
    }


def _rounded(matrix: Tensor) -> list[list[float]]:
    return [[round(v, 3) for v in row] for row in matrix.tolist()]


def represent_run(
    run: Run,
    context: RunContext,
    options: RepresentationOptions,
    result: Result,
    keep: Keep = no_progress,
    progress: Progress = no_progress,
    known: MutableMapping[str, RepresentationRecord] | None = None,
) -> Result:
    """Measure a run's blocks: protocol, rows, and dissimilarity matrices.

    Rows are those of :func:`represent` with step and network: untrained, trained (at its last weights; with ``options.over_time`` at its
    snapshots too).

    Args:
        run: one with a checkpoint.
        context: device and data folder.
        options: what is measured.
        result: what is computed already, and its ``protocol`` from :func:`representation_protocol`; what has a row is not computed again.
        keep: called with the result as soon as a row is computed.
        progress: called with (blocks done, in all, what comes next).
        known: see :func:`represent`; given to several runs, what they have in common is computed once.

    Raises:
        InputError: a run without checkpoint, and as :func:`represent`.

    """
    shown = pictures_of(run, context, options.images)
    small = shown.held.take(torch.arange(min(STORED, len(shown.held))))
    empty: Result = {"protocol": {}, "rows": [], "rdm": {}}
    result = empty | result
    result["rdm_labels"] = small.labels.sort(stable=True).values.tolist()
    known = {} if known is None else known
    last = last_step(run)
    networks = 1 + (len(run.snapshots()) + 1 if options.over_time else 1)
    every = (f for which in (UNTRAINED, "all" if options.over_time else "last") for f in load_snapshots(run, context, which))
    for i, frozen in enumerate(every):
        network = TRAINED if frozen.trained else UNTRAINED
        done = {row["block"] for row in result["rows"] if (row["network"], row["step"]) == (network, frozen.step)}
        wanted = [frozen.names[k] for k in sorted({frozen.block(name) for name in options.blocks or frozen.names})]
        for j, name in enumerate(wanted):
            if name in done:
                continue
            progress(i * len(wanted) + j, networks * len(wanted), f"{name}, {network} ({frozen.step} updates)")
            for row, h in represent(frozen, shown, replace(options, blocks=(name,)), known):
                result["rows"].append({"step": frozen.step, "network": network, **row})
                if network == TRAINED and frozen.step == last:
                    result["rdm"][name] = _rounded(rdm(h[: len(small)], small.labels))
            _sort(result, frozen.names)
            keep(result)
    progress(1, 1, "")
    return result


def _sort(result: dict[str, Any], names: Sequence[str]) -> None:
    """Put rows in the order of networks, steps and blocks, and dissimilarity matrices in that of blocks."""
    context = {name: k for k, name in enumerate(names)}
    result["rows"].sort(key=lambda row: (row["network"] == TRAINED, row["step"], context[row["block"]]))
    result["rdm"] = {name: result["rdm"][name] for name in names if name in result["rdm"]}


def must_be_comparable(runs: Sequence[Run], context: RunContext, options: RepresentationOptions) -> None:
    """Check, before anything costly, that runs can be measured and compared.

    Raises:
        InputError: a checkpoint that cannot be read, an unknown block, too few images, other images than the first run's.

    """
    for run in runs:
        must_show_the_same(runs[0], run, context)
        frozen = next(iter(load_snapshots(run, context)))
        for name in options.blocks:
            frozen.block(name)
    pictures_of(runs[0], context, options.images)


def must_show_the_same(first: Run, other: Run, context: RunContext) -> None:
    """Check that two runs' data sets have the same test images.

    Raises:
        InputError: they have not.

    """
    mine, theirs = first.config.data.name, other.config.data.name
    named_sets = mine in DATASETS and theirs in DATASETS  # two of these differ, which needs no files
    if mine != theirs and (named_sets or not torch.equal(_whole(first, context).test.images, _whole(other, context).test.images)):
        raise InputError(
            f"{other.path} was trained on {Path(theirs).name} and {first.path} on {Path(mine).name}:"
            " CKA compares what two networks make of the same images"
        )
