"""Measures of two gradients against decimal arithmetic of many digits and loops, on all floats there are."""

import math
from decimal import Decimal, localcontext
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradlens.gradients import alignment
from gradlens.gradients.alignment import QUANTITIES, RECORDED, cosine, measure
from gradlens.runtime.errors import InputError

ALL = tuple(QUANTITIES)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
FLOAT64 = st.floats(-1e300, 1e300).map(lambda v: 0.0 if abs(v) < 1e-300 else v)  # so that a norm fits too
PLAIN = st.floats(-1e6, 1e6).map(lambda v: 0.0 if abs(v) < 1e-6 else v)


def pairs(values, least=1):
    """Two lists of one length."""
    return st.integers(least, 12).flatmap(lambda n: st.tuples(*[st.lists(values, min_size=n, max_size=n)] * 2))


def tensors(gt, dtype=torch.float64):
    return tuple(torch.tensor(v, dtype=dtype) for v in gt)


def exact(g, t):
    """All quantities that need sums, in 60 digits; the sine by Lagrange's identity, in which nothing cancels."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -99999, 99999
        a, b = ([Decimal(float(v)) for v in values] for values in (g, t))
        gg, tt, gt = (sum((x * y for x, y in zip(u, v, strict=True)), Decimal(0)) for u, v in ((a, a), (b, b), (a, b)))
        apart = sum(((x - y) ** 2 for x, y in zip(a, b, strict=True)), Decimal(0))
        nan = Decimal("nan")
        found = {
            "cosine": gt / (gg.sqrt() * tt.sqrt()) if gg and tt else nan,
            "norm": gg.sqrt(),
            "true_norm": tt.sqrt(),
            "norm_ratio": gg.sqrt() / tt.sqrt() if tt else nan,
            "projection": gt / tt if tt else nan,
            "relative_error": (apart / tt).sqrt() if tt else nan,
        }
        wedge = sum(((a[i] * b[k] - a[k] * b[i]) ** 2 for i, k in combinations(range(len(a)), 2)), Decimal(0))
        sine = (wedge / (gg * tt)).sqrt() if gg and tt else nan
        angle = math.degrees(math.atan2(sine, found["cosine"])) if gg and tt else math.nan
        return {"angle": angle, **{name: float(value) for name, value in found.items()}}


def looped(g, t):
    """All quantities that count, by loops."""
    sign = lambda v: (v > 0) - (v < 0)  # noqa: E731
    agree = sum(1 for a, b in zip(g, t, strict=True) if b != 0 and sign(a) == sign(b))
    alive = sum(1 for b in t if b != 0)
    return {
        "sign_agreement": agree / alive if alive else math.nan,
        "zeros": sum(1 for a in g if a == 0) / len(g),
        "true_zeros": sum(1 for b in t if b == 0) / len(t),
    }


def close(got, want, rel=1e-12, absolute=0.0):
    return (math.isnan(got) and math.isnan(want)) or got == pytest.approx(want, rel=rel, abs=absolute)


# ------------------------------------------------------------------------------------------- against decimals and loops


@pytest.mark.parametrize(("values", "dtype"), [(FLOAT32, torch.float32), (FLOAT64, torch.float64), (PLAIN, torch.float64)])
@given(data=st.data())
def test_every_quantity_equals_its_slow_twin(values, dtype, data):
    g, t = tensors(data.draw(pairs(values)), dtype)
    found, want = measure(g, t, ALL), exact(g.tolist(), t.tolist())
    assert set(found) == set(ALL)
    for name, value in looped(g.tolist(), t.tolist()).items():
        assert close(found[name], value, 0), name
    assert close(found["cosine"], want["cosine"], 1e-12, 1e-14)
    for name in ("norm", "true_norm", "norm_ratio"):
        assert close(found[name], want[name]), name
    ratio = want["norm_ratio"]
    if math.isfinite(ratio):
        assert close(found["projection"], want["projection"], 1e-12, 1e-14 * ratio)  # terms cancel: held to their scale
        assert close(found["relative_error"], want["relative_error"])
    assert close(found["angle"], want["angle"], 1e-12, 1e-25)  # entries 25 powers of ten apart: the small ones' part is lost


@given(gt=pairs(PLAIN))
def test_cosine_equals_numpys(gt):
    g, t = (np.array(v) for v in gt)
    norms = np.linalg.norm(g) * np.linalg.norm(t)
    assume(norms > 0)
    assert cosine(*tensors(gt)) == pytest.approx(g @ t / norms, abs=1e-12)


# --------------------------------------------------------------------------------------------------------- laws of cosine


@given(gt=pairs(FLOAT32), i=st.integers(-200, 200), j=st.integers(-200, 200))
def test_cosine_does_not_see_scales_that_are_powers_of_two_at_all(gt, i, j):
    g, t = (v.double() for v in tensors(gt, torch.float32))
    assert close(cosine(g * 2.0**i, t * 2.0**j), cosine(g, t), 0)


@given(gt=pairs(PLAIN), a=st.floats(1e-150, 1e150), b=st.floats(1e-150, 1e150))
def test_cosine_does_not_see_any_positive_scale_and_turns_with_the_sign(gt, a, b):
    g, t = tensors(gt)
    assert close(cosine(a * g, b * t), cosine(g, t), 1e-12, 1e-12)
    assert close(cosine(-a * g, t), -cosine(g, t), 1e-12, 1e-12)


@given(gt=pairs(FLOAT64))
def test_cosine_is_symmetric_and_bounded(gt):
    g, t = tensors(gt)
    c = cosine(g, t)
    assert close(c, cosine(t, g), 1e-15)
    assert math.isnan(c) or -1 <= c <= 1


@given(v=st.lists(FLOAT64, min_size=1, max_size=12))
def test_a_vector_has_cosine_one_with_itself_and_minus_one_with_its_opposite(v):
    (g,) = tensors([v])
    assume(bool(g.any()))
    assert cosine(g, g) == pytest.approx(1, abs=1e-15)
    assert cosine(g, -g) == pytest.approx(-1, abs=1e-15)
    same = measure(g, g, ALL)
    assert same["norm_ratio"] == same["sign_agreement"] == same["projection"] == 1
    assert same["relative_error"] == same["angle"] == 0
    opposite = measure(g, -g, ALL)
    assert opposite["projection"] == -1
    assert opposite["relative_error"] == 2
    assert opposite["angle"] == 180


@pytest.mark.parametrize(
    ("norm", "dtype"), [(3e-10, torch.float32), (1e-40, torch.float32), (1e-200, torch.float64), (1e-310, torch.float64)]
)
def test_tiny_gradients_are_measured_as_others_are(norm, dtype):
    v = torch.randn(100, dtype=torch.float64)
    v = (v / v.norm() * norm).to(dtype)
    w = v + torch.roll(v, 1)
    assert cosine(v, v) == pytest.approx(1, abs=1e-12)
    want = exact(v.tolist(), w.tolist())
    found = measure(v, w, ALL)
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=1e-11), name


def test_where_pytorchs_own_cosine_fails():
    v = torch.full((100,), 3e-11)
    assert F.cosine_similarity(v, v, dim=0) < 0.01
    assert cosine(v, v) == pytest.approx(1, abs=1e-12)


# ------------------------------------------------------------------------------- nearly equal, nearly opposite, parallel


def normal(seed, n):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6), n=st.integers(2, 12), apart=st.integers(0, 16), along=st.sampled_from([0.0, 1e-3, 2.0]),
    sign=st.sampled_from([1, -1]),
)  # fmt: skip
def test_the_smallest_differences_are_measured_to_twelve_digits(dtype, scale, seed, n, apart, along, sign):
    """G = ±(1 + along) t + 10^-apart noise, as far as the type holds it: down to a last digit, of which an arc cosine knows nothing."""
    t = (normal(seed, n) * scale).to(dtype)
    g = sign * ((1 + along) * t.double() + 10.0**-apart * scale * normal(seed + 1, n)).to(dtype)
    found, want = measure(g, t, ALL), exact(g.tolist(), t.tolist())
    for name in ("angle", "relative_error", "norm_ratio"):
        assert close(found[name], want[name]), name
    assert close(found["projection"], want["projection"], 1e-12, 1e-14)
    if torch.equal(g, t):
        assert found["angle"] == found["relative_error"] == 0


@pytest.mark.parametrize("tiny", [1e-20, 1e-100, 1e-300])
def test_a_difference_far_below_the_last_digit_of_the_rest_is_not_lost(tiny):
    t = torch.tensor([0.1, 0.7, -3.0, 0.0], dtype=torch.float64)
    g = t + torch.tensor([0.0, 0, 0, tiny], dtype=torch.float64)
    assert measure(g, t, ("relative_error",))["relative_error"] == pytest.approx(tiny / float(t.norm()), rel=1e-12)
    assert measure(g, t, ("angle",))["angle"] == pytest.approx(math.degrees(tiny / float(t.norm())), rel=1e-12)
    assert measure(-g, t, ("angle",))["angle"] == 180


@given(v=st.lists(PLAIN, min_size=1, max_size=12), factor=st.integers(1, 1000))
def test_parallel_gradients_have_no_angle(v, factor):
    """The multiples are exact: PLAIN numbers of 24 bits times an integer."""
    t = torch.tensor(v).double()
    assume(bool(t.any()))
    assert measure(factor * t, t, ("angle",))["angle"] < 1e-25
    assert measure(-factor * t, t, ("angle",))["angle"] == 180


@given(gt=pairs(PLAIN))
def test_angle_and_relative_error_are_those_of_two_sides_of_a_triangle(gt):
    """Symmetric, supplementary, and by the law of cosines."""
    g, t = tensors(gt)
    assume(bool(g.any()) and bool(t.any()))
    found, back = measure(g, t, ALL), measure(t, g, ALL)
    assert close(found["angle"], back["angle"], 1e-12)
    assert close(measure(-g, t, ALL)["angle"], 180 - found["angle"], 1e-12, 1e-13)
    assert 0 <= found["angle"] <= 180
    assert close(found["relative_error"], back["relative_error"] * found["norm"] / found["true_norm"], 1e-12)
    squared = 1 + found["norm_ratio"] ** 2 - 2 * found["norm_ratio"] * found["cosine"]
    assert found["relative_error"] ** 2 == pytest.approx(squared, rel=1e-9, abs=1e-13 * (1 + found["norm_ratio"] ** 2))
    assert abs(1 - found["norm_ratio"]) <= found["relative_error"] * (1 + 1e-12) + 1e-15


@given(data=st.data(), n=st.integers(1, 12))
def test_the_order_of_the_entries_does_not_matter(data, n):
    g, t = (torch.tensor(data.draw(st.lists(PLAIN, min_size=n, max_size=n)), dtype=torch.float64) for _ in range(2))
    order = torch.tensor(data.draw(st.permutations(range(n))))
    check_same(measure(g[order], t[order], ALL), measure(g, t, ALL))


# ------------------------------------------------------------------------------------------------- zeros, NaN, infinities


@given(v=st.lists(FLOAT64, min_size=1, max_size=6))
def test_with_an_exact_zero_the_cosine_is_not_a_number(v):
    (g,) = tensors([v])
    zero = torch.zeros_like(g)
    for a, b in ((g, zero), (zero, g), (zero, zero), (zero, -zero)):
        found = measure(a, b, ALL)
        assert math.isnan(found["cosine"])
        assert math.isnan(found["angle"])
        assert math.isnan(found["projection"]) == (not b.any())
    found = measure(zero, g, ALL)
    assert found["zeros"] == 1
    assert found["norm"] == 0
    if bool(g.any()):
        assert found["projection"] == 0
        assert found["norm_ratio"] == 0
        assert found["sign_agreement"] == 0
        assert found["relative_error"] == 1
    else:
        assert all(math.isnan(found[n]) for n in ("norm_ratio", "sign_agreement", "relative_error"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [1, 4])
def test_what_is_not_finite_gives_nan_and_no_crash(bad, n):
    good, broken = torch.arange(1.0, n + 1), torch.arange(1.0, n + 1)
    broken[0] = bad
    for a, b in ((broken, good), (good, broken), (broken, broken)):
        found = measure(a, b, ALL)
        for name in ("cosine", "angle", "norm_ratio", "projection", "relative_error"):
            assert math.isnan(found[name]), name
        assert math.isnan(found["norm"]) == (a is broken)
        assert math.isnan(found["true_norm"]) == (b is broken)
        assert found["zeros"] == found["true_zeros"] == 0  # counts are still exact


@given(data=st.data())
def test_counts_are_exact_on_any_floats(data):
    g, t = tensors(data.draw(pairs(st.floats(width=32))), torch.float32)  # NaN and infinities too
    found = measure(g, t, ALL)
    for name in ("zeros", "true_zeros"):
        assert close(found[name], looped(g.tolist(), t.tolist())[name], 0)


def test_counts_see_entries_that_are_tiny_beside_the_largest():
    g = torch.tensor([1e300, 1e-300, 0.0], dtype=torch.float64)
    found = measure(g, torch.ones(3, dtype=torch.float64), ALL)
    assert found["zeros"] == 1 / 3
    assert found["sign_agreement"] == 2 / 3
    assert measure(torch.ones(3, dtype=torch.float64), g, ALL)["sign_agreement"] == 1


def test_very_different_scales_do_not_overflow():
    g, t = tensors([[3e200, 4e200], [4.0, 3.0]])
    found = measure(g, t, ALL)
    assert found["norm_ratio"] == pytest.approx(1e200)
    assert found["projection"] == pytest.approx(24 / 25 * 1e200)
    assert found["relative_error"] == pytest.approx(1e200)
    back = measure(t, g, ALL)
    assert back["relative_error"] == pytest.approx(1)
    assert back["projection"] == pytest.approx(24 / 25 * 1e-200)


def test_no_entries_at_all():
    found = measure(torch.zeros(0, 3), torch.zeros(0, 3), ALL)
    assert found["norm"] == found["true_norm"] == 0
    assert all(math.isnan(found[n]) for n in ALL if n not in ("norm", "true_norm"))


# ------------------------------------------------------------------------------------------------------ layout and chunks


def check_same(a, b, exactly=("sign_agreement", "zeros", "true_zeros")):
    for name in ALL:
        assert close(a[name], b[name], 0 if name in exactly else 1e-12, 0 if name in exactly else 1e-13), name


def gradients(*shape, seed=0):
    """Two that are neither equal nor independent, with zeros in them."""
    g = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(*shape, generator=g), torch.randn(*shape, generator=g)
    return (a + 0.3 * noise) * (noise.abs() > 0.2), a * (a.abs() > 0.1)


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (4, 1, 3, 3), (1, 5, 1, 1), (6, 4, 1, 1)])
def test_memory_layout_does_not_matter(shape):
    g, t = gradients(*shape)
    want = measure(g, t, ALL)
    last = [v.to(memory_format=torch.channels_last) for v in (g, t)]
    odd = [v.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0) for v in (g, t)]
    for a in (g, last[0], odd[0]):
        for b in (t, last[1], odd[1]):
            check_same(measure(a, b, ALL), want)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 7, 100])
def test_chunks_add_up_to_the_whole(monkeypatch, n):
    g, t = gradients(n)
    want = measure(g, t, ALL)
    monkeypatch.setattr(alignment, "CHUNK", 3)
    check_same(measure(g, t, ALL), want)


def test_a_tensor_longer_than_one_chunk():
    n = alignment.CHUNK + 5
    g, t = torch.zeros(n), torch.zeros(n)
    g[:2], t[:2] = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 0.0])
    g[-2:], t[-2:] = torch.tensor([0.0, 4.0]), torch.tensor([0.0, 1.0])
    found = measure(g, t, ALL)
    assert found["norm"] == pytest.approx(5)
    assert found["cosine"] == pytest.approx(7 / (5 * math.sqrt(2)))
    assert found["zeros"] == found["true_zeros"] == (n - 2) / n
    assert found["sign_agreement"] == 1


def test_sums_are_taken_in_float64():
    n = 1 << 20
    g = torch.full((n,), 1.0)
    g[0] = 4096.0  # in float32 the squares of the ones would be lost beside this one's
    assert measure(g, torch.ones(n), ("norm",))["norm"] == pytest.approx(math.sqrt(4096.0**2 + n - 1), rel=1e-14)


def test_sums_stay_in_float64_inside_a_bf16_step():
    g, t = gradients(1000)
    want = measure(g, t, ALL)
    with torch.autocast("cpu", torch.bfloat16):
        assert measure(g, t, ALL) == want


def test_half_precision_and_graphs_are_read_as_they_are():
    g, t = gradients(50)
    a, b = g.bfloat16(), t.bfloat16()
    check_same(measure(a, b, ALL), measure(a.double(), b.double(), ALL))
    assert measure(g.requires_grad_(), t)["cosine"] == cosine(g, t)


def test_inputs_are_left_alone():
    g, t = gradients(20)
    before = g.clone(), t.clone()
    measure(g, t, ALL)
    wide = g.double(), t.double()
    measure(*wide, ALL)
    assert torch.equal(g, before[0])
    assert torch.equal(t, before[1])
    assert torch.equal(wide[0], before[0].double())


# -------------------------------------------------------------------------------------------------------------- interface


def test_shapes_that_differ_are_refused():
    for a, b in [((2, 3), (3, 2)), ((6,), (2, 3)), ((3,), (4,)), ((1,), ())]:
        with pytest.raises(ValueError, match="different shapes"):
            measure(torch.zeros(a), torch.zeros(b))


def test_the_named_quantities_come_in_the_order_requested():
    g, t = gradients(5)
    assert list(measure(g, t, ("norm", "cosine"))) == ["norm", "cosine"]
    assert list(measure(g, t)) == list(RECORDED)
    assert set(RECORDED) <= set(QUANTITIES)


def test_projection_and_relative_error_by_hand():
    g, t = tensors([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])
    found = measure(g, t, ALL)
    assert found["projection"] == pytest.approx((2 * 3 + 2 * 4) / 25)
    assert found["relative_error"] == pytest.approx(math.sqrt(1 + 1 + 4) / 5)
    assert found["angle"] == pytest.approx(math.degrees(math.acos(14 / 15)))


def test_an_unknown_quantity_is_named():
    with pytest.raises(InputError, match="unknown quantity 'cosin'; nearest: cosine"):
        measure(torch.ones(2), torch.ones(2), ("cosin",))
