"""Train by sign-symmetric feedback: propagate the error through the signs of the weights."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from gradlens.methods.feedback.weight_replacement import FeedbackRule, FeedbackWeights, std


class SignOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the sign-symmetric rules."""

    init: Literal["kaiming", "xavier"] = Field("kaiming", description="the default c: std = 1/√(3 fan_in), or √(2/(fan_in + fan_out))")
    scale: float | None = Field(None, gt=0, description="c: usf's constant, and the std of M; default: by init")


class SignSymmetric(FeedbackWeights):
    """B = size ∘ sign(W), of the current W.

    Args:
        size: ``constant`` (c in every entry), ``fixed`` (|M|, drawn once) or ``redrawn`` (|M_t|, drawn in each step).

    """

    def __init__(self, size: Literal["constant", "fixed", "redrawn"]) -> None:
        self.size = size

    def keep(self, rule: FeedbackRule, i: int, w: Tensor) -> Tensor | None:
        """Draw |M| in the shape of ``w``; None for ``constant``."""
        return None if self.size == "constant" else rule.draw(w, self.deviation(rule, w), i).abs_()

    def matrix(self, rule: FeedbackRule, path: str, w: Tensor) -> Tensor:
        """Compute sign(W) times c or |M|."""
        return w.sign().mul_(self.deviation(rule, w) if self.size == "constant" else rule.held(path))

    def start(self, rule: FeedbackRule, step: int) -> None:
        """Draw M_t, for ``redrawn``."""
        if self.size == "redrawn":
            for i, m in enumerate(rule.kept.buffers()):
                m.copy_(rule.draw(m, self.deviation(rule, m), i, step).abs_())

    def deviation(self, rule: FeedbackRule, w: Tensor) -> float:
        """Return c for one weight."""
        return std(w, rule.options.init) if rule.options.scale is None else rule.options.scale


class USF(FeedbackRule):
    """delta_k = delta_{k+1}, pulled back through block k+1 with B = c · sign(W) in the place of each layer's W.

    Liao, Leibo & Poggio 2016 (arXiv 1510.05067). c is the standard deviation of W's own initial entries, or ``scale`` if set.
    """

    summary = "the weights' signs in place of the weights"
    other_names = ("sign symmetry", "uniform sign feedback", "sign-symmetric feedback")
    Options: ClassVar[type[BaseModel]] = SignOptions
    feedback_weights = SignSymmetric("constant")


class FRSF(FeedbackRule):
    """delta_k = delta_{k+1}, pulled back through block k+1 with B = |M| ∘ sign(W) in the place of each layer's W; M is fixed and random.

    Liao, Leibo & Poggio 2016 (arXiv 1510.05067). M ~ U(±√3 c), so that its standard deviation is c.
    """

    summary = "the weights' signs, magnitudes drawn once"
    other_names = ("fixed random sign feedback", "fixed random magnitude sign feedback")
    Options: ClassVar[type[BaseModel]] = SignOptions
    feedback_weights = SignSymmetric("fixed")


class BRSF(FeedbackRule):
    """delta_k = delta_{k+1}, pulled back through block k+1 with B = |M_t| ∘ sign(W) in the place of each layer's W; M_t is new each step.

    Liao, Leibo & Poggio 2016 (arXiv 1510.05067). M_t ~ U(±√3 c) is a function of (seed, layer, step): evaluation draws nothing, and
    measuring a step later uses the same M_t as training did.
    """

    summary = "the weights' signs, magnitudes drawn each step"
    other_names = ("batchwise random sign feedback", "batchwise random magnitude sign feedback")
    Options: ClassVar[type[BaseModel]] = SignOptions
    feedback_weights = SignSymmetric("redrawn")
