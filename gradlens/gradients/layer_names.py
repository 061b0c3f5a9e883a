"""Parse the dotted name of a layer or parameter; imports no torch, for tables."""

from __future__ import annotations


def parameter_kind(name: str) -> tuple[str, str]:
    """Split a parameter's name: ("block1.conv", "weight") for ``block1.conv.weight``."""
    layer, _, kind = name.rpartition(".")
    return layer, kind


def is_norm(layer: str) -> bool:
    """Return whether a layer's name is that of a normalisation layer, whose "weight" is a scale and no matrix.

    >>> is_norm("block1.norm"), is_norm("block2.branch.norm1"), is_norm("block1.conv")
    (True, True, False)
    """
    return layer.rpartition(".")[2].rstrip("0123456789") == "norm"


def depth_and_kind(layer: str) -> tuple[int, str] | None:
    """Split the name of a layer in a numbered block into the block's number and the layer's name there; None in other blocks.

    >>> depth_and_kind("block3.attention.query"), depth_and_kind("block1.layer.ff1"), depth_and_kind("top.vocabulary")
    ((3, 'attention.query'), (1, 'ff1'), None)
    """
    block, _, kind = layer.partition(".")
    number = block.removeprefix("block")
    if not (block.startswith("block") and number.isdecimal() and kind):
        return None
    return int(number), kind.removeprefix("layer.")


def named(label: str) -> str:
    """Format a label for a sentence; the model's own path is empty."""
    return label if label and label[0] not in "[#" else f"the model itself{label}"
