"""Losses and their slopes against the formulas, written in numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gradlens.objectives import LOSSES, binary_cross_entropy, cross_entropy, slope, squared_error


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
