"""Losses and their slopes against the formulas, written in numpy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gradlens.gradients.losses import LOSSES, binary_cross_entropy, cross_entropy, distillation, nt_xent, slope, squared_error


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def sigmoid(z):
    return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def per_image(name, z, y):
    """The loss of each image, by its textbook formula."""
    onehot = np.eye(z.shape[1])[y]
    if name == "ce":
        top = z.max(1)
        return top + np.log(np.exp(z - top[:, None]).sum(1)) - z[np.arange(len(y)), y]
    if name == "mse":
        return 0.5 * ((z - onehot) ** 2).sum(1)
    return (np.maximum(z, 0) - z * onehot + np.log1p(np.exp(-np.abs(z)))).sum(1)


def closed_slope(name, z, y):
    onehot = np.eye(z.shape[1])[y]
    return ({"ce": softmax, "mse": lambda v: v, "bce": sigmoid}[name](z) - onehot) / len(y)


@st.composite
def batch(draw):
    n, classes = draw(st.integers(1, 5)), draw(st.integers(2, 4))
    size = draw(st.sampled_from([1.0, 30.0, 1e4]))
    values = st.floats(-size, size, allow_nan=False)
    z = [draw(st.lists(values, min_size=classes, max_size=classes)) for _ in range(n)]
    return np.array(z), np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))


@pytest.mark.parametrize("name", LOSSES)
@given(zy=batch())
def test_value_and_slope_equal_the_formulas(name, zy):
    z, y = zy
    leaf = torch.tensor(z, requires_grad=True)
    value, delta = slope(LOSSES[name], leaf, torch.tensor(y))
    np.testing.assert_allclose(value.item(), per_image(name, z, y).mean(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(delta.numpy(), closed_slope(name, z, y), rtol=1e-10, atol=1e-14)
    assert value.ndim == 0
    assert not value.requires_grad
    assert not delta.requires_grad
    assert leaf.grad is None


@pytest.mark.parametrize("name", LOSSES)
@given(zy=batch(), data=st.data())
def test_shards_add_up_to_the_whole_batch(name, zy, data):
    """Losses are sums divided by the batch size: with the whole batch's N, the parts of any cut add up, slopes stand side by side."""
    z, y = torch.tensor(zy[0], requires_grad=True), torch.tensor(zy[1])
    cut = data.draw(st.integers(0, len(y)))
    whole, delta = slope(LOSSES[name], z, y)
    parts = [(z[a:b].detach().requires_grad_(), y[a:b]) for a, b in ((0, cut), (cut, len(y))) if b > a]
    slopes = [(len(t) / len(y), *slope(LOSSES[name], part, t)) for part, t in parts]
    torch.testing.assert_close(sum(share * value for share, value, _ in slopes), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([share * d for share, _, d in slopes]), delta, rtol=1e-12, atol=1e-14)


def test_values_by_hand():
    z, y = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1])
    log2, sp2 = np.log(2), np.log1p(np.exp(2))  # softplus(2)
    assert cross_entropy(z, y).item() == pytest.approx((log2 + sp2) / 2)
    assert squared_error(z, y).item() == pytest.approx((0.5 + 0.5 * (4 + 1)) / 2)
    assert binary_cross_entropy(z, y).item() == pytest.approx((2 * log2 + sp2 + log2) / 2)


def test_cross_entropy_is_pytorchs_mean():
    z, y = torch.randn(7, 10, dtype=torch.float64), torch.arange(7)
    torch.testing.assert_close(cross_entropy(z, y), F.cross_entropy(z, y), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_few_bits_are_summed_in_float32(name, dtype):
    z = (3 * torch.randn(64, 10)).to(dtype).requires_grad_()
    y = torch.arange(64) % 10
    value, delta = slope(LOSSES[name], z, y)
    want, wide = slope(LOSSES[name], z.detach().float().requires_grad_(), y)
    assert value.dtype == torch.float32
    assert torch.equal(value, want)
    assert delta.dtype == dtype
    assert torch.equal(delta, wide.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_wider_logits_keep_their_width(name, dtype):
    value, delta = slope(LOSSES[name], torch.zeros(2, 3, dtype=dtype, requires_grad=True), torch.tensor([0, 2]))
    assert value.dtype == delta.dtype == dtype


@pytest.mark.parametrize("name", LOSSES)
def test_not_a_number_stays_one(name):
    z = torch.full((2, 3), float("nan"), requires_grad=True)
    value, delta = slope(LOSSES[name], z, torch.tensor([0, 1]))
    assert value.isnan()
    assert delta.isnan().any()


# ------------------------------------------------------------------------------------------------------------ contrastive


def slow_nt_xent(z, tau):
    """Pair by pair, in the words of the paper's algorithm 1."""
    n = len(z)
    s = [[float(z[i] @ z[j] / (z[i].norm() * z[j].norm())) for j in range(n)] for i in range(n)]

    def loss(i, j):
        return -math.log(math.exp(s[i][j] / tau) / sum(math.exp(s[i][k] / tau) for k in range(n) if k != i))

    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(n // 2)) / n


def random_z(n=6, d=5, seed=0):
    return torch.randn(2 * n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_nt_xent_is_the_papers_algorithm(tau):
    z = random_z()
    assert nt_xent(z, tau).item() == pytest.approx(slow_nt_xent(z, tau), abs=1e-12)


def test_nt_xent_closed_forms():
    e1, e2 = torch.eye(2, dtype=torch.float64)
    z = torch.stack([e1, e1, e2, e2])
    assert nt_xent(z, 0.5).item() == pytest.approx(0.239545, abs=1e-6)
    for tau in (0.2, 0.5, 1.0):
        assert nt_xent(z, tau).item() == pytest.approx(math.log(1 + 2 * math.exp(-1 / tau)), abs=1e-12)
    for n in (2, 5):
        same = torch.ones(2 * n, 3, dtype=torch.float64)
        assert nt_xent(same, 0.5).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)
    assert nt_xent(torch.ones(4, 3, dtype=torch.float64), 0.5).item() == pytest.approx(1.098612, abs=1e-6)


def test_nt_xent_is_invariant_to_rotations_lengths_and_the_order_of_views():
    z = random_z()
    base = nt_xent(z, 0.3)
    q, _ = torch.linalg.qr(random_z(5, 10)[:5, :5])
    assert torch.allclose(nt_xent(z @ q, 0.3), base, atol=1e-12)
    lengths = torch.linspace(0.1, 7, len(z), dtype=torch.float64)[:, None]
    assert torch.allclose(nt_xent(z * lengths, 0.3), base, atol=1e-12)
    assert torch.allclose(nt_xent(z[[1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]], 0.3), base, atol=1e-12)
    swapped = torch.cat([z[6:8], z[:6], z[8:]])  # images in another order
    assert torch.allclose(nt_xent(swapped, 0.3), base, atol=1e-12)
    for n, tau in ((6, 0.3), (3, 1.0)):
        assert nt_xent(random_z(n), tau) >= math.log(1 + (2 * n - 2) * math.exp(-2 / tau))


def test_the_slope_of_nt_xent_is_orthogonal_to_each_vector():
    z = random_z().requires_grad_()
    (g,) = torch.autograd.grad(nt_xent(z, 0.5), z)
    assert (g * z.detach()).sum(1).abs().max() < 1e-12
    assert g.norm() > 1e-3


def test_distillation_is_a_cross_entropy_of_softened_answers():
    z, t = random_z(4, 7, 1), random_z(4, 7, 2)
    for tau in (0.5, 1.0, 4.0):
        want = 0.0
        for a, b in zip(t, z, strict=True):
            p = [math.exp(v / tau) for v in a.tolist()]
            q = [math.exp(v / tau) for v in b.tolist()]
            want -= sum(x / sum(p) * math.log(y / sum(q)) for x, y in zip(p, q, strict=True)) * tau**2 / len(z)
        assert distillation(z, t, tau).item() == pytest.approx(want, abs=1e-12)


def test_distillation_is_least_at_the_teachers_logits_and_there_the_teachers_entropy():
    t = random_z(4, 7, 2)
    p = t.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    z = (t + 3.0).requires_grad_()  # shifted by a constant
    value = distillation(z, t, 1.0)
    assert value.item() == pytest.approx(entropy.item(), abs=1e-12)
    assert torch.autograd.grad(value, z)[0].abs().max() < 1e-12
    assert distillation(random_z(4, 7, 3), t, 1.0) > entropy


def test_at_high_temperature_distillation_is_matching_of_logits_and_its_slope_keeps_its_size():
    z, t = random_z(4, 7, 1).requires_grad_(), random_z(4, 7, 2)
    centred = (z - z.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    want = (centred / 7 / len(z)).detach()
    (g,) = torch.autograd.grad(distillation(z, t, 1e4), z)
    assert (g - want).norm() < 1e-3 * want.norm()
    norms = [torch.autograd.grad(distillation(z, t, tau), z)[0].norm() for tau in (10.0, 100.0, 1000.0)]
    assert max(norms) < 1.2 * min(norms)


def test_nt_xent_equals_lightly():
    lightly = pytest.importorskip("lightly.loss", reason="pip install lightly")
    for n, dims, tau in ((2, 3, 0.5), (7, 16, 0.1), (5, 4, 2.0)):
        a, b = (3 * torch.randn(n, dims, dtype=torch.float64) for _ in range(2))
        ours = torch.stack([a, b], 1).flatten(0, 1).requires_grad_()  # the views of an image are neighbours
        theirs = a.clone().requires_grad_(), b.clone().requires_grad_()
        value, wanted = nt_xent(ours, tau), lightly.NTXentLoss(temperature=tau)(*theirs)
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
        slopes = torch.stack(torch.autograd.grad(wanted, theirs), 1).flatten(0, 1)
        torch.testing.assert_close(torch.autograd.grad(value, ours)[0], slopes, rtol=1e-9, atol=1e-14)


def test_nt_xent_leaves_each_view_itself_out_whatever_it_would_score():
    z = torch.nn.functional.normalize(random_z(), dim=1)
    scores = z @ z.T / 0.5 + 1e9 * torch.eye(len(z), dtype=torch.float64)
    rest = ~torch.eye(len(z), dtype=torch.bool)
    want = torch.stack([scores[i][rest[i]].logsumexp(0) - scores[i, i ^ 1] for i in range(len(z))]).mean()
    assert nt_xent(z, 0.5).item() == pytest.approx(want.item(), abs=1e-12)


def test_nt_xent_does_not_mind_which_view_of_one_image_comes_first_and_keeps_above_its_bound():
    z = random_z()
    assert torch.allclose(nt_xent(z[[0, 1, 3, 2, *range(4, 12)]], 0.3), nt_xent(z, 0.3), atol=1e-12)
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)  # all negatives at -1: the bound itself
    for tau in (0.1, 0.5, 2.0):
        assert nt_xent(apart, tau).item() == pytest.approx(math.log(1 + 2 * math.exp(-2 / tau)), abs=1e-12)
