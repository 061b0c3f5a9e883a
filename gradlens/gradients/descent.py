"""Whether the loss does after the optimiser's step what its gradient said it would."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradlens.gradients.alignment import float64
from gradlens.gradients.block_pass import chain
from gradlens.gradients.method import Method, Step
from gradlens.gradients.rows import Measurement
from gradlens.gradients.true_gradient import Truth, preserve_buffers_and_rng
from gradlens.runtime.batch_shard import all_reduce_sum, rank_rng_words
from gradlens.runtime.rng import seeded


class Descent:
    """The descent test of one step: made before the optimiser's step, asked after it.

    A direction can be right and its length useless; only the loss after the real step tells.

    Args:
        number: updates made before this batch.
        names: the blocks' names in the model.
        method: the rule.
        step: the step as it was run.
        truth: its true gradients.

    """

    def __init__(self, number: int, names: Sequence[str], method: Method, step: Step, truth: Truth) -> None:
        self.number, self.method, self.reference = number, method, truth.reference
        self.blocks, self.x, self.y = step.blocks, step.x, step.y  # not the step itself: its passes are done with
        modules = dict(zip(names, step.blocks, strict=False)) | {"rule": method}  # greedy's loss also reads a head of the rule's own
        true = [*(dict(grad.params) for grad in truth.grads), *[{}] * (len(names) - len(truth.grads)), dict(truth.aux_grads)]
        self.moved = [
            (name, module, {n: (g, module.get_parameter(n).detach().clone()) for n, g in grads.items()})
            for (name, module), grads in zip(modules.items(), true, strict=True)
            if grads
        ]
        self.loss = self._loss()

    def _loss(self) -> float:
        """The objective on this batch, with the step's own dropout masks; the network is left as it was."""
        blocks, top = self.blocks, self.method.output_block
        with preserve_buffers_and_rng((*blocks, self.method)), seeded(self.method.seed, "step", *rank_rng_words(self.number)):
            passes = dict(enumerate(chain(blocks[: top + 1], self.method.prepare_input(self.x), self.y)))
            loss = self.method.signal(top, passes, ()).loss
        assert loss is not None
        return float(all_reduce_sum(loss))

    def rows(self) -> list[Measurement]:
        """Predicted change by block and in all, measured change, and their ratio."""
        rows, predicted = [], 0.0
        for name, module, known in self.moved:
            moved = sum(
                float((float64(true) * (float64(module.get_parameter(n).detach()) - float64(before))).sum())
                for n, (true, before) in known.items()
            )
            rows.append(Measurement(self.number, name, "descent", "predicted_change", float(moved), self.reference))
            predicted += moved
        measured = self._loss() - self.loss
        ratio = measured / predicted if predicted else math.nan
        whole = {"predicted_change": predicted, "measured_change": measured, "descent_ratio": ratio}
        return rows + [Measurement(self.number, "network", "descent", name, value, self.reference) for name, value in whole.items()]
