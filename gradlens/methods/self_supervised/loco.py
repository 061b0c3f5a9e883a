"""Train by local contrastive learning with overlapping units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from pydantic import BaseModel

from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import Window
from gradlens.methods.self_supervised.encoder import SelfSupervised, modules_of
from gradlens.methods.self_supervised.simclr import LocalSimCLROptions, TwoViews


class LoCo(SelfSupervised):
    """delta_k = Σ over the units u that hold block k of d NT-Xent(a_u(h))/d h_k; a unit is two neighbouring modules of blocks.

    Xiong, Ren & Urtasun 2020 (arXiv 2008.01342): units (1, 2), (2, 3), … share a module, whose gradient is the sum of both; the first
    module has no loss of its own. Shared modules are run once. With one or two modules it is simclr.
    """

    summary = "contrastive losses of overlapping modules"
    other_names = ("local contrastive",)
    Options: ClassVar[type[BaseModel]] = LocalSimCLROptions
    Pretext = TwoViews
    depends_on = frozenset({"input", "backward_message"})
    has_windows = True
    least_batch = 2

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """Return pairs of neighbouring modules."""
        modules = modules_of(net, self.options.modules)
        return [Window(a.first, b.last) for a, b in pairwise(modules)] or modules
