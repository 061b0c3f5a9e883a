"""diff: numbers against slow code, names, floors, what is missing, and what cannot be compared."""

import math

import pytest
import torch
from torch import nn

import gradlens
from gradlens.gradients.capture_file import CaptureFile
from gradlens.runtime.errors import InputError
from gradlens.testing import assert_gradients_match


class Net(nn.Module):
    def __init__(self, factor=1.0, names=("first", "second")):
        super().__init__()
        torch.manual_seed(0)
        self.names, self.factor = names, factor
        for name in names:
            self.add_module(name, nn.Linear(5, 5))
        self.act = nn.Tanh()

    def forward(self, x):
        for name in self.names:
            x = self.act(getattr(self, name)(x))
        return x * self.factor


def captured(path, model, seed=1, **options):
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
    with gradlens.capture(model, path, **options):
        model(x).square().sum().backward()
    return path


def pair(tmp_path, one, other, **options):
    return captured(tmp_path / "a", one), captured(tmp_path / "b", other, **options)


def test_rows_have_the_cosine_ratio_and_distance_of_the_stored_tensors(tmp_path):
    other = Net()
    with torch.no_grad():
        other.second.weight.mul_(1.3)
    found = gradlens.diff(*pair(tmp_path, Net(), other), others=True)
    a, b = (CaptureFile(tmp_path / name) for name in "ab")
    assert [row.key for row in found.rows[:8]] == [
        *(f"activation/{label}" for label in ("first", "act", "second", "act#1")),
        *(f"gradient/{label}" for label in ("act#1", "second", "act", "first")),
    ]
    for row in found.rows:
        u, v = (file.tensor(row.key).double().flatten().tolist() for file in (a, b))
        dot, uu, vv = (sum(p * q for p, q in zip(*both, strict=True)) for both in ((u, v), (u, u), (v, v)))
        gap = math.sqrt(sum((p - q) ** 2 for p, q in zip(u, v, strict=True)))
        assert row.cosine == pytest.approx(dot / math.sqrt(uu * vv), abs=1e-12)
        assert row.norm_ratio == pytest.approx(math.sqrt(vv / uu), rel=1e-12)
        whole = 1.0
        if row.name.endswith("bias"):  # a sum over rows: relative to what was summed
            arrived = [math.hypot(*file.tensor(f"gradient/{row.layer}").double().flatten().tolist()) for file in (a, b)]
            whole = max(1.0, max(arrived) / math.sqrt(max(uu, vv)))
        assert row.apart == pytest.approx(gap / math.sqrt(max(uu, vv)) / whole, rel=1e-6)


def test_equal_steps_are_the_same_and_a_multiple_is_called_one(tmp_path):
    assert repr(gradlens.diff(*pair(tmp_path, Net(), Net()))) == (
        "<Difference: same within the floor; 12 tensors; .first, .rows, .table(), .frame()>"
    )
    model = Net()
    with gradlens.capture(model, tmp_path / "b"):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
        (model(x).square().sum() / 8).backward()
    found = gradlens.diff(tmp_path / "a", tmp_path / "b")
    assert (found.first.part, found.first.factor) == ("scale", pytest.approx(1 / 8))
    assert found.answer == "all of b is 0.12 × a: a denominator?"
    with pytest.raises(AssertionError, match="all of b is 0.12 × a"):
        assert_gradients_match(tmp_path / "a", tmp_path / "b")
    assert_gradients_match(tmp_path / "a", tmp_path / "a")


def test_names_are_mapped_and_unknown_ones_refused(tmp_path):
    a, b = pair(tmp_path, Net(), Net(names=("eins", "zwei")))
    with pytest.raises(InputError, match="share no layer|other weights"):
        gradlens.diff(a, captured(tmp_path / "c", nn.Sequential(nn.Linear(5, 5))))
    assert gradlens.diff(a, b, map=["eins=first", "zwei=second"]).same
    assert not gradlens.diff(a, b).same
    for rule, message in (
        ("eins", "expected B=A"),
        ("drei=first", "unknown layer of b in --map 'drei'"),
        ("[=first", "no regular expression"),
    ):
        with pytest.raises(InputError, match=message):
            gradlens.diff(a, b, map=[rule])


class Attention(nn.Module):
    """Three projections, fused or not, of the same weights."""

    def __init__(self, fused):
        super().__init__()
        torch.manual_seed(0)
        whole = nn.Linear(6, 18)
        if fused:
            self.qkv = whole
        else:
            self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
            for part, weight, bias in zip((self.q, self.k, self.v), whole.weight.chunk(3), whole.bias.chunk(3), strict=True):
                part.weight.data, part.bias.data = weight.detach().clone(), bias.detach().clone()
        self.fused = fused

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_a_fused_projection_is_compared_with_separate_ones(tmp_path):
    for name, fused in (("a", True), ("b", False)):
        model = Attention(fused)
        with gradlens.capture(model, tmp_path / name):
            model(torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    found = gradlens.diff(tmp_path / "a", tmp_path / "b", map=["q,k,v=qkv"])
    assert [(row.key, row.state) for row in found.rows] == [
        (key, "same") for key in ("activation/qkv", "gradient/qkv", "parameter/qkv.weight", "parameter/qkv.bias")
    ]
    assert found.same


def test_other_weights_and_inputs_are_said_first(tmp_path):
    other = Net()
    with torch.no_grad():
        other.first.weight.add_(0.01)
    a, b = pair(tmp_path, Net(), other)
    with pytest.raises(
        InputError, match=r"have other weights \(first.weight is .* apart\), so their gradients are not of the same step; --others"
    ):
        gradlens.diff(a, b)
    found = gradlens.diff(a, b, others=True)
    assert found.first.part == "forward"
    assert found.remarks[0].endswith("apart)")
    with pytest.raises(InputError, match="have other inputs"):
        gradlens.diff(a, captured(tmp_path / "c", Net(), seed=2))


def test_repeats_set_the_floor(tmp_path):
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + 1e-3 * torch.randn(x.shape, generator=self.stream))

    for i, name in enumerate("abc"):
        model = Noisy()
        model.stream = torch.Generator().manual_seed(i)
        captured(tmp_path / name, model)
    assert not gradlens.diff(tmp_path / "a", tmp_path / "b").same
    found = gradlens.diff(tmp_path / "a", tmp_path / "b", floor=tmp_path / "c")
    assert found.same
    assert found.floor == "3 × the spread over 2 repeats"


def test_values_that_are_not_finite_and_layers_of_one_side_are_named(tmp_path):
    broken = Net()
    broken.act.register_forward_hook(lambda module, args, output: output / (output - output[0, 0]).abs().mul(0).add(1).sub(1))
    found = gradlens.diff(*pair(tmp_path, Net(), broken))
    assert found.first.part == "forward"
    assert "not finite: 0 entries in a, 40 in b" in found.answer
    more = Net()
    more.extra = nn.Linear(5, 5)
    more.names = ("first", "extra", "second")
    found = gradlens.diff(*pair(tmp_path, Net(), more))
    assert {row.name: row.why for row in found.rows if row.layer == "extra"} == dict.fromkeys(
        ("extra", "extra.weight", "extra.bias"), "only in b"
    )


@pytest.mark.parametrize("sketched", ["both", "b"])
def test_sketches_find_the_same_layer_and_have_no_signs(sketched, tmp_path):
    class Wrong(Net):
        def forward(self, x):
            h = self.act(self.first(x))
            h.register_hook(lambda g: g.flip(1))
            return self.act(self.second(h))

    captured(tmp_path / "a", Net(), **({"sketch": 512} if sketched == "both" else {}))
    captured(tmp_path / "b", Wrong(), sketch=512)
    found = gradlens.diff(tmp_path / "a", tmp_path / "b")
    assert (found.first.part, found.first.layer) == ("backward", "act")
    assert all(math.isnan(row.sign_agreement) for row in found.rows)
    captured(tmp_path / "c", Net(), sketch=256)
    if sketched == "both":
        assert {row.why for row in gradlens.diff(tmp_path / "a", tmp_path / "c").rows} == {"sketches of different size or seed"}
