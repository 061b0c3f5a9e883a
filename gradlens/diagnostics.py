"""The sparser rows of a recorded step: what chance and noise alone give, the rule's own tensors against backprop's, and descent.

They cost some more backward passes and one more forward pass. They leave no trace: draws are keyed, buffers are put back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from gradlens.measures import RECORDED, cosine, float64, measure
from gradlens.method import Method, Step
from gradlens.passes import Pass, chain, pull_back
from gradlens.recorder import Row, Truth, parameter_kind, untouched
from gradlens.seeding import generator, seeded

SPARSE: dict[str, str] = {
    "null_cosine": "cosine with the truth of what the rule's delta gives with its rows dealt to other images: chance on this batch",
    "corrected_cosine": "cos(rule on half A, truth on half B) / cos(truth on A, truth on B), both ways: without the batch's noise",
    "across_halves": "cos(rule on half A, truth on half B), the mean of both ways: the numerator of corrected_cosine",
    "noise_ceiling": "cos(truth on half A, truth on half B): what the true gradient of one half is worth on the other",
    "predicted_change": "<true gradient, the optimiser's real step>: the first-order change of the loss",
    "measured_change": "loss after the step minus loss before it, on the same batch",
    "descent_ratio": "measured / predicted change: 1 where the step is as good as its direction says",
}
AFTER_THE_STEP = ("predicted_change", "measured_change", "descent_ratio")


def sparse_rows(number: int, names: Sequence[str], method: Method, step: Step, truth: Truth) -> list[Row]:
    """Null, noise-corrected alignment, and the rule's own pairs.

    Args:
        number: updates made before this batch.
        names: the blocks' names in the model.
        method: the rule.
        step: the step as it was run, graphs kept.
        truth: its true gradients, graphs kept.

    """
    return [
        *_null(number, names, method, step, truth),
        *_halves(number, names, method, step, truth),
        *_pairs(number, method, step, truth),
    ]


def _weights(name: str, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of a block's weight matrices and kernels, by full parameter name."""
    return {f"{name}.{n}": g for n, g in grads.items() if g.ndim > 1}


def _used(method: Method, p: Pass, delta: Tensor) -> dict[str, Tensor]:
    """What the rule makes of a delta inside one block."""
    with method.rule():
        return pull_back(p, delta, keep=True).params


def _told(step: Step, truth: Truth) -> Iterator[tuple[int, Pass, Tensor]]:
    """(block, the pass it was trained on, the delta it was told) of every block that was trained and has a truth."""
    for k in range(len(truth.grads)):
        update = step.updates.get(k)
        if update is not None and update.grad.delta is not None:
            yield k, update.p, update.grad.delta


def _null(number: int, names: Sequence[str], method: Method, step: Step, truth: Truth) -> Iterator[Row]:
    for k, p, delta in _told(step, truth):
        deal = torch.randperm(len(delta), generator=generator(method.seed, "null", number)).to(delta.device)
        used = _weights(names[k], _used(method, p, delta[deal]))
        for parameter, t in _weights(names[k], truth.grads[k].params).items():
            layer, kind = parameter_kind(parameter)
            yield Row(number, layer, kind, "null_cosine", cosine(used[parameter], t), truth.reference)


def _half(method: Method, number: int, delta: Tensor) -> Tensor:
    """A seeded half of a batch as a mask of ones and zeros, of the shape that multiplies ``delta``."""
    n = len(delta)
    mask = torch.zeros(n, dtype=delta.dtype)
    mask[torch.randperm(n, generator=generator(method.seed, "halves", number))[: n // 2]] = 1
    return mask.reshape(n, *[1] * (delta.ndim - 1)).to(delta.device)


def _halves(number: int, names: Sequence[str], method: Method, step: Step, truth: Truth) -> Iterator[Row]:
    for k, p, delta in _told(step, truth):
        true = truth.grads[k].delta
        assert true is not None
        a, b = _half(method, number, delta), _half(method, number, true)
        used = [_weights(names[k], _used(method, p, delta * mask)) for mask in (a, 1 - a)]
        real = [_weights(names[k], pull_back(truth.passes[k], true * mask, keep=True).params) for mask in (b, 1 - b)]
        for parameter in real[0]:
            layer, kind = parameter_kind(parameter)
            ceiling = cosine(real[0][parameter], real[1][parameter])
            across = (cosine(used[0][parameter], real[1][parameter]) + cosine(used[1][parameter], real[0][parameter])) / 2
            yield Row(number, layer, kind, "corrected_cosine", across / ceiling if ceiling else math.nan, truth.reference)
            yield Row(number, layer, kind, "across_halves", across, truth.reference)
            yield Row(number, layer, kind, "noise_ceiling", ceiling, truth.reference)


def _pairs(number: int, method: Method, step: Step, truth: Truth) -> Iterator[Row]:
    for pair in method.pairs(step, truth.passes):
        for quantity, value in measure(pair.mine, pair.true, RECORDED).items():
            yield Row(number, pair.layer, pair.kind, quantity, value, pair.reference)


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
        self.number, self.names, self.method, self.step = number, names, method, step
        self.reference = truth.reference
        self.true = [dict(grad.params) for grad in truth.grads]
        blocks = step.blocks[: len(self.true)]
        self.before = [
            {n: p.detach().clone() for n, p in block.named_parameters() if n in g} for block, g in zip(blocks, self.true, strict=True)
        ]
        self.loss = self._loss()

    def _loss(self) -> float:
        """The objective on this batch, with the step's own dropout masks; the network is left as it was."""
        blocks, top = self.step.blocks, self.method.top
        with untouched((*blocks, self.method)), seeded(self.method.seed, "step", self.number):
            passes = dict(enumerate(chain(blocks[: top + 1], self.step.x, self.step.y)))
            loss = self.method.signal(top, passes, ()).loss
        assert loss is not None
        return float(loss)

    def rows(self) -> list[Row]:
        """Predicted change by block and in all, measured change, and their ratio."""
        rows, predicted = [], 0.0
        for name, block, before, true in zip(self.names, self.step.blocks, self.before, self.true, strict=False):
            params = dict(block.named_parameters())
            moved = sum(float((float64(true[n]) * (float64(params[n].detach()) - float64(b))).sum()) for n, b in before.items())
            rows.append(Row(self.number, name, "descent", "predicted_change", float(moved), self.reference))
            predicted += moved
        measured = self._loss() - self.loss
        ratio = measured / predicted if predicted else math.nan
        whole = {"predicted_change": predicted, "measured_change": measured, "descent_ratio": ratio}
        return rows + [Row(self.number, "network", "descent", name, value, self.reference) for name, value in whole.items()]
