"""Decoupled neural interfaces: every block learns from a synthetic gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.heads import Synthesiser
from gradlens.measures import float64
from gradlens.method import Method, Net, Signal, Update, top_signal
from gradlens.passes import Grad, Pass
from gradlens.seeding import seeded


class DNIOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the synthetic-gradient rules."""

    target: Literal["sum", "mean"] = Field(
        "sum", description="what S regresses: sum = the per-image gradient N·delta, divided by N when used; mean = delta itself"
    )
    zero_bias: bool = Field(True, description="start the synthesiser's last bias at zero, as its weight (off: the references)")
    synth_warmup: int = Field(0, ge=0, description="first N updates: blocks get the true gradient, synthesisers learn from it")
    bp_lambda: float = Field(0.0, ge=0, le=1, description="BP(lambda): share of the gradient from above; 1 is bp, 0 is dni")
    width: int | None = Field(None, ge=1, description="channels of the synthesiser's hidden layers; default: as its input")


class DNI(Method):
    """delta_k = S_k(h_k), and J_kᵀ delta_k is sent below, where S_{k-1} regresses it; the top block gets the true gradient.

    L_S = (1/N) Σ_n ‖S(h)_n − g_n‖², summed over features. BP(lambda): delta_k = (1−λ) S_k(h_k) + λ · (what came from above).
    Jaderberg et al. 2017 (arXiv 1608.05343), §2 and supplementary A; as in the references, an interface after every block
    but the top.
    """

    Options: ClassVar[type[BaseModel]] = DNIOptions
    reads = frozenset({"below", "later"})
    own_quantities: ClassVar[Mapping[str, str]] = {
        "synth_loss": "L_S = (1/N) Σ_n |S_n - g_n|², in the units it regresses, at each block",
        "synth_explained_variance": "1 - Σ(S - g)² / Σ(g - mean_n g)², at each block",
    }

    def __init__(self, net: Net, options: Any) -> None:
        super().__init__(net, options)
        self.classes = net.classes
        self.conditional = self.reads_labels(options)
        context = net.classes if self.conditional else 0
        with seeded(net.seed, "synthesisers"):
            self.synthesisers = nn.ModuleList(
                Synthesiser(shape, context, options.width, options.zero_bias) for shape in net.shapes[: self.depth - 1]
            )
        self.warming = options.synth_warmup > 0

    def start(self, epoch: int, step: int) -> None:
        """Warm-up ends after ``synth_warmup`` updates."""
        self.warming = step < self.options.synth_warmup

    @classmethod
    def reads_labels(cls, options: Any) -> bool:
        """Whether the rule's own networks read the label."""
        return "labels" in cls.reads

    def _scale(self, p: Pass) -> int:
        return len(p.y) if self.options.target == "sum" else 1

    def context(self, y: Tensor) -> Tensor | None:
        """Labels [N] as the rule's own networks read them, [N, C]; None where they do not."""
        return F.one_hot(y, self.classes).to(next(self.parameters()).dtype) if self.conditional else None

    def signal(self, k: int, passes: Mapping[int, Pass], above: tuple[Tensor, ...]) -> Signal:
        """The synthetic gradient, told and sent; the synthesiser is evaluated once and its output kept for `learn`."""
        if k == self.depth - 1:
            return top_signal(self.loss, passes[k])
        p = passes[k]
        synthetic = self.synthesisers[k](p.z.detach(), self.context(p.y))
        mix = 1.0 if self.warming else self.options.bp_lambda
        delta = synthetic.detach().to(p.h.dtype) / self._scale(p)
        if mix:
            delta = above[0] if mix == 1 else (1 - mix) * delta + mix * above[0]
        return Signal(delta, (delta,), kept=synthetic)

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, above: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Gradients of L_S: the synthesiser's regression on the message from above."""
        if k == self.depth - 1:
            return {}
        names, params = zip(*self.synthesisers[k].named_parameters(prefix=f"synthesisers.{k}"), strict=True)
        error = signal.kept.detach() - above[0] * self._scale(p)
        return dict(zip(names, torch.autograd.grad(signal.kept, params, 2 * error / len(p.y)), strict=True))

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """``synth_loss`` = L_S in the units it regresses; ``synth_explained_variance`` = 1 − Σ(S − g)² / Σ(g − mean_n g)²."""
        if update.k == self.depth - 1:
            return {}
        target = float64(update.above[0] * self._scale(update.p))
        residual = (float64(update.signal.kept.detach()) - target).square().sum()
        spread = (target - target.mean(0)).square().sum()
        return {"synth_loss": residual / len(target), "synth_explained_variance": 1 - residual / spread}


class CDNI(DNI):
    """delta_k = S_k(h_k, y): dni whose synthesisers also read the label, a linear map of it added to the first layer's output."""

    reads = frozenset({"below", "later", "labels"})
