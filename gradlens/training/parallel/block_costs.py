"""Measured cost of each block of a rule in one step, and the split of blocks over workers that balances it."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.gradients.backward import backward
from gradlens.gradients.block_pass import Grad, Pass
from gradlens.runtime.memory import allocations, wait
from gradlens.runtime.rng import forked
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.optimizers import make_optimizer
from gradlens.training.step import begin_step

SHORTEST = 0.05  # seconds: steps are repeated until a round has taken at least this long


class BlockCost(NamedTuple):
    """Cost of one block for one batch, on one device by itself."""

    name: str
    forward: float  # seconds: its pass
    backward: float  # seconds: its signal (head, synthesiser), pull-back and `learn`
    update: float  # seconds: the optimiser's step over its parameters and those of its own modules
    activation_bytes: int  # of its output h: what is sent up
    message_bytes: int  # of what it sends down, pulled back to its input; 0: it sends nothing
    kept_bytes: int  # parameters, gradients and optimiser state, its own modules' too, and `graph_bytes`
    graph_bytes: int  # what a batch in flight keeps between the forward and the backward pass: the block's graph and its output
    learn: float  # seconds, part of `backward`: `learn`, which may wait for the message of block k+1
    own_update: float  # seconds, part of `update`: the step over its own modules' parameters

    @property
    def seconds(self) -> float:
        """Return the seconds of one batch, in all."""
        return self.forward + self.backward + self.update


# -------------------------------------------------------------------------------------------------------------- measured


def block_costs(network: ModelAndMethod, config: Config, x: Tensor, y: Tensor, rounds: int = 3) -> list[BlockCost]:
    """Measure the cost of each block of a rule in real steps on copies: the network and torch's random streams do not change.

    A block is timed within whole steps of :func:`backward`, so that caches are as in training. Rounds of steps and
    of optimiser steps alternate, each lasts at least ``SHORTEST``; the least of the rounds' medians is given, since other work on a
    shared machine slows a round down, never up. The learning rate is 0 meanwhile, so that weights do not drift. ``graph_bytes`` is
    what torch's allocator gave out and did not get back during the block's pass (on devices other than CPU and CUDA: the output
    alone). A rule's fixed matrices and buffers of batches are in no count, and compiled blocks are measured as they are without
    compiling. A block that the rule never runs costs 0.

    Args:
        network: with its rule.
        config: for the optimiser, the precision and the seed.
        x: [N, *in] the network's input, as ``method.make_inputs`` gives it.
        y: [N, *] targets.
        rounds: of which the least is taken, 1 or more.

    Returns:
        one cost a block, bottom first.

    """
    meter = _Meter(ModelAndMethod(*copy.deepcopy((network.model, network.method))), config, x, y)
    with forked():
        meter.step()  # makes what is made once
        meter.step(weigh=True)
        steppers = {k: meter.optimizers(k) for k in meter.grads}
        meter.rounds.clear()
        for _ in range(rounds):
            meter.round(steppers)
    return [
        BlockCost(
            name,
            meter.seconds("forward", k),
            meter.seconds("backward", k),
            meter.seconds("update", k),
            meter.activation.get(k, 0),
            meter.message.get(k, 0),
            (_bytes_kept(steppers[k][0]) if k in steppers else 0) + meter.graph.get(k, 0),
            meter.graph.get(k, 0),
            min(meter.seconds("learn", k), meter.seconds("backward", k)),
            min(meter.seconds("own_update", k), meter.seconds("update", k)),
        )
        for k, name in enumerate(network.block_names())
    ]


Optimizer = torch.optim.Optimizer


class _Meter:
    """Steps of a rule, each block timed and weighed; network and rule are changed by it."""

    def __init__(self, network: ModelAndMethod, config: Config, x: Tensor, y: Tensor) -> None:
        self.network, self.config, self.x, self.y, self.device = network, config, x, y, x.device
        self.numbers = count(1 << 30)  # of steps: past every warm-up
        self.now: dict[tuple[str, int], list[float]] = defaultdict(list)  # (what, block) -> seconds, since the round began
        self.rounds: dict[tuple[str, int], list[float]] = defaultdict(list)  # the medians of rounds
        self.graph, self.activation, self.message = dict[int, int](), dict[int, int](), dict[int, int]()
        self.grads: dict[int, tuple[Grad, Mapping[str, Tensor]]] = {}  # of the last step in which the block learned
        self.forward_spent = 0.0  # in forward passes, since the last update was handed out
        learn = network.method.learn

        def timed(k: int, *rest: object) -> Mapping[str, Tensor]:
            began = self.clock()
            own = learn(k, *rest)  # type: ignore[arg-type]
            self.now["learn", k].append(self.clock() - began)
            return own

        network.method.learn = timed  # type: ignore[method-assign, assignment]

    def clock(self) -> float:
        """Return the time in seconds after all of the device's work is done."""
        wait(self.device)
        return time.perf_counter()

    def seconds(self, what: str, k: int) -> float:
        """Return the least of the rounds; 0 for what never happened."""
        return min(self.rounds.get((what, k), [0.0]))

    def step(self, weigh: bool = False) -> None:
        """Make one step without the optimiser."""
        (model, method), n = self.network, next(self.numbers)
        begin_step(method, self.config.seed, max(1, self.config.epochs), n)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            began, self.forward_spent = self.clock(), 0.0
            for u in backward(method, self.passes(method.forward(list(model), self.x, self.y), weigh)):
                self.now["backward", u.k].append(self.clock() - began - self.forward_spent)
                self.activation[u.k], self.message[u.k] = _bytes([u.p.h]), _bytes(u.grad.below)
                self.grads[u.k] = u.grad, u.aux_grads
                del u
                began, self.forward_spent = self.clock(), 0.0

    def passes(self, passes: Iterator[Pass], weigh: bool) -> Iterator[Pass]:
        """Yield the passes as they are made, with time or memory measured."""
        made: list[Pass] = []
        weighed: list[Pass] = []  # nothing of earlier blocks shall be released while a later one is weighed

        def make() -> None:
            made.extend(p for p in [next(passes, None)] if p is not None)

        while True:
            began = self.clock()
            held = None
            if weigh:
                held = _held_after(make, self.device)
            else:
                make()
            spent = self.clock() - began
            self.forward_spent += spent
            if not made:
                return
            p = made.pop()
            self.now["forward", p.k].append(spent)
            if weigh:
                self.graph[p.k] = _bytes([p.h]) if held is None else held
                weighed.append(p)
            yield p
            del p  # so that its graph is freed when `backward` has used it

    def optimizers(self, k: int) -> tuple[Optimizer | None, Optimizer | None]:
        """Return the optimiser over block k with what learns there, and the one over the latter alone; gradients are put."""
        grad, own = self.grads[k]
        block = dict(self.network.model[k].named_parameters())
        mine = {name: self.network.method.get_parameter(name) for name in own}
        for name, g in {**grad.params, **own}.items():
            p = {**block, **mine}[name]
            p.grad = torch.empty_like(p).copy_(g)
        return self._optimizer([*block.values(), *mine.values()]), self._optimizer(mine.values())

    def _optimizer(self, params: Iterable[Tensor]) -> Optimizer | None:
        optimizer, wanted = make_optimizer(self.config, self.network), {id(p) for p in params}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) in wanted]
            group["lr"] = 0.0
        optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
        return optimizer if optimizer.param_groups else None

    def round(self, steppers: Mapping[int, tuple[Optimizer | None, Optimizer | None]]) -> None:
        """Make steps, then optimiser steps of each block; append the medians to ``rounds``."""
        self.now.clear()
        self._repeat(self.step, SHORTEST)
        for k, both in steppers.items():
            for what, optimizer in zip(("update", "own_update"), both, strict=True):
                if optimizer is not None:
                    self._repeat(lambda o=optimizer, key=(what, k): self._timed(o.step, key), SHORTEST / len(steppers))  # type: ignore[misc]
        for key_, values in self.now.items():
            self.rounds[key_].append(median(values))

    def _timed(self, work: Callable[[], object], key_: tuple[str, int]) -> None:
        began = self.clock()
        work()
        self.now[key_].append(self.clock() - began)

    def _repeat(self, work: Callable[[], object], shortest: float) -> None:
        began = self.clock()
        work()
        while self.clock() - began < shortest:
            work()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _held_after(work: Callable[[], object], device: torch.device) -> int | None:
    """Measure the bytes allocated during some work and not freed by its end; None where that is unknown."""
    if device.type == "cpu":
        return sum(allocations(work))
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    work()
    return torch.cuda.memory_allocated(device) - before if device.type == "cuda" else None


def _bytes_kept(optimizer: Optimizer | None) -> int:
    """Count the bytes of an optimiser's parameters, their gradients and its state."""
    params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]] if optimizer else []
    state = [v for p in params for v in optimizer.state[p].values() if isinstance(v, Tensor)] if optimizer else []
    return _bytes([*params, *(p.grad for p in params if p.grad is not None), *state])
