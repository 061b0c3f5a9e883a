"""Images of a user's own function: their order of dimensions is told from their shape, or asked for."""

import pytest
import torch

from gradlens.data.datasets import read
from gradlens.runtime.errors import InputError

FILE = """
import numpy as np
import torch
from gradlens import Split
def build():
    half = lambda n: ({make}(np.arange(n * {size}).reshape(n, {shape}).astype(np.{dtype})), np.arange(n) % 3)
    train, test = half(30), half(9)
    return {wrap}train, {wrap}test, ["a", "b", "c"]
"""


def built(tmp_path, shape, make="np.asarray", dtype="uint8", wrap=""):
    """What is read of a function that gives images of a shape, and the images it gave."""
    size = torch.Size(shape).numel()
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(make=make, size=size, shape=", ".join(map(str, shape)), dtype=dtype, wrap=wrap))
    given = (torch.arange(30 * size) % 256).to(torch.uint8).reshape(30, *shape)
    return lambda: read(f"{path}:build")[0].images, given


@pytest.mark.parametrize("make", ["np.asarray", "torch.from_numpy"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (5, 7, 3), (240, 320, 3), (8, 1, 3)])
def test_colour_in_the_last_place_is_moved(tmp_path, shape, make):
    got, given = built(tmp_path, shape, make)
    assert torch.equal(got(), given.permute(0, 3, 1, 2))
    assert got().is_contiguous()


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 9, 5), (4, 9, 6), (12, 8, 8), (6, 1, 128), (1, 1, 128)])
def test_channels_in_the_first_place_stay(tmp_path, shape):
    got, given = built(tmp_path, shape)
    assert torch.equal(got(), given)


EITHER = [(28, 28, 1), (32, 32, 4), (24, 32, 1), (6, 128, 1), (5, 9, 4), (4, 9, 3), (3, 8, 3), (3, 3, 3), (1, 8, 1), (28, 28, 2)]


@pytest.mark.parametrize("shape", EITHER)
def test_what_may_be_either_is_requested_and_a_split_says_it(tmp_path, shape):
    got, given = built(tmp_path, shape)
    said = r"mine.py:build: images of the training half of shape \[30, .*\] can be read in two ways: return a gradlens.Split"
    with pytest.raises(InputError, match=said) as caught:
        got()
    assert "\n" not in str(caught.value)
    got, given = built_as_splits(tmp_path, shape)
    assert torch.equal(got(), given)


def built_as_splits(tmp_path, shape):
    """The same of a function that gives both halves as a ``Split``."""
    got, given = built(tmp_path, shape, "torch.from_numpy", wrap="Split(*")
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("Split(*train", "Split(train[0], torch.tensor(train[1]))")
                                      .replace("Split(*test", "Split(test[0], torch.tensor(test[1]))"))  # fmt: skip
    return got, given


@pytest.mark.parametrize("shape", [(16, 3, 3), (12, 8, 3), (5, 7, 3)])
def test_a_split_is_never_turned(tmp_path, shape):
    got, given = built_as_splits(tmp_path, shape)
    assert torch.equal(got(), given)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int64", "bool_"])
def test_other_types_are_refused(tmp_path, dtype):
    got, _ = built(tmp_path, (3, 8, 8), dtype=dtype)
    with pytest.raises(InputError, match="images of the training half are .*: wanted uint8, 0 to 255"):
        got()


@pytest.mark.parametrize("shape", [(8, 8), (64,), (1, 3, 8, 8)])
def test_other_numbers_of_dimensions_are_refused(tmp_path, shape):
    got, _ = built(tmp_path, shape)
    with pytest.raises(InputError, match=r"wanted \[N, C, H, W\]"):
        got()
