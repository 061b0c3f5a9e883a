"""Proofs of separability in floating-point numbers: margins, bounds and witnesses, as defined in :mod:`.linear_separability`."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, qr

Array = NDArray[np.float64]
LARGEST_MATRIX = 3000  # rows of M: 72 MB, a second to factorise
RESIDUAL = 1e-12  # in no entry of a witness's residual there is more
CORRECTIONS = 3  # of a λ that is to become a witness
LARGEST_SUPPORT = 100  # of a witness that is checked in rational arithmetic


def signed_weights(own: Array, lam: Array) -> Array:
    """Return Σ_j λ_ij (e_y − e_j) for every i: [n, classes]."""
    signed: Array = own * lam.sum(1, keepdims=True) - lam
    return signed


def difference_vectors(s: Array, own: Array) -> Array:
    """Return all v_ij as rows [n · (classes − 1), (classes − 1) · (d + 1)], the last class's part left out: the parts sum to zero."""
    n, classes = own.shape
    signs = own[:, None, :] - np.eye(classes)[None]  # [n, j, classes]: e_y − e_j
    full = np.hstack([s, np.ones((n, 1))])
    rows = np.einsum("ijk,id->ijkd", signs[:, :, :-1], full).reshape(n, classes, -1)
    picked: Array = rows[own == 0]
    return picked


def _gamma(m: int) -> float:
    """Return γ_m, doubled so that the rounding of the bounds themselves is paid for."""
    m *= 2
    u = float(np.finfo(np.float64).eps) / 2
    return m * u / (1 - m * u)


class Best:
    """The largest margin proven and the least bound proven so far."""

    def __init__(self, bound: float = np.inf) -> None:
        self.margin, self.bound = 0.0, bound
        self.W: Array | None = None

    def see(self, s: Array, own: Array, w: Array, lam: Array) -> bool:
        """Try another w and λ; return whether either is better than the best so far."""
        margin, bound = proven_margin(s, own, w), proven_bound(s, own, lam)
        better = margin > self.margin or bound < self.bound
        if margin > self.margin:
            self.margin, self.W = margin, w / np.linalg.norm(w[:, :-1])
        self.bound = min(self.bound, bound)
        return better


def proven_margin(s: Array, own: Array, w: Array) -> float:
    """Return a number that the exact margin of w on s [n, d] is not below."""
    length = float(np.linalg.norm(w[:, :-1]))
    if length == 0 or not np.isfinite(length):
        return -np.inf
    w = w / length
    z, size = s @ w[:, :-1].T + w[:, -1], np.abs(s) @ np.abs(w[:, :-1].T) + np.abs(w[:, -1])
    mine, mine_size = (z * own).sum(1, keepdims=True), (size * own).sum(1, keepdims=True)
    error = _gamma(s.shape[1] + 8) * (mine_size + size) + s.shape[1] * np.finfo(np.float64).tiny
    least = float((mine - z - error)[own == 0].min())
    return least * (1 - 1e-9) if least > 0 else least  # ‖A‖ is 1 up to rounding


def proven_bound(s: Array, own: Array, lam: Array) -> float:
    """Return a number that no margin on s [n, d] is above, from λ [n, classes] with sum 1."""
    signed = signed_weights(own, lam)
    error = _gamma(own.size + 8) * 4
    return (float(np.linalg.norm(signed.T @ s)) + 2**0.5 * float(np.abs(signed.sum(0)).sum())) * (1 + 1e-9) + error


def _positive_definite(m: Array, floor: float, error: float) -> bool:
    """Return whether the exact matrix, known up to ``error`` in norm, is proven ⪰ floor · I: its Cholesky factorisation, shifted, succeeds.

    If it does, the matrix that was factorised is ⪰ −γ_{n+1} / (1 − γ_{n+1}) · trace (Higham 2002, theorem 10.3; Rump, BIT 46, 2006).
    """
    trace, n = float(np.trace(m)), len(m)
    shift = floor + error + _gamma(n + 4) * trace
    try:
        np.linalg.cholesky(m - shift * np.eye(n))
    except np.linalg.LinAlgError:
        return False
    return True


def affinely_independent(s: Array) -> bool:
    """Return whether the points are proven affinely independent: the Gram matrix of (x~, 1) is positive definite."""
    n, d = s.shape
    if n > d + 1:
        return False
    full = np.hstack([s, np.ones((n, 1))])
    return _positive_definite(full @ full.T, 0.0, _gamma(d + 8) * 2 * n)


def residual(s: Array, own: Array, lam: Array) -> Array:
    """Return Σ λ_ij (e_y − e_j) ⊗ (x~_i, 1): [classes, d + 1]."""
    left: Array = signed_weights(own, lam).T @ np.hstack([s, np.ones((len(s), 1))])
    return left


def is_witness(s: Array, own: Array, lam: Array) -> bool:
    """Return whether λ [n, classes] is handed out: not negative, 0 at the own class, sum 1, no entry of the residual above ``RESIDUAL``."""
    proper = lam.min() >= 0 and not (lam * own).any() and abs(lam.sum() - 1) <= RESIDUAL
    return bool(proper and np.abs(residual(s, own, lam)).max() <= RESIDUAL)


def exact_beside(s: Array, own: Array, lam: Array) -> Array | None:
    """Return λ > 0 corrected to a residual at rounding level, if an exact witness is proven to lie beside it; see the module.

    The correction is exact but for rounding. It is made again where M is so ill-conditioned that rounding is much.
    """
    full = np.hstack([s[:, s.any(0)], np.ones((len(s), 1))])  # constant columns duplicate the bias
    full = full / np.sqrt((full**2).mean(0))  # any scaling of columns does: this one keeps M well conditioned
    (n, classes), rows = own.shape, (own.shape[1] - 1) * full.shape[1]
    if rows > LARGEST_MATRIX or n * (classes - 1) <= rows:
        return None
    radius = float(np.linalg.norm(full, axis=1).max())
    for _ in range(CORRECTIONS + 1):
        signed = signed_weights(own, lam)
        r = (signed[:, :-1].T @ full).ravel()
        moments = _moments(full, own, lam, signed)
        if is_witness(s, own, lam):
            needed = 2 * 2**0.5 * radius * (float(np.linalg.norm(r)) + _gamma(n * classes + 8) * 2 * radius)
            if _positive_definite(moments, needed, _gamma(n + classes + 16) * 2 * radius**2):
                return lam
        try:
            u = cho_solve(cho_factor(moments, lower=True), r)
        except np.linalg.LinAlgError:
            return None
        along = full @ np.vstack([u.reshape(classes - 1, -1), np.zeros((1, full.shape[1]))]).T
        factor = 1 - ((along * own).sum(1, keepdims=True) - along)
        if factor[own == 0].min() <= 0:
            return None
        lam = lam * factor / (lam * factor).sum()
    return None


def _moments(full: Array, own: Array, lam: Array, signed: Array) -> Array:
    """Return M = Σ λ_ij v_ij v_ijᵀ, without the last class's part."""
    classes = own.shape[1] - 1
    blocks = [[np.empty(0)] * classes for _ in range(classes)]
    for a in range(classes):
        blocks[a][a] = full.T @ (np.abs(signed[:, a, None]) * full)
        for b in range(a):
            weight = own[:, a] * lam[:, b] + own[:, b] * lam[:, a]
            blocks[a][b] = blocks[b][a] = -full.T @ (weight[:, None] * full)
    return np.block(blocks)


def rational_witness(points: Array, own: Array, lam: Array) -> Array | None:
    """Return λ on the support of a basic solution, solved and checked in rational arithmetic; None if it is no exact witness."""
    used = np.argwhere(lam > 1e-9)
    if len(used) > LARGEST_SUPPORT:
        return None
    mask = np.zeros_like(own)
    mask[tuple(used.T)] = 1
    columns = [v for v, here in zip(difference_vectors(points, own), mask[own == 0], strict=True) if here]
    table = np.array(columns)
    table = table / np.maximum(np.abs(table).max(0), np.finfo(np.float64).tiny)  # no equation counts for more because of its units
    order = qr(table, pivoting=True, mode="r")[1] if len(columns) > 1 else range(len(columns[0]))
    exact = [[Fraction(float(column[row])) for column in columns] for row in order]  # entries are ± those of the points: exact
    weights = _null_vector(exact[: len(columns) - 1])
    if weights is None or min(weights) <= 0 or any(sum(w * a for w, a in zip(weights, row, strict=True)) for row in exact):
        return None
    found = np.zeros_like(own)
    found[own == 0] = _spread(mask[own == 0], [float(w / sum(weights)) for w in weights])
    return found


def _spread(mask: Array, values: list[float]) -> Array:
    """Return the values where the mask is set."""
    spread = np.zeros_like(mask)
    spread[mask > 0] = values
    return spread


def _null_vector(rows: list[list[Fraction]]) -> list[Fraction] | None:
    """Return the vector with last entry 1 that k independent equations in k + 1 unknowns leave; None if they are not independent."""
    k, rows = len(rows), [list(row) for row in rows]
    for c in range(k):
        pivot = next((i for i in range(c, k) if rows[i][c]), None)
        if pivot is None:
            return None
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [a / rows[c][c] for a in rows[c]]
        for i in range(k):
            if i != c and rows[i][c]:
                rows[i] = [a - rows[i][c] * b for a, b in zip(rows[i], rows[c], strict=True)]
    return [-row[k] for row in rows] + [Fraction(1)]
