"""Train by decoupled neural interfaces, completely unlocked: synthetic inputs as well as synthetic gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from gradlens.gradients.alignment import float64
from gradlens.gradients.block_pass import Pass, cut
from gradlens.gradients.method import Signal, Update
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.synthetic_gradients.dni import DNI, DNIOptions, SavedForLearning, regression_errors, regression_gradients
from gradlens.models.synthesizers import InputSynthesiser
from gradlens.runtime.batch_shard import global_count
from gradlens.runtime.rng import seeded


class DNIUnlockedOptions(DNIOptions, frozen=True, extra="forbid"):
    """Options of the completely unlocked rule, in which the message of block k+1 is the gradient at its synthetic input."""

    synth_warmup: int = Field(0, ge=0, description="first N updates: blocks use the message of block k+1, synthesisers learn from it")
    input_width: int | None = Field(None, ge=1, description="channels of the input synthesiser's hidden layers; default: as its output")
    context: bool = Field(False, description="both synthesisers read the label too; the rule then reads labels at every block")


class DNIUnlocked(DNI):
    """delta_k = S_k(h_k) with h_k = f_k(I_k(image)): every block can run at any time; the target of I_k is the output of block k−1.

    L_I = mean over all elements of (I_k(image) − h_{k-1})², with h_{k-1} itself computed from a synthetic input; L_S as in dni, with the
    gradient at the synthetic input as target: S_k is trained at the real output h_k, where it is used. koz4k/dni-pytorch uses it there
    too, but trains it at the synthetic input, where the target was found. Outside training the image goes through all blocks.
    Jaderberg et al. 2017 (arXiv 1608.05343, the complete unlock).
    """

    summary = "dni that also predicts each block's input"
    other_names: ClassVar[tuple[str, ...]] = ("unlocked dni", "synthetic inputs")
    Options = DNIUnlockedOptions
    images_only = "it predicts what a block reads from the image"
    depends_on = frozenset({"image", "delayed_message"})
    method_quantities: ClassVar[Mapping[str, str]] = {
        **DNI.method_quantities,
        "input_error": "L_I = mean (I - h)² over all elements, at each block that reads a synthetic input",
        "input_explained_variance": "1 - Σ(I - h)² / Σ(h - mean_n h)², at each block that reads a synthetic input",
    }

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        context = net.classes if self.conditional else 0
        with seeded(net.seed, "input synthesisers"):
            self.inputs = self.at_interfaces(
                net, lambda shape, last: InputSynthesiser(net.image, shape, context, options.input_width, last)
            )

    @classmethod
    def reads_labels(cls, options: Any) -> bool:
        """Return the option ``context``: both kinds of synthesisers read labels, or none does."""
        return bool(options.context)

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run block 0 on the image, block k on I_k(image); without an interface between them, on the output of block k−1."""
        below = [x]

        def run(k: int, block: nn.Module) -> Pass:  # not in the generator's frame, which would keep the pass until the next one
            p = self._run(k, block, x, y, below.pop())
            below.append(p.z)
            return p

        return (run(k, block) for k, block in enumerate(blocks))

    def _run(self, k: int, block: nn.Module, x: Tensor, y: Tensor, below: Tensor) -> Pass:
        if k - 1 not in self.interfaces:
            return cut(k, block, below, y, block(below), x)
        src = self.inputs[k - 1](x, self.context(y))
        read = src.detach().requires_grad_()
        return cut(k, block, read, y, block(read), x, src)

    def locking_reason(self) -> str | None:
        """Return that ranks cannot exchange what it needs; it has no lock."""
        return "each block needs the image and learns from the actual output of block k−1, which is not sent between ranks"

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Return dni's signal, with the gradients of L_I."""
        said, src = super().signal(k, passes, received), passes[k].src
        if src is None:
            return said
        below = passes[k - 1].z.detach()
        slope = 2 * (src.detach() - below) / global_count(below.numel())
        # keep the graph, which the forward pass made, so that `signal` can be called again; it is freed with the pass
        aux_grads = regression_gradients(self.inputs[k - 1], f"inputs.{k - 1}", src, slope, keep=True)
        return said._replace(aux_grads=aux_grads, saved=(said.saved or SavedForLearning())._replace(below=below))

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Return the errors of both synthesisers at this block."""
        found, src = dict(super().quantities(update)), update.p.src
        if src is not None:
            target = float64(update.signal.saved.below)
            residual, explained = regression_errors(src, target)
            found |= {"input_error": residual / global_count(target.numel()), "input_explained_variance": explained}
        return found
