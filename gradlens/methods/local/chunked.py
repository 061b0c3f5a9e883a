"""Chunked local updates: disjoint chunks of blocks, each trained end to end by a loss of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import HeadOptions, LocalLosses, Window, even, split


class ChunkedOptions(HeadOptions, frozen=True):
    """Options of chunked."""

    chunks: int | list[int] | None = Field(
        None, description="number of chunks, or their sizes in units, bottom first ([2,1]); default: two, as equal as can be"
    )


class Chunked(LocalLosses):
    """delta_k = d l_c/d h_k inside the chunk c that holds block k, with l_c the loss of a head at the chunk's end, nothing sent below it.

    Laskin et al. 2020 (arXiv 2012.03837). One chunk is bp, chunks of one unit are dgl; the last block and the top are one unit.
    """

    summary = "groups of blocks, a loss for each"
    other_names = ("chunks",)
    Options: ClassVar[type[BaseModel]] = ChunkedOptions
    depends_on = frozenset({"input", "labels", "backward_message"})

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """The chunks."""
        chunks = self.options.chunks
        return split(even(self.units, min(2, self.units)) if chunks is None else chunks, net)
