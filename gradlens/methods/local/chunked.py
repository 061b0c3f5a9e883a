"""Train disjoint chunks of blocks, each end to end with its own loss (chunked local updates)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import HeadOptions, LocalLosses, Window, even, split


class ChunkedOptions(HeadOptions, frozen=True):
    """Options of chunked."""

    chunks: int | list[int] | None = Field(
        None, description="number of chunks, or their sizes in units, first to last ([2,1]); default: two, as equal as possible"
    )


class Chunked(LocalLosses):
    """delta_k = d l_c/d h_k in the chunk c of block k, with l_c the loss of an auxiliary head at the chunk's end; chunks send no gradient.

    Laskin et al. 2020 (arXiv 2012.03837). One chunk is bp, chunks of one unit are dgl; the last two blocks are one unit.
    """

    summary = "chunks of blocks, a local loss each"
    other_names = ("chunks",)
    Options: ClassVar[type[BaseModel]] = ChunkedOptions
    depends_on = frozenset({"input", "labels", "backward_message"})
    has_windows = True

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """Return the chunks."""
        chunks = self.options.chunks
        return split(even(self.units, min(2, self.units)) if chunks is None else chunks, net)
