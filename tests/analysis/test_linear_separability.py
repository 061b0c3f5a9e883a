"""Strict linear separability: constructed sets, certificates checked by arithmetic that shares nothing with the solver, and Cover's law."""

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sklearn.svm import SVC

from gradlens.analysis import linear_separability, separability_proofs
from gradlens.analysis.linear_separability import NOT_SEPARABLE, SEPARABLE, UNDECIDED, certify_separability, cover_probability, row_of
from gradlens.analysis.separability_proofs import proven_bound, proven_margin
from gradlens.runtime.errors import InputError

SQUARE = torch.tensor([[0.0, 0], [1, 1], [0, 1], [1, 0]])


def feasible(x, y):
    """The oracle: some W has (w_y − w_j)·(x, 1) ≥ 1 for all j ≠ y; one inequality after another, given to a linear program."""
    classes, x = sorted(set(y.tolist())), x.double().numpy()
    rows = []
    for i, j in product(range(len(x)), classes):
        if j != int(y[i]):
            row = np.zeros((len(classes), x.shape[1] + 1))
            row[classes.index(int(y[i]))] += np.append(x[i], 1)
            row[classes.index(j)] -= np.append(x[i], 1)
            rows.append(-row.ravel())
    found = linprog(np.zeros(len(rows[0])), np.array(rows), -np.ones(len(rows)), bounds=(None, None))
    assert found.status in (0, 2)
    return found.status == 0


def gauss(n, d, classes, signal=0.0, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    y[:classes] = torch.arange(classes)
    return (torch.randn(n, d, generator=g, dtype=dtype) + signal * torch.randn(classes, d, generator=g, dtype=dtype)[y]), y


def exact(certificate, x):
    """x~ in rational arithmetic."""
    centre, scale = [Fraction(c) for c in certificate.centre.tolist()], Fraction(certificate.scale)
    return [[(Fraction(v) - c) / scale for v, c in zip(row, centre, strict=True)] + [Fraction(1)] for row in x.double().tolist()]


def exact_margin(certificate, x, y):
    """The least (w_y − w_j)·x~ of the certificate's W, in rational arithmetic."""
    W = [[Fraction(v) for v in row] for row in certificate.W.tolist()]
    z = [[sum(a * b for a, b in zip(w, row, strict=True)) for w in W] for row in exact(certificate, x)]
    own = [certificate.labels.index(int(label)) for label in y]
    return min(z[i][own[i]] - z[i][j] for i in range(len(z)) for j in range(len(W)) if j != own[i])


# ----------------------------------------------------------------------------------------------------- the three verdicts


def test_a_separator_is_one_in_rational_arithmetic_and_its_margin_is_as_claimed():
    for seed in range(4):
        x, y = gauss(12, 3, 3, signal=4, seed=seed)
        c = certify_separability(x, y)
        assert c.verdict == SEPARABLE
        assert abs(c.W[:, :-1].norm() - 1) < 1e-12
        margin = float(exact_margin(c, x, y))
        assert c.margin <= margin <= c.margin + 1e-7
        assert 0.9 * c.bound <= c.margin <= c.bound
        torch.testing.assert_close(float(c.margins(x, y).min()), margin, rtol=1e-9, atol=0)
        assert feasible(x, y)


SETS = {
    "xor": (SQUARE, [0, 0, 1, 1]),
    "xor of four classes": (torch.cat([SQUARE, SQUARE + torch.tensor([10.0, 0])]), [0, 0, 1, 1, 2, 2, 3, 3]),
    "xor in a plane of many dimensions": (torch.cat([SQUARE, torch.full((4, 50), 3.0)], 1), [0, 0, 1, 1]),
    "a point between two of another class": (torch.tensor([[0.0, 0, 1], [2, 4, 1], [1, 2, 1], [9, 0, 0]]), [0, 0, 1, 2]),
    "a third of the way": (torch.tensor([[0.0, 0], [3, 9], [1, 3], [5, 0]]), [0, 0, 1, 0]),
    "one point, two labels": (torch.tensor([[0.0, 5], [1, 2], [-0.0, 5], [3, 3]]), [0, 1, 2, 1]),
    "all points the same": (torch.ones(3, 2), [0, 1, 2]),
    "many points on a line": (torch.arange(9.0)[:, None], [0, 1, 0, 1, 0, 1, 0, 1, 0]),
}


@pytest.mark.parametrize("name", SETS)
def test_sets_built_not_to_be_separable_have_a_witness(name):
    x, y = SETS[name][0], torch.tensor(SETS[name][1])
    c = certify_separability(x, y)
    assert c.verdict == NOT_SEPARABLE
    assert not feasible(x, y)
    assert c.witness.min() >= 0
    assert abs(c.witness.sum() - 1) < 1e-12
    own = [c.labels.index(int(label)) for label in y]
    assert all(c.witness[i, k] == 0 for i, k in enumerate(own))
    assert c.residual(x, y).abs().max() < 1e-13
    slow = torch.zeros(len(c.labels), x.shape[1] + 1, dtype=torch.float64)  # Σ λ (e_y − e_j) ⊗ (x, 1), of the points as they were given
    for i, j in product(range(len(x)), range(len(c.labels))):
        full = torch.cat([x[i].double(), torch.ones(1)])
        slow[own[i]] += c.witness[i, j] * full
        slow[j] -= c.witness[i, j] * full
    assert slow.abs().max() < 1e-13 * (1 + x.abs().max())
    assert not c.any_labels
    assert row_of(c)["margin"] is None
    assert row_of(c)["gap"] == [0, 0]


def test_a_rational_witness_is_exactly_zero_in_rational_arithmetic():
    x, y = torch.tensor([[0.0, 0], [4, 12], [1, 3], [5, 0]]), torch.tensor([0, 0, 1, 0])
    c = certify_separability(x, y)
    assert "rational" in c.why
    lam = (
        [Fraction(v).limit_denominator(1000) for v in c.witness[:, 0].tolist()],
        [Fraction(v).limit_denominator(1000) for v in c.witness[:, 1].tolist()],
    )
    assert lam == ([0, 0, Fraction(1, 2), 0], [Fraction(3, 8), Fraction(1, 8), 0, 0])
    for column in ([0, 4, 1, 5], [0, 12, 3, 0], [1, 1, 1, 1]):
        assert sum(l1 * v for l1, v in zip(lam[1], column, strict=True)) == sum(l0 * v for l0, v in zip(lam[0], column, strict=True))


def test_the_linear_program_says_the_same_of_random_sets_of_all_sizes():
    found = set()
    for seed in range(24):
        classes = 2 + seed % 3
        x, y = gauss(6 + seed % 17, 1 + seed % 5, classes, signal=(seed % 4) / 2, seed=seed, dtype=torch.float32)
        c = certify_separability(x, y)
        assert c.verdict == (SEPARABLE if feasible(x, y) else NOT_SEPARABLE), seed
        found.add((c.verdict, classes))
    assert len(found) == 6


def test_small_integers_with_ties_and_coincidences():
    """Points of a small grid meet, lie between each other and touch: every verdict is the linear program's."""
    g = torch.Generator().manual_seed(1)
    verdicts = []
    for _ in range(40):
        x, y = torch.randint(3, (6, 2), generator=g).float(), torch.randint(2, (6,), generator=g)
        y[:2] = torch.tensor([0, 1])
        c = certify_separability(x, y)
        assert c.verdict == (SEPARABLE if feasible(x, y) else NOT_SEPARABLE)
        if c.W is not None:
            assert exact_margin(c, x, y) > 0
        verdicts.append(c.verdict)
    assert {SEPARABLE, NOT_SEPARABLE} == set(verdicts)


def small_sets(count, seed=0):
    """Random sets of 4 to 12 points: normal, on a small grid, and with features of very different sizes."""
    g = torch.Generator().manual_seed(seed)
    for i in range(count):
        n, d, k = (int(torch.randint(low, high, (), generator=g)) for low, high in ((4, 13), (1, 4), (2, 4)))
        x, y = torch.randn(n, d, generator=g, dtype=torch.float64), torch.randint(k, (n,), generator=g)
        y[:2] = torch.tensor([0, 1])
        yield (x, (3 * x).round(), x * torch.tensor([1e-3, 1, 1e3], dtype=torch.float64)[:d])[i % 3], y


@pytest.mark.parametrize("count", [100, pytest.param(600, marks=pytest.mark.slow)])
def test_every_witness_handed_out_is_one(count):
    """To 1e-12, from the witness and the points alone; before, it was the λ from which the exact one had been found."""
    found = []
    for x, y in [(torch.tensor([[3.0], [-1], [-2], [2]]), torch.tensor([0, 1, 0, 0])), *small_sets(count)]:
        c = certify_separability(x, y)
        if c.verdict != NOT_SEPARABLE:
            continue
        own = y[:, None] == torch.tensor(c.labels)
        assert c.witness.min() >= 0
        assert not c.witness[own].any()
        assert abs(c.witness.sum() - 1) < 1e-12
        assert c.residual(x, y).abs().max() <= 1e-12
        found.append(c.why.partition(" ")[0])
    assert len(found) > count / 2
    assert len(set(found)) == 3  # each of the three ways to find one


def test_a_witness_that_is_none_is_not_handed_out(monkeypatch):
    x, y = torch.tensor([[3.0], [-1], [-2], [2]]), torch.tensor([0, 1, 0, 0])
    monkeypatch.setattr(linear_separability, "exact_beside", lambda s, own, lam: lam)
    monkeypatch.setattr(linear_separability, "rational_witness", lambda points, own, lam: (1 - own) / (1 - own).sum())
    c = certify_separability(x, y)
    assert c.verdict == UNDECIDED
    assert c.witness is None
    s, own = ((x - c.centre) / c.scale).numpy(), np.eye(2)[y.numpy()]
    assert not separability_proofs.is_witness(s, own, (1 - own) / (1 - own).sum())
    monkeypatch.undo()
    proper = certify_separability(x, y).witness.numpy()
    assert separability_proofs.is_witness(s, own, proper)
    for broken in (-proper, 2 * proper, proper + 1e-9 * own, proper[::-1]):
        assert not separability_proofs.is_witness(s, own, broken)


CHANGED = {
    "points in another order": lambda x, y: (x.flip(0), y.flip(0)),
    "every point twice": lambda x, y: (x.repeat(2, 1), y.repeat(2)),
    "huge": lambda x, y: (x * 2.0**500, y),
    "tiny": lambda x, y: (x * 2.0**-500, y),
    "far from the origin": lambda x, y: (x + 2.0**20, y),
    "constant features": lambda x, y: (torch.cat([x, torch.full((len(x), 2), 7.3)], 1), y),
    "every feature twice": lambda x, y: (torch.cat([x, x], 1), y),
    "features of other sizes": lambda x, y: (x * torch.tensor([2.0**-40, 1, 2.0**40])[: x.shape[1]].double(), y),
}


@pytest.mark.parametrize("change", CHANGED)
def test_what_does_not_change_the_question_does_not_change_the_verdict(change):
    for x, y in small_sets(9, seed=1):
        x = (x * 2**20).round() / 2**20 if change == "far from the origin" else x  # no digit is lost in the shift
        c, other = certify_separability(x, y), certify_separability(*CHANGED[change](x, y))
        assert UNDECIDED != c.verdict == other.verdict
        if c.verdict == SEPARABLE:
            assert 0 < other.margin <= other.bound


def test_what_rounding_hides_is_undecided_and_the_interval_is_reported():
    x = torch.tensor([[0.0], [1], [1 + 2e-15], [3]], dtype=torch.float64)
    c = certify_separability(x, torch.tensor([0, 0, 1, 1]))
    assert c.verdict == UNDECIDED
    low, high = row_of(c)["gap"]
    assert low == 0
    assert 1e-15 < high < 1e-9  # the exact margin, 7e-16 · √2 of the radius, lies between
    assert c.W is None
    assert c.witness is None
    with pytest.raises(InputError, match="no separator"):
        c.margins(x, torch.tensor([0, 0, 1, 1]))
    with pytest.raises(InputError, match="no witness"):
        c.residual(x, torch.tensor([0, 0, 1, 1]))


def test_no_time_is_an_interval_and_no_error():
    x, y = gauss(300, 20, 10, signal=1)
    c = certify_separability(x, y, seconds=0)
    assert c.verdict == UNDECIDED
    assert c.bound >= 0


# -------------------------------------------------------------------------------------------------------------- margins


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_have_the_margin_of_a_hard_margin_support_vector_machine(seed):
    x, y = gauss(30, 4, 2, signal=3, seed=seed)
    c = certify_separability(x, y, tolerance=0.002)
    machine = SVC(kernel="linear", C=1e9, tol=1e-8).fit(x.numpy(), y.numpy())
    want = 2**0.5 / np.linalg.norm(machine.coef_) / c.scale
    assert 0.998 * want <= c.margin <= want * (1 + 1e-6)
    assert want * (1 - 1e-6) <= c.bound


def test_every_lambda_bounds_every_margin():
    x, y = gauss(15, 3, 3, signal=4)
    c = certify_separability(x, y, tolerance=0.01)
    s = ((x - c.centre) / c.scale).numpy()
    own = np.eye(3)[y.numpy()]
    g = np.random.default_rng(0)
    for _ in range(50):
        lam = g.exponential(size=own.shape) * (1 - own) * (g.random(own.shape) < 0.5)
        assert proven_bound(s, own, lam / lam.sum()) >= c.margin
        assert proven_margin(s, own, g.standard_normal((3, 4))) <= c.bound


def test_rotation_scale_shift_and_names_of_the_labels_change_nothing():
    x, y = gauss(25, 5, 3, signal=3)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    a, b = certify_separability(x, y, tolerance=0.01), certify_separability(1000 * x @ rotation + 7, 5 - 2 * y, tolerance=0.01)
    assert a.verdict == b.verdict == SEPARABLE
    assert abs(a.margin - b.margin) < 0.02 * a.margin
    assert b.labels == (1, 3, 5)
    assert b.margins(1000 * x @ rotation + 7, 5 - 2 * y).min() > 0
    x, y = gauss(60, 3, 3, signal=0.5)
    assert certify_separability(x, y).verdict == certify_separability(1e-3 * x @ rotation[:3, :3] - 4, y).verdict == NOT_SEPARABLE


# -------------------------------------------------------------------------------------------------------- few points, Cover


def test_affinely_independent_points_are_separable_whatever_the_labels():
    x, y = gauss(5, 4, 3)
    assert certify_separability(x, y).any_labels
    for labels in product(range(2), repeat=5):
        if len(set(labels)) == 2:
            assert certify_separability(x, torch.tensor(labels), tolerance=1).verdict == SEPARABLE
    x[0] = (x[1] + x[2]) / 2
    assert not certify_separability(x, y).any_labels
    x, y = gauss(6, 4, 3)
    assert not certify_separability(x, y).any_labels


def test_cover_counts_dichotomies():
    for n, d in product(range(1, 12), range(1, 6)):
        count = 2 * sum(comb(n - 1, k) for k in range(d + 1))
        assert abs(cover_probability(n, d) - min(1, count / 2**n)) < 1e-12
    assert cover_probability(2 * (7 + 1), 7) == pytest.approx(0.5)


def test_all_labellings_of_some_points_are_separable_as_often_as_cover_says():
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    verdicts = [
        certify_separability(x, torch.tensor(labels), tolerance=1).verdict
        for labels in product(range(2), repeat=7)
        if len(set(labels)) == 2
    ]
    assert (verdicts.count(SEPARABLE) + 2) / 2**7 == cover_probability(7, 2)  # the two constant labellings are separable too
    assert UNDECIDED not in verdicts


def test_the_row_puts_the_verdict_beside_its_counts():
    x, y = gauss(10, 4, 2, signal=5)
    row = row_of(certify_separability(x, y), block="block2")
    assert list(row) == [
        "block", "n", "features", "classes", "verdict", "why", "margin", "gap", "any_labels",
        "n_per_feature", "cover_capacity", "cover_probability",
    ]  # fmt: skip
    assert (row["block"], row["n"], row["features"], row["n_per_feature"], row["cover_capacity"]) == ("block2", 10, 4, 2.5, 10)
    assert row["cover_probability"] == pytest.approx(0.5)
    assert row["gap"][0] == row["margin"] > 0


# ---------------------------------------------------------------------------------------------------------------- proofs


def test_a_factorisation_proves_no_more_than_the_eigenvalues_allow():
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    m = q @ np.diag([1e-6, 1, 2, 3, 4, 5]) @ q.T
    m = (m + m.T) / 2
    assert separability_proofs._positive_definite(m, 0.9e-6, 0)
    assert not separability_proofs._positive_definite(m, 1.1e-6, 0)
    assert not separability_proofs._positive_definite(m, 0.5e-6, 0.6e-6)
    assert not separability_proofs._positive_definite(q[:, 1:] @ q[:, 1:].T, 0, 0)  # singular


def test_moments_are_the_sum_of_outer_products():
    x, y = gauss(9, 2, 3)
    own, full = np.eye(3)[y.numpy()], np.hstack([x.numpy(), np.ones((9, 1))])
    lam = np.random.default_rng(0).random(own.shape) * (1 - own)
    slow = np.zeros((9, 9))
    for i, j in product(range(9), range(3)):
        v = np.kron(own[i] - np.eye(3)[j], full[i])
        slow += lam[i, j] * np.outer(v, v)
    got = separability_proofs._moments(full, own, lam, separability_proofs.signed_weights(own, lam))
    np.testing.assert_allclose(got, slow[:6, :6], rtol=1e-12, atol=1e-14)


def test_a_wrong_witness_or_separator_is_not_believed(monkeypatch):
    """Whatever the solver says, a separable set gets no witness and one that is not gets no separator."""
    (x, y), (u, v) = gauss(20, 3, 2, signal=6), (SQUARE, torch.tensor([0, 0, 1, 1]))
    own = np.eye(2)[y.numpy()]
    c = certify_separability(x, y)
    s = ((x - c.centre) / c.scale).numpy()
    flat = (1 - own) / (1 - own).sum()
    assert separability_proofs.exact_beside(s, own, flat) is None
    assert separability_proofs.rational_witness(x.numpy(), own, flat) is None
    monkeypatch.setattr(linear_separability, "_path", lambda *_: iter([(np.array([[1.0, 0, 0], [-1, 0, 0]]), np.full((4, 2), 0.125))]))
    assert certify_separability(u, v).W is None


# ------------------------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("x", "y", "classes", "what"),
    [
        (torch.randn(4, 2), torch.zeros(4, dtype=torch.long), None, "two classes or more; all 4 points are of class 0"),
        (torch.tensor([[0.0], [torch.nan]]), torch.tensor([0, 1]), None, "NaN"),
        (torch.tensor([[0.0], [torch.inf]]), torch.tensor([0, 1]), None, "infinite"),
        (torch.randn(3, 2), torch.tensor([0, 1, 2]), 10, "3 points are fewer than the 10 classes"),
        (torch.randn(3, 2), torch.tensor([0, 1]), None, r"not \[3, 2\] and \[2\]"),
        (torch.randn(3, 0), torch.tensor([0, 1, 1]), None, "separability needs features"),
        (torch.tensor([[-1.7e308, 1.7e308], [1.7e308, -1.7e308]], dtype=torch.float64), torch.tensor([0, 1]), None, "too large"),
    ],
)
def test_input_that_cannot_be_used_is_reported(x, y, classes, what):
    with pytest.raises(InputError, match=what):
        certify_separability(x, y, classes)


def test_the_size_that_is_used_takes_seconds_and_is_proven():
    """Ten classes in 2,048 dimensions, float32 as activations are."""
    x, y = gauss(120, 2048, 10, dtype=torch.float32)
    c = certify_separability(x.relu(), y)
    assert c.verdict == SEPARABLE
    assert c.any_labels
    assert c.margins(x.relu(), y).min() >= c.margin
    x[5] = x[60]
    y[5], y[60] = 1, 2
    assert certify_separability(x, y).verdict == NOT_SEPARABLE
