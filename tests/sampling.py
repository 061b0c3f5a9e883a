"""Parameters of tests whose full product is slow."""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest


def one_in(share: int, *axes: Iterable[Any]) -> list[Any]:
    """Every combination of the axes' values: one in ``share`` by default, the others slow.

    The indices of those taken by default sum to a multiple of ``share``: every value of every axis is among them, as are all pairs of
    two axes where there are three.
    """
    combinations = itertools.product(*(enumerate(axis) for axis in axes))
    return [
        pytest.param(*(value for _, value in chosen), marks=[pytest.mark.slow] * (sum(i for i, _ in chosen) % share > 0))
        for chosen in combinations
    ]
