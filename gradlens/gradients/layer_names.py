"""What the dotted name of a layer or parameter says; without torch, which tables do without."""

from __future__ import annotations


def parameter_kind(name: str) -> tuple[str, str]:
    """("block1.conv", "weight") for the parameter ``block1.conv.weight``."""
    layer, _, kind = name.rpartition(".")
    return layer, kind


def is_norm(layer: str) -> bool:
    """Whether a layer's name is that of a normalisation layer, whose "weight" is a scale and no matrix.

    >>> is_norm("block1.norm"), is_norm("block2.branch.norm1"), is_norm("block1.conv")
    (True, True, False)
    """
    return layer.rpartition(".")[2].rstrip("0123456789") == "norm"
