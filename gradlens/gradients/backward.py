"""How a rule is run over one step: each block's signal, pulled back through its pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, pull_back
from gradlens.gradients.method import Method, Step, Update


class Heard(NamedTuple):
    """What comes from blocks above that are on another rank."""

    above: tuple[Tensor, ...] = ()  # [N, *out] messages, pulled back to the output of the highest block here
    passes: Mapping[int, Pass] = {}  # of the network's top, without graph, for rules that read the error
    late: bool = False  # the message is not there yet: `learn` is left for when it comes


def backward(method: Method, passes: Iterator[Pass], keep: bool = False, listen: Callable[[], Heard] | None = None) -> Iterator[Update]:
    """Run a rule over one step's passes, yielding each block's update as soon as it is known.

    A block that hears nothing from above is told its gradient, pulled back and freed before the next block is run; the
    others wait until the block above them has spoken.

    Args:
        method: the rule.
        passes: one step's passes, bottom first, made lazily by ``method.forward``.
        keep: keep every graph for a later pull-back of the truth.
        listen: gives what the rank above says to the highest of these blocks, where that is on another one; called when all have run.

    """
    known: dict[int, Pass] = {}
    waiting: list[int] = []
    for p in passes:
        known[p.k] = p
        waiting.append(p.k)
        del p  # so that nothing of a block outlives its update while the next block runs
        if not method.needs_above(waiting[-1]):
            yield from _settled(method, known, waiting, Heard(), keep)
    if waiting and listen is not None:
        heard = listen()
        known.update(heard.passes)
        yield from _settled(method, known, waiting, heard, keep)


def _settled(method: Method, known: dict[int, Pass], waiting: list[int], heard: Heard, keep: bool) -> Iterator[Update]:
    """Tell every waiting block its gradient, the highest first; what was heard is for that one."""
    above, late = heard.above, heard.late
    del heard
    while waiting:
        j = waiting.pop()
        signal = method.signal(j, known, above)
        with method.backward_context():
            grad = pull_back(known[j], signal.delta, signal.send, keep)
        learned = {} if late else method.learn(j, known[j], signal, grad, above)
        update = Update(j, known[j], signal, grad, {**signal.own, **learned}, above)
        above, late = grad.below, False
        if not keep:
            p = known.pop(j)
            if j == method.num_blocks - 1:  # the top's pass stays: it holds the error some rules broadcast
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
