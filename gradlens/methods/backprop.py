"""Backpropagation."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.method import Method, Signal, relay, top_signal


class Backprop(Method):
    """delta_K = dL/dh_K;  delta_k = (dh_{k+1}/dh_k)ᵀ delta_{k+1}."""

    summary = "the true gradient, all others' reference"
    other_names = ("backprop", "backpropagation", "end-to-end", "e2e")
    depends_on = frozenset({"input", "backward_message"})
    pipelined = True

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """The message from above, used and passed on."""
        return top_signal(self.loss, passes[k]) if k == self.num_blocks - 1 else relay(received)
