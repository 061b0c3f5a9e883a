"""Similarity of the blocks of two networks.

By linear CKA (Kornblith et al. 2019) with the unbiased HSIC₁ (Song et al. 2012; in batches: Nguyen et al. 2021), and by the rank
correlation of dissimilarity matrices (Kriegeskorte et al. 2008; as a figure: Czarnecki et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlens.analysis.activations import FrozenModel, checkpoint_digest, collect_activations, load_snapshots
from gradlens.analysis.of_runs.interface import Keep, Result
from gradlens.analysis.of_runs.options import RepresentationOptions
from gradlens.analysis.representation_similarity import alignment, centred, folds, must_be_enough, rdm, rdm_correlation, u_centred
from gradlens.analysis.representations import (
    FEATURES,
    TRAINED,
    UNTRAINED,
    digest_of,
    must_show_the_same,
    pictures_of,
    read_as,
)
from gradlens.data.split import Split
from gradlens.runtime.progress import Progress, no_progress
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import run_labels as labels_of

COMPARED = 200  # held-out images in the dissimilarity matrices that are compared
FOLD = 500  # images in a batch of HSIC₁, the size of its Gram matrices


class Signature(NamedTuple):
    """What is kept of a network to compare it with others."""

    names: list[str]  # of its blocks
    kernels: list[Tensor]  # one [blocks, n, n] a batch: centred Gram matrices, float64
    rdms: list[Tensor]  # one [m, m] a block


def signature(frozen: FrozenModel, shown: Split, unbiased: bool = True, batch: int = FOLD, progress: Progress = no_progress) -> Signature:
    """Return all blocks' centred Gram matrices for CKA and their dissimilarity matrices, one batch of images in memory at a time.

    Raises:
        InputError: fewer than 4 images in a batch (biased: 2), a block that gives NaN or infinite numbers (named).

    """
    kernels, first = [], []
    for part in folds(len(shown), batch):
        progress(part.start, len(shown), "images")
        must_be_enough(part.stop - part.start, unbiased)
        found = collect_activations(frozen, shown.images[part], FEATURES)
        grams = [c @ c.T for h in found.values() for c in [centred(h, "CKA")]]
        kernels.append(torch.stack([u_centred(gram) for gram in grams] if unbiased else grams))
        if part.start < COMPARED:
            first.append({name: h[: COMPARED - part.start] for name, h in found.items()})
    wanted = min(COMPARED, len(shown))
    rdms = [rdm(torch.cat([part[name] for part in first]), shown.labels[:wanted]) for name in frozen.names]
    return Signature(frozen.names, kernels, rdms)


def aligned(a: Signature, b: Signature) -> Tensor:
    """Return linear CKA [blocks of a, blocks of b] of two networks on the same images: HSICs averaged over batches first, then divided."""
    total = [torch.zeros(size, dtype=torch.float64) for size in ((len(a.names), len(b.names)), (len(a.names),), (len(b.names),))]
    for k, j in zip(a.kernels, b.kernels, strict=True):
        k, j = k.flatten(1), j.flatten(1)
        for sum_, more in zip(total, (k @ j.T, k.square().sum(1), j.square().sum(1)), strict=True):
            sum_ += more
    xy, xx, yy = total
    return torch.tensor([[alignment(float(xy[i, j]), float(xx[i]), float(yy[j])) for j in range(len(yy))] for i in range(len(xx))])


def cka_matrix(a: FrozenModel, b: FrozenModel, shown: Split, unbiased: bool = True, batch: int = FOLD) -> Tensor:
    """Return linear CKA [blocks of a, blocks of b] of two networks shown the same images.

    Args:
        a: from :func:`gradlens.analysis.activations.load_snapshots` or :func:`gradlens.analysis.activations.freeze_module`.
        b: the other network.
        shown: images and labels (the labels play no part in it).
        unbiased: by HSIC₁.
        batch: HSICs are averaged over batches of at most so many images; each batch's Gram matrices are [batch, batch].

    Returns:
        [blocks of a, blocks of b] float32, first blocks first; NaN where a block is constant.

    Raises:
        InputError: see :func:`signature`.

    """
    return aligned(signature(a, shown, unbiased, batch), signature(b, shown, unbiased, batch))


def _rdm_correlations(a: Signature, b: Signature) -> list[list[float]]:
    return [[rdm_correlation(p, q) for q in b.rdms] for p in a.rdms]


def _who(run: Run, rival: Run, label: str, weights: str) -> dict[str, Any]:
    """Name the network compared with a run: the run itself stands for its untrained network."""
    config = rival.config
    twin = config.seed != run.config.seed and config.replace(seed=run.config.seed) == run.config
    network = UNTRAINED if label == UNTRAINED else TRAINED
    return {"run": rival.path.name, "label": label, "network": network, "seed": config.seed, "weights": weights, "other_seed": twin}


def comparison_protocol(run: Run, context: RunContext, options: RepresentationOptions) -> dict[str, Any]:
    """Return how a run is compared with any other."""
    shown = pictures_of(run, context, options.images).held
    return {
        "estimator": f"linear CKA by unbiased HSIC, averaged over batches of at most {FOLD} images",
        "images": len(shown),
        "pictures": digest_of(shown.images, shown.labels),
        "features": read_as(),
        "rdm_images": min(COMPARED, len(shown)),
        "weights": checkpoint_digest(run),
    }


def compare_run(
    run: Run,
    others: Sequence[Run],
    context: RunContext,
    options: RepresentationOptions,
    result: Result,
    keep: Keep = no_progress,
    progress: Progress = no_progress,
) -> Result:
    """Compare all blocks of a run with all blocks of its untrained network and of other runs.

    An entry of ``with`` holds run (its folder's name), label, network, blocks, with_blocks, and the matrices [blocks, with_blocks]
    ``matrix`` (linear CKA) and ``rdm_correlation`` (Spearman). A run of the same settings and another seed is marked ``other_seed``: how
    alike it is is what likeness to other methods has to be measured by.

    Args:
        run: one with a checkpoint.
        others: the runs it is compared with.
        context: device and data folder.
        options: images.
        result: what is computed already, and its ``protocol`` from :func:`comparison_protocol`; what has an entry is not computed again.
        keep: called with the result, also of earlier others, as soon as there is an entry more.
        progress: called with (networks done, in all, what comes next).

    Raises:
        InputError: a run without checkpoint, other images, a block that gives NaN or infinite numbers.

    """
    weights = {other.path: checkpoint_digest(other) for other in others if other.path != run.path}
    for other in others:
        must_show_the_same(run, other, context)
    shown = pictures_of(run, context, options.images).held
    protocol, kept = result["protocol"], result.get("with", [])
    rivals, labels = [run, *others], [UNTRAINED, *labels_of([run, *others])[1:]]
    own: Signature | None = None
    found: list[dict[str, Any]] = []
    for i, (rival, label) in enumerate(zip(rivals, labels, strict=True)):
        fact = _who(run, rival, label, weights.get(rival.path, ""))
        same = [entry for entry in kept if all(entry.get(key) == fact[key] for key in ("run", "network", "weights"))]
        kept = [entry for entry in kept if entry not in same]
        if same:
            found.append({**same[0], **fact})
            continue
        progress(i, len(rivals), f"with {fact['run']}")
        own = own or signature(next(iter(load_snapshots(run, context))), shown)
        other_one = signature(next(iter(load_snapshots(rival, context, UNTRAINED if i == 0 else "last"))), shown)
        entry = {**fact, "blocks": own.names, "with_blocks": other_one.names}
        entry |= {"matrix": aligned(own, other_one).tolist(), "rdm_correlation": _rdm_correlations(own, other_one)}
        found.append(entry)
        keep({"protocol": protocol, "with": found + kept})
    progress(1, 1, "")
    return {"protocol": protocol, "with": found}
