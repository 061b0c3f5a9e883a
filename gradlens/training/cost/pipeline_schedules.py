"""Schedules of a rule's blocks on several workers: each is a pure function that lists tasks, in order.

A schedule does not depend on times and links. A worker does its tasks in the order of the list; a task also waits for those it names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from gradlens.gradients.method import Method
from gradlens.training.parallel.block_costs import BlockCost

# again: the forward pass made anew before a late backward pass; learn: updates that wait for the backward message, where a rule has such
KINDS = ("forward", "again", "backward", "learn", "update", "send")
STALE_BATCHES = 1  # batches by which the target of a stale synthesiser is late
AHEAD = 2  # batches a worker may be ahead of the next one: one is being worked on, one is in flight (double buffering)


class Task(NamedTuple):
    """One piece of work of a worker, or one message."""

    worker: int  # the worker that does it; of a message, its sender
    block: int  # of a message: the block of the output or input gradient
    kind: str  # of KINDS
    batch: int
    part: int  # the microbatch; 0 where batches are not cut up
    seconds: float  # of work; 0 for messages, whose time the link sets
    size: int  # bytes of a message
    to: int  # receiver of the message; −1 for work
    after: tuple[int, ...]  # places in the list of the tasks that must be done before


Costs = Sequence[BlockCost]
Stages = Sequence[range]  # the blocks of each worker, bottom first


class _Program:
    """Growing list of tasks; a task's dependencies are named by keys, which may come later in the list."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.waits: list[tuple[Hashable, ...]] = []
        self.places: dict[Hashable, int] = {}
        self.previous: dict[int, Hashable] = {}

    def _add(self, name: Hashable, task: Task, after: Iterable[Hashable]) -> None:
        self.places[name] = len(self.tasks)
        self.tasks.append(task)
        self.waits.append(tuple(after))

    def work(self, worker: int, kind: str, block: int, batch: int, seconds: float, *after: Hashable, part: int = 0) -> None:
        """Add work, which the worker does after what was listed for it before."""
        name = (kind, block, batch, part)
        before = [self.previous[worker]] if worker in self.previous else []
        self._add(name, Task(worker, block, kind, batch, part, seconds, 0, -1, ()), (*before, *after))
        self.previous[worker] = name

    def send(self, name: str, worker: int, to: int, block: int, batch: int, size: int, after: Hashable, part: int = 0) -> None:
        """Add a message, sent as soon as its contents exist; ``name`` is up, down or error."""
        self._add((name, to, batch, part), Task(worker, block, "send", batch, part, 0.0, size, to, ()), [after])

    def listed(self) -> list[Task]:
        """Return the tasks; a name that no task has (the batch before the first) is nothing to wait for."""
        places = [dict.fromkeys(self.places[name] for name in names if name in self.places) for names in self.waits]
        return [task._replace(after=tuple(after)) for task, after in zip(self.tasks, places, strict=True)]

    def forward(self, s: int, costs: Costs, stages: Stages, batch: int, *after: Hashable, part: int = 0, parts: int = 1) -> None:
        """Add a stage's forward pass and the message with its output."""
        for k in stages[s]:
            self.work(s, "forward", k, batch, costs[k].forward / parts, *(after if k == stages[s][0] else ()), part=part)
        self.up(s, costs, stages, batch, part, parts)

    def up(self, s: int, costs: Costs, stages: Stages, batch: int, part: int = 0, parts: int = 1) -> None:
        """Add the message with a stage's output to the next."""
        if s < len(stages) - 1:
            last = stages[s][-1]
            self.send("up", s, s + 1, last, batch, costs[last].activation_bytes // parts, ("forward", last, batch, part), part)

    def down(self, s: int, costs: Costs, stages: Stages, batch: int, part: int = 0, parts: int = 1) -> None:
        """Add a stage's backward message to the previous one."""
        if s:
            first = stages[s][0]
            self.send("down", s, s - 1, first, batch, costs[first].message_bytes // parts, ("backward", first, batch, part), part)

    def backward(self, s: int, costs: Costs, stages: Stages, batch: int, part: int = 0, parts: int = 1) -> None:
        """Add a stage's backward pass after the message from the next stage, and its own message."""
        for k in reversed(stages[s]):
            after = [("down", s, batch, part)] if k == stages[s][-1] else []
            self.work(s, "backward", k, batch, costs[k].backward / parts, *after, part=part)
        self.down(s, costs, stages, batch, part, parts)

    def update(self, s: int, costs: Costs, stages: Stages, batch: int) -> None:
        """Add the optimiser's step over a stage."""
        for k in stages[s]:
            self.work(s, "update", k, batch, costs[k].update)


# ---------------------------------------------------------------------------------------------------------- backpropagation


def locked(costs: Costs, stages: Stages, batches: int) -> list[Task]:
    """Schedule plain backpropagation: a batch goes up through all workers and down again before the next one begins."""
    return gpipe(costs, stages, batches, 1)


def gpipe(costs: Costs, stages: Stages, batches: int, parts: int) -> list[Task]:
    """Schedule GPipe (Huang et al. 2019, arXiv:1811.06965): all microbatches forward, then all backward, then the update."""
    program = _Program()
    for t in range(batches):
        for s in range(len(stages)):
            for m in range(parts):
                program.forward(s, costs, stages, t, ("up", s, t, m), part=m, parts=parts)
            for m in range(parts):
                program.backward(s, costs, stages, t, m, parts)
            program.update(s, costs, stages, t)
    return program.listed()


def one_f_one_b(costs: Costs, stages: Stages, batches: int, parts: int) -> list[Task]:
    """Schedule 1F1B (Narayanan et al. 2019, arXiv:1806.03377, with a flush): stage s holds at most K − s microbatches, then alternates."""
    program = _Program()
    for t in range(batches):
        for s in range(len(stages)):
            early = min(parts, len(stages) - 1 - s)
            for m in range(parts + early):
                if m < parts:
                    program.forward(s, costs, stages, t, ("up", s, t, m), part=m, parts=parts)
                if m >= early:
                    program.backward(s, costs, stages, t, m - early, parts)
            program.update(s, costs, stages, t)
    return program.listed()


# -------------------------------------------------------------------------------------------------------------- local losses


def local(costs: Costs, stages: Stages, batches: int, waits: Sequence[bool] = (), queued: bool = False) -> list[Task]:
    """Schedule blocks with local losses: there is no backward message, so that a worker takes the next batch at once.

    Args:
        costs: of the blocks.
        stages: the blocks of each worker.
        batches: how many.
        waits: whether each block k waits for block k+1, inside a window; default: none does.
        queued: a worker never waits for the one below but for its first batch, and never for the one above to keep pace: it
            reads what its queue holds.

    """
    program = _Program()
    for t in range(batches):
        for s, blocks in enumerate(stages):
            below, room = ("up", s, 0 if queued else t, 0), ("backward", blocks[-1] + 1, t - AHEAD, 0)
            waiting: list[int] = []
            for k in blocks:
                program.work(s, "forward", k, t, costs[k].forward, *([below, *([] if queued else [room])] if k == blocks[0] else []))
                waiting.append(k)
                if k == blocks[-1]:
                    program.up(s, costs, stages, t)
                elif waits and waits[k]:
                    continue
                while waiting:
                    j = waiting.pop()
                    program.work(s, "backward", j, t, costs[j].backward)
            program.update(s, costs, stages, t)
    return program.listed()


def queued(costs: Costs, stages: Stages, batches: int, waits: Sequence[bool] = ()) -> list[Task]:
    """Schedule :func:`local` with queues between workers (Belilovsky et al. 2020): no worker waits, once there is a first batch."""
    return local(costs, stages, batches, waits, queued=True)


# ------------------------------------------------------------------------------------------------------- synthetic gradients


def synthetic(costs: Costs, stages: Stages, batches: int, stale: bool = False, own_input: bool = False) -> list[Task]:
    """Schedule synthetic gradients: blocks run backward at once; the synthesiser at a stage's end learns from the backward message.

    Args:
        costs: of the blocks.
        stages: the blocks of each worker.
        batches: how many.
        stale: a stage's end learns from the message of the batch before, which has come by now, instead of waiting for this one's.
        own_input: a stage reads a synthetic input, made from the image, and (unless stale) what the one below gave only as the
            target of that synthesiser.

    """
    program = _Program()
    for t in range(batches):
        for s, blocks in enumerate(stages):
            below, room = ("up", s, t, 0), ("backward", blocks[-1] + 1, t - AHEAD, 0)
            program.forward(s, costs, stages, t, *([] if own_input else [below, room]))
            for k in reversed(blocks):
                target = [below] if own_input and not stale and k == blocks[0] else []
                program.work(s, "backward", k, t, costs[k].backward - costs[k].learn, *target)
            program.down(s, costs, stages, t)
            late = stale and s < len(stages) - 1
            for k in reversed(blocks[:-1] if late else blocks):
                program.work(s, "learn", k, t, costs[k].learn, *([("down", s, t, 0)] if k == blocks[-1] else []))
            for received in [t - STALE_BATCHES, *([t] if t == batches - 1 else [])] if late else []:
                if received >= 0:
                    program.work(s, "learn", blocks[-1], received, costs[blocks[-1]].learn, ("down", s, received, 0))
            program.update(s, costs, stages, t)
    return program.listed()


# ------------------------------------------------------------------------------------------------------------ direct feedback


def error_broadcast(costs: Costs, stages: Stages, batches: int, stale: bool = False) -> list[Task]:
    """Schedule direct feedback: the logits go to all workers at once, which compute the output error and run backward side by side.

    Args:
        costs: of the blocks.
        stages: the blocks of each worker.
        batches: how many.
        stale: continue with the next batches meanwhile: stage s of K goes backward K − 1 − s batches later, through a forward pass made
            again, since the weights have changed.

    """
    program, top = _Program(), len(stages) - 1
    for turn in range(batches + top):
        for s, blocks in enumerate(stages):
            delay = top - s if stale else 0
            if turn < batches:
                program.forward(s, costs, stages, turn, ("up", s, turn, 0))
                for other in range(top if s == top else 0):
                    k = blocks[-1]
                    program.send("error", s, other, k, turn, costs[k].activation_bytes, ("forward", k, turn, 0))
            t = turn - delay
            if not 0 <= t < batches:
                continue
            received = [("error", s, t, 0)]
            for k in blocks if delay else ():
                program.work(s, "again", k, t, costs[k].forward, *(received if k == blocks[0] else []))
            for k in reversed(blocks):
                program.work(s, "backward", k, t, costs[k].backward, *(received if k == blocks[-1] else []))
            program.update(s, costs, stages, t)
    return program.listed()


# ------------------------------------------------------------------------------------------------------------- of each rule


class Schedule(NamedTuple):
    """One way to run a rule on several workers."""

    label: str
    tasks: Callable[[Costs, Stages, int], list[Task]]
    waits: str  # what a worker waits for: below (its input), all above, error, target (of its synthesiser), old ones, nothing
    parts: int = 1  # microbatches of a batch
    queue: int = 0  # batches kept at each worker's entrance; 0: only those on their way
    delayed: str = ""  # what is older than the batch it is used with: input, target, error; empty: nothing is


def schedules(name: str, method: Method, parts: int = 4) -> list[Schedule]:
    """List the schedules of a rule on several workers, from its ``depends_on``.

    Args:
        name: the rule's, for the labels.
        method: the rule on its network.
        parts: microbatches of the pipelines of rules that are locked like backpropagation.

    """
    depends_on = method.depends_on
    waits = [method.needs_above(k) for k in range(method.num_blocks)]
    if "replay_buffer" in depends_on:
        return [Schedule(name, lambda c, s, n: queued(c, s, n, waits), "nothing", queue=method.replay_size, delayed="input")]
    if method.has_local_losses or not depends_on & {"backward_message", "output_error", "delayed_message"}:
        return [Schedule(name, lambda c, s, n: local(c, s, n, waits), "below")]
    if "output_error" in depends_on:
        return [
            Schedule(f"{name} exact", error_broadcast, "below, error"),
            Schedule(f"{name} stale", lambda c, s, n: error_broadcast(c, s, n, stale=True), "below, old error", delayed="error"),
        ]
    if "delayed_message" in depends_on and not method.waits_for_message():
        free = "input" not in depends_on
        waiting = "two targets" if free else "below, target"
        exact = Schedule(f"{name} exact", lambda c, s, n: synthetic(c, s, n, False, free), waiting)
        late = "old target" if free else "below, old target"
        stale = Schedule(f"{name} stale", lambda c, s, n: synthetic(c, s, n, True, free), late, delayed="target")
        parted = (k for k in range(method.output_block) if method.can_split_after(k))
        return [exact, stale] if all(method.supports_delayed_target(k) for k in parted) else [exact]  # as --stale is refused
    return [
        Schedule(name, locked, "below, all above"),
        Schedule(f"{name} gpipe", lambda c, s, n: gpipe(c, s, n, parts), "below, all above", parts),
        Schedule(f"{name} 1f1b", lambda c, s, n: one_f_one_b(c, s, n, parts), "below, all above", parts),
    ]
