"""Views against torchvision's one-image functions and slow loops."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as TF

from gradlens.data.contrastive_views import GREY, Draws, ViewOptions, blurred, colours, hue_rotation, views, windows
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator
from gradlens.training.build import make_network_info

IMAGES = torch.randint(60, 180, (12, 3, 16, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
OFF = {"crop": False, "flip": False, "jitter": 0.0, "grey": 0.0, "blur": 0.0}


def options(**changes):
    return ViewOptions(**{**OFF, **changes})


def draws(n, seed=0):
    return Draws(n, torch.device("cpu"), generator(seed, "test"))


def test_without_any_change_a_view_is_the_image_and_views_are_neighbours():
    got = views(IMAGES, options(), 0, 0)
    assert got.shape == (24, 3, 16, 12)
    assert torch.equal(got, IMAGES.float().repeat_interleave(2, 0))


def test_views_are_keyed_by_seed_and_step_and_differ_within_a_pair():
    a, b = views(IMAGES, ViewOptions(), 3, 5), views(IMAGES, ViewOptions(), 3, 5)
    assert torch.equal(a, b)
    assert not torch.equal(a, views(IMAGES, ViewOptions(), 3, 6))
    assert not torch.equal(a, views(IMAGES, ViewOptions(), 4, 5))
    assert not torch.equal(a[::2], a[1::2])
    assert a.min() >= 0
    assert a.max() <= 255


def test_a_flip_is_a_flip():
    got = views(IMAGES, options(flip=True), 0, 0)
    same = [torch.allclose(v, i, atol=1e-3) for v, i in zip(got, IMAGES.float().repeat_interleave(2, 0), strict=True)]
    turned = [torch.allclose(v, i.flip(-1), atol=1e-3) for v, i in zip(got, IMAGES.float().repeat_interleave(2, 0), strict=True)]
    assert all(a != b for a, b in zip(same, turned, strict=True))
    assert 0 < sum(turned) < 24


def test_windows_cover_the_areas_and_aspects_requested_and_stay_inside():
    n = 4000
    w = windows(n, options(crop=True, min_area=0.08), draws(n), (32, 32)).double()
    width, height, x, y = w[:, 0, 0], w[:, 1, 1], w[:, 0, 2], w[:, 1, 2]
    area = width * height
    assert area.min() > 0.079
    assert area.max() <= 1
    assert area[area < 0.5].mean().item() == pytest.approx((0.08 + 0.5) / 2, abs=0.02)  # uniform where no side is cut off
    ratio = (width / height)[(width < 1) & (height < 1)]
    assert ratio.min() > 3 / 4 - 1e-4
    assert ratio.max() < 4 / 3 + 1e-4
    for middle, side in ((x, width), (y, height)):
        assert (middle.abs() + side <= 1 + 1e-6).all()


def test_a_crop_is_torchvisions_resized_crop():
    """A window on whole pixels, resized bilinearly, one image at a time."""
    grid = torch.nn.functional.affine_grid(torch.tensor([[[0.5, 0, 0.0], [0, 0.5, -0.25]]]), [1, 3, 16, 12], align_corners=False)
    image = IMAGES[:1].float()
    mine = torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    theirs = TF.resized_crop(image, top=2, left=3, height=8, width=6, size=[16, 12], antialias=False)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the crop's edge torchvision repeats its pixels, the view sees on
    torch.testing.assert_close(mine[inside], theirs[inside], atol=1e-3, rtol=0)


@pytest.mark.parametrize("which", ["brightness", "contrast", "saturation"])
def test_each_colour_change_is_torchvisions(which, monkeypatch):
    """With the other factors at 1 and nothing clipped, on images of middling brightness."""
    place = {"brightness": 0, "contrast": 1, "saturation": 2}[which]
    factor, n = 1.2, 12

    class Fixed(Draws):
        def __init__(self):
            self.n, self.device, self.count = n, torch.device("cpu"), -2

        def uniform(self, low=0.0, high=1.0):
            self.count += 1
            if self.count == -1:
                return torch.zeros(n)  # jittered, all of them
            return torch.full((n,), factor if self.count == place else 1.0 if self.count < 3 else 0.0)

        def order(self, k):
            return [3, 2, 1, 0]

    a, b = colours(n, options(jitter=0.5), Fixed())
    flat = (IMAGES.float() / 255).flatten(2)
    mine = (a @ flat + b @ flat.mean(2, keepdim=True)).view(n, 3, 16, 12)
    theirs = torch.stack([getattr(TF, f"adjust_{which}")(image, factor) for image in IMAGES.float() / 255])
    torch.testing.assert_close(mine, theirs, atol=2e-3 if which == "contrast" else 1e-3, rtol=0)  # torchvision's luma has four digits


def test_the_changes_of_a_view_are_those_of_a_loop_over_pixels():
    """All four and grey in the order drawn, one image and one pixel at a time, in float64."""
    n = 12
    o = options(jitter=0.5, grey=0.3)
    a, b = colours(n, o, draws(n, 4))
    again = draws(n, 4)
    jittered = again.uniform() < 0.8
    bright, contrast, saturate = (torch.where(jittered, again.uniform(0.6, 1.4), 1.0).double() for _ in range(3))
    turn = torch.where(jittered, again.uniform(-0.1, 0.1), 0.0).double()
    order, grey = again.order(4), None
    grey = again.uniform() < 0.3
    luma = torch.tensor(GREY, dtype=torch.float64)
    assert grey.any()
    assert jittered.any()
    for i, image in enumerate(IMAGES.double()):
        v = image.clone()
        for which in order:
            if which == 0:
                v = v * bright[i]
            elif which == 1:
                v = contrast[i] * v + (1 - contrast[i]) * sum(luma[c] * v[c].mean() for c in range(3))
            elif which == 2:
                v = saturate[i] * v + (1 - saturate[i]) * sum(luma[c] * v[c] for c in range(3))
            else:
                y = torch.stack([sum(t * v[c] for c, t in enumerate(row)) for row in YIQ])
                angle = 2 * math.pi * float(turn[i])
                y = torch.stack([y[0], math.cos(angle) * y[1] - math.sin(angle) * y[2], math.sin(angle) * y[1] + math.cos(angle) * y[2]])
                back = torch.tensor(YIQ, dtype=torch.float64).inverse()
                v = torch.stack([sum(back[r, c] * y[c] for c in range(3)) for r in range(3)])
        if grey[i]:
            v = sum(luma[c] * v[c] for c in range(3)).expand(3, -1, -1)
        mean = image.mean((1, 2))
        mine = torch.einsum("rc,chw->rhw", a[i].double(), image) + (b[i].double() @ mean)[:, None, None]
        torch.testing.assert_close(mine, v, atol=2e-3, rtol=0)


YIQ = [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]


def test_hue_leaves_greys_and_brightness_alone_and_a_whole_turn_is_none():
    turn = torch.tensor([0.0, 0.1, -0.3, 1.0], dtype=torch.float64)
    m = hue_rotation(turn)
    torch.testing.assert_close(m @ torch.ones(3, dtype=torch.float64), torch.ones(4, 3, dtype=torch.float64), atol=2e-3, rtol=0)
    luma = torch.tensor(GREY, dtype=torch.float64)
    torch.testing.assert_close(luma @ m, luma.expand(4, 3), atol=1e-10, rtol=0)
    torch.testing.assert_close(m[[0, 3]], torch.eye(3, dtype=torch.float64).expand(2, 3, 3), atol=1e-10, rtol=0)


def test_blur_is_a_convolution_with_a_gaussian():
    images = IMAGES.double()
    again = draws(12, 2)
    mine = blurred(images, 0.5, draws(12, 2))
    chosen = again.uniform() < 0.5
    sigma = again.uniform(0.1, 2.0)
    assert chosen.any()
    for i, image in enumerate(images):
        weights = [math.exp(-0.5 * (d / float(sigma[i])) ** 2) for d in (-1, 0, 1)] if chosen[i] else [0.0, 1.0, 0.0]
        weights = [w / sum(weights) for w in weights]
        h, w = image.shape[1:]
        for y, x in ((0, 0), (5, 7), (15, 11), (8, 0)):
            at = [(min(max(y + dy, 0), h - 1), min(max(x + dx, 0), w - 1), a * b)
                  for dy, a in zip((-1, 0, 1), weights, strict=True) for dx, b in zip((-1, 0, 1), weights, strict=True)]  # fmt: skip
            want = sum(image[:, r, c] * k for r, c, k in at)
            torch.testing.assert_close(mine[i, :, y, x], want, atol=1e-4, rtol=0)


def test_grey_images_stay_grey_and_keep_one_channel():
    got = views(IMAGES[:, :1], ViewOptions(blur=0.5), 0, 0)
    assert got.shape == (24, 1, 16, 12)
    assert not torch.equal(got, IMAGES[:, :1].float().repeat_interleave(2, 0))


def test_images_of_two_channels_are_refused():
    net = make_network_info(build("mlp", ModelSpec((2, 4, 4), 10)), (2, 4, 4), 10, LOSSES["ce"])
    with pytest.raises(InputError, match="1 or 3 channels; these have 2"):
        METHODS["simclr"](net, METHODS["simclr"].Options())
