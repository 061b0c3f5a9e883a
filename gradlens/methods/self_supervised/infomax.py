"""Train by Greedy InfoMax: each module predicts its own output on the patches further down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, Field

from gradlens.methods.self_supervised.cpc import QUANTITIES, PatchOptions, PatchPrediction
from gradlens.methods.self_supervised.encoder import SelfSupervised


class InfoMaxOptions(PatchOptions, frozen=True):
    """Options of infomax."""

    modules: int | list[int] | None = Field(None, description="parts of the encoder, or their sizes in blocks; default: each block")


class InfoMax(SelfSupervised):
    """delta_k = d mean_r InfoNCE(z_iᵀ W_r z_{i+r+1})/d h_k inside each module of blocks, z the patches' spatial means at its end.

    Löwe, O'Connor & Veeling 2019 (arXiv 1905.11786): cpc without an autoregressor, module by module; a module sends no backward message.
    With one module it is cpc with layers=0.
    """

    summary = "cpc module by module, without context network"
    other_names = ("greedy infomax", "gim")
    Options: ClassVar[type[BaseModel]] = InfoMaxOptions
    Pretext = PatchPrediction
    method_quantities: ClassVar[Mapping[str, str]] = QUANTITIES
    least_batch = 2
    local = True
