"""A network learned layer by layer: a gradient step of a two-layer net, then clustering.

After Malach & Shalev-Shwartz, A Provably Correct Algorithm for Deep Learning that Actually Works (2018, arXiv:1803.09522).
From the bottom up, each stage cuts what is below into patches of s×s cells, learns a linear map of patches (the first layer of a
two-layer net that predicts the label), clusters the mapped patches with k-means, and hands on, in the place of each patch, which
cluster it is in. A linear classifier reads the last stage. No gradient crosses a stage. So far the paper's abstract; the
details here are gradlens's.

Why the gradient step finds the classes of a generative model like :mod:`gradlens.data.hierarchical_digits`. Let x_p be the patch at
position p, whitened over all images and positions; W the first layer, zero at first; V_p the second layer's random weights; y the
one-hot label. The first step of any loss whose gradient at zero is mean − y (cross-entropy with balanced labels, squared error) takes
W from 0 to

    W ∝ Σ_p V_pᵀ E[(y − E y) x_pᵀ].

Where the patches are the affinely independent templates t, each with frequency f_t, whitened ones obey ⟨t, t'⟩ = 1[t = t'] / f_t − 1,
so W t ∝ Σ_p V_pᵀ E y ∘ (P(t at p | y) − P(t at p)) / f_t. Templates that are drawn with equal chances from one class have the same
P(t at p | y) / f_t, that of their class: W takes them to one point, up to sampling error, and k-means has nothing left to decide. What
it cannot separate are classes with the same information on the label, such as a distractor and the blank cell that it lies on.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.cluster import contingency_matrix
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.rng import generator, key

MAPS = ("gradient", "pixels", "whitened", "random")  # what is clustered: patches after the step, as they are, whitened, projected at random
REPRESENTATIONS = ("one-hot", "soft")
RIDGE = 1e-3  # of the mean variance, added to every direction's before whitening
CLUSTERED = 10_000  # patches that k-means is fitted to
STARTS = 5  # of k-means; the best is kept
L2 = 1e-3  # of the last linear classifier
ROWS = 2048  # images at once where distances are computed

# ------------------------------------------------------------------------------------------------------------ patches


def extract(grid: Tensor, size: int) -> Tensor:
    """Cut [N, C, H, W] into patches side by side, [N, H / size, W / size, C size²].

    Raises:
        InputError: the grid cannot be cut into such patches.

    """
    n, c, h, w = grid.shape
    if size < 1 or size > min(h, w) or h % size or w % size:
        raise InputError(f"a grid of {h}x{w} cells cannot be cut into patches of {size}x{size}")
    cut = grid.reshape(n, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(n, h // size, w // size, c * size * size)


class Linear(NamedTuple):
    """A linear map of patches: (x − mean) @ matrix."""

    mean: Tensor  # [q]
    matrix: Tensor  # [q, d]

    def __call__(self, x: Tensor) -> Tensor:
        """Map [*, q] -> [*, d]."""
        return (x - self.mean) @ self.matrix


def whitening(x: Tensor) -> Linear:
    """Find the map after which patches [N, q] have mean 0 and, up to a small ridge, covariance I; constant directions are left out."""
    mean = x.mean(0)
    centred = (x - mean).double()
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = variances > 1e-9 * variances[-1]
    if not kept.any():
        raise InputError("all patches are the same: there is nothing to learn from them")
    scale = (variances[kept] + RIDGE * variances.mean()).rsqrt()
    return Linear(mean, (directions[:, kept] * scale).to(x.dtype))


# ---------------------------------------------------------------------------------------------------- the gradient step


def two_layer(x: Tensor, y: Tensor, classes: int, channels: int, steps: int, lr: float, seed: int) -> Tensor:
    """Train the first layer of a two-layer linear net: some steps of gradient descent on cross-entropy, all images at once.

    The net is a convolution with one output position a patch, W [q, channels], then a linear classifier V of all positions with a bias.
    W begins at zero and V at N(0, 1 / channels), so that the first step moves W alone and its learning rate only scales W. W and V enter
    through their product at each position, M_p = W V_pᵀ, and so do their gradients; the activations are never made.

    Args:
        x: [N, P, q] whitened patches, P positions an image.
        y: [N] labels.
        classes: how many labels there are.
        channels: of the first layer.
        steps: of gradient descent on both layers.
        lr: learning rate.
        seed: of V.

    Returns:
        W [q, channels].

    Raises:
        InputError: weights that are not finite after the last step.

    """
    n, positions, q = x.shape
    flat, onehot = x.flatten(1), F.one_hot(y, classes).to(x.dtype)
    rng = generator(seed, "second layer")
    v = torch.randn(classes, positions, channels, generator=rng, dtype=torch.float64).to(x.dtype) / channels**0.5
    w = torch.zeros(q, channels, dtype=x.dtype)
    bias = onehot.mean(0).clamp(min=1e-12).log()  # the best one where W is 0
    for _ in range(steps):
        product = torch.einsum("qd,ypd->pqy", w, v).reshape(positions * q, classes)
        wrong = (flat @ product + bias).softmax(1) - onehot
        grad = (flat.T @ wrong / n).reshape(positions, q, classes)
        step_w, step_v = torch.einsum("pqy,ypd->qd", grad, v), torch.einsum("pqy,qd->ypd", grad, w)
        w, v, bias = w - lr * step_w, v - lr * step_v, bias - lr * wrong.mean(0)
    if not w.isfinite().all():
        raise InputError(f"the two-layer net diverged in {steps} steps with a learning rate of {lr:g}: try a smaller one")
    return w


# ---------------------------------------------------------------------------------------------------------- one stage


@dataclass(frozen=True)
class LayerwisePlan:
    """Sizes and options of layerwise learning by clustering, for :func:`learn_layerwise`.

    Raises:
        InputError: an unknown map or representation, sizes and clusters of different lengths, a number below 1.

    Attributes:
        sizes: patch size of each stage, first to last.
        clusters: number of clusters of each stage.
        map: what is clustered, one of ``MAPS``: patches after the gradient step ("gradient"), as they are ("pixels"), "whitened", or
            projected at "random".
        representation: of a patch by its cluster, one of ``REPRESENTATIONS``: "one-hot" or "soft", which is ReLU(mean distance to
            all centres − distance).
        channels: of the first layer of the two-layer net, and of the random projection.
        steps: of gradient descent; 1 is the step of the theorem.
        lr: learning rate of these steps.
        seed: keys all draws.

    """

    sizes: tuple[int, ...]  # patch sizes, bottom first
    clusters: tuple[int, ...]  # of each stage
    map: str = "gradient"  # of MAPS
    representation: str = "one-hot"  # of REPRESENTATIONS: soft is ReLU(mean distance to all centres − distance)
    channels: int = 64  # of the first layer, and of the random projection
    steps: int = 1  # of gradient descent; 1 is the step of the theorem
    lr: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.map not in MAPS:
            raise unknown("map of patches", self.map, MAPS)
        if self.representation not in REPRESENTATIONS:
            raise unknown("representation", self.representation, REPRESENTATIONS)
        if len(self.sizes) != len(self.clusters) or not self.sizes:
            raise InputError(f"{len(self.sizes)} patch sizes and {len(self.clusters)} numbers of clusters: expected one of each a stage")
        if min(*self.clusters, self.channels, self.steps) < 1:
            raise InputError("clusters, channels and steps are 1 or more")


@dataclass(frozen=True)
class ClusteringStage:
    """A learned layer: patches -> mapped -> nearest centre."""

    size: int
    map: Linear
    centres: Tensor  # [k, d]
    soft: bool

    def embedded(self, grid: Tensor) -> Tensor:
        """Map [N, C, H, W] to the mapped patches [N, h, w, d]."""
        return self.map(extract(grid, self.size))

    def distances(self, grid: Tensor) -> Tensor:
        """Compute the distances of each patch of [N, C, H, W] to each centre, [N, h, w, k]."""
        embedded = [self.embedded(part) for part in torch.split(grid, ROWS)]
        return torch.cat([torch.cdist(e.flatten(0, 2), self.centres).reshape(*e.shape[:3], -1) for e in embedded])

    def assigned(self, grid: Tensor) -> Tensor:
        """Assign each patch of [N, C, H, W] to a cluster, [N, h, w] int64."""
        return self.distances(grid).argmin(-1)

    def __call__(self, grid: Tensor) -> Tensor:
        """Map [N, C, H, W] to the code of each patch, [N, k, h, w]."""
        distances = self.distances(grid)
        if self.soft:
            return (distances.mean(-1, keepdim=True) - distances).relu().permute(0, 3, 1, 2)
        return F.one_hot(distances.argmin(-1), len(self.centres)).to(grid.dtype).permute(0, 3, 1, 2)


def _map(patches: Tensor, y: Tensor, classes: int, plan: LayerwisePlan, stage: int) -> Linear:
    """Learn the map of patches [N, h, w, q] before they are clustered."""
    q = patches.shape[-1]
    every = patches.reshape(-1, q)
    if plan.map == "pixels":
        return Linear(every.mean(0), torch.eye(q, dtype=every.dtype))
    if plan.map == "random":
        rng = generator(plan.seed, "random projection", stage)
        matrix = torch.randn(q, plan.channels, generator=rng, dtype=torch.float64) / plan.channels**0.5
        return Linear(every.mean(0), matrix.to(every.dtype))
    white = whitening(every)
    if plan.map == "whitened":
        return white
    learned = two_layer(white(patches).flatten(1, 2), y, classes, plan.channels, plan.steps, plan.lr, key(plan.seed, "stage", stage))
    return Linear(white.mean, white.matrix @ learned)


def learn_clustering_stage(grid: Tensor, y: Tensor, classes: int, plan: LayerwisePlan, stage: int) -> ClusteringStage:
    """Learn one stage from the output below it, [N, C, H, W], and the labels [N]."""
    found = _map(extract(grid, plan.sizes[stage]), y, classes, plan, stage)
    embedded = found(extract(grid, plan.sizes[stage])).flatten(0, 2)
    some = torch.randperm(len(embedded), generator=generator(plan.seed, "clustered", stage))[:CLUSTERED]
    k = plan.clusters[stage]
    if len(some) < k:
        raise InputError(f"{len(some)} patches cannot be put into {k} clusters")
    means = KMeans(k, n_init=STARTS, random_state=key(plan.seed, "k-means", stage) % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct patches than clusters: some stay empty
        means.fit(embedded[some].numpy())
    return ClusteringStage(plan.sizes[stage], found, torch.from_numpy(means.cluster_centers_).to(grid.dtype), plan.representation == "soft")


# --------------------------------------------------------------------------------------------------------- all stages


@dataclass(frozen=True)
class Layerwise:
    """Learned stages and the linear classifier on top."""

    stages: tuple[ClusteringStage, ...]
    top: Pipeline  # standardises, then a logistic regression

    def grids(self, images: Tensor) -> list[Tensor]:
        """Map images [N, C, H, W] to each stage's input, then the classifier's."""
        found = [images]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found

    def clusters(self, images: Tensor) -> list[Tensor]:
        """Map images [N, C, H, W] to the clusters [N, h, w] int64 of each stage's patches, bottom first."""
        return [stage.assigned(grid) for stage, grid in zip(self.stages, self.grids(images), strict=False)]

    def accuracy(self, images: Tensor, y: Tensor) -> float:
        """Compute the accuracy on images [N, C, H, W] with labels [N]."""
        return float(self.top.score(self.grids(images)[-1].flatten(1).numpy(), y.numpy()))


def learn_layerwise(
    images: Tensor, y: Tensor, plan: LayerwisePlan, classes: int | None = None, stage_labels: Tensor | None = None
) -> Layerwise:
    """Learn all stages, bottom first, each on the output of the finished one below, then the linear classifier.

    Args:
        images: [N, C, H, W] float32 or float64.
        y: [N] labels.
        plan: sizes, clusters and the rest.
        classes: how many labels there are; default: the largest + 1.
        stage_labels: [N] other labels for the stages, such as shuffled ones; the classifier on top always learns ``y``.

    Returns:
        the learned stages and the classifier on top.

    Raises:
        InputError: patches that do not fit the grid, fewer patches than clusters, labels that do not fit.

    """
    if images.ndim != 4 or y.shape != images.shape[:1] or not images.is_floating_point():
        raise InputError(f"expected float images [N, C, H, W] and labels [N], not {images.dtype} {list(images.shape)} and {list(y.shape)}")
    classes = int(y.max()) + 1 if classes is None else classes
    grid, stages = images, []
    for i in range(len(plan.sizes)):
        stages.append(learn_clustering_stage(grid, y if stage_labels is None else stage_labels, classes, plan, i))
        grid = stages[-1](grid)
    top = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (len(y) * L2), max_iter=1000))
    return Layerwise(tuple(stages), top.fit(grid.flatten(1).numpy(), y.numpy()))


# ----------------------------------------------------------------------------------------------------- what was found


def purity(clusters: Tensor, classes: Tensor) -> float:
    """Compute the share of cells in the most frequent class of their cluster: 1 where no cluster holds two classes.

    A single cluster has the share of the largest class. Integer tensors of one shape.
    """
    counts = contingency_matrix(classes.flatten().numpy(), clusters.flatten().numpy())
    return float(counts.max(0).sum() / counts.sum())


def layerwise_purities(learned: Layerwise, images: Tensor, levels: Sequence[Tensor]) -> list[float]:
    """Compute the purity of each stage's clusters, first to last, against true classes.

    Args:
        learned: from :func:`learn_layerwise`.
        images: [N, C, H, W] float, those of ``levels``.
        levels: for each stage, first to last, the true class [N, h, w] int64 of each of its patches.

    Returns:
        for each stage the share of patches in the most frequent class of their cluster, from 0 to 1.

    Raises:
        ValueError: not one level a stage, or of other shapes than the stages' patches.

    """
    return [purity(found, true) for found, true in zip(learned.clusters(images), levels, strict=True)]
