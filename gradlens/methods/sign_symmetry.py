"""Sign-symmetric feedback: the gradient goes down through the weights' signs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field
from torch import Tensor

from gradlens.feedback import FeedbackRule, std


class SignOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the sign-symmetric rules."""

    init: Literal["kaiming", "xavier"] = Field("kaiming", description="the default c: std = 1/√(3 fan_in), or √(2/(fan_in + fan_out))")
    scale: float | None = Field(None, gt=0, description="c: usf's constant, and the std that M is drawn with; default: by init")


class USF(FeedbackRule):
    """delta_k = the message from above, pulled back with B = c · sign(W) in the place of each layer's W.

    Liao, Leibo & Poggio 2016 (arXiv 1510.05067). c is the standard deviation of W's own initial entries unless ``scale`` says it.
    """

    Options = SignOptions

    def deviation(self, w: Tensor) -> float:
        """c for one weight."""
        return std(w, self.options.init) if self.options.scale is None else self.options.scale

    def keep(self, i: int, w: Tensor) -> Tensor | None:
        """Nothing."""
        return None

    def matrix(self, path: str, w: Tensor) -> Tensor:
        """c · sign(W), of W as it is now."""
        return w.sign().mul_(self.deviation(w))


class FRSF(USF):
    """delta_k = the message from above, pulled back with B = |M| ∘ sign(W) in the place of each layer's W; M is fixed and random.

    Liao, Leibo & Poggio 2016 (arXiv 1510.05067). M ~ U(±√3 c), so that its standard deviation is c.
    """

    def keep(self, i: int, w: Tensor) -> Tensor | None:
        """|M|."""
        return self.draw(w, self.deviation(w), i).abs_()

    def matrix(self, path: str, w: Tensor) -> Tensor:
        """|M| ∘ sign(W), of W as it is now."""
        return w.sign().mul_(self.held(path))


class BRSF(FRSF):
    """delta_k = the message from above, pulled back with B = |M_t| ∘ sign(W) in the place of each layer's W; M_t is drawn anew each step.

    Liao, Leibo & Poggio 2016 (arXiv 1510.05067). M_t ~ U(±√3 c) is a function of (seed, layer, step): evaluation draws nothing, and a
    step that is measured later has the draw it was trained with.
    """

    def start(self, epoch: int, step: int) -> None:
        """Draw M_t."""
        for i, m in enumerate(self.kept.buffers()):
            m.copy_(self.draw(m, self.deviation(m), i, step).abs_())
