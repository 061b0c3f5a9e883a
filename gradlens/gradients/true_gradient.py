"""The true gradient of a step, on the passes that the rule itself made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass, chain, is_chain, pull_back_chain
from gradlens.gradients.method import Method, Signal, Step, Update
from gradlens.runtime.batch_shard import all_reduce_sum
from gradlens.runtime.rng import forked


class Truth(NamedTuple):
    """The true gradient of one step, and the chain of passes it was pulled back through.

    On a shared batch gradients of parameters and the loss are of all ranks together, what has a row for each image is this rank's.
    """

    grads: Sequence[Grad]  # bottom first, one a block of the net the objective is of; ``delta`` is the gradient at its output
    passes: Sequence[Pass]  # the same blocks' passes; with graphs where they were kept
    loss: Tensor  # scalar: the objective on this batch
    aux_grads: Mapping[str, Tensor]  # its gradients at the rule's own modules that it reads (greedy's head), by their name in the rule
    reference: str  # what it is the gradient of, and by which passes


@contextmanager
def preserve_buffers_and_rng(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Forward passes made inside leave buffers and torch's random streams as they were.

    They see copies: a buffer that was written to, even with its own values, would invalidate tensors saved for backward.
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
    """The true gradients of one step, and what they are the gradient of.

    On a shared batch this is a collective: call it on every rank. The method's own top gradient, pulled back through the step's
    passes. Where a block read something other than its predecessor's output, that product is not the gradient of any loss: then
    one clean chain pass is made (RNG forked, buffers restored) and the row says so.

    Args:
        method: the rule.
        step: the step as it was run, graphs kept (they are freed unless ``keep``).
        keep: keep the graphs of the passes it is pulled back through.

    """
    top = method.output_block
    if is_chain(step.passes) and len(step.passes) == top + 1:
        signal = step.updates[top].signal
        if signal.delta is None or signal.loss is None:
            raise ValueError("the top block was not trained on this batch: there is no true gradient to compare with")
        grads = pull_back_chain(step.passes, signal.delta, keep)
        return _truth(method, signal, grads, step.passes, "same passes")
    with preserve_buffers_and_rng((*step.blocks, method)):
        clean = list(chain(step.blocks[: top + 1], method.prepare_input(step.x), step.y))
        signal = method.signal(top, dict(enumerate(clean)), ())
        assert signal.delta is not None
        assert signal.loss is not None
        grads = pull_back_chain(clean, signal.delta, keep)
    return _truth(method, signal, grads, clean, "clean chain pass")


def _truth(method: Method, signal: Signal, grads: Sequence[Grad], passes: Sequence[Pass], by: str) -> Truth:
    assert signal.loss is not None
    aux_grads = all_reduce_grads({name: g for name, g in signal.aux_grads.items() if method.of_objective(name)})
    grads = [grad._replace(params=all_reduce_grads(grad.params)) for grad in grads]
    return Truth(grads, passes, all_reduce_sum(signal.loss), aux_grads, f"{method.objective}, {by}")


def all_reduce_grads(grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All-reduce gradients of parameters: their sum over the ranks of a shared batch."""
    return {name: all_reduce_sum(g) for name, g in grads.items()}


def all_reduce_update(update: Update) -> Update:
    """All-reduce an update over the ranks of a shared batch: as one process would have made it."""
    signal, grad = update.signal, update.grad
    loss = None if signal.loss is None else all_reduce_sum(signal.loss)
    return update._replace(
        signal=signal._replace(loss=loss, aux_grads=all_reduce_grads(signal.aux_grads)),
        grad=grad._replace(params=all_reduce_grads(grad.params)),
        aux_grads=all_reduce_grads(update.aux_grads),
    )
