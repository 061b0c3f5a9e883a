"""CKA, dissimilarities, rank and separation of feature matrices: against slow definitions in float64, and their laws."""

import math
from decimal import Decimal, localcontext
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata

from gradlens.analysis.representation_similarity import (
    _hsic_of_features,
    _hsics_of_grams,
    centred,
    effective_rank,
    fisher_ratio,
    folds,
    linear_cka,
    participation_ratio,
    rdm,
    rdm_correlation,
    spectrum,
)
from gradlens.runtime.errors import InputError


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d, seed=1):
    return torch.linalg.qr(gaussian(d, d, seed=seed))[0]


def u_statistic(x, y):
    """HSIC as the mean over all ordered quadruples of distinct samples of its kernel (Song et al. 2012, theorem 2)."""
    n = len(x)
    k = [[float(sum(a * b for a, b in zip(x[i], x[j], strict=True))) for j in range(n)] for i in range(n)]
    h = [[float(sum(a * b for a, b in zip(y[i], y[j], strict=True))) for j in range(n)] for i in range(n)]
    total, count = 0.0, 0
    for i, j, q, r in permutations(range(n), 4):
        total += k[i][j] * (h[i][j] + h[q][r] - 2 * h[i][q])
        count += 1
    return total / count


def biased_hsic(x, y):
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(x @ x.T @ h @ y @ y.T @ h) / (n - 1) ** 2


@pytest.mark.parametrize(("n", "p", "q"), [(6, 2, 3), (7, 1, 1), (4, 12, 2), (5, 3, 20)])
def test_hsic_is_the_mean_over_all_quadruples_in_both_forms(n, p, q):
    x, y = gaussian(n, p) + 3, gaussian(n, q, seed=1) - 1
    y[:, 0] += x[:, 0]
    want = [u_statistic(a.tolist(), b.tolist()) for a, b in ((x, y), (x, x), (y, y))]
    a, b = centred(x, ""), centred(y, "")
    features = [float(_hsic_of_features(*pair, True)) for pair in ((a, b), (a, a), (b, b))]
    assert features == pytest.approx(want, rel=1e-10)
    assert _hsics_of_grams(a @ a.T, b @ b.T, True).tolist() == pytest.approx(want, rel=1e-10)
    assert linear_cka(x, y) == pytest.approx(want[0] / math.sqrt(want[1] * want[2]), rel=1e-10)


@pytest.mark.parametrize(("n", "p", "q"), [(9, 3, 4), (9, 30, 2)])
def test_the_biased_one_is_the_trace_and_the_norm(n, p, q):
    x, y = gaussian(n, p) + 2, gaussian(n, q, seed=1)
    want = biased_hsic(x.numpy(), y.numpy()) / math.sqrt(biased_hsic(x.numpy(), x.numpy()) * biased_hsic(y.numpy(), y.numpy()))
    a, b = x - x.mean(0), y - y.mean(0)
    norms = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(x, y, unbiased=False) == pytest.approx(want, rel=1e-10)
    assert linear_cka(x, y, unbiased=False) == pytest.approx(float(norms), rel=1e-10)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("p", [3, 50])
def test_cka_does_not_see_rotation_scale_and_shift(unbiased, p):
    x, y = gaussian(20, p), gaussian(20, 5, seed=2)
    y[:, 0] += 2 * x[:, 0]
    want = linear_cka(x, y, unbiased)
    assert linear_cka(x, x, unbiased) == pytest.approx(1, abs=1e-12)
    assert linear_cka(-7 * x @ rotation(p) + 100, 1e-9 * y @ rotation(5), unbiased) == pytest.approx(want, rel=1e-6)
    assert linear_cka(y, x, unbiased) == pytest.approx(want, rel=1e-12)


def test_cka_sees_invertible_maps_that_are_no_rotations():
    x = gaussian(50, 4)
    stretched = x * torch.tensor([10.0, 1, 1, 1])
    assert linear_cka(x, stretched) < 0.8


def test_of_single_features_it_is_the_squared_correlation():
    x, y = gaussian(30, 1), gaussian(30, 1, seed=1)
    y += 0.5 * x
    assert linear_cka(x, y, unbiased=False) == pytest.approx(pearsonr(x[:, 0], y[:, 0]).statistic ** 2, rel=1e-10)


def test_many_independent_features_look_alike_only_to_the_biased_one():
    x, y = gaussian(60, 600), gaussian(60, 600, seed=1)
    assert linear_cka(x, y, unbiased=False) > 0.8
    pairs = [linear_cka(gaussian(60, 600, seed=i), gaussian(60, 600, seed=100 + i)) for i in range(40)]
    assert abs(np.mean(pairs)) < 0.012  # three standard errors of it: one is about √2 / 60 by itself
    assert np.std(pairs) < 0.035
    assert linear_cka(gaussian(2000, 4), gaussian(2000, 4, seed=1), unbiased=False) < 0.01


def test_batches_average_their_hsics_first():
    x, y = gaussian(13, 3), gaussian(13, 4, seed=1) + 0.1
    sums = np.zeros(3)
    for part in (slice(0, 5), slice(5, 9), slice(9, 13)):
        a, b = x[part].tolist(), y[part].tolist()
        sums += [u_statistic(a, b), u_statistic(a, a), u_statistic(b, b)]
    assert linear_cka(x, y, batch=5) == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-10)


@pytest.mark.parametrize(("n", "batch"), [(1, 1), (7, 7), (8, 7), (40, 12), (37, 5), (3, 500)])
def test_folds_are_all_samples_once_and_of_nearly_one_size(n, batch):
    parts = folds(n, batch)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_a_constant_side_has_no_alignment():
    assert math.isnan(linear_cka(torch.full((8, 3), 0.1), gaussian(8, 3)))


def test_what_cka_cannot_use():
    with pytest.raises(InputError, match="the same samples, got 4 and 5"):
        linear_cka(torch.zeros(4, 2), torch.zeros(5, 2))
    with pytest.raises(InputError, match="4 samples or more in a batch, got 3"):
        linear_cka(gaussian(9, 2), gaussian(9, 2), batch=3)
    with pytest.raises(InputError, match=r"features \[N, p\], got \[4, 2, 1\]"):
        linear_cka(torch.zeros(4, 2, 1), torch.zeros(4, 2))
    with pytest.raises(InputError, match="NaN"):
        linear_cka(torch.full((5, 2), math.nan), torch.zeros(5, 2))


def test_dissimilarities_are_one_minus_pearson_in_the_order_of_labels():
    x, y = gaussian(7, 5), torch.tensor([2, 0, 1, 0, 2, 1, 0])
    order = [1, 3, 6, 2, 5, 0, 4]
    got = rdm(x, y)
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            assert float(got[i, j]) == pytest.approx(1 - pearsonr(x[a], x[b]).statistic, abs=1e-12)


def test_laws_of_dissimilarities():
    x = gaussian(12, 6)
    x[3] = -x[2]
    d = rdm(x)
    assert torch.equal(d, d.T)
    assert torch.equal(d.diagonal(), torch.zeros(12, dtype=torch.float64))
    assert float(d.min()) >= 0
    assert float(d[2, 3]) == pytest.approx(2)
    assert float(d.max()) <= 2
    scale, shift = torch.rand(12, 1, dtype=torch.float64) * 5 + 0.1, gaussian(12, 1, seed=3) * 4
    np.testing.assert_allclose(rdm(scale * x + shift).numpy(), d.numpy(), atol=1e-12)
    x[5] = 1.5
    assert rdm(x)[5].isnan().sum() == 11
    assert not rdm(x)[6, :5].isnan().any()


def test_dissimilarities_are_compared_by_ranks_above_the_diagonal():
    a, b = rdm(gaussian(8, 5)), rdm(gaussian(8, 5, seed=1))
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    p, q = rankdata([float(a[i]) for i in pairs]), rankdata([float(b[i]) for i in pairs])
    assert rdm_correlation(a, b) == pytest.approx(np.corrcoef(p, q)[0, 1], rel=1e-10)
    assert rdm_correlation(a, a.square()) == pytest.approx(1)
    assert math.isnan(rdm_correlation(a, torch.zeros(8, 8)))
    hole = a.clone()
    hole[0, 1:] = hole[1:, 0] = math.nan
    assert rdm_correlation(hole, b) == pytest.approx(rdm_correlation(a[1:, 1:], b[1:, 1:]))
    with pytest.raises(InputError, match="one size"):
        rdm_correlation(a, a[1:])


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_singular_values_are_those_of_the_centred_features(shape):
    x = gaussian(*shape) * 1e-6 + 3
    want = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False)
    np.testing.assert_allclose(spectrum(x).numpy(), want, atol=1e-6 * want[0])


def test_ranks_of_known_spectra():
    axes = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    singular = spectrum(torch.cat([axes, torch.zeros(8, 3)], 1))
    assert effective_rank(singular) == pytest.approx(4)
    assert participation_ratio(singular) == pytest.approx(4)
    s = torch.tensor([3.0, 1.0], dtype=torch.float64)
    assert effective_rank(s) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert participation_ratio(s) == pytest.approx(100 / 82)
    nothing = spectrum(torch.full((5, 3), 0.7))
    assert (effective_rank(nothing), participation_ratio(nothing)) == (0, 0)


def test_one_direction_in_many_features_has_rank_one_up_to_rounding():
    x = gaussian(300, 1) @ gaussian(1, 900, seed=1)
    assert effective_rank(spectrum(x)) == pytest.approx(1, abs=1e-5)


def test_separation_of_classes_by_hand():
    x = torch.tensor([[0.0, 0], [2, 0], [10, 1], [10, 3]])
    y = torch.tensor([5, 5, 1, 1])
    # means (1, 0), (10, 2), all (5.5, 1): between 2·(20.25 + 1)·2, within 2 + 2
    assert fisher_ratio(x, y) == pytest.approx(85 / 4)
    assert fisher_ratio(x @ rotation(2).float() * 3 + 7, y) == pytest.approx(85 / 4, rel=1e-5)
    assert fisher_ratio(x[[0, 0, 2, 2]], y) == math.inf
    assert math.isnan(fisher_ratio(torch.ones(4, 2), y))


def test_separation_of_labels_that_say_nothing():
    y = torch.arange(900) % 10
    assert fisher_ratio(gaussian(900, 50), y) == pytest.approx(9 / 890, rel=0.1)


def test_what_separation_cannot_use():
    with pytest.raises(InputError, match="two classes or more; all 3 samples are of one"):
        fisher_ratio(torch.zeros(3, 2), torch.ones(3))
    with pytest.raises(InputError, match="3 samples are fewer than the 10 classes"):
        fisher_ratio(torch.zeros(3, 2), torch.tensor([0, 1, 2]), 10)


# ---------------------------------------------------------------------------------------------- laws over random features

SIZES = {"seed": st.integers(0, 10**6), "n": st.integers(5, 20), "p": st.integers(1, 30), "q": st.integers(1, 30)}
SCALES = (1e-200, 1e-30, 1e30, 1e200)


@settings(max_examples=30)
@given(**SIZES, unbiased=st.booleans(), scale=st.sampled_from(SCALES))
def test_cka_is_bounded_symmetric_one_of_itself_and_blind_to_scale_shift_rotation_and_order(seed, n, p, q, unbiased, scale):
    x, y = gaussian(n, p, seed=seed), gaussian(n, q, seed=seed + 1)
    c = linear_cka(x, y, unbiased)
    assert (-1 if unbiased else 0) <= c <= 1
    assert linear_cka(x, x, unbiased) == linear_cka(x, -4 * x, unbiased) == 1
    order = torch.randperm(n)
    for a, b in (
        (y, x),
        (scale * x, y),
        (x, scale * y),
        (scale * x, scale * y),
        (x + 100, y - 5),
        (x @ rotation(p), y),
        (x[order], y[order]),
    ):
        assert linear_cka(a, b, unbiased) == pytest.approx(c, abs=1e-10)


def test_cka_of_features_as_large_and_small_as_float32_has_them():
    x, y = gaussian(30, 50), gaussian(30, 40, seed=1)
    want = linear_cka(x, y)
    for scale in (1e-36, 1e37):
        assert linear_cka((scale * x).float(), (scale * y).float()) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_one_sample_far_out_costs_no_digits(size):
    """By features HSIC₁ is a difference of sums that this sample rules; by Gram matrices its own product is never formed."""
    x, y = gaussian(40, 2), gaussian(40, 3, seed=1)
    x[0] *= size
    a, b = centred(x, ""), centred(y, "")
    xy, xx, yy = _hsics_of_grams(a @ a.T, b @ b.T, True).tolist()
    assert linear_cka(x, y) == pytest.approx(xy / math.sqrt(xx * yy), rel=1e-9)


def exact_dissimilarity(a, b):
    """1 − Pearson's correlation in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        a, b = ([Decimal(v) for v in values.tolist()] for values in (a, b))
        a, b = ([v - sum(values) / len(values) for v in values] for values in (a, b))
        aa, bb, ab = (sum(u * v for u, v in zip(s, t, strict=True)) for s, t in ((a, a), (b, b), (a, b)))
        return float(1 - ab / (aa * bb).sqrt())


@settings(max_examples=30)
@given(seed=SIZES["seed"], n=st.integers(2, 8), d=st.integers(3, 20), apart=st.integers(1, 9), scale=st.sampled_from(SCALES))
def test_dissimilarities_are_bounded_symmetric_and_keep_their_digits_however_small(seed, n, d, apart, scale):
    x = gaussian(n, d, seed=seed)
    near = x + 10.0**-apart * gaussian(n, d, seed=seed + 1)
    got = rdm(torch.cat([x, near, x, 3 * x + 1]))
    assert torch.equal(got, got.T)
    assert 0 <= got.min() <= got.max() <= 2
    assert not got.diagonal().any()
    assert not got[:n, 2 * n : 3 * n].diagonal().any()  # equal samples
    assert got[:n, 3 * n :].diagonal().max() < 1e-28  # the same up to scale and shift
    for i in range(n):
        assert float(got[i, n + i]) == pytest.approx(exact_dissimilarity(x[i], near[i]), rel=1e-5 if apart > 6 else 1e-8)
    torch.testing.assert_close(rdm(scale * x), rdm(x), rtol=0, atol=1e-12)


def test_rounding_is_no_order_of_dissimilarities():
    x = gaussian(10, 7)
    alike = torch.eye(6, dtype=torch.float64).repeat_interleave(7, 1) * 0.1  # every two samples are as unlike as any other two
    assert math.isnan(rdm_correlation(rdm(alike), rdm(x[:6])))
    assert math.isnan(rdm_correlation(rdm(alike[:, torch.randperm(42)] * 0.3 + 0.7), rdm(x[:6])))
    doubled = torch.cat([x, x])  # with every sample twice there are ties
    shuffled = doubled[:, torch.randperm(7)] * 1.7
    assert rdm_correlation(rdm(doubled), rdm(shuffled)) == pytest.approx(1, abs=1e-12)


@settings(max_examples=40)
@given(**SIZES, scale=st.sampled_from(SCALES))
def test_ranks_lie_between_one_and_the_number_of_directions(seed, n, p, q, scale):
    x = gaussian(n, p, seed=seed)
    singular = spectrum(x)
    directions = min(n - 1, p)
    for rank in (effective_rank, participation_ratio):
        r = rank(singular)
        assert 1 <= r <= directions
        assert rank(spectrum(scale * x)) == pytest.approx(r, rel=1e-9)
        assert rank(spectrum(x @ rotation(p) + 7)) == pytest.approx(r, rel=1e-6)
        assert rank(torch.full((q,), 0.1, dtype=torch.float64)) == pytest.approx(q, rel=1e-12)
        assert 1 <= rank(torch.full((q,), 0.1, dtype=torch.float64)) <= q
        assert rank(spectrum(x[:1].repeat(n, 1) * torch.arange(1.0, n + 1)[:, None])) == pytest.approx(1, abs=1e-4)  # on a line
        assert rank(torch.zeros(q)) == 0
    assert participation_ratio(singular) <= effective_rank(singular) * (1 + 1e-12)


@pytest.mark.parametrize("singular", [[1e300, 1e-300], [1e308, 1e308, 1e308], [5e-324], [1.0, 5e-324]])
def test_ranks_of_the_largest_and_smallest_numbers(singular):
    singular = torch.tensor(singular, dtype=torch.float64)
    want = 3.0 if len(singular) == 3 else 1.0
    assert effective_rank(singular) == pytest.approx(want)
    assert participation_ratio(singular) == pytest.approx(want)


@settings(max_examples=30)
@given(seed=SIZES["seed"], n=st.integers(6, 30), p=SIZES["p"], scale=st.sampled_from(SCALES))
def test_class_separation_is_blind_to_scale_shift_rotation_order_and_copies(seed, n, p, scale):
    x, y = gaussian(n, p, seed=seed), torch.arange(n) % 3
    f = fisher_ratio(x, y)
    assert f >= 0
    order = torch.randperm(n)
    twice = torch.cat([x, x])
    for a, b in ((scale * x, y), (x + 100, y), (x @ rotation(p), y), (x[order], y[order]), (x, 7 - 2 * y), (twice, torch.cat([y, y]))):
        assert fisher_ratio(a, b) == pytest.approx(f, rel=1e-8)
    points = 7 * gaussian(3, p, seed=seed) + 0.1
    assert fisher_ratio(points[y], y) == math.inf  # each class is one point
    assert math.isnan(fisher_ratio(points[:1].repeat(n, 1), y))
