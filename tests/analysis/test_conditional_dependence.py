"""Conditional dependence of two views and what a pretext task saves: slow code in float64, and the laws of Lee et al. (2021)."""

import json
import math
import sys
from argparse import Namespace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from gradlens.analysis.theory.conditional_dependence import (
    AffineArrays,
    ViewMixture,
    _dealings,
    conditional_dependence,
    fit_affine,
    principal,
)
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import plain

sys.path.append(str(Path(__file__).resolve().parents[2]))  # analyses/ is no part of the installed package
from analyses import predicting


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def views(n=60, d1=4, d2=3, classes=3, strength=0.5, seed=0):
    """Two dependent views of classes that are not of one size."""
    g = np.random.default_rng(seed)
    y = np.minimum(g.integers(0, 2 * classes, n), classes - 1)
    x1 = g.standard_normal((n, d1)) @ g.standard_normal((d1, d1)) + 3 * g.standard_normal((classes, d1))[y] + 5
    x2 = strength * x1 @ g.standard_normal((d1, d2)) + g.standard_normal((n, d2)) + 2 * g.standard_normal((classes, d2))[y] - 7
    return x1, x2, y


# --------------------------------------------------------------------------------------------------- the estimate and its bias


def slow_eps(x1, x2, y):
    """The definition, term by term: S12 − S1Y S_YY⁺ S_Y2 with one-hot labels, whitened by a matrix square root."""
    n = len(y)
    onehot = np.array([[float(label == c) for c in sorted(set(y))] for label in y])

    def cov(a, b):
        out = np.zeros((a.shape[1], b.shape[1]))
        for i in range(n):
            out += np.outer(a[i] - a.mean(0), b[i] - b.mean(0)) / n
        return out

    partial = cov(x1, x2) - cov(x1, onehot) @ np.linalg.pinv(cov(onehot, onehot)) @ cov(onehot, x2)
    return float(np.linalg.norm(np.linalg.inv(sqrtm(cov(x1, x1))).real @ partial))


def slow_bias(x1, x2, y):
    """‖P U‖² tr Σ / N with projections as N × N matrices and a library's regression."""
    n = len(y)
    onehot = np.array([[float(label == c) for c in sorted(set(y))] for label in y])
    c = x1 - x1.mean(0)
    onto_x1 = c @ np.linalg.inv(c.T @ c) @ c.T
    within = np.eye(n) - onehot @ np.linalg.inv(onehot.T @ onehot) @ onehot.T
    both = np.hstack([x1, onehot])
    residual = x2 - LinearRegression(fit_intercept=False).fit(both, x2).predict(both)
    return float(np.trace(within @ onto_x1 @ within)) * (residual**2).sum() / (n - both.shape[1]) / n


@pytest.mark.parametrize(("n", "d1", "d2", "classes"), [(60, 4, 3, 3), (25, 1, 5, 2), (40, 6, 1, 1), (30, 3, 8, 5)])
def test_the_estimate_is_the_definition(n, d1, d2, classes):
    x1, x2, y = views(n, d1, d2, classes)
    found = conditional_dependence(x1, x2, y)
    assert found.eps == pytest.approx(slow_eps(x1, x2, y), rel=1e-9)
    assert found.bias == pytest.approx(slow_bias(x1, x2, y), rel=1e-9)
    assert found.corrected == pytest.approx(math.sqrt(max(found.eps**2 - found.bias, 0)), rel=1e-12)
    within = sum(((x2[y == c] - x2[y == c].mean(0)) ** 2).sum() for c in set(y)) / n
    assert found.share == pytest.approx((found.eps**2 - found.bias) / within, rel=1e-9)
    assert found.eps**2 <= within
    assert (found.n, found.classes, found.rank) == (n, len(set(y)), d1)
    assert math.isnan(found.null)
    assert math.isnan(found.p)


def test_the_correction_is_unbiased_given_x1_and_the_labels():
    n, g = 40, np.random.default_rng(1)
    x1, _, y = views(n, 6, 5, 3)
    mean = 0.15 * x1 @ g.standard_normal((6, 5)) + g.standard_normal((3, 5))[y]
    noise = g.standard_normal((5, 5))
    want = slow_eps(x1, mean, y) ** 2
    found = [conditional_dependence(x1, mean + g.standard_normal((n, 5)) @ noise, y) for _ in range(400)]
    corrected = np.array([f.eps**2 - f.bias for f in found])
    error = corrected.std(ddof=1) / 20
    assert abs(corrected.mean() - want) < 3.5 * error
    assert np.mean([f.eps**2 for f in found]) - want > 10 * error  # or there would be nothing to correct


def test_independent_views_have_nothing_but_bias():
    found = [conditional_dependence(gaussian(300, 10, seed=i), gaussian(300, 8, seed=1000 + i), np.arange(300) % 3) for i in range(60)]
    squares = np.array([f.eps**2 - f.bias for f in found])
    assert abs(squares.mean()) < 3.5 * squares.std(ddof=1) / math.sqrt(60)
    assert np.mean([f.eps**2 for f in found]) == pytest.approx(10 * 8 / 300, rel=0.1)


def test_it_does_not_see_what_the_definition_does_not():
    x1, x2, y = views(80, 4, 3, 3)
    found = conditional_dependence(x1, x2, y, shuffles=19)

    def same(a, b, labels, scale=1.0):
        other = conditional_dependence(a, b, labels, shuffles=19)
        assert other.eps == pytest.approx(scale * found.eps, rel=1e-8)
        assert other.bias == pytest.approx(scale**2 * found.bias, rel=1e-8)
        assert other.share == pytest.approx(found.share, rel=1e-8)
        assert other.p == found.p

    same(x1 @ gaussian(4, 4) * [1, 1e3, 1e-2, 1] - 1e3, x2, y)  # invertible affine maps of x1
    same(np.hstack([x1, x1[:, :2] - x1[:, 2:], np.full((80, 1), 0.1)]), x2, y)  # directions that are there already, or constant
    same(x1, x2 @ np.linalg.qr(gaussian(3, 3))[0] + 1e4, y)  # rotations and shifts of x2
    same(x1, 1e-3 * x2, y, scale=1e-3)
    same(x1, x2 + 50 * gaussian(3, 3)[y], y)  # shifts of x2 that depend on the class
    same(x1, x2, np.array(["a", "b", "c"])[y])
    same(torch.from_numpy(x1).requires_grad_(), torch.from_numpy(x2).reshape(80, 1, 3, 1), torch.from_numpy(y))
    order = np.random.default_rng(0).permutation(80)
    assert conditional_dependence(x1[order], x2[order], y[order]).eps == pytest.approx(found.eps, rel=1e-10)
    assert conditional_dependence(x1 * [1, 1, 1, 0], x2, y).eps < 0.95 * found.eps  # losing a direction is seen


def test_a_view_that_is_a_function_of_the_other_and_the_label():
    x1, _, y = views(50, 4, 3, 3)
    x2 = x1 @ gaussian(4, 3) + gaussian(3, 3, seed=1)[y]
    found = conditional_dependence(x1, x2, y, shuffles=99)
    assert found.bias == pytest.approx(0, abs=1e-12)
    assert found.p == 0.01
    assert 0 < found.share <= 1
    without_labels = conditional_dependence(x1, x1 @ gaussian(4, 3), np.zeros(50))
    assert without_labels.share == pytest.approx(1, rel=1e-10)


def test_views_that_the_label_settles_are_independent_given_it():
    x1, x2, y = views(50, 4, 3, 3)
    for a, b in ((x1, gaussian(3, 3)[y]), (gaussian(3, 4)[y], x2)):
        found = conditional_dependence(a, b, y, shuffles=9)
        assert found.eps == pytest.approx(0, abs=1e-12)
    assert math.isnan(conditional_dependence(x1, np.ones((50, 2)), y).share)


def test_a_dealing_stays_in_its_class_and_all_dealings_are_equally_likely():
    at = np.array([1, 0, 1, 0, 1])
    counts = {}
    for order in _dealings(at, 6000, seed=3):
        assert (at[order] == at).all()
        counts[tuple(order)] = counts.get(tuple(order), 0) + 1
    assert len(counts) == 12
    assert min(counts.values()) > 500 - 4 * math.sqrt(500)
    assert max(counts.values()) < 500 + 4 * math.sqrt(500)


def test_p_is_the_share_of_all_dealings_that_look_as_dependent():
    x1, x2, y = views(9, 1, 2, 2, strength=0.3, seed=5)
    groups = [np.flatnonzero(y == c) for c in (0, 1)]
    own, all_ = slow_eps(x1, x2, y), []
    for orders in product(*(list(permutations(g))[:: max(1, math.factorial(len(g)) // 120)] for g in groups)):
        dealt = x2.copy()
        for g, order in zip(groups, orders, strict=True):
            dealt[g] = x2[list(order)]
        all_.append(slow_eps(x1, dealt, y))
    exact = np.mean([e >= own - 1e-12 for e in all_])
    found = conditional_dependence(x1, x2, y, shuffles=1999)
    assert 0.02 < exact < 0.98
    assert found.p == pytest.approx(exact, abs=0.05)
    assert found.null == pytest.approx(np.mean(all_), rel=0.05)


def test_p_is_uniform_where_the_views_are_independent():
    ps = [
        conditional_dependence(gaussian(30, 3, seed=i) ** 3, gaussian(30, 2, seed=500 + i) ** 3, np.arange(30) % 2, shuffles=19, seed=i).p
        for i in range(200)
    ]
    assert np.mean(ps) == pytest.approx(0.525, abs=3.5 * 0.288 / math.sqrt(200))  # uniform on 0.05, 0.1, … 1
    assert np.mean(np.array(ps) <= 0.1) < 0.1 + 3.5 * math.sqrt(0.09 / 200)


def test_the_numbers_of_the_documentation():
    images, labels = load_digits(return_X_y=True)
    upper, lower = images[:, :32], images[:, 32:]
    found = conditional_dependence(upper, lower, labels, shuffles=99)
    assert (round(found.corrected, 2), round(found.share, 3), found.p) == (8.28, 0.19, 0.01)
    alone = conditional_dependence(upper, lower, np.zeros(len(labels)))
    assert (round(found.corrected**2), round(alone.corrected**2)) == (69, 220)
    page = (Path(__file__).resolve().parents[2] / "docs" / "analyses" / "theory.md").read_text(encoding="utf-8")
    assert "print(found.corrected, found.share, found.p)  # 8.28, 0.190, 0.01" in page
    assert "220 where all digits count as one class and 69 given the label" in " ".join(page.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x1, x2, y: (x1[:-1], x2, y), "of the same samples"),
        (lambda x1, x2, y: (x1, x2, y[:, None]), "of the same samples"),
        (lambda x1, x2, y: (x1, np.where(x2 > x2.mean(), np.nan, x2), y), "NaN or infinite"),
        (lambda x1, x2, y: (np.ones_like(x1), x2, y), "x1 is constant"),
        (lambda x1, x2, y: (x1[:0], x2[:0], y[:0]), "no samples"),
        (lambda x1, x2, y: (np.float64(1), x2, y), "no samples"),
        (lambda x1, x2, y: (x1, x2, np.arange(len(y))), "too few"),
        (lambda x1, x2, y: (gaussian(len(y), 57), x2, y), "take principal components"),
        (lambda x1, x2, y: (x1, x2, y, -1), "shuffles are 0 or more"),
        (lambda x1, x2, y: (x1, [["a"]] * len(y), y), "x2 is no array of numbers"),
        (lambda x1, x2, y: (x1, x2, np.where(y == 1, np.nan, y)), "labels hold NaN"),
    ],
)
def test_what_cannot_be_used_is_reported(change, said):
    with pytest.raises(InputError, match=said):
        conditional_dependence(*change(*views()))


# ----------------------------------------------------------------------------------------------------- linear predictors


def test_least_squares_is_the_closed_form_and_the_library():
    x, t = gaussian(70, 5) + 3, gaussian(70, 2, seed=1)
    found = fit_affine(x, t)
    s = np.cov(np.hstack([x, t]).T)
    np.testing.assert_allclose(found.weight, s[5:, :5] @ np.linalg.inv(s[:5, :5]), rtol=1e-9)
    library = LinearRegression().fit(x, t)
    np.testing.assert_allclose(found(x), library.predict(x), rtol=1e-9)
    np.testing.assert_allclose(found.after(AffineArrays(2 * np.eye(5), np.ones(5)))(x), library.predict(2 * x + 1), rtol=1e-9)
    nearly = np.hstack([x, x @ gaussian(5, 3) * (1 + 1e-13 * gaussian(70, 3))])  # a rank that rounding errors fill up
    np.testing.assert_allclose(fit_affine(nearly, t)(nearly), library.predict(x), rtol=1e-6)
    assert np.abs(fit_affine(nearly, t).weight).max() < 10


def test_principal_components_are_the_librarys():
    x = gaussian(50, 6) + 1
    psi = AffineArrays(gaussian(4, 6, seed=1), gaussian(4, seed=2))
    found = principal(psi, x, 2)(x)
    library = PCA(2).fit_transform(psi(x))
    np.testing.assert_allclose(np.abs(found - found.mean(0)), np.abs(library), rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------- closed forms of the mixture

ALPHAS = (0.0, 0.1, 0.25, 0.5, 1.0)


def overlapping(alpha=0.3, d1=3, d2=2, k=3, seed=0):
    return ViewMixture.random(k, alpha, d1, d2, spread=2.0, seed=seed)


@pytest.mark.parametrize(("d1", "d2"), [(3, 2), (2, 4)])
def test_conditional_expectations_term_by_term(d1, d2):
    m = overlapping(d1=d1, d2=d2)
    x = m.draw(20, 0).x1
    for row, f, psi, through in zip(x, m.posterior(x), m.psi(x), m.psi_through_label(x), strict=True):
        density = [multivariate_normal.pdf(row, mean=c) for c in m.mu1]
        r = [d / sum(density) for d in density]

        def cut(v):
            return np.array([v[j] if j < d1 else 0.0 for j in range(d2)])

        assert f == pytest.approx(r, rel=1e-9)
        assert psi == pytest.approx(sum(r[i] * (0.7 * m.mu2[i] + 0.3 * cut(row)) for i in range(3)), rel=1e-9)
        assert through == pytest.approx(sum(r[i] * (0.7 * m.mu2[i] + 0.3 * cut(m.mu1[i])) for i in range(3)), rel=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_conditional_expectations_against_draws(alpha):
    """What is left of X2 and Y after them is uncorrelated with every function of X1."""
    m = overlapping(alpha)
    s = m.draw(100_000, 1)
    class_means = (1 - alpha) * m.mu2 + alpha * m.mu1[:, :2]
    for c in range(3):
        assert np.abs(s.x2[s.y == c].mean(0) - class_means[c]).max() < 4.5 / math.sqrt((s.y == c).sum())
    tests = np.hstack([np.ones((len(s.y), 1)), s.x1, s.x1**2, np.sin(3 * s.x1), np.abs(s.x1 - 1)])
    for left in (s.x2 - m.psi(s.x1), s.onehot(3) - m.posterior(s.x1), class_means[s.y] - m.psi_through_label(s.x1)):
        for column, test in product(left.T, tests.T):
            terms = column * test
            assert abs(terms.mean()) <= 4.5 * terms.std() / math.sqrt(len(terms))


def test_the_draws_are_those_of_the_paper():
    m = ViewMixture.random(4, 0.3, 5, 3, seed=2)
    s, independent = m.draw(40_000, 0), ViewMixture.random(4, 0.0, 5, 3, seed=2).draw(40_000, 0)
    assert 0 <= m.mu1.min() < 2 < 8 < m.mu1.max() < 10
    assert (s.x1 == independent.x1).all()
    np.testing.assert_allclose(s.x2, 0.7 * independent.x2 + 0.3 * s.x1[:, :3], rtol=1e-12)
    assert np.bincount(s.y) == pytest.approx([10_000] * 4, abs=4 * math.sqrt(7500))
    for x, mu in ((s.x1, m.mu1), (independent.x2, m.mu2)):
        left = x - mu[s.y]
        np.testing.assert_allclose(np.cov(left.T), np.eye(left.shape[1]), atol=0.035)
    left = np.hstack([s.x1 - m.mu1[s.y], independent.x2 - m.mu2[s.y]])
    assert np.abs(np.cov(left.T)[:5, 5:]).max() < 0.025
    assert (m.draw(40_000, 0).x2 == s.x2).all()
    assert not (m.draw(40_000, 0, "test").x1 == s.x1).any()
    assert not (m.draw(40_000, 1).x1 == s.x1).any()
    assert np.pad(s.x1[:2], ((0, 0), (0, 2))).tolist() == ViewMixture(np.zeros((1, 5)), np.zeros((1, 7))).cut(s.x1[:2]).tolist()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_linear_class_against_draws(alpha):
    m = overlapping(alpha, d1=4, d2=3)
    s = m.draw(100_000, 1)
    for exact, fitted in ((m.linear_pretext(), fit_affine(s.x1, s.x2)), (m.best_linear(), fit_affine(s.x1, s.onehot(3)))):
        np.testing.assert_allclose(exact.weight, fitted.weight, atol=0.02)
        np.testing.assert_allclose(exact(s.x1[:50]), fitted(s.x1[:50]), atol=0.05)
    found = conditional_dependence(s.x1, s.x2, s.y)
    assert found.corrected == pytest.approx(m.eps_linear(), rel=0.02, abs=0.02)
    some = AffineArrays(gaussian(3, 4), gaussian(3, seed=1))
    squares = ((s.onehot(3) - some(s.x1)) ** 2).sum(1)
    assert abs(squares.mean() - m.mse(some)) < 4 * squares.std() / math.sqrt(len(squares))
    excess = ((m.best_linear()(s.x1) - some(s.x1)) ** 2).sum(1) / 2
    assert abs(excess.mean() - m.excess_risk(some)) < 4 * excess.std() / math.sqrt(len(excess))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("d1", "d2"), [(50, 40), (30, 45)])
def test_eps_is_alpha_times_the_root_of_the_smaller_dimension(alpha, d1, d2):
    m = ViewMixture.random(5, alpha, d1, d2)
    s = m.draw(8000, 0)
    want = alpha * math.sqrt(min(d1, d2))
    assert m.eps_universal(s.x1) == pytest.approx(want, rel=0.02, abs=1e-10)
    # the linear class's one is smaller, by the directions along which the classes differ
    assert want * math.sqrt(1 - 4 / min(d1, d2)) * 0.99 <= m.eps_linear() <= want
    assert conditional_dependence(s.x1, s.x2, s.y).corrected == pytest.approx(m.eps_linear(), rel=0.02, abs=0.15)


# ---------------------------------------------------------------------------------------------------- the paper's laws


def r_squared(m, n=4000):
    """Of f* regressed on ψ*."""
    x = m.draw(n, 0).x1
    f, psi = m.posterior(x), m.psi(x)
    left = f - fit_affine(psi, f)(psi)
    return 1 - (left**2).sum() / ((f - f.mean(0)) ** 2).sum()


def test_the_best_predictor_is_linear_in_psi_where_the_views_are_independent_and_the_rank_is_full():
    m = ViewMixture.random(5, 0.0, 8, 6, spread=2.0)
    assert r_squared(m) == pytest.approx(1, abs=1e-12)
    assert r_squared(ViewMixture(m.mu1, m.mu2, 0.5)) < 0.99
    assert r_squared(ViewMixture(m.mu1, m.mu2 @ np.diag([1, 1, 0, 0, 0, 0]))) < 0.95  # rank(A) = 2 < k


def test_two_classes_are_the_papers_example():
    mu1, mu2 = gaussian(1, 3), gaussian(1, 2, seed=1)
    m = ViewMixture(np.vstack([-mu1, mu1]), np.vstack([-mu2, mu2]))
    x = m.draw(30, 0).x1
    f = 2 * m.posterior(x)[:, 1] - 1  # E[Y | x1] for Y = ±1
    np.testing.assert_allclose(m.psi(x), f[:, None] * mu2, rtol=1e-10)
    np.testing.assert_allclose(m.psi(x) @ mu2[0] / (mu2**2).sum(), f, rtol=1e-10)


@pytest.mark.parametrize("k", [3, 10])
def test_the_pretext_solution_has_the_rank_of_the_classes(k):
    exact = np.linalg.svd(ViewMixture.random(k).linear_pretext().weight, compute_uv=False)
    assert exact[k - 2] > 0.1
    assert exact[k - 1] < 1e-12
    s = ViewMixture.random(k).draw(20_000, 0)
    fitted = np.linalg.svd(fit_affine(s.x1, s.x2).weight, compute_uv=False)
    gaps = fitted[:-1] / fitted[1:]
    assert gaps.argmax() == k - 2
    assert gaps[k - 2] > 2
    dependent = np.linalg.svd(ViewMixture.random(k, 0.5).linear_pretext().weight, compute_uv=False)
    assert dependent[-1] > 0.1


LABELS = (200, 500, 1000, 2000, 5000)


def test_excess_risk_falls_as_one_over_the_number_of_labels():
    risks = {"psi": np.zeros(len(LABELS)), "X1": np.zeros(len(LABELS)), "dependent": np.zeros(len(LABELS))}
    for trial in range(8):
        independent, dependent = (ViewMixture.random(5, alpha, seed=trial) for alpha in (0.0, 0.5))
        for i, n in enumerate(LABELS):
            s = independent.draw(n, trial)
            for name, m in (("psi", independent), ("dependent", dependent)):
                psi = m.linear_pretext()
                risks[name][i] += m.excess_risk(fit_affine(psi(s.x1), s.onehot(5)).after(psi))
            risks["X1"][i] += independent.excess_risk(fit_affine(s.x1, s.onehot(5)))
    slopes = {name: np.polyfit(np.log(LABELS), np.log(r), 1)[0] for name, r in risks.items()}
    assert -1.2 <= slopes["psi"] <= -0.8
    assert -1.2 <= slopes["X1"] <= -0.8
    assert slopes["dependent"] > -0.6  # it has a floor
    assert 5 < (risks["X1"] / risks["psi"])[1:].mean() < 20  # about d1 over k − 1: 12.5


def test_the_same_holds_for_the_conditional_expectation():
    m = ViewMixture.random(4, 0.0, 6, 5, spread=1.5)
    x = m.draw(20_000, 0, "test").x1
    f, psi = m.posterior(x), m.psi(x)
    risks = []
    for n in LABELS:
        samples = [m.draw(n, trial) for trial in range(30)]
        risks.append(np.mean([((fit_affine(m.psi(s.x1), s.onehot(4))(psi) - f) ** 2).sum(1).mean() / 2 for s in samples]))
    assert -1.2 <= np.polyfit(np.log(LABELS), np.log(risks), 1)[0] <= -0.8


@pytest.mark.parametrize("alpha", ALPHAS)
def test_nothing_beats_the_bayes_predictor(alpha):
    m = ViewMixture.random(4, alpha, 6, 5, spread=1.5)
    s, tested = m.draw(500, 0), m.draw(40_000, 0, "test")
    bayes = ((tested.onehot(4) - m.posterior(tested.x1)) ** 2).sum(1)
    psi = m.linear_pretext()
    for f in (m.psi, m.posterior, psi, lambda x: x):
        learned = fit_affine(f(s.x1), s.onehot(4))(f(tested.x1))
        excess = ((tested.onehot(4) - learned) ** 2).sum(1) - bayes
        assert excess.mean() > -4 * excess.std() / math.sqrt(len(excess))
    assert m.excess_risk(m.best_linear()) == pytest.approx(0, abs=1e-20)
    best = ((tested.onehot(4) - m.best_linear()(tested.x1)) ** 2).sum(1)
    assert (best - bayes).mean() > 4 * (best - bayes).std() / math.sqrt(len(bayes))  # the gap is there to be seen


def test_a_perfect_pretext_is_the_oracle():
    """α = 0 and endless pairs: ψ spans what E^L[Y | X1] spans, so that any labels teach both the same."""
    m = ViewMixture.random(6)
    psi, best, s = m.linear_pretext(), m.best_linear(), m.draw(100, 0)
    a, b = (fit_affine(f(s.x1), s.onehot(6)).after(f) for f in (psi, best))
    np.testing.assert_allclose(a.weight, b.weight, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ViewMixture.random(3, 1.5), "between 0"),
        (lambda: ViewMixture.random(0), "one class"),
        (lambda: ViewMixture.random(3, d2=0), "one feature"),
        (lambda: ViewMixture.random(3, spread=math.inf), "positive"),
        (lambda: ViewMixture(np.zeros((2, 3)), np.zeros((3, 3))), "a centre in both views"),
    ],
)
def test_mixtures_that_are_none_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


# ------------------------------------------------------------------------------------------------------- the analysis


@pytest.mark.slow
def test_the_analysis_runs(tmp_path, capsys):
    size = predicting.Sizes(
        trials=2, d1=8, d2=6, pairs=200, labels=80, tested=100, ks=(2, 3, 4), few_classes=3, k=3,
        alphas=(0.0, 0.2, 0.4, 1.0), sweep_alphas=(0.0, 0.5), sweep=(20, 50, 100), slope_from=20, few=(20,),
    )  # fmt: skip
    results = predicting.reported(size, Namespace(figures=tmp_path))
    folder = tmp_path / "predicting"
    assert {p.name for p in folder.iterdir()} == {f"{n}.{e}" for n in ("panels", "labels") for e in ("png", "csv")} | {"results.json"}
    saved = json.loads((folder / "results.json").read_text())
    assert saved["values"] == plain(results["values"])  # NaN is null
    assert {len(each) for groups in saved["values"].values() for each in groups.values()} == {2}
    assert capsys.readouterr().out.count("ε_CI at α") == 4
    assert list(predicting.sweep(size, 1)) == list(predicting.sweep(size, 1))


def test_an_error_of_the_analysis_is_what_its_parts_give():
    size = predicting.Sizes(d1=8, d2=6, pairs=200, labels=80, tested=20_000)
    m = predicting.mixture(size, 3, 0.3, 0)
    pairs, labelled, tested = m.draw(200, 0, "pairs"), m.draw(80, 0, "labels"), m.draw(20_000, 0, "test")
    pretext = LinearRegression().fit(pairs.x1, pairs.x2)
    top = LinearRegression().fit(pretext.predict(labelled.x1), np.eye(3)[labelled.y])
    squares = ((np.eye(3)[tested.y] - top.predict(pretext.predict(tested.x1))) ** 2).sum(1)
    assert abs(predicting.linear_error(m, size, 0) - squares.mean()) < 4 * squares.std() / math.sqrt(20_000)


def test_the_tests_are_of_quantities_that_the_analysis_saves():
    """A simulation without trials names everything; each test is of one of its quantities and groups."""
    size = predicting.Sizes(
        trials=1,
        d1=8,
        d2=6,
        pairs=60,
        labels=40,
        tested=20,
        ks=(2, 3, 4),
        k=2,
        alphas=(0.0, 0.2, 0.4, 1.0),
        slope_from=50,
        sweep=(50, 100, 200),
    )
    saved = predicting.by_seed(predicting.simulated(size), size)
    for test in (part for whole in predicting.TESTS for part in (whole.parts or (whole,))):
        assert set(test.contrast) <= set(saved[test.metric]), test.name


def test_where_lines_cross():
    n = np.array([10.0, 100.0, 1000.0])
    assert predicting.crossover(n, np.array([4.0, 2.0, 0.5]), np.array([1.0, 1.0, 1.0])) == pytest.approx(10**2.5)
    assert predicting.crossover(n, np.array([0.5, 0.4, 0.3]), np.array([1.0, 1.0, 1.0])) == 10
    assert predicting.crossover(n, np.array([5.0, 4.0, 3.0]), np.array([1.0, 1.0, 1.0])) == 1000
    assert predicting.labels_for(1.0, n, np.array([4.0, 2.0, 0.5])) == pytest.approx(10**2.5)
    assert predicting.labels_for(0.1, n, np.array([4.0, 2.0, 0.5])) == 1000
    assert predicting.labels_for(5.0, n, np.array([4.0, 2.0, 0.5])) == 10
    assert predicting.straight(n, 3 * n + 2) == pytest.approx(1)
    assert predicting.straight(np.arange(101.0), np.arange(101.0) ** 2) < 0.94
    assert predicting.slope(n, 5 * n**-1.5) == pytest.approx(-1.5)
