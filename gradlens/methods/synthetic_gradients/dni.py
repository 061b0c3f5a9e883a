"""Train by decoupled neural interfaces: every block's error signal is a synthetic gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn

from gradlens.gradients.alignment import float64
from gradlens.gradients.block_pass import Grad, Pass
from gradlens.gradients.losses import one_hot
from gradlens.gradients.method import Method, Signal, Update, relay, top_signal
from gradlens.gradients.network_info import NetworkInfo
from gradlens.models.layouts import on_items
from gradlens.models.synthesizers import LinearSynthesiser, Synthesiser
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.batch_shard import all_reduce_sum, global_count
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import seeded


class DNIOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the synthetic-gradient rules."""

    target: Literal["sum", "mean"] = Field(
        "sum", description="regression target of S: sum = the per-item gradient N·delta, divided by N when used; mean = delta itself"
    )
    zero_bias: bool = Field(True, description="initialise the synthesiser's last bias at zero, like its weight (off: the references)")
    synth_warmup: int = Field(0, ge=0, description="first N updates: blocks use the true gradient, synthesisers learn from it")
    bp_lambda: float = Field(0.0, ge=0, le=1, description="BP(lambda): weight of the gradient from block k+1; 1 is bp, 0 is dni")
    width: int | None = Field(None, ge=1, description="channels of the synthesiser's hidden layers; default: as its input")
    linear: bool = Field(False, description="a synthesiser without hidden layers: S = A h + b, for cdni A h + B y + b")
    at: list[int] | None = Field(
        None, description="blocks, counted from 1, followed by a synthesiser ([2]); between them bp. Default: all but the last"
    )

    @model_validator(mode="after")
    def _hidden_layers(self) -> DNIOptions:
        if self.linear and self.width is not None:
            raise InputError("width sets hidden layers of the synthesiser, and with linear=true it has none; set one of the two")
        return self


def interfaces(at: Iterable[int] | None, net: NetworkInfo) -> frozenset[int]:
    """Return the blocks, counted from 0, that are followed by a synthesiser.

    Args:
        at: blocks, counted from 1; None: every block but the last.
        net: the network.

    Raises:
        InputError: a block that does not exist, or the output block, which uses the true gradient.

    """
    below_top = range(len(net.blocks) - 1)
    if at is None:
        return frozenset(below_top)
    chosen = frozenset(k - 1 for k in at)
    if wrong := sorted(chosen - set(below_top)):
        raise InputError(f"at: {wrong[0] + 1} is no block before the output block; set blocks of 1 to {len(below_top)}")
    return chosen


class SavedForLearning(NamedTuple):
    """A block's tensors for its regressions, kept until its update is done."""

    synthetic: Tensor | None = None  # [N, *out] S_k's output with its graph; None without a synthesiser
    below: Tensor | None = None  # [N, *in] the actual output of block k−1, if this block's input was synthetic


class DNI(Method):
    """delta_k = S_k(h_k), and J_kᵀ delta_k is the target g of S_{k-1}; the output block uses the true gradient.

    L_S = (1/N) Σ_n ‖S(h)_n − g_n‖², summed over features, over all rows n: those without a target get g = 0.
    BP(lambda): delta_k = (1−λ) S_k(h_k) + λ · (message of block k+1).
    Jaderberg et al. 2017 (arXiv 1608.05343, §2 and supplementary A); as in the references, an interface after every block
    but the last, or after the blocks of ``at``: blocks without one wait for the message of block k+1 and use it, as in bp.
    """

    summary = "a small network predicts each block's gradient"
    other_names: ClassVar[tuple[str, ...]] = ("synthetic gradients", "decoupled neural interfaces", "decoupled neural interface")
    Options: ClassVar[type[BaseModel]] = DNIOptions
    depends_on = frozenset({"input", "delayed_message"})
    method_quantities: ClassVar[Mapping[str, str]] = {
        "synth_loss": "L_S = (1/N) Σ_n |S_n - g_n|², in the units of its target, at each block",
        "synth_explained_variance": "1 - Σ(S - g)² / Σ(g - mean_n g)², at each block",
    }

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.classes = net.classes
        self.conditional = self.reads_labels(options)
        self.interfaces = interfaces(options.at, net)
        with seeded(net.seed, "synthesisers"):
            self.synthesisers = self.at_interfaces(net, self._synthesiser)
        self.warming = options.synth_warmup > 0

    def _synthesiser(self, shape: Sequence[int], last: bool) -> nn.Module:
        context = self.classes if self.conditional else 0
        if self.options.linear:
            return LinearSynthesiser(shape, context, self.options.zero_bias, last)
        return Synthesiser(shape, context, self.options.width, self.options.zero_bias, last)

    def at_interfaces(self, net: NetworkInfo, make: Callable[[torch.Size, bool], nn.Module]) -> nn.ModuleList:
        """Make a network for the output of each block with an interface; Identity stands for the others.

        ``make`` gets the output's shape and whether its features are last.
        """

        def at(k: int) -> nn.Module:
            return on_items(make(net.features(k), net.turned(k)), net.items.per_item) if k in self.interfaces else nn.Identity()

        return nn.ModuleList(map(at, range(self.num_blocks - 1)))

    def start(self, epoch: int, step: int) -> None:
        """End the warm-up after ``synth_warmup`` updates."""
        self.warming = step < self.options.synth_warmup

    @classmethod
    def reads_labels(cls, options: Any) -> bool:
        """Return whether the rule's own networks read the label."""
        return "labels" in cls.depends_on

    def waits_for_message(self) -> bool:
        """Return whether BP(lambda) adds a share of the message of block k+1."""
        return bool(self.options.bp_lambda)

    def can_split_after(self, k: int) -> bool:
        """Return whether a synthesiser follows block k; without one the block uses the message of block k+1, as in bp."""
        return k < self.output_block and k in self.interfaces

    def supports_delayed_target(self, k: int) -> bool:
        """Return whether the message is only a regression target and no part of the error signal."""
        return k in self.interfaces and not self.options.bp_lambda and not self.warming

    def _scale(self, p: Pass) -> int:
        return global_items(p.y) if self.options.target == "sum" else 1

    def _rows(self, x: Tensor) -> int:
        """Count what the regression is the mean over in x [N, *out]: rows of the whole batch, with items in rows all positions."""
        return global_count(x.shape[:-1].numel() if self.items.per_item else len(x))

    def context(self, y: Tensor) -> Tensor | None:
        """Convert labels [N, *] to the one-hot input [N, *, C] of the rule's own networks, zeros for none; None if they read no labels."""
        if not self.conditional:
            return None
        return (one_hot(y.clamp(min=0), self.classes) * (y >= 0)[..., None]).to(next(self.parameters()).dtype)

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Use the synthetic gradient and pass it down; the synthesiser is evaluated once and its output kept for `learn`."""
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k])
        if k not in self.interfaces:
            return relay(received)
        p = passes[k]
        synthetic = self.synthesisers[k](p.z.detach(), self.context(p.y))
        mix = 1.0 if self.warming else self.options.bp_lambda
        delta = synthetic.detach().to(p.h.dtype) / self._scale(p)
        if mix:
            delta = received[0] if mix == 1 else (1 - mix) * delta + mix * received[0]
        return Signal(delta, (delta,), saved=SavedForLearning(synthetic))

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, received: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Compute the gradients of L_S: the synthesiser's regression on the message of block k+1."""
        if k not in self.interfaces:
            return {}
        synthetic = signal.saved.synthetic
        error = synthetic.detach() - received[0] * self._scale(p)
        return regression_gradients(self.synthesisers[k], f"synthesisers.{k}", synthetic, 2 * error / self._rows(error))

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Return ``synth_loss`` = L_S in its target's units and ``synth_explained_variance`` = 1 − Σ(S − g)² / Σ(g − mean_n g)²."""
        if update.k not in self.interfaces or not update.received:  # or the message is delayed
            return {}
        target, predicted = float64(update.received[0] * self._scale(update.p)), update.signal.saved.synthetic
        if self.items.per_item:
            target, predicted = target.flatten(0, -2), predicted.flatten(0, -2)
        residual, explained = regression_errors(predicted, target)
        return {"synth_loss": residual / global_count(len(target)), "synth_explained_variance": explained}


def regression_gradients(module: nn.Module, name: str, predicted: Tensor, slope: Tensor, keep: bool = False) -> dict[str, Tensor]:
    """Compute the gradients of a synthesiser's parameters, by their name in the rule.

    Args:
        module: the synthesiser.
        name: its dotted path in the rule.
        predicted: [N, *out] its output, with its graph.
        slope: [N, *out] gradient of its loss with respect to ``predicted``.
        keep: keep the graph.

    """
    names, params = zip(*module.named_parameters(prefix=name), strict=True)
    return dict(zip(names, torch.autograd.grad(predicted, params, slope, retain_graph=keep), strict=True))


def regression_errors(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute Σ (p − t)² and 1 − Σ (p − t)² / Σ (t − mean_n t)² over the global batch, of p [N, *] and t [N, *] in float64: scalars."""
    residual = all_reduce_sum((float64(predicted.detach()) - target).square().sum())
    spread = all_reduce_sum((target - all_reduce_sum(target.sum(0)) / global_count(len(target))).square().sum())
    return residual, 1 - residual / spread


class CDNI(DNI):
    """delta_k = S_k(h_k, y): dni with synthesisers that also read the label, a linear map of it added to the first layer's output.

    Jaderberg et al. 2017 (arXiv 1608.05343, cDNI).
    """

    summary = "dni, the prediction also reads the label"
    other_names: ClassVar[tuple[str, ...]] = ("conditional dni", "conditional synthetic gradients")
    reads_classes = "its synthesisers read them"
    depends_on = frozenset({"input", "delayed_message", "labels"})
