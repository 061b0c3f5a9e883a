"""Run a rule over one step: each block's signal, pulled back through its pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, pull_back
from gradlens.gradients.method import Method, Step, Update


class Received(NamedTuple):
    """Messages received from the next rank, for the highest block of this one."""

    messages: tuple[Tensor, ...] = ()  # [N, *out] messages, pulled back to the output of the highest block here
    passes: Mapping[int, Pass] = {}  # of the network's top, without graph, for rules that read the error
    delayed: bool = False  # the message is not there yet: `learn` is left for when it comes


def backward(method: Method, passes: Iterator[Pass], keep: bool = False, receive: Callable[[], Received] | None = None) -> Iterator[Update]:
    """Run a rule over one step's passes, yielding each block's update as soon as it is known.

    A block that depends on no message from above goes backward and is freed before the next block is run; the others
    wait for the backward message of block k+1.

    Args:
        method: the rule.
        passes: one step's passes, bottom first, made lazily by ``method.forward``.
        keep: keep every graph for a later pull-back of the truth.
        receive: gives the messages from the next rank to the highest of these blocks, where there is one; called when all have run.

    """
    known: dict[int, Pass] = {}
    waiting: list[int] = []
    for p in passes:
        known[p.k] = p
        waiting.append(p.k)
        del p  # so that nothing of a block outlives its update while the next block runs
        if not method.needs_above(waiting[-1]):
            yield from _update_waiting_blocks(method, known, waiting, Received(), keep)
    if waiting and receive is not None:
        incoming = receive()
        known.update(incoming.passes)
        yield from _update_waiting_blocks(method, known, waiting, incoming, keep)


def _update_waiting_blocks(method: Method, known: dict[int, Pass], waiting: list[int], incoming: Received, keep: bool) -> Iterator[Update]:
    """Run backward for the waiting blocks, last to first; ``incoming`` is for the last one."""
    received, delayed = incoming.messages, incoming.delayed
    del incoming
    while waiting:
        j = waiting.pop()
        signal = method.signal(j, known, received)
        with method.backward_context():
            grad = pull_back(known[j], signal.delta, signal.messages_below, keep)
        learned = {} if delayed else method.learn(j, known[j], signal, grad, received)
        update = Update(j, known[j], signal, grad, {**signal.aux_grads, **learned}, received)
        received, delayed = grad.below, False
        if not keep:
            p = known.pop(j)
            if j == method.num_blocks - 1:  # the output block's pass stays: it holds the error some rules broadcast
                known[j] = p._replace(src=None)
            del p
        del signal, grad, learned
        yield update
        del update


def run_step(method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Step:
    """One step of a rule with all its graphs kept; nothing is trained.

    Args:
        method: the rule.
        blocks: the network's, bottom first.
        x: [N, *in] the network's input.
        y: [N] labels.

    """
    passes = list(method.forward(blocks, x, y))
    return Step(blocks, x, y, passes, {u.k: u for u in backward(method, iter(passes), keep=True)})
