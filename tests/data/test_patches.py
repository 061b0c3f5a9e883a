"""Patches, maps and windows against plain slicing."""

import pytest
import torch
from torch import nn

from gradlens.data.patches import Grid, cropped, grey, grid_of, maps, patch_side, patches
from gradlens.runtime.errors import InputError


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slices(x, grid):
    """Every patch of every image, cut out one by one: {(image, row, column): [C, h, w]}."""
    (h, w), s = grid.patch, grid.stride
    found = {}
    for n in range(len(x)):
        for i in range(grid.rows):
            for j in range(grid.columns):
                y0, x0 = (0, s * i) if x.shape[2] == 1 else (s * i, s * j)
                found[n, i, j] = x[n, :, y0 : y0 + h, x0 : x0 + w]
    return found


SIZES = [
    ((12, 12), {}, Grid((4, 4), 2, 5, 5)),
    ((32, 32), {}, Grid((8, 8), 4, 7, 7)),
    ((64, 64), {"patch": 16}, Grid((16, 16), 8, 7, 7)),
    ((8, 8), {}, Grid((4, 4), 2, 3, 3)),
    ((10, 17), {"patch": 4, "stride": 3}, Grid((4, 4), 3, 3, 5)),  # a pixel of the width is in no patch
    ((1, 40), {"patch": 10}, Grid((1, 10), 5, 7, 1)),
    ((1, 128), {}, Grid((1, 32), 16, 7, 1)),
    ((7, 7), {"patch": 1, "stride": 2}, Grid((1, 1), 2, 4, 4)),
]


@pytest.mark.parametrize(("size", "asked", "want"), SIZES, ids=str)
def test_grid(size, asked, want):
    assert grid_of(*size, **asked) == want


@pytest.mark.parametrize(("size", "asked", "grid"), SIZES, ids=str)
def test_patches_are_slices_and_maps_put_them_back_where_they_belong(size, asked, grid):
    x = noise(3, 2, *size)
    cut = patches(x, grid)
    wanted = slices(x, grid)
    assert len(cut) == len(wanted)
    encoder = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Tanh()).double()
    out = maps(encoder(cut), grid)
    flat = maps(cut.flatten(1), grid)  # what an encoder without space gives
    assert out.shape == (3, 5, grid.rows, grid.columns)
    for at, ((n, i, j), patch) in enumerate(wanted.items()):
        assert torch.equal(cut[at], patch)
        torch.testing.assert_close(out[n, :, i, j], encoder(patch[None]).mean((2, 3))[0], rtol=0, atol=1e-12)
        assert torch.equal(flat[n, :, i, j], patch.flatten())


def test_default_side():
    assert [patch_side(*s) for s in ((32, 32), (96, 64), (8, 8), (3, 5), (1, 128), (1, 3))] == [8, 16, 4, 3, 32, 3]


@pytest.mark.parametrize(("size", "patch"), [((8, 8), 9), ((8, 20), 9), ((1, 20), 21)])
def test_patches_larger_than_the_image(size, patch):
    with pytest.raises(InputError, match=rf"patches of {patch} pixels are larger than the images, which are {size[0]}x{size[1]}"):
        grid_of(*size, patch)


@pytest.mark.parametrize("flip", [False, True])
def test_windows_are_windows(flip):
    x = torch.arange(40 * 9 * 8).reshape(40, 1, 9, 8)  # every pixel another number
    out = cropped(x, (5, 6), flip, torch.Generator().manual_seed(0))
    seen = set()
    for n in range(40):
        all_windows = {(y, z): x[n, :, y : y + 5, z : z + 6] for y in range(5) for z in range(3)}
        at = {(*at, m) for at, w in all_windows.items() for m in (False, True) if torch.equal(out[n], w.flip(2) if m else w)}
        assert len(at) == 1
        seen |= at
    assert {y for y, _, _ in seen} == set(range(5))  # anywhere in the image
    assert {z for _, z, _ in seen} == set(range(3))
    assert {m for _, _, m in seen} == ({False, True} if flip else {False})


def test_middle_and_whole():
    x = torch.arange(2 * 9 * 8).reshape(2, 1, 9, 8)
    assert torch.equal(cropped(x, (5, 6), True, None), x[:, :, 2:7, 1:7])
    assert torch.equal(cropped(x, (9, 8), False, torch.Generator()), x)


def test_grey_is_luma_in_three_channels_and_leaves_other_images():
    x = noise(2, 3, 4, 4)
    out = grey(x)
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for c in range(3):
        torch.testing.assert_close(out[:, c], luma, rtol=0, atol=1e-12)
    assert torch.equal(grey(x[:, :1]), x[:, :1])
