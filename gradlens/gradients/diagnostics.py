"""Compute the sparse rows of a recorded step: chance and noise levels, the rule's own tensors against backprop's, and descent.

They cost some more backward passes and one more forward pass. They leave no trace: draws are keyed, buffers are restored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import Tensor

from gradlens.gradients.alignment import RECORDED, cosine, measure
from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import Pass, pull_back
from gradlens.gradients.layer_names import parameter_kind
from gradlens.gradients.method import Method, Step
from gradlens.gradients.rows import Measurement
from gradlens.gradients.true_gradient import Truth, all_reduce_grads, all_reduce_update, preserve_buffers_and_rng, true_gradients
from gradlens.runtime.batch_shard import (
    all_gather_rows,
    global_offset,
    rank_rng_words,
    sharded,
)
from gradlens.runtime.rng import generator, seeded
from gradlens.runtime.step_context import current_context, step_context

SPARSE: dict[str, str] = {
    "null_cosine": "cosine with the true gradient if the rows of the rule's delta are permuted over images: chance level on this batch",
    "corrected_cosine": "cos(rule on half A, truth on half B) / cos(truth on A, truth on B), both ways, each half its own passes",
    "across_halves": "cos(rule on half A, truth on half B), the mean of both ways: the numerator of corrected_cosine",
    "noise_ceiling": "cos(truth on half A, truth on half B): agreement of the true gradients of two halves",
    "rule_ceiling": "cos(rule on half A, rule on half B): how much of the rule's gradient is not noise",
    "predicted_change": "<true gradient, the optimiser's real step>: the first-order change of the loss",
    "measured_change": "loss after the step minus loss before it, on the same batch",
    "descent_ratio": "measured / predicted change: 1 if the loss changes exactly as its gradient predicts",
}
AFTER_THE_STEP = ("predicted_change", "measured_change", "descent_ratio")


HALVES = ("corrected_cosine", "across_halves", "noise_ceiling", "rule_ceiling")
FEEDBACK = ("feedback_transpose", "feedback_pseudoinverse", "feedback_jacobian")  # kinds of rows, each with all recorded quantities


def sparse_rows(
    number: int, names: Sequence[str], method: Method, step: Step, truth: Truth, wanted: Collection[str] = (*SPARSE, *FEEDBACK)
) -> list[Measurement]:
    """Compute null cosine, noise-corrected alignment, and the rule's own tensors against backprop's.

    Args:
        number: updates made before this batch.
        names: the blocks' names in the model.
        method: the rule.
        step: the executed step, graphs kept.
        truth: its true gradients, graphs kept.
        wanted: quantities of SPARSE and kinds of FEEDBACK; others are not computed.

    """
    rows: list[Measurement] = []
    if "null_cosine" in wanted:
        rows += _null(number, names, method, step, truth)
    if set(HALVES) & set(wanted):
        rows += [row for row in _halves(number, names, method, step, truth.reference) if row.quantity in wanted]
    if set(FEEDBACK) & set(wanted):
        rows += [row for row in _pairs(number, method, step, truth) if row.kind in wanted]
    return rows


def _weights(name: str, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of a block's weight matrices and kernels, by full parameter name."""
    return {f"{name}.{n}": g for n, g in grads.items() if g.ndim > 1}


def _used(method: Method, p: Pass, delta: Tensor) -> dict[str, Tensor]:
    """Compute one block's parameter gradients from a delta [N, *out] with the rule's backward pass, summed over ranks."""
    with method.backward_context():
        return all_reduce_grads(pull_back(p, delta, keep=True).params)


def _trained_blocks(step: Step, truth: Truth) -> Iterator[tuple[int, Pass, Tensor]]:
    """Yield (block, its pass, its error signal) of every block that was trained and has a true gradient."""
    for k in range(len(truth.grads)):
        update = step.updates.get(k)
        if update is not None and update.grad.delta is not None:
            yield k, update.p, update.grad.delta


def _null(number: int, names: Sequence[str], method: Method, step: Step, truth: Truth) -> Iterator[Measurement]:
    for k, p, delta in _trained_blocks(step, truth):
        rows = method.items.permutation(delta, p.y, generator(method.seed, "null", number)).to(delta.device)
        mine = rows[global_offset(len(delta)) :][: len(delta)]
        with method.permuted(mine):
            used = _weights(names[k], _used(method, p, all_gather_rows(delta)[mine]))
        for parameter, t in _weights(names[k], truth.grads[k].params).items():
            layer, kind = parameter_kind(parameter)
            yield Measurement(number, layer, kind, "null_cosine", cosine(used[parameter], t), truth.reference)


def _halves(number: int, names: Sequence[str], method: Method, step: Step, reference: str) -> Iterator[Measurement]:
    """Yield rows of the rule's and the true gradient on each half of the batch, each half with its own passes.

    Zeroing half of a delta's rows would be cheaper, but BatchNorm couples a batch: each half's gradient then depends on the other's
    images, and the ceiling is too low, even below zero. Rules with replay buffers use other batches than this one: no rows for them.
    """
    if "replay_buffer" in method.depends_on:
        return
    halves = method.items.halves(step.x, step.y, current_context(), generator(method.seed, "halves", number))
    used, real = [], []
    for half in halves or ():
        draws = seeded(method.seed, "step", *rank_rng_words(number))
        with preserve_buffers_and_rng((*step.blocks, method)), draws, sharded(half.shard), step_context(half.context):
            method.items.make_known(half.y)
            run = run_step(method, step.blocks, half.x, half.y)
            truth = true_gradients(method, run)
            applied = {names[k]: all_reduce_update(update).grad.params for k, update in run.updates.items()}
        used.append({parameter: g for name, grads in applied.items() for parameter, g in _weights(name, grads).items()})
        real.append({parameter: g for k, grad in enumerate(truth.grads) for parameter, g in _weights(names[k], grad.params).items()})
    for parameter in (parameter for parameter in (real[0] if real else ()) if parameter in used[0]):
        (g, h), (t, u) = ([half[parameter] for half in halves] for halves in (used, real))
        ceiling, across = cosine(t, u), (cosine(g, u) + cosine(h, t)) / 2
        layer, kind = parameter_kind(parameter)
        found = {
            "corrected_cosine": across / ceiling if ceiling else math.nan,
            "across_halves": across,
            "noise_ceiling": ceiling,
            "rule_ceiling": cosine(g, h),
        }
        for quantity, value in found.items():
            yield Measurement(number, layer, kind, quantity, value, reference)


def _pairs(number: int, method: Method, step: Step, truth: Truth) -> Iterator[Measurement]:
    for pair in method.feedback_pairs(step, truth.passes):
        for quantity, value in measure(pair.mine, pair.true, RECORDED).items():
            yield Measurement(number, pair.layer, pair.kind, quantity, value, pair.reference)
