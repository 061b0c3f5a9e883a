"""What the blocks of a frozen network represent: how alike those of two networks are, how spread and separable, what they still hold.

Alike: linear CKA (Kornblith et al. 2019) by the unbiased HSIC₁ (Song et al. 2012; in batches: Nguyen et al. 2021), and the rank
correlation of dissimilarity matrices (Kriegeskorte et al. 2008; as a figure: Czarnecki et al. 2017). Spread: effective rank (Roy &
Vetterli 2007) and participation ratio. Separable: between-class over within-class scatter (Fisher). Held: how well a small decoder
gives the image back and a small head the label, as Wang et al. 2021 (InfoPro) estimate I(h, x) and I(h, y).

All numbers of a run are of its data set's test images, whatever it was trained on: two thirds fit decoder and head, the rest are held
out and everything is measured on them. The network is fixed for both parts alike, so a part of its own training images would not do:
what was learned by heart there would be held against the head, and runs of other seeds would have seen others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.activations import BATCH, Frozen, Progress, at_rest, collect, described, networks, no_progress, side
from gradlens.data import DATASETS, Data, Split
from gradlens.errors import InputError
from gradlens.experiments import Place, data_of
from gradlens.heads import decoder, head
from gradlens.run import Run, load, load_result, save_result
from gradlens.seeding import generator, seeded
from gradlens.similarity import (
    alignment,
    centred,
    effective_rank,
    fisher,
    folds,
    must_be_enough,
    participation_ratio,
    rdm,
    rdm_correlation,
    spectrum,
    u_centred,
)
from gradlens.tables import labels as labels_of

FEATURES = 32_768  # of a block at most: 32 channels of 32 × 32
FOLD = 500  # images in a batch of HSIC₁, whose Gram matrices are made
COMPARED = 200  # held-out images in the dissimilarity matrices that are compared
STEPS = 300  # updates of a decoder and of a head
STORED = 60  # ... and in the ones that are stored
DECODER_LR, HEAD_LR, LINEAR_LR = 1e-2, 3e-3, 0.1  # Adam's, down to 0 along a cosine; a linear head's is divided by √features
DECODER_BATCH, HEAD_BATCH = 16, 32  # images in an update; each image is a thousand samples for a decoder
RESULT, PAIRS = "representations", "cka"  # files in a run's directory


@dataclass(frozen=True)
class Options:
    """What is measured, and how much is spent on it."""

    images: int = 3000  # test images, as many of each class as there are; a third of each class is held out
    steps: int = STEPS  # updates of each block's decoder and of its head; 0: no information estimates
    blocks: tuple[str, ...] = ()  # only these; (): all
    over_time: bool = False  # at the snapshots too
    overwrite: bool = False  # compute anew what is stored


# ---------------------------------------------------------------------------------------------------------- information


def _standard(fit: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts of activations [N, C, ...] with each channel's mean and deviation over the first; constant channels are only shifted."""
    dims = [d for d in range(fit.ndim) if d != 1]
    mean, std = fit.mean(dims, keepdim=True), fit.std(dims, keepdim=True, unbiased=False)
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
    return (fit - mean) / std, (held - mean) / std


def _read(reader: nn.Module, h: Tensor, loss: Callable[[Tensor, Tensor], Tensor], lr: float, batch: int, steps: int) -> None:
    """Train a reader of activations h [N, *shape]; ``loss`` takes its output and the indices of the images."""
    optimizer = torch.optim.Adam(reader.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.empty(0, dtype=torch.long)
    epoch = 0
    for _ in range(steps):
        if len(order) < min(batch, len(h)):
            order, epoch = torch.randperm(len(h), generator=generator(0, "reader's batches", epoch)), epoch + 1
        index, order = order[:batch].to(h.device), order[batch:]
        optimizer.zero_grad(set_to_none=True)
        loss(reader(h[index]), index).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    reader.eval()


def _answers(reader: nn.Module, h: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([reader(h[i : i + BATCH]) for i in range(0, len(h), BATCH)])


def _made(build: Callable[[], nn.Module], purpose: str, like: Tensor) -> nn.Module:
    """A reader, drawn from a stream of its own, where the activations are."""
    with seeded(0, purpose):
        layout: Any = {"device": like.device, "memory_format": torch.channels_last}
        return build().to(**layout)


class Reconstruction(NamedTuple):
    """How well images come back from activations, on images the decoder has not seen."""

    r2: float  # 1 − Σ (x − D(h))² / Σ (x − m)², m the mean image of those it was fitted on: 0 is no better than m; NaN: all images alike
    mse: float  # mean (x − D(h))², pixels in [0, 1] if they were uint8


def reconstruct(h: Tensor, x: Tensor, held_h: Tensor, held_x: Tensor, steps: int = STEPS) -> Reconstruction:
    """Train a decoder on frozen activations and measure it on held-out ones: the I(h, x) of InfoPro (Wang et al. 2021, §3.3 and app. D).

    Theirs is the negative loss of such a decoder, a lower bound up to a constant: I(h, x) = H(x) − H(x|h) ≥ H(x) − E[−log q(x|h)], here
    with q a Gaussian about D(h). It says what *this* decoder finds in so many steps, so blocks of one shape can be compared between
    networks and a block without space (a linear decoder) cannot be compared with one that has it (a convolutional one).

    Args:
        h: activations [N, *shape].
        x: images [N, C, H, W], uint8 or float.
        held_h: activations of the held-out images.
        held_x: the held-out images.
        steps: updates of the reader.

    """
    targets, held = (_numbers(images, h) for images in (x, held_x))
    mean = targets.mean(0)
    std = (targets - mean).square().mean().sqrt()
    fit, test = _standard(h, held_h)
    reader = _made(lambda: decoder(h.shape[1:], x.shape[1:]), "decoder", h)
    goal = (targets - mean) / std.clamp_min(1e-12)
    _read(reader, fit, lambda out, index: F.mse_loss(out, goal[index]), DECODER_LR, DECODER_BATCH, steps)
    mse = float((mean + std * _answers(reader, test) - held).cpu().double().square().mean())
    spread = float((held - mean).cpu().double().square().mean())
    return Reconstruction(1 - mse / spread if spread > 0 else math.nan, mse)


def _numbers(images: Tensor, like: Tensor) -> Tensor:
    """Images as float32 where the activations are, uint8 ones in [0, 1]."""
    return images.to(like.device).float() / (255 if images.dtype == torch.uint8 else 1)


class LabelInformation(NamedTuple):
    """What a head finds of the label, on images it has not seen."""

    bits: float  # H(y) − cross-entropy, of the held-out images
    accuracy: float  # share


def label_information(h: Tensor, y: Tensor, held_h: Tensor, held_y: Tensor, classes: int, steps: int = STEPS) -> LabelInformation:
    """Train a head on frozen activations; I(h, y) ≥ H(y) − E[−log q(y|h)], in bits (Barber & Agakov 2003; with it InfoPro's I(h, y)).

    The head is 3×3 conv–BN–ReLU, 2×2, BN, linear on activations with space, linear on others. Nothing is clipped: below zero the head is
    surer than it has reason to be (it overfits), and the bound is empty.

    Args:
        h: activations [N, *shape].
        y: labels [N].
        held_h: activations of the held-out images.
        held_y: their labels.
        classes: how many there are.
        steps: updates of the reader.

    """
    labels = y.to(h.device)
    fit, test = _standard(h, held_h)
    kind, lr = ("cnn", HEAD_LR) if h.ndim == 4 else ("linear", LINEAR_LR / h.shape[1] ** 0.5)
    reader = _made(lambda: head(kind, h.shape[1:], classes, 0, 1, pooled=False), "head", h)
    _read(reader, fit, lambda out, index: F.cross_entropy(out, labels[index]), lr, HEAD_BATCH, steps)
    logits, held = _answers(reader, test).cpu().double(), held_y.cpu()
    share = held.bincount(minlength=classes).double() / len(held)
    entropy = float(-torch.special.xlogy(share, share).sum())
    nats = entropy - float(F.cross_entropy(logits, held))
    return LabelInformation(nats / math.log(2), float((logits.argmax(1) == held).double().mean()))


# ---------------------------------------------------------------------------------------------------- one network's blocks


@dataclass(frozen=True)
class Pictures:
    """The images that a network is shown."""

    fit: Split  # decoder and head learn on these
    held: Split  # everything is measured on these; any first part of them is balanced too
    classes: int

    def digest(self) -> str:
        """16 hex digits of the images and labels."""
        parts = (self.fit.images, self.fit.labels, self.held.images, self.held.labels)
        return _digest(*parts)


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def pictures(split: Split, classes: int, count: int) -> Pictures:
    """A seeded choice of labelled images, as many of each class as there are, a third of each class held out.

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


def _shapes(frozen: Frozen, image: Tensor) -> dict[str, tuple[int, ...]]:
    """Each block's output shape, without the batch."""
    with at_rest(frozen):
        return {name: tuple(h.shape[1:]) for name, h in zip(frozen.names, frozen.read(frozen.to_input(image)), strict=True)}


def _unflattened(flat: Tensor, shape: Sequence[int]) -> Tensor:
    """What :func:`gradlens.activations.pooled` gave for activations of a shape, with its space again."""
    if len(shape) != 3:
        return flat
    s = side(shape, FEATURES)
    if flat.shape[1] != shape[0] * s * s:
        return flat  # projected
    return flat.reshape(len(flat), shape[0], s, s).contiguous(memory_format=torch.channels_last)


Numbers = dict[str, Any]  # one block's row


def _numbers_of(h: Tensor, held_h: Tensor, shown: Pictures, options: Options) -> Numbers:
    """Everything that is measured of one block's activations [N, *shape]."""
    flat = held_h.flatten(1)
    singular = spectrum(flat)
    found: Numbers = {
        "features": flat.shape[1],
        "effective_rank": effective_rank(singular),
        "participation_ratio": participation_ratio(singular),
        "fisher": fisher(flat, shown.held.labels, shown.classes),
    }
    if options.steps:
        image = reconstruct(h, shown.fit.images, held_h, shown.held.images, options.steps)
        label = label_information(h, shown.fit.labels, held_h, shown.held.labels, shown.classes, options.steps)
        found |= {"reconstruction_r2": image.r2, "reconstruction_mse": image.mse}
        found |= {"information_y_bits": label.bits, "head_accuracy": label.accuracy}
    return found


def represent(
    frozen: Frozen, shown: Pictures, options: Options = Options(), known: MutableMapping[str, Numbers] | None = None
) -> Iterator[tuple[Numbers, Tensor]]:  # fmt: skip
    """One network's blocks, bottom first: a row of numbers and the activations [N, d] of the held-out images.

    Rows: block, features, effective_rank, participation_ratio, fisher, and unless ``options.steps`` is 0 reconstruction_r2,
    reconstruction_mse, information_y_bits, head_accuracy. Blocks are read one after the other, so that one block's activations fit
    into memory.

    Args:
        frozen: from :func:`gradlens.activations.networks`, or :func:`gradlens.activations.of_module` for any module.
        shown: the images, from :func:`pictures`.
        options: what to measure.
        known: numbers by the digest of the activations they were computed from; read and added to.

    Raises:
        InputError: an unknown block, one that gives NaN or infinite numbers (named), one class only.

    """
    chosen = [frozen.names[k] for k in sorted({frozen.block(name) for name in options.blocks or frozen.names})]
    shapes = _shapes(frozen, shown.held.images[:1])
    images = torch.cat([shown.fit.images, shown.held.images]) if options.steps else shown.held.images
    known = {} if known is None else known
    of = f"{shown.digest()} {options.steps}"
    for name in chosen:
        all_h = collect(frozen, images, FEATURES, blocks=[name])[name]
        held_h = all_h[-len(shown.held) :]
        key = f"{_digest(all_h)} {of}"
        if key not in known:
            fit, held = (_unflattened(part, shapes[name]) for part in (all_h[: -len(shown.held)], held_h))
            known[key] = _numbers_of(fit, held, shown, options)
        yield {"block": name, "read": described(shapes[name], FEATURES), **known[key]}, held_h


# --------------------------------------------------------------------------------------------------------- two networks


class Signature(NamedTuple):
    """What is kept of a network to compare it with others."""

    names: list[str]  # of its blocks
    kernels: list[Tensor]  # one [blocks, n, n] a batch: centred Gram matrices, float64
    rdms: list[Tensor]  # one [m, m] a block


def signature(frozen: Frozen, shown: Split, unbiased: bool = True, batch: int = FOLD, progress: Progress = no_progress) -> Signature:
    """All blocks' centred Gram matrices for CKA and their dissimilarity matrices, one batch of images in memory at a time.

    Raises:
        InputError: fewer than 4 images in a batch (biased: 2), a block that gives NaN or infinite numbers (named).

    """
    kernels, first = [], []
    for part in folds(len(shown), batch):
        progress(part.start, len(shown), "images")
        must_be_enough(part.stop - part.start, unbiased)
        found = collect(frozen, shown.images[part], FEATURES)
        grams = [c @ c.T for h in found.values() for c in [centred(h, "CKA")]]
        kernels.append(torch.stack([u_centred(gram) for gram in grams] if unbiased else grams))
        if part.start < COMPARED:
            first.append({name: h[: COMPARED - part.start] for name, h in found.items()})
    wanted = min(COMPARED, len(shown))
    rdms = [rdm(torch.cat([part[name] for part in first]), shown.labels[:wanted]) for name in frozen.names]
    return Signature(frozen.names, kernels, rdms)


def aligned(a: Signature, b: Signature) -> Tensor:
    """Linear CKA [blocks of a, blocks of b] of two networks on the same images: HSICs averaged over batches first, then divided."""
    total = [torch.zeros(size, dtype=torch.float64) for size in ((len(a.names), len(b.names)), (len(a.names),), (len(b.names),))]
    for k, j in zip(a.kernels, b.kernels, strict=True):
        k, j = k.flatten(1), j.flatten(1)
        for sum_, more in zip(total, (k @ j.T, k.square().sum(1), j.square().sum(1)), strict=True):
            sum_ += more
    xy, xx, yy = total
    return torch.tensor([[alignment(float(xy[i, j]), float(xx[i]), float(yy[j])) for j in range(len(yy))] for i in range(len(xx))])


def cka_matrix(a: Frozen, b: Frozen, shown: Split, unbiased: bool = True, batch: int = FOLD) -> Tensor:
    """Linear CKA [blocks of a, blocks of b] of two networks shown the same images.

    Args:
        a: from :func:`gradlens.activations.networks` or :func:`gradlens.activations.of_module`.
        b: the other network.
        shown: images and labels (the labels play no part in it).
        unbiased: by HSIC₁.
        batch: HSICs are averaged over batches of at most so many images; each batch's Gram matrices are [batch, batch].

    Raises:
        InputError: see :func:`signature`.

    """
    return aligned(signature(a, shown, unbiased, batch), signature(b, shown, unbiased, batch))


def _rdm_correlations(a: Signature, b: Signature) -> list[list[float]]:
    return [[rdm_correlation(p, q) for q in b.rdms] for p in a.rdms]


# ---------------------------------------------------------------------------------------------------------------- runs

UNTRAINED, TRAINED = "untrained", "trained"


def _whole(run: Run, place: Place) -> Data:
    """A run's data set, all of it, labels clean."""
    return data_of(run.config.model_copy(update={"limit": None, "limit_test": None, "label_noise": 0.0, "validation": 0.0}), place)


def pictures_of(run: Run, place: Place, count: int) -> Pictures:
    """The test images that a run's network is shown: the same for every run of a data set.

    Raises:
        InputError: see :func:`pictures`; data that cannot be loaded.

    """
    data = _whole(run, place)
    shown = pictures(data.test, len(data.classes), count)
    return Pictures(shown.fit.to(place.device), shown.held.to(place.device), shown.classes)


def _weights(run: Run) -> str:
    """16 hex digits of a run's checkpoint, so that results of a run that was trained anew are not taken for its own."""
    file = run.path / "checkpoint.pt"
    if not file.exists():
        raise InputError(f"{run.path} has no checkpoint.pt: the run saved none")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _read_as() -> str:
    return f"a block's whole output, averaged over space to the largest square of at most {FEATURES} features where it has more"


def _protocol(run: Run, shown: Pictures, options: Options) -> dict[str, Any]:
    """What a run's numbers depend on beside its weights, and these by their digest."""
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
        "data": Path(run.config.data).name,
        "images": "test images, as many of each class as there are; a third of each class held out",
        "fit": len(shown.fit),
        "held_out": len(shown.held),
        "measured_on": "the held-out ones, eval mode",
        "pictures": shown.digest(),
        "features": _read_as(),
        "fisher": f"tr(between) / tr(within); {(shown.classes - 1) / (len(shown.held) - shown.classes):.4f} where classes do not differ",
        "information": information if options.steps else None,
        "weights": _weights(run),
    }


def _rounded(matrix: Tensor) -> list[list[float]]:
    return [[round(v, 3) for v in row] for row in matrix.tolist()]


def represent_run(
    path: Path,
    place: Place,
    options: Options = Options(),
    progress: Progress = no_progress,
    known: MutableMapping[str, Numbers] | None = None,
) -> dict[str, Any]:
    """Measure a run's blocks and store the numbers in ``representations.json``: protocol, rows, and dissimilarity matrices.

    Rows are those of :func:`represent` with step and network: untrained, trained (at its last weights; with ``options.over_time`` at its
    snapshots too). Every row is stored as soon as it is known, and stored ones of the same protocol are not computed again.

    Args:
        path: the run directory.
        place: device and data folder.
        options: what is measured.
        progress: called with (blocks done, in all, what comes next).
        known: see :func:`represent`; given to several runs, what they have in common is computed once.

    Raises:
        InputError: no run, a run without checkpoint, and as :func:`represent`.

    """
    run = load(path)
    shown = pictures_of(run, place, options.images)
    protocol = _protocol(run, shown, options)
    stored = load_result(path, RESULT) or {}
    if options.overwrite or stored.get("protocol") != protocol:
        stored = {}
    rows: list[Numbers] = list(stored.get("rows", []))
    drawn: dict[str, Any] = dict(stored.get("rdm", {}))
    small = shown.held.take(torch.arange(min(STORED, len(shown.held))))
    ordered = small.labels.sort(stable=True).values.tolist()
    last = int(run.checkpoint()["step"])
    known = {} if known is None else known

    def content() -> dict[str, Any]:
        place_of_block = {name: k for k, name in enumerate(names)}
        rows.sort(key=lambda row: (row["network"] == TRAINED, row["step"], place_of_block[row["block"]]))
        return {"protocol": protocol, "rows": rows, "rdm": {n: drawn[n] for n in names if n in drawn}, "rdm_labels": ordered}

    names: list[str] = []
    todo = 1 + (len(run.snapshots()) + 1 if options.over_time else 1)
    for i, frozen in enumerate(f for which in (UNTRAINED, "all" if options.over_time else "last") for f in networks(run, place, which)):
        names = frozen.names
        network = TRAINED if frozen.trained else UNTRAINED
        done = {row["block"] for row in rows if (row["network"], row["step"]) == (network, frozen.step)}
        wanted = [names[k] for k in sorted({frozen.block(name) for name in options.blocks or names})]
        missing = tuple(name for name in wanted if name not in done)
        total = todo * len(wanted)
        for j, name in enumerate(missing):
            progress(i * len(wanted) + len(wanted) - len(missing) + j, total, f"{name}, {network} ({frozen.step} updates)")
            for row, h in represent(frozen, shown, replace(options, blocks=(name,)), known):
                rows.append({"step": frozen.step, "network": network, **row})
                if network == TRAINED and frozen.step == last:
                    drawn[name] = _rounded(rdm(h[: len(small)], small.labels))
            save_result(path, RESULT, content())
    progress(1, 1, "")
    return content()


def checked(paths: Sequence[Path], place: Place, options: Options) -> list[Run]:
    """Read runs and check, before anything costly, that they can be measured and compared.

    Raises:
        InputError: no run, a run without checkpoint, an unknown block, other images than the first run's.

    """
    if not paths:
        raise InputError("no run to look at: wanted RUN_DIR...")
    runs = [load(path) for path in paths]
    for run in runs:
        _weights(run)
        must_show_the_same(runs[0], run, place)
        frozen = next(iter(networks(run, place)))
        for name in options.blocks:
            frozen.block(name)
    pictures_of(runs[0], place, options.images)
    return runs


def must_show_the_same(first: Run, other: Run, place: Place) -> None:
    """Check that two runs' data sets have the same test images.

    Raises:
        InputError: they have not.

    """
    mine, theirs = first.config.data, other.config.data
    named_sets = mine in DATASETS and theirs in DATASETS  # two of these differ, and need not be there to know it
    if mine != theirs and (named_sets or not torch.equal(_whole(first, place).test.images, _whole(other, place).test.images)):
        raise InputError(
            f"{other.path} was trained on {Path(theirs).name} and {first.path} on {Path(mine).name}:"
            " CKA compares what two networks make of the same images"
        )


def _who(run: Run, rival: Run, label: str, weights: str) -> dict[str, Any]:
    """Who is compared with a run: itself stands for its untrained network."""
    config = rival.config
    twin = config.seed != run.config.seed and config.model_copy(update={"seed": run.config.seed}) == run.config
    network = UNTRAINED if label == UNTRAINED else TRAINED
    return {"run": rival.path.name, "label": label, "network": network, "seed": config.seed, "weights": weights, "other_seed": twin}


def compare_run(
    path: Path,
    others: Sequence[Path],
    place: Place,
    options: Options = Options(),
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare all blocks of a run with all blocks of its untrained network and of other runs, and store it in ``cka.json``.

    An entry of ``with`` holds run (its folder's name), label, network, blocks, with_blocks, and the matrices [blocks, with_blocks]
    ``matrix`` (linear CKA) and ``rdm_correlation`` (Spearman). A run of the same settings and another seed is marked ``other_seed``: how
    alike it is is what likeness to other methods has to be measured by. Entries are stored one by one; those of the same protocol stay.

    Args:
        path: the run directory.
        others: of the runs it is compared with.
        place: device and data folder.
        options: images, and whether stored comparisons are made anew.
        progress: called with (networks done, in all, what comes next).

    Raises:
        InputError: no run, a run without checkpoint, other images, a block that gives NaN or infinite numbers.

    """
    run, rivals = load(path), [load(other) for other in others]
    weights = {rival.path: _weights(rival) for rival in rivals if rival.path != run.path}
    for rival in rivals:
        must_show_the_same(run, rival, place)
    shown = pictures_of(run, place, options.images).held
    protocol = {
        "estimator": f"linear CKA by unbiased HSIC, averaged over batches of at most {FOLD} images",
        "images": len(shown),
        "pictures": _digest(shown.images, shown.labels),
        "features": _read_as(),
        "rdm_images": min(COMPARED, len(shown)),
        "weights": _weights(run),
    }
    stored = load_result(path, PAIRS) or {}
    kept = stored.get("with", []) if stored.get("protocol") == protocol and not options.overwrite else []
    facts = [
        _who(run, rival, label, weights.get(rival.path, ""))
        for rival, label in zip([run, *rivals], [UNTRAINED, *labels_of([run, *rivals])[1:]], strict=True)
    ]
    own: Signature | None = None
    found: list[dict[str, Any]] = []
    for i, (fact, rival) in enumerate(zip(facts, [run, *rivals], strict=True)):
        same = [entry for entry in kept if all(entry.get(key) == fact[key] for key in ("run", "network", "weights"))]
        kept = [entry for entry in kept if entry not in same]
        if same:
            found.append({**same[0], **fact})
            continue
        progress(i, len(facts), f"with {fact['run']}")
        own = own or signature(next(iter(networks(run, place))), shown)
        other = signature(next(iter(networks(rival, place, UNTRAINED if i == 0 else "last"))), shown)
        entry = {**fact, "blocks": own.names, "with_blocks": other.names}
        entry |= {"matrix": aligned(own, other).tolist(), "rdm_correlation": _rdm_correlations(own, other)}
        found.append(entry)
        save_result(path, PAIRS, {"protocol": protocol, "with": found + kept})
    progress(1, 1, "")
    return {"protocol": protocol, "with": found}


# -------------------------------------------------------------------------------------------------- tables and figures
