"""The probes' solver: the optimum of another library, the bound that is a law, and what it says of input it cannot use."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from gradlens.analysis.logistic_regression import Fitting, Nystrom, Standard, best_bias, fit_logistic_regression
from gradlens.runtime.errors import InputError


def points(n=120, d=7, k=4, dtype=torch.float64, seed=0):
    """Points of overlapping classes, some features large, one constant."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.logspace(-1, 1, d, dtype=torch.float64) + 0.3
    y = torch.randint(k, (n,), generator=g)
    x += 0.5 * torch.randn(k, d, generator=g, dtype=torch.float64)[y]
    x[:, 0] = 0.3
    return x.to(dtype), y


def objective(weight, bias, x, y, l2):
    """f(W, b), written out."""
    z = x.double() @ weight.double().T + bias.double()
    return F.cross_entropy(z, y) + l2 / 2 * weight.double().square().sum()


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_optimum_is_scikit_learns(l2):
    x, y = points()
    probe = fit_logistic_regression(x, y, l2, tolerance=1e-16)
    sk = LogisticRegression(C=1 / (len(x) * l2), solver="newton-cholesky", tol=1e-12).fit(x.numpy(), y.numpy())
    want = torch.from_numpy(sk.coef_)
    torch.testing.assert_close(probe.weight - probe.weight.mean(0), want - want.mean(0), rtol=1e-4, atol=1e-5)
    got, theirs = probe.bias - probe.bias.mean(), torch.from_numpy(sk.intercept_ - sk.intercept_.mean())
    torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-4)
    assert probe.objective <= float(objective(want, torch.from_numpy(sk.intercept_), x, y, l2)) + 1e-12
    assert probe.objective == pytest.approx(float(objective(probe.weight, probe.bias, x, y, l2)), rel=1e-12)
    assert probe.loss == pytest.approx(float(objective(probe.weight, probe.bias, x, y, 0.0)), rel=1e-12)


def test_accuracy_on_digits_is_scikit_learns():
    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x, y, held = x.float(), y.long(), torch.arange(len(y)) % 5 == 0
    standard = Standard.of(x[~held])
    train, test = standard(x[~held]), standard(x[held])
    probe = fit_logistic_regression(train, y[~held], 1e-3)
    sk = LogisticRegression(C=1 / (len(train) * 1e-3), max_iter=5000).fit(train.numpy(), y[~held].numpy())
    assert probe.accuracy(test, y[held]) == pytest.approx(sk.score(test.numpy(), y[held].numpy()), abs=0.005)
    assert probe.bound <= 3e-5


def test_the_gradient_is_autograds():
    x, y = points()
    fitting = Fitting(x, y)
    theta = torch.randn(4, 8, dtype=torch.float64).requires_grad_()
    objective(theta[:, :-1], theta[:, -1], x, y, 0.1).backward()
    value, gradient = fitting.value_and_gradient(theta.detach(), 0.1)
    torch.testing.assert_close(gradient, theta.grad)
    with torch.no_grad():
        assert value == pytest.approx(float(objective(theta[:, :-1], theta[:, -1], x, y, 0.1)))


@settings(max_examples=10)
@given(l2=st.floats(1e-4, 10), seed=st.integers(0, 9), passes=st.integers(1, 12), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_bound_holds_however_early_one_stops(l2, seed, passes, dtype):
    x, y = points(seed=seed, dtype=dtype)
    rough, best = (
        fit_logistic_regression(x, y, l2, most=passes, tolerance=1e-14),
        fit_logistic_regression(x.double(), y, l2, tolerance=1e-16),
    )
    assert -1e-12 <= rough.objective - best.objective <= rough.bound + 1e-12
    weight = rough.weight.clone().requires_grad_()
    bias = rough.bias.clone().requires_grad_()
    objective(weight.double(), bias, x, y, l2).backward()
    assert rough.gradient_norm == pytest.approx(math.hypot(weight.grad.norm(), bias.grad.norm()), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tolerance_is_kept(dtype):
    x, y = points(dtype=dtype)
    for tolerance in (1e-2, 1e-4, 1e-6):
        assert fit_logistic_regression(x, y, 0.01, tolerance=tolerance).bound <= tolerance


def test_rows_split_into_parts_make_no_difference(monkeypatch):
    x, y = points()
    whole = fit_logistic_regression(x, y, 0.01, tolerance=1e-14)
    monkeypatch.setattr("gradlens.analysis.logistic_regression.CACHED", 7 * 33)
    assert len(Fitting(x, y).parts) == 4
    torch.testing.assert_close(fit_logistic_regression(x, y, 0.01, tolerance=1e-14).weight, whole.weight, rtol=1e-5, atol=1e-7)


def test_more_features_than_points_and_dependent_ones():
    x, y = points(n=40, d=200)
    x = torch.cat([x, x[:, :50], torch.zeros(40, 3)], 1)
    probe = fit_logistic_regression(Standard.of(x)(x), y, 0.1, tolerance=1e-12)
    assert probe.bound <= 1e-12
    assert fit_logistic_regression(torch.zeros(6, 3), torch.tensor([0, 0, 0, 0, 1, 1]), 0.1).loss == pytest.approx(
        -(4 * math.log(4 / 6) + 2 * math.log(2 / 6)) / 6
    )


def test_from_where_the_last_one_ended_is_the_same_optimum():
    x, y = points()
    fitting = Fitting(x, y)
    fitting.solve(1.0)
    warm = fitting.solve(0.01, tolerance=1e-14)
    torch.testing.assert_close(warm.weight, fit_logistic_regression(x, y, 0.01, tolerance=1e-14).weight, rtol=1e-5, atol=1e-7)
    assert warm.passes < fitting.passes


def test_affine_rescaling_of_features_changes_no_answer():
    x, y = points()
    factor, shift = torch.logspace(-3, 3, 7, dtype=torch.float64), torch.arange(7) * 5.0
    answers = [
        fit_logistic_regression(Standard.of(z)(z), y, 0.01, tolerance=1e-12).scores(Standard.of(z)(z)) for z in (x, x * factor - shift)
    ]
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)


def test_standardising_reads_training_features_only_and_drops_constant_ones():
    x, _ = points()
    standard = Standard.of(x)
    z = standard(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(7, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(z[:, 1:].var(0, correction=0), torch.ones(6, dtype=torch.float64))
    assert not standard(x + 100)[:, 0].any()
    torch.testing.assert_close(standard(x + 1)[:, 1:] - z[:, 1:], (1 / x.std(0, correction=0)[1:]).expand(120, 6))


def test_a_class_without_points_is_never_answered():
    x, y = points(k=3)
    y[y == 1] = 3
    probe = fit_logistic_regression(x, y, 0.01, classes=5)
    assert set(probe.answers(x).tolist()) == {0, 2, 3}
    torch.testing.assert_close(probe.scores(x)[:, [0, 2, 3]], fit_logistic_regression(x, (y + 1) // 2, 0.01).scores(x))
    assert torch.isinf(probe.bias[[1, 4]]).all()


def test_the_best_biases_make_the_mean_probability_of_a_class_its_share():
    z = 5 * torch.randn(3, 50, dtype=torch.float64)
    onehot = F.one_hot(torch.arange(50) % 3).T.double()
    bias = best_bias(z, onehot, torch.tensor([30.0, -30.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close((z + bias[:, None]).softmax(0).mean(1), onehot.mean(1), rtol=1e-9, atol=1e-12)


def test_the_preconditioner_is_exact_where_all_columns_are_read():
    x, _ = points()
    exact = x.T @ x / len(x) + 0.3 * torch.eye(7, dtype=torch.float64)
    g = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(Nystrom.of(x).plus(0.3)(g), torch.linalg.solve(exact, g.T).T, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("x", "y", "more", "said"),
    [
        (torch.ones(5, 2), torch.ones(5).long(), {}, "all 5 points are of class 1"),
        (torch.ones(3, 2), torch.tensor([0, 1, 2]), {"classes": 10}, "3 points are fewer than the 10 classes"),
        (torch.tensor([[math.nan], [1.0]]), torch.tensor([0, 1]), {}, "NaN or infinite"),
        (torch.ones(3, 2), torch.tensor([0, 1]), {}, r"not to \[3, 2\] and \[2\]"),
        (torch.ones(0, 2), torch.tensor([], dtype=torch.long), {}, r"not to \[0, 2\] and \[0\]"),
        (torch.ones(3, 2), torch.tensor([0, 1, 7]), {"classes": 3}, "labels from 0 to 7 do not fit 3 classes"),
        (torch.ones(3, 2), torch.tensor([0.0, 1, 2]), {}, "integer labels"),
        (torch.ones(3, 2), torch.tensor([0, 1, 1]), {"l2": 0.0}, "l2 must be above 0"),
    ],
)
def test_what_cannot_be_fitted_is_reported(x, y, more, said):
    with pytest.raises(InputError, match=said):
        fit_logistic_regression(x, y, **{"l2": 0.1, **more})


def test_collinear_features_are_no_obstacle():
    """Standardised one-hot codes of several cells: each cell's columns add up to nothing."""
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 8, (600, 40), generator=g)
    x = torch.nn.functional.one_hot(codes, 8).flatten(1).float()
    x = (x - x.mean(0)) / x.std(0)
    y = codes[:, 0] % 4
    probe = fit_logistic_regression(x, y, 1e-3)
    assert probe.accuracy(x, y) == 1
    assert probe.bound < 1e-4
