"""Test whether the optimiser's step changes the loss as its gradient predicts."""

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
    """The descent test of one step: created before the optimiser's step, evaluated after it.

    A step can have the right direction and a useless length: only the loss after the real step shows that.

    Args:
        number: updates made before this batch.
        names: the blocks' names in the model.
        method: the rule.
        step: the executed step.
        truth: its true gradients.

    """

    def __init__(self, number: int, names: Sequence[str], method: Method, step: Step, truth: Truth) -> None:
        self.number, self.method, self.reference = number, method, truth.reference
        self.blocks, self.x, self.y = step.blocks, step.x, step.y  # not the step itself, whose passes are no longer needed
        modules = dict(zip(names, step.blocks, strict=False)) | {"rule": method}  # greedy's loss depends on a head of the rule, too
        true = [*(dict(grad.params) for grad in truth.grads), *[{}] * (len(names) - len(truth.grads)), dict(truth.aux_grads)]
        self.moved = [
            (name, module, {n: (g, module.get_parameter(n).detach().clone()) for n, g in grads.items()})
            for (name, module), grads in zip(modules.items(), true, strict=True)
            if grads
        ]
        self.loss = self._loss()

    def _loss(self) -> float:
        """Compute the objective on this batch, with the step's own dropout masks; the network does not change."""
        blocks, top = self.blocks, self.method.output_block
        with preserve_buffers_and_rng((*blocks, self.method)), seeded(self.method.seed, "step", *rank_rng_words(self.number)):
            passes = dict(enumerate(chain(blocks[: top + 1], self.method.prepare_input(self.x), self.y)))
            loss = self.method.signal(top, passes, ()).loss
            assert loss is not None
            for k, term in self.method.terms.items():
                loss = loss + (term(passes[k].z, passes[k].y).detach() if k < top else 0)
        return float(all_reduce_sum(loss))

    def rows(self) -> list[Measurement]:
        """Return the predicted change per block and in total, the measured change, and their ratio."""
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
