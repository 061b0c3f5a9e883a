"""Compute the true gradient of a step, on the rule's own forward passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass, chain, is_chain, pull_back_chain
from gradlens.gradients.losses import slope
from gradlens.gradients.method import Method, Signal, Step, Update
from gradlens.runtime.batch_shard import all_reduce_sum
from gradlens.runtime.rng import forked


class Truth(NamedTuple):
    """The true gradient of one step, and the chain of passes it was pulled back through.

    On a shared batch, parameter gradients and the loss are summed over all ranks; tensors with a row per image are this rank's.
    """

    grads: Sequence[Grad]  # first block to last, up to the output block; ``delta`` is the gradient at the block's output
    passes: Sequence[Pass]  # the same blocks' passes; with graphs if they were kept
    loss: Tensor  # scalar: the objective on this batch
    aux_grads: Mapping[str, Tensor]  # its gradients at the rule's own modules (greedy's head), by their name in the rule
    reference: str  # the loss that it is the gradient of, and the passes


@contextmanager
def preserve_buffers_and_rng(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore buffers and torch's random generators after forward passes inside the context.

    The passes use copies of buffers: an in-place write, even of the same values, would invalidate tensors saved for backward.
    """
    real = [(m, name, b) for module in modules for m in module.modules() for name, b in m._buffers.items() if b is not None]
    for m, name, b in real:
        m._buffers[name] = b.clone()
    try:
        with forked():
            yield
    finally:
        for m, name, b in real:
            m._buffers[name] = b


def true_gradients(method: Method, step: Step, keep: bool = False) -> Truth:
    """Compute the true gradients of one step; a collective on a shared batch: call it on every rank.

    They are the gradients of the objective's terms (the output block's own one, and the others), pulled back through the step's passes.
    If a block's input was not its predecessor's
    output, that product is not the gradient of any loss: then one clean chain pass is made (RNG forked, buffers restored) and
    ``reference`` names it.

    Args:
        method: the rule.
        step: the executed step, graphs kept (they are freed unless ``keep``).
        keep: keep the graphs of the passes.

    """
    top = method.output_block
    if is_chain(step.passes) and len(step.passes) == top + 1:
        signal = step.updates[top].signal
        if signal.delta is None or signal.loss is None:
            raise ValueError("the output block was not trained on this batch: there is no true gradient to compare with")
        slopes, loss = _slopes(method, signal, step.passes)
        grads = pull_back_chain(step.passes, slopes, keep)
        return _truth(method, signal, loss, grads, step.passes, "same passes")
    with preserve_buffers_and_rng((*step.blocks, method)):
        clean = list(chain(step.blocks[: top + 1], method.prepare_input(step.x), step.y))
        signal = method.signal(top, dict(enumerate(clean)), ())
        assert signal.delta is not None
        assert signal.loss is not None
        slopes, loss = _slopes(method, signal, clean)
        grads = pull_back_chain(clean, slopes, keep)
    return _truth(method, signal, loss, grads, clean, "clean chain pass")


def _slopes(method: Method, top: Signal, passes: Sequence[Pass]) -> tuple[dict[int, Tensor], Tensor]:
    """Compute the gradients of the objective's terms at the blocks that have one, and the objective: the sum of all terms."""
    assert top.delta is not None
    assert top.loss is not None
    slopes, loss = {passes[-1].k: top.delta}, top.loss
    for p in passes[:-1]:
        if p.k in method.terms:
            value, slopes[p.k] = slope(method.terms[p.k], p.z, p.y)
            loss = loss + value
    return slopes, loss


def _truth(method: Method, signal: Signal, loss: Tensor, grads: Sequence[Grad], passes: Sequence[Pass], by: str) -> Truth:
    aux_grads = all_reduce_grads({name: g for name, g in signal.aux_grads.items() if method.of_objective(name)})
    grads = [grad._replace(params=all_reduce_grads(grad.params)) for grad in grads]
    return Truth(grads, passes, all_reduce_sum(loss), aux_grads, f"{method.objective}, {by}")


def all_reduce_grads(grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum parameter gradients over the ranks of a shared batch (all-reduce)."""
    return {name: all_reduce_sum(g) for name, g in grads.items()}


def all_reduce_update(update: Update) -> Update:
    """Sum an update's gradients and loss over the ranks of a shared batch (all-reduce)."""
    signal, grad = update.signal, update.grad
    loss = None if signal.loss is None else all_reduce_sum(signal.loss)
    return update._replace(
        term=None if update.term is None else all_reduce_sum(update.term),
        signal=signal._replace(loss=loss, aux_grads=all_reduce_grads(signal.aux_grads)),
        grad=grad._replace(params=all_reduce_grads(grad.params)),
        aux_grads=all_reduce_grads(update.aux_grads),
    )
