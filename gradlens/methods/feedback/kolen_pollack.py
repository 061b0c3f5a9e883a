"""Train by the Kolen-Pollack rule: feedback matrices get the same updates as the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gradlens.methods.feedback.weight_replacement import FeedbackRule


class KP(FeedbackRule):
    """B ← (1 − lr·λ) B − lr·dWᵀ beside W ← (1 − lr·λ) W − lr·dW: fa whose B gets W's own update and decay, so B − Wᵀ dies out.

    Kolen & Pollack 1994; Akrout et al. 2019 (arXiv 1904.05391). B starts as in fa and is a parameter of the rule, so that
    the optimiser treats it like W. The decay must not be part of the gradient: hence SGD with decoupled decay.
    """

    summary = "fa, the matrices get the weights' updates"
    other_names = ("kolen-pollack",)
    learned = True
    defaults: ClassVar[Mapping[str, Any]] = {"optimizer": "sgdw", "momentum": 0.9, "lr": 0.1, "weight_decay": 0.02}
