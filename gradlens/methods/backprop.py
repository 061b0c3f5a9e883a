"""Train by backpropagation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.method import Method, Signal, relay, top_signal


class Backprop(Method):
    """delta_K = dL/dh_K;  delta_k = (dh_{k+1}/dh_k)ᵀ delta_{k+1}.

    Rumelhart, Hinton & Williams 1986 (doi 10.1038/323533a0), "Learning representations by back-propagating errors", Nature 323.
    """

    summary = "the true gradient, reference of all other rules"
    other_names = ("backprop", "backpropagation", "end-to-end", "e2e")
    depends_on = frozenset({"input", "backward_message"})
    pipelined = True

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Use the gradient from block k+1 and pass it down; at the output block the loss's gradient."""
        return top_signal(self.loss, passes[k]) if k == self.num_blocks - 1 else relay(received)
