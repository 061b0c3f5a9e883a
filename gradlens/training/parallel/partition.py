"""Blocks in contiguous parts, one for each worker."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from torch import nn

from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError


def allowed_cuts(method: Method) -> list[int]:
    """Return boundaries (c: between blocks c−1 and c) at which two workers can part: ``method.can_split_after``."""
    return [k + 1 for k in range(method.output_block) if method.can_split_after(k)]


def partition(costs: Sequence[float], parts: int, allowed: Collection[int]) -> list[range]:
    """Return contiguous blocks for each worker such that the largest sum of costs is as small as can be; of several such splits the first.

    Splits are ordered by their cuts, the lowest cut first.

    Args:
        costs: of each block, bottom first.
        parts: workers, each of which gets a block at least.
        allowed: cuts that may be made; cut c is between blocks c−1 and c.

    Raises:
        InputError: fewer than one part, or more parts than the allowed cuts make.

    """
    ends = sorted({c for c in allowed if 0 < c < len(costs)})
    if parts < 1:
        raise InputError(f"blocks can be split over 1 worker or more, not {parts}")
    if len(ends) < parts - 1:
        most = len(ends) + 1
        raise InputError(f"{len(costs)} blocks cannot be split over {parts} workers: they can be split at {len(ends)} places, for {most}")
    bounds = [0, *ends, len(costs)]
    last = len(bounds) - 1
    weight = {(i, j): sum(costs[bounds[i] : bounds[j]]) for i in range(last) for j in range(i + 1, last + 1)}
    largest = {(1, i): weight[i, last] for i in range(last)}  # (parts, first bound) -> the smallest largest sum from there on
    for n in range(2, parts + 1):
        for i in range(last - n + 1):
            largest[n, i] = min(max(weight[i, j], largest[n - 1, j]) for j in range(i + 1, last - n + 2))
    cuts, best = [0], largest[parts, 0]
    for n in range(parts, 1, -1):
        i = cuts[-1]
        cuts.append(next(j for j in range(i + 1, last - n + 2) if max(weight[i, j], largest[n - 1, j]) <= best))
    return [range(bounds[i], bounds[j]) for i, j in pairwise([*cuts, last])]


def split_over(method: Method, costs: Sequence[float], ranks: int, names: Sequence[str], sizes: Sequence[int] | None = None) -> list[range]:
    """Return the blocks of each rank, bottom first.

    Args:
        method: the rule, which defines where blocks can be split.
        costs: seconds of each block that it runs.
        ranks: how many.
        names: the blocks'.
        sizes: blocks of each rank, if set; default: such that the slowest rank is as fast as possible.

    Raises:
        InputError: more ranks than parts, sizes that do not add up, a cut where the rule has none.

    """
    allowed = allowed_cuts(method)
    has = f"{len(costs)} blocks that can be split at {len(allowed)} places, after {', '.join(names[c - 1] for c in allowed) or 'none'}"
    if len(allowed) < ranks - 1:
        raise InputError(f"{ranks} ranks are too many: this network under this rule has {has}")
    if sizes is None:
        return partition(costs, ranks, allowed)
    if len(sizes) != ranks or sum(sizes) != len(costs) or min(sizes) < 1:
        raise InputError(f"--split {','.join(map(str, sizes))}: expected {ranks} numbers of blocks that add up to {len(costs)}")
    ends = [sum(sizes[: i + 1]) for i in range(ranks)]
    if wrong := [c for c in ends[:-1] if c not in allowed]:
        raise InputError(f"--split {','.join(map(str, sizes))} splits the network after {names[wrong[0] - 1]}; it has {has}")
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def require_separable(model: nn.Sequential, ranges: Sequence[range]) -> None:
    """Refuse a split that separates blocks which share a parameter.

    Args:
        model: the blocks.
        ranges: those of each rank; a block in none of them is trained nowhere.

    Raises:
        InputError: a parameter is shared by blocks on two ranks.

    """
    owners: dict[int, int | None] = {}
    for k, (block_name, block) in enumerate(model.named_children()):
        mine = next((rank for rank, blocks in enumerate(ranges) if k in blocks), None)
        for name, p in block.named_parameters():
            if owners.setdefault(id(p), mine) != mine:
                raise InputError(
                    f"--parallel layers: {block_name}.{name} belongs to blocks on different ranks: set --split so that they are on one"
                )
