"""Count sketches: the documented hash, entry by entry in whole numbers; sums of parts; how exact cosines are."""

import hashlib

import numpy as np
import pytest
import torch

from gradlens.gradients.count_sketch import CountSketch

ALL = 2**64 - 1


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ALL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ALL
    return z ^ (z >> 31)


def by_hand(name, values, size, seed, start=0):
    """The format's definition, one entry after the other."""
    gold, buckets = 0x9E3779B97F4A7C15, [0.0] * size
    k = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big")
    for i, value in enumerate(values, start):
        q, r = divmod(i, size)
        bucket = (r + mix((k + gold * (2 * q + 1)) & ALL) % size) % size
        b = mix((k + gold * (2 * q + 2)) & ALL) | 1
        a = mix((seed + gold * (r + 1)) & ALL)
        buckets[bucket] += -value if (a * b) >> 31 & 1 else value
    return buckets


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_it_is_what_the_format_defines(dtype):
    values = (100 * torch.randn(7, 23)).to(dtype)
    made = CountSketch("layer.weight", 16, 3)
    made.add(values, 5)
    assert made.buckets == pytest.approx(by_hand("layer.weight", values.flatten().tolist(), 16, 3, 5), abs=1e-4)


def test_parts_add_up_whichever_way_a_tensor_is_cut():
    values = torch.randn(6, 20, dtype=torch.float64)
    whole, rows, columns = (CountSketch("w", 32) for _ in range(3))
    whole.add(values)
    for i in (0, 4):
        rows.add(values[i : i + 4] if i == 0 else values[4:], 20 * i)
    index = np.arange(120).reshape(6, 20)
    for j in (slice(0, 7), slice(7, 20)):
        columns.add_at(values[:, j].contiguous(), index[:, j].reshape(-1))
    assert rows.buckets == pytest.approx(whole.buckets, abs=1e-12)
    assert columns.buckets == pytest.approx(whole.buckets, abs=1e-12)


def cosine_of_sketches(one, other, size, seed):
    made = [CountSketch("v", size, seed) for _ in range(2)]
    for sketch, vector in zip(made, (one, other), strict=True):
        sketch.add(vector)
    a, b = (sketch.buckets for sketch in made)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("kind", ["gaussian", "equal rows", "one large column", "sparse"])
def test_cosines_are_within_the_bound_in_95_of_100_draws(kind):
    """|error| ≤ 2.1 (1 − c²)/√K, also where a tensor's rows are alike or a column is a hundred times the others."""
    size, entries = 256, (64, 96)
    one, noise = torch.randn(entries, dtype=torch.float64), torch.randn(entries, dtype=torch.float64)
    if kind == "equal rows":
        one, noise = one[:1].expand(entries), noise[:1].expand(entries)
    if kind == "one large column":
        one[:, 3] *= 100
        noise[:, 3] *= 100
    if kind == "sparse":
        one, noise = one * (torch.rand(entries) < 0.05), noise * (torch.rand(entries) < 0.05)
    other = one + 0.7 * noise
    true = float((one * other).sum() / one.norm() / other.norm())
    errors = np.array([abs(cosine_of_sketches(one, other, size, seed) - true) for seed in range(200)])
    assert np.mean(errors <= 2.1 * (1 - true**2) / size**0.5) >= 0.93  # 0.95 less three deviations of a share of 200 would be 0.90


def test_entries_that_are_not_finite_count_as_zeros():
    made, zero = CountSketch("v", 16), CountSketch("v", 16)
    made.add(torch.tensor([1.0, torch.nan, torch.inf, 2.0]))
    zero.add(torch.tensor([1.0, 0.0, 0.0, 2.0]))
    assert made.buckets.tolist() == zero.buckets.tolist()
