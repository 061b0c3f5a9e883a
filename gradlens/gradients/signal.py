"""Define what a learning rule returns for one block (``Signal``), and the records of a step that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass
from gradlens.gradients.losses import Loss, slope


class Signal(NamedTuple):
    """A rule's result for one block: its error signal and the message to block k−1, both with respect to the block's own output.

    Attributes:
        delta: [N, *out] gradient with respect to the block's output, from which its parameters' gradients are computed; no graph.
            None: the block is not trained on this batch.
        messages_below: each [N, *out]; pulled back through the block, it is block k−1's ``received`` [N, *out of k−1].
            A message that is ``delta`` itself (the same tensor) costs no second backward pass. (): nothing is sent, and no gradient of
            the block's input is computed. Only if block k−1 waits for it (``depends_on``).
        aux_grads: parameter of the rule's own modules (dotted name in the rule, "heads.0.weight") -> its gradient, of its shape. The
            training step passes them to the optimiser. Empty if this block has none, or if :meth:`Method.learn` computes them.
        saved: anything; used only by the rule's own ``learn`` and ``quantities``. Freed after the block's update.
        loss: scalar, no graph: the loss that ``delta`` is the gradient of. Recorded; that of the output block is the run's loss, and its
            ``delta`` is the start of the true gradient. None if the block has no loss.
        logits: [N, C], no graph: the network's output, from which the accuracy is computed. Only at the output block, else None.

    """

    delta: Tensor | None
    messages_below: tuple[Tensor, ...] = ()
    aux_grads: Mapping[str, Tensor] = {}
    saved: Any = None
    loss: Tensor | None = None
    logits: Tensor | None = None


def top_signal(loss: Loss, p: Pass, send: bool = True) -> Signal:
    """Compute the signal of the output block: gradient of the supervised loss, used for its update and passed down.

    Args:
        loss: (z [N, C], y [N]) -> scalar.
        p: the output block's pass.
        send: whether block k−1 is sent the gradient.

    Returns:
        delta [N, C], the same tensor as the message (or no message), the loss and the logits [N, C].

    """
    value, delta = slope(loss, p.z, p.y)
    return Signal(delta, (delta,) if send else (), loss=value, logits=p.z.detach())


def with_term(signal: Signal, loss: Loss, p: Pass) -> tuple[Signal, Tensor]:
    """Add the slope of the objective's own term at a block to its signal: to the error signal and to each message.

    Args:
        signal: the rule's, from what came from above; with ``delta`` None (not trained) it stays as it is.
        loss: the term, (z [N, *out], y [N, *]) -> scalar.
        p: the block's pass.

    Returns:
        the new signal, and the value of the term.

    """
    value, own = slope(loss, p.z, p.y)
    if signal.delta is None:
        return signal, value
    delta = signal.delta + own
    messages = tuple(delta if m is signal.delta else m + own for m in signal.messages_below)
    return signal._replace(delta=delta, messages_below=messages), value


def relay(received: tuple[Tensor, ...]) -> Signal:
    """Build a block's signal as in backpropagation: use the gradient from block k+1 for the update and pass it down.

    Args:
        received: the one message [N, *out], the sum of what later blocks sent.

    Returns:
        a signal whose ``delta`` and message are this tensor.

    """
    (delta,) = received
    return Signal(delta, (delta,))


class Update(NamedTuple):
    """One block's part of a step, as :func:`backward` yields it; read by the training step, the records and ``quantities``.

    Attributes:
        k: index of the block, 0 for the first.
        p: its forward pass; the graph is freed unless the step is recorded.
        signal: the result of :meth:`Method.signal`.
        grad: the result of the block's own backward pass from that signal.
        aux_grads: gradients of the rule's own modules by dotted name, from ``signal`` and :meth:`Method.learn` together.
        received: each [N, *out], messages of later blocks, pulled back to this block's output, the sum of those that read it; () if none.
        term: scalar: the objective's own term at this block, which is not in ``signal.loss``; None without one.

    """

    k: int
    p: Pass
    signal: Signal
    grad: Grad
    aux_grads: Mapping[str, Tensor]
    received: tuple[Tensor, ...]
    term: Tensor | None = None


class Options(BaseModel, frozen=True, extra="forbid"):
    """Options of a rule without options; a rule with options subclasses this."""


class Step(NamedTuple):
    """One executed step of a rule, graphs kept, for measuring.

    Attributes:
        blocks: the network's blocks, first to last.
        x: inputs from :meth:`Method.make_inputs`, [N, *].
        y: the targets that belong to them, [N, *].
        passes: in the order in which the rule ran them; fewer than blocks if the rule leaves some out.
        updates: block -> its update, for the blocks that were updated.

    """

    blocks: Sequence[nn.Module]
    x: Tensor
    y: Tensor
    passes: Sequence[Pass]
    updates: Mapping[int, Update]


class FeedbackPair(NamedTuple):
    """Two tensors of one shape to compare: one of the rule's own, and its counterpart in backpropagation.

    Attributes:
        layer: dotted path in the model, written to the rows.
        kind: kind of the rows: feedback_transpose, feedback_pseudoinverse, feedback_jacobian.
        mine: the rule's tensor.
        true: its counterpart in backpropagation, of the same shape.
        reference: name of ``true`` for the rows.

    """

    layer: str
    kind: str
    mine: Tensor
    true: Tensor
    reference: str
