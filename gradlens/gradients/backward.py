"""Run a learning rule over one step: each block's signal, pulled back through its pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, pull_back
from gradlens.gradients.method import Method, Step, Update
from gradlens.gradients.signal import with_term


class Received(NamedTuple):
    """Messages received from the next rank, for the last block of this one."""

    messages: tuple[Tensor, ...] = ()  # [N, *out] messages, pulled back to the output of the last block here
    passes: Mapping[int, Pass] = {}  # the output block's pass, without graph, for rules that read the output error
    delayed: bool = False  # the message has not arrived yet: `learn` is called when it does


def backward(method: Method, passes: Iterator[Pass], keep: bool = False, receive: Callable[[], Received] | None = None) -> Iterator[Update]:
    """Run a rule over one step's passes and yield each block's update as soon as it is computed.

    A block that depends on no message from block k+1 goes backward and is freed before the next block runs; the others
    wait for that message.

    Args:
        method: the rule.
        passes: one step's passes, first block to last, made lazily by ``method.forward``.
        keep: keep every graph, to pull the true gradient back later.
        receive: returns the next rank's messages for the last of these blocks, if there is a next rank; called after all have run.

    """
    known: dict[int, Pass] = {}
    waiting: list[int] = []
    for p in passes:
        known[p.k] = p
        waiting.append(p.k)
        del p  # free a block's pass before the next block runs
        if not method.needs_above(waiting[-1]):
            yield from _update_waiting_blocks(method, known, waiting, Received(), keep)
    if waiting and receive is not None:
        incoming = receive()
        known.update(incoming.passes)
        yield from _update_waiting_blocks(method, known, waiting, incoming, keep)


def _update_waiting_blocks(method: Method, known: dict[int, Pass], waiting: list[int], incoming: Received, keep: bool) -> Iterator[Update]:
    """Run backward for the waiting blocks, last to first; ``incoming`` is for the last one."""
    came, delayed = {waiting[-1]: incoming.messages}, incoming.delayed
    del incoming
    while waiting:
        j = waiting.pop()
        received = came.pop(j, ())
        signal, term = method.signal(j, known, received), None
        if j in method.terms:
            signal, term = with_term(signal, method.terms[j], known[j])
        with method.backward_context():
            grad = pull_back(known[j], signal.delta, signal.messages_below, keep)
        learned = {} if delayed else method.learn(j, known[j], signal, grad, received)
        update = Update(j, known[j], signal, grad, {**signal.aux_grads, **learned}, received, term)
        if grad.below and j - 1 in waiting:
            came[j - 1] = _sums(came[j - 1], grad.below) if j - 1 in came else grad.below
        for i in grad.earlier.keys() & waiting:
            came[i] = _sums(came.get(i, ()), method.arrange(i, j, grad.earlier[i]))
        delayed = False
        if not keep:
            p = known.pop(j)
            if j == method.num_blocks - 1:  # keep the output block's pass: some rules broadcast its error
                known[j] = p._replace(src=None)
            del p
        del signal, grad, learned, received
        yield update
        del update


def _sums(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Add messages one by one."""
    pairs = zip_longest(a, b)
    return tuple(x if y is None else y if x is None else x + y for x, y in pairs)  # type: ignore[misc] # block j+1 sent all of them


def run_step(method: Method, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Step:
    """Run one step of a rule and keep all its graphs; nothing is trained.

    Args:
        method: the rule.
        blocks: the network's blocks, first to last.
        x: [N, *in] the network's input.
        y: [N] labels.

    """
    passes = list(method.forward(blocks, x, y))
    return Step(blocks, x, y, passes, {u.k: u for u in backward(method, iter(passes), keep=True)})
