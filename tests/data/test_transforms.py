"""Crops, flips and normalisation against loops that are slow and obvious."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlens.data.transforms import NORMALIZATIONS, crop_and_flip, normalizer
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator


def pictures(n, c, h, w, seed=0):
    return torch.randint(0, 256, (n, c, h, w), generator=generator(seed, "pictures"), dtype=torch.uint8)


def one_at_a_time(images, seed, step, pad=4):
    """The same draws, applied image by image and pixel by pixel: flip, pad with black, cut out."""
    n, c, h, w = images.shape
    rng = generator(seed, "augment", step)
    dy, dx = torch.randint(2 * pad + 1, (2, n), generator=rng).tolist()
    flips = (torch.rand(n, generator=rng) < 0.5).tolist()
    out = torch.zeros_like(images)
    for i in range(n):
        image = images[i].flip(-1) if flips[i] else images[i]
        canvas = torch.zeros(c, h + 2 * pad, w + 2 * pad, dtype=torch.uint8)
        canvas[:, pad : pad + h, pad : pad + w] = image
        # flipped content is cut at the mirrored place: the window moves over the padded picture, then is mirrored
        top, left = dy[i], 2 * pad - dx[i] if flips[i] else dx[i]
        out[i] = canvas[:, top : top + h, left : left + w]
    return out


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9), c=st.sampled_from([1, 3]), h=st.integers(4, 12), w=st.integers(4, 12),
    step=st.integers(0, 2**40), pad=st.integers(0, 4),
)  # fmt: skip
def test_against_a_loop_with_the_same_draws(n, c, h, w, step, pad):
    images = pictures(n, c, h, w)
    assert torch.equal(crop_and_flip(images, 3, step, pad), one_at_a_time(images, 3, step, pad))


def test_every_result_is_one_of_all_crops_and_all_of_them_occur():
    """By membership, without knowing the draws: 9 × 9 windows of the padded image, each plain or mirrored."""
    image = pictures(1, 2, 6, 5)[0]
    padded = torch.zeros(2, 14, 13, dtype=torch.uint8)
    padded[:, 4:10, 4:9] = image
    windows = {}
    for top in range(9):
        for left in range(9):
            window = padded[:, top : top + 6, left : left + 5]
            windows[window.numpy().tobytes()] = (top, left, False)
            windows[window.flip(-1).contiguous().numpy().tobytes()] = (top, left, True)
    assert len(windows) == 162
    out = crop_and_flip(image.expand(4000, -1, -1, -1), seed=0, step=0)
    seen = [windows[x.contiguous().numpy().tobytes()] for x in out]
    assert set(seen) == set(windows.values())
    assert sum(flip for _, _, flip in seen) / 4000 == pytest.approx(0.5, abs=0.04)
    for axis in (0, 1):
        assert sum(s[axis] for s in seen) / 4000 == pytest.approx(4, abs=0.2)


def test_draws_are_named_by_seed_and_step_and_by_nothing_else():
    images = pictures(50, 3, 8, 8)
    torch.manual_seed(1)
    a = crop_and_flip(images, 0, 7)
    after = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(crop_and_flip(images, 0, 7), a)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert not torch.equal(crop_and_flip(images, 0, 8), a)
    assert not torch.equal(crop_and_flip(images, 1, 7), a)


def test_the_images_themselves_are_left_alone():
    images = pictures(20, 1, 8, 8)
    before = images.clone()
    crop_and_flip(images, 0, 0)
    assert torch.equal(images, before)


ONE = pictures(64, 3, 8, 9, seed=1)


def test_pm1_and_none():
    pm1, none = (normalizer(kind, ONE)(ONE) for kind in ("pm1", "none"))
    want = ONE.double() / 255
    torch.testing.assert_close(none.double(), want, rtol=0, atol=1e-7)
    torch.testing.assert_close(pm1.double(), 2 * want - 1, rtol=0, atol=2e-7)
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    assert normalizer("pm1", ends)(ends).flatten().tolist() == pytest.approx([-1, 1], abs=1e-7)
    assert normalizer("none", ends)(ends).flatten().tolist() == pytest.approx([0, 1], abs=1e-7)


def test_gaussian_is_by_channel_and_by_the_training_images():
    images = ONE.clone()
    images[:, 1] //= 4
    out = normalizer("gaussian", images)(images)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)
    # other images are shifted and scaled by the training images' numbers, not by their own
    other = torch.full((2, 3, 8, 9), 100, dtype=torch.uint8)
    v = images.double()
    want = (100 - v.mean((0, 2, 3))) / v.std((0, 2, 3))
    got = normalizer("gaussian", images)(other)
    torch.testing.assert_close(got[0, :, 0, 0].double(), want, rtol=1e-5, atol=1e-6)


def test_gaussian_of_one_flat_colour_is_finite():
    flat = torch.full((4, 1, 8, 8), 7, dtype=torch.uint8)
    assert normalizer("gaussian", flat)(flat).abs().max() < 1e-5


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_output_is_float32_with_channels_last_in_memory(kind, channels):
    images = pictures(4, channels, 8, 8)
    for x in (images, crop_and_flip(images, 0, 0)):
        out = normalizer(kind, images)(x)
        assert out.dtype == torch.float32
        assert out.shape == images.shape
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_an_unknown_normalisation_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown normalization 'gauss'.*gaussian, .*"):
        normalizer("gauss", ONE)
