"""The true gradient of a step, on the passes that the rule itself made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass, chain, is_chain, true_gradients
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
    own: Mapping[str, Tensor]  # its gradients at the rule's own modules that it reads (greedy's head), by their name in the rule
    reference: str  # what it is the gradient of, and by which passes


@contextmanager
def untouched(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Forward passes made inside leave buffers and torch's random streams as they were.

    They see copies: a buffer that was written to, even with its own values, would spoil the graphs that saved it.
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


def true_updates(method: Method, step: Step, keep: bool = False) -> Truth:
    """The truth for one step, and what it is the gradient of.

    On a shared batch all ranks must ask. The method's own top gradient, pulled back through the step's passes. Where a block read
    something other than its
    predecessor's output, that product is the gradient of nothing: then one clean chain pass is made (RNG forked,
    buffers restored) and the row says so.

    Args:
        method: the rule.
        step: the step as it was run, graphs kept (they are freed unless ``keep``).
        keep: keep the graphs of the passes it is pulled back through.

    """
    top = method.top
    if is_chain(step.passes) and len(step.passes) == top + 1:
        signal = step.updates[top].signal
        if signal.delta is None or signal.loss is None:
            raise ValueError("the top block was not trained on this batch: there is no true gradient to compare with")
        grads = true_gradients(step.passes, signal.delta, keep)
        return _truth(method, signal, grads, step.passes, "same passes")
    with untouched((*step.blocks, method)):
        clean = list(chain(step.blocks[: top + 1], method.entry(step.x), step.y))
        signal = method.signal(top, dict(enumerate(clean)), ())
        assert signal.delta is not None
        assert signal.loss is not None
        grads = true_gradients(clean, signal.delta, keep)
    return _truth(method, signal, grads, clean, "clean chain pass")


def _truth(method: Method, signal: Signal, grads: Sequence[Grad], passes: Sequence[Pass], by: str) -> Truth:
    assert signal.loss is not None
    own = over_ranks({name: g for name, g in signal.own.items() if method.of_objective(name)})
    grads = [grad._replace(params=over_ranks(grad.params)) for grad in grads]
    return Truth(grads, passes, all_reduce_sum(signal.loss), own, f"{method.objective}, {by}")


def over_ranks(grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of parameters, summed over the ranks of a shared batch."""
    return {name: all_reduce_sum(g) for name, g in grads.items()}


def whole_update(update: Update) -> Update:
    """An update as one process would have made it: what the ranks of a shared batch add up, added up."""
    signal, grad = update.signal, update.grad
    loss = None if signal.loss is None else all_reduce_sum(signal.loss)
    return update._replace(
        signal=signal._replace(loss=loss, own=over_ranks(signal.own)),
        grad=grad._replace(params=over_ranks(grad.params)),
        own=over_ranks(update.own),
    )
