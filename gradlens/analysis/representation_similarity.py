"""Measures of feature matrices [N, d]: similarity of two, effective rank of one, separation of its classes.

Linear CKA (Kornblith et al. 2019) by the unbiased HSIC₁ (Song et al. 2012; in batches: Nguyen et al. 2021), dissimilarity matrices
(Kriegeskorte et al. 2008) and their rank correlation, effective rank (Roy & Vetterli 2007) and participation ratio, and the scatter
between classes over the scatter within them (Fisher). Pure functions of tensors; everything is summed in float64 on the CPU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from gradlens.gradients.alignment import power_of_two
from gradlens.runtime.errors import InputError

MOST_CANCELLED = 1e6  # times what is left: where one sample outweighs all others, HSIC₁ by features is a difference of huge numbers
NEAR = 1e-3  # a smaller 1 − correlation is computed from the difference of the two vectors
DIGITS = 40  # bits of a dissimilarity that count in a rank correlation: what differs in the last 12 is rounding

# ----------------------------------------------------------------------------------------------------------------- CKA


def centred(x: Tensor, what: str) -> Tensor:
    """Return the features [N, p] in float64 on the CPU with centred columns; constant ones become exactly zero.

    Args:
        x: features [N, p].
        what: the name of the measure, for the error.

    Raises:
        InputError: other shapes, or numbers that are not finite.

    """
    if x.ndim != 2:
        raise InputError(f"{what} needs features [N, p], got {list(x.shape)}: flatten them")
    if not x.isfinite().all():
        raise InputError(f"{what}: the features hold NaN or infinite numbers")
    x = x.detach().cpu().double()
    x = x - x[:1]
    return x - x.mean(0)


def _unit(x: Tensor) -> Tensor:
    """Divide features by a power of two near their largest: squares of squares neither overflow nor vanish, and no digit changes."""
    return x / power_of_two(x)


def u_centred(gram: Tensor) -> Tensor:
    """Return a Gram matrix [n, n] without its diagonal, centred so that ⟨Ã, B̃⟩ / (n(n−3)) is HSIC₁ (Székely & Rizzo 2014, eq. 2.1)."""
    n = len(gram)
    a = gram.clone().fill_diagonal_(0)
    rows = a.sum(0) / (n - 2)
    a += a.sum() / ((n - 1) * (n - 2)) - rows[:, None] - rows
    return a.fill_diagonal_(0)


def must_be_enough(n: int, unbiased: bool) -> None:
    """Check that a batch has the samples that an estimate of HSIC divides by.

    Raises:
        InputError: fewer than 4 (biased: 2).

    """
    if n < (4 if unbiased else 2):
        raise InputError(f"{'unbiased ' * unbiased}CKA needs {4 if unbiased else 2} samples or more in a batch, got {n}")


def _hsics_of_grams(k: Tensor, j: Tensor, unbiased: bool) -> Tensor:
    """Return (xy, xx, yy) of the centred Gram matrices K and J [n, n]."""
    n = len(k)
    if unbiased:
        k, j = u_centred(k), u_centred(j)
    scale = n * (n - 3) if unbiased else (n - 1) ** 2
    return torch.stack([(k * j).sum(), (k * k).sum(), (j * j).sum()]) / scale


def _hsic_of_features(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """Return HSIC of centred features [n, p] and [n, q] without an n × n matrix: tr(K̃L̃) = ‖XᵀY‖² − Σ |x_i|² |y_i|² and so on."""
    n = len(x)
    if not unbiased:
        return (x.T @ y).square().sum() / (n - 1) ** 2
    xx, yy = x.square().sum(1), y.square().sum(1)
    k1, l1 = x @ x.sum(0) - xx, y @ y.sum(0) - yy  # row sums of K̃ and L̃
    trace = (x.T @ y).square().sum() - (xx * yy).sum()
    return (trace + k1.sum() * l1.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k1 * l1).sum()) / (n * (n - 3))


def _hsics(x: Tensor, y: Tensor, unbiased: bool) -> Tensor:
    """Return (HSIC(x, y), HSIC(x, x), HSIC(y, y)) by features or by Gram matrices, whichever takes fewer products."""
    (n, p), q = x.shape, y.shape[1]
    if p * q + p * p + q * q < n * (p + q):
        found = torch.stack([_hsic_of_features(a, b, unbiased) for a, b in ((x, y), (x, x), (y, y))])
        diagonals = torch.stack([z.square().sum(1).square().sum() for z in (x, y)])
        if not unbiased or bool((diagonals <= MOST_CANCELLED * n * (n - 3) * found[1:]).all()):
            return found
    return _hsics_of_grams(x @ x.T, y @ y.T, unbiased)


def folds(n: int, batch: int | None) -> list[slice]:
    """Return the fewest batches of at most so many, equal but for one."""
    parts = torch.arange(n).tensor_split(max(1, math.ceil(n / batch)) if batch else 1)
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = True, batch: int | None = None) -> float:
    """Return linear centred kernel alignment HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)) of two representations of the same N samples.

    Biased: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) with centred columns (Kornblith et al. 2019), in [0, 1], about p/N or more for independent features.
    Unbiased: with HSIC₁ (Song et al. 2012, eq. 5), at most 1, about 0 for independent features and then also below it. It does not
    change under orthogonal maps, isotropic scaling and shifts of either side. Sums are taken in float64.

    Args:
        x: features [N, p].
        y: features [N, q] of the same samples in the same order.
        unbiased: HSIC₁ instead of the biased estimate.
        batch: average the HSICs over batches of at most so many samples, then divide (Nguyen et al. 2021); None: one batch.

    Returns:
        the alignment; NaN where a side is constant.

    Raises:
        InputError: other shapes, numbers that are not finite, fewer than 4 samples in a batch (biased: 2).

    """
    if len(x) != len(y):
        raise InputError(f"CKA compares representations of the same samples, got {len(x)} and {len(y)}")
    a, b = _unit(centred(x, "CKA")), _unit(centred(y, "CKA"))
    total = torch.zeros(3, dtype=torch.float64)
    for part in folds(len(a), batch):
        must_be_enough(part.stop - part.start, unbiased)
        total += _hsics(centred(a[part], "CKA"), centred(b[part], "CKA"), unbiased)
    found = alignment(*total.tolist())
    return found if unbiased else max(found, 0.0)  # in this order NaN stays


def alignment(xy: float, xx: float, yy: float) -> float:
    """Return CKA of (averaged) HSICs, in [-1, 1], exactly 1 of a side with itself; NaN where a side is constant."""
    return max(-1.0, min(1.0, xy / yy / math.sqrt(xx / yy))) if xx > 0 and yy > 0 else math.nan


# ----------------------------------------------------------------------------------------------------------------- RDM


def rdm(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return the representational dissimilarity matrix [N, N]: 1 − Pearson's correlation of two samples' activation vectors.

    Symmetric, in [0, 2], zero on the diagonal and for equal samples; a sample's vector may be shifted and scaled (by a positive number).
    Small ones are computed from the difference of the two vectors, 1 − cos = ½ |u − v|² of unit vectors, and keep their digits.

    Args:
        x: activations [N, d].
        y: labels [N] by which the samples are put in order (a stable one); None: as they come.

    Returns:
        float64, on the CPU; NaN (but for the diagonal) where a sample's vector is constant, which has no correlation.

    Raises:
        InputError: other shapes, or numbers that are not finite.

    """
    order = torch.arange(len(x)) if y is None else y.cpu().argsort(stable=True)
    z = centred(x.flatten(1).T, "an RDM").T[order]
    z = z / z.abs().amax(1, keepdim=True)  # so that squares of tiny activations do not vanish; 0 / 0 is NaN
    z = z / z.norm(dim=1, keepdim=True)
    product = z @ z.T
    found: Tensor = (1 - (product + product.T) / 2).clamp(0, 2).fill_diagonal_(0)  # some BLAS round the two halves differently
    near = (found < NEAR).triu(1)
    for i in near.any(1).nonzero()[:, 0]:
        others = near[i].nonzero()[:, 0]
        found[i, others] = found[others, i] = (z[others] - z[i]).square().sum(1) / 2
    return found


def rdm_correlation(a: Tensor, b: Tensor) -> float:
    """Compute Spearman's rank correlation of two dissimilarity matrices' entries above the diagonal.

    Pairs of samples without a number in one of them are left out. Entries that differ by rounding only (12 digits are equal) are ties.

    Args:
        a: [N, N], from :func:`rdm`.
        b: [N, N], of the same samples in the same order.

    Returns:
        the correlation, from −1 to 1; NaN where the entries of one matrix are all equal, or fewer than two pairs are left.

    Raises:
        InputError: matrices of different sizes.

    """
    if a.shape != b.shape or a.ndim != 2:
        raise InputError(f"dissimilarity matrices of the same samples have one size, got {list(a.shape)} and {list(b.shape)}")
    above = torch.ones_like(a, dtype=torch.bool).triu(1) & a.isfinite() & b.isfinite()
    p, q = (_without_rounding(matrix[above]) for matrix in (a, b))
    if len(p) < 2 or p.min() == p.max() or q.min() == q.max():
        return math.nan
    return float(spearmanr(p.numpy(), q.numpy()).statistic)


def _without_rounding(x: Tensor) -> Tensor:
    """Round numbers to 12 significant digits."""
    mantissa, exponent = torch.frexp(x.double())
    return torch.from_numpy(np.ldexp((mantissa * 2.0**DIGITS).round().numpy(), exponent.numpy() - DIGITS))


# ------------------------------------------------------------------------------------------------- spread, separation


def spectrum(x: Tensor) -> Tensor:
    """Return singular values of features [N, d] with centred columns, largest first, float64.

    They are roots of eigenvalues of the smaller Gram matrix; what is below its rounding error, some 1e-6 of the largest, is exactly zero.

    Raises:
        InputError: other shapes, or numbers that are not finite.

    """
    c = centred(x, "a spectrum")
    largest = c.abs().max()
    if largest == 0:
        return torch.zeros(min(c.shape), dtype=torch.float64)
    c = c / largest  # so that squares of tiny activations do not vanish
    squares = torch.linalg.eigvalsh(c @ c.T if c.shape[0] <= c.shape[1] else c.T @ c).flip(0)
    rounding = squares[0] * len(squares) * torch.finfo(torch.float64).eps
    return largest * torch.where(squares > rounding, squares, 0.0).sqrt()


def effective_rank(singular: Tensor) -> float:
    """Compute the effective rank exp(H(σ / Σσ)) of singular values σ, H the entropy (Roy & Vetterli 2007).

    Args:
        singular: [k] singular values, 0 or more, such as those of centred features.

    Returns:
        from 1 to the number of values that are not 0: r for r equal ones; 0 where all are zero.

    """
    count = int((singular > 0).sum())
    if not count:
        return 0.0
    p = singular / singular.max()
    return min(max(1.0, math.exp(float(torch.special.entr(p / p.sum()).sum()))), float(count))


def participation_ratio(singular: Tensor) -> float:
    """Compute the participation ratio (Σσ²)² / Σσ⁴ of singular values σ: over how many directions the variance is spread.

    Args:
        singular: [k] singular values, 0 or more, such as those of centred features.

    Returns:
        from 1 to the number of values that are not 0; 0 where all are zero.

    """
    count = int((singular > 0).sum())
    if not count:
        return 0.0
    v = (singular / singular.max()).square()
    return min(max(1.0, float(v.sum() ** 2 / v.square().sum())), float(count))


def fisher_ratio(x: Tensor, y: Tensor, classes: int | None = None) -> float:
    """Compute scatter between classes over scatter within: Σ n_c |m_c − m|² / Σ |x_i − m_{y_i}|², the traces of Fisher's two matrices.

    Not bounded above (infinite where each class is one point). N samples in K classes that are all alike give (K − 1) / (N − K) on
    average, so only numbers from the same count of samples can be compared. It changes under maps that are not orthogonal.

    Args:
        x: features [N, d].
        y: labels [N].
        classes: how many classes there are meant to be; None: those that occur.

    Returns:
        the ratio, 0 or more; infinite where each class is one point, NaN where all samples are.

    Raises:
        InputError: one class only, fewer samples than classes, numbers that are not finite.

    """
    found, first, at = (torch.from_numpy(a) for a in np.unique(y.cpu().numpy(), return_index=True, return_inverse=True))
    if len(found) < 2:
        raise InputError(f"class separation needs two classes or more; all {len(y)} samples are of one")
    if len(y) < (classes or len(found)):
        raise InputError(f"{len(y)} samples are fewer than the {classes} classes")
    c = _unit(centred(x, "class separation"))
    inside = c - c[first][at]  # exactly zero in a class that is one point
    sums = torch.zeros(len(found), c.shape[1], dtype=torch.float64).index_add_(0, at, inside)
    means = sums / at.bincount()[:, None]
    within, between = float((inside - means[at]).square().sum()), float((c[first] + means)[at].square().sum())
    return between / within if within > 0 else math.inf if between > 0 else math.nan
