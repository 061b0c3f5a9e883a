"""Train overlapping windows of neighbouring blocks, each with its own loss (overlapping local updates)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import HeadOptions, LocalLosses, Window, unit_names
from gradlens.runtime.errors import InputError


class OverlapOptions(HeadOptions, frozen=True):
    """Options of overlap."""

    window: int | None = Field(None, ge=1, description="units that one loss trains; default: 2, or 1 in a network of one unit")
    stride: int = Field(1, ge=1, description="units from the start of one window to that of the next")


class Overlap(LocalLosses):
    """delta_k = Σ over the windows w that hold block k of d l_w/d h_k, with l_w the loss of an auxiliary head at the window's end.

    Laskin et al. 2020 (arXiv 2012.03837). Windows begin ``stride`` units apart, the last one ends at the output block. One window is bp,
    windows of one unit are dgl. Each block is run once and each head evaluated once: a block sends partial sums of the windows'
    gradients, one for each window that extends further down.
    """

    summary = "overlapping windows of blocks, a local loss each"
    other_names = ("overlapping", "overlapping local updates")
    Options: ClassVar[type[BaseModel]] = OverlapOptions
    depends_on = frozenset({"input", "labels", "backward_message"})
    has_windows = True

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """Return windows of one size, ``stride`` apart, the last one shifted to end at the output block."""
        o, n = self.options, self.units
        window = min(2, n) if o.window is None else o.window
        if window > n:
            raise InputError(f"window={window} is larger than this network of {n} unit{'s' * (n > 1)}: {' | '.join(unit_names(net))}")
        if o.stride > window:
            raise InputError(f"stride={o.stride} leaves units between windows of {window} untrained: set a stride of at most {window}")
        firsts = [*range(0, n - window, o.stride), n - window]
        return [Window(first, first + window - 1) for first in firsts]
