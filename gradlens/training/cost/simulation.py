"""Simulation of schedules over measured costs and a link: when each worker does what, and the cost of locking."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.data.split import Data
from gradlens.data.transforms import normalizer
from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator
from gradlens.runtime.step_context import step_context
from gradlens.training.batches import first_batch
from gradlens.training.build import build_model_and_method
from gradlens.training.config import Config
from gradlens.training.cost.pipeline_schedules import STALE_BATCHES, Costs, Schedule, Stages, Task, schedules
from gradlens.training.parallel.block_costs import BlockCost, block_costs
from gradlens.training.parallel.partition import allowed_cuts, partition

WORKERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64)  # of the curves
MOST_PICTURED = 500  # batches


class Link(NamedTuple):
    """Link that carries messages between two workers, one at a time in each direction."""

    rate: float  # bytes a second
    latency: float  # seconds

    def seconds(self, size: int) -> float:
        """Return the seconds of one message."""
        return self.latency + size / self.rate


class Span(NamedTuple):
    """When a task was done."""

    start: float  # seconds from the beginning
    end: float


class CostRow(NamedTuple):
    """Cost of one block of one rule: a :class:`BlockCost` as a row of a table."""

    method: str
    model: str
    batch_size: int
    name: str
    forward: float
    backward: float
    update: float
    activation_bytes: int
    message_bytes: int
    kept_bytes: int
    graph_bytes: int
    learn: float
    own_update: float

    def cost(self) -> BlockCost:
        """Return the cost alone."""
        return BlockCost(*self[3:])


class ThroughputPoint(NamedTuple):
    """Results of a schedule on some workers."""

    schedule: str
    waits: str  # what a worker waits for
    workers: int  # requested
    used: int  # at most one for each part that the rule's blocks can be parted into
    batches: int
    batch_seconds: float  # of one batch, the mean over all, filling and emptying included
    speedup: float  # one worker's time with this rule / this
    busiest: float  # the share of one batch's work that the worker with the most has: 1 / it is the most that can be gained
    bubble: float  # share of the used workers' time in which they wait
    sent_bytes_per_s: float  # over all links
    memory_bytes: int  # of the worker that holds most, at its peak
    delay: float  # batches by which what is used is older than the batch it is used with; 0: nothing is


class Bar(NamedTuple):
    """One box of the picture: what a worker or a link does without a break."""

    schedule: str
    waits: str
    used: int
    worker: int
    kind: str
    batch: int
    part: int
    to: int  # of a message, its receiver
    start: float  # seconds
    end: float


# ------------------------------------------------------------------------------------------------------------- simulation


def simulate(tasks: Sequence[Task], link: Link) -> list[Span]:
    """Simulate when each task is done: a worker does one at a time, and so does each link in each direction.

    A free worker begins at once with what can be done; of several such tasks with the first in the list.

    Args:
        tasks: from a schedule.
        link: between any two workers.

    Returns:
        spans in the order of the tasks.

    Raises:
        ValueError: tasks that wait for each other.

    """
    missing = [len(task.after) for task in tasks]
    followers: list[list[int]] = [[] for _ in tasks]
    for i, task in enumerate(tasks):
        for j in task.after:
            followers[j].append(i)
    ready: dict[tuple[int, int], list[int]] = defaultdict(list)  # (worker, −1) or a link's two ends -> a heap of tasks
    spans: dict[int, Span] = {}
    busy: set[tuple[int, int]] = set()
    running: list[tuple[float, int]] = []
    clock = 0.0
    for i in (i for i, n in enumerate(missing) if n == 0):
        heapq.heappush(ready[_doer(tasks[i])], i)
    touched = set(ready)
    while touched or running:
        for doer in sorted(touched):
            if doer not in busy and ready[doer]:
                i = heapq.heappop(ready[doer])
                task = tasks[i]
                spans[i] = Span(clock, clock + (link.seconds(task.size) if task.to >= 0 else task.seconds))
                busy.add(doer)
                heapq.heappush(running, (spans[i].end, i))
        touched = set()
        if running:
            clock = running[0][0]
        while running and running[0][0] == clock:
            _, i = heapq.heappop(running)
            doer = _doer(tasks[i])
            busy.discard(doer)
            touched.add(doer)
            for j in followers[i]:
                missing[j] -= 1
                if missing[j] == 0:
                    heapq.heappush(ready[_doer(tasks[j])], j)
                    touched.add(_doer(tasks[j]))
    if len(spans) < len(tasks):
        raise ValueError("these tasks wait for each other")
    return [spans[i] for i in range(len(tasks))]


def _doer(task: Task) -> tuple[int, int]:
    return task.worker, task.to


# ------------------------------------------------------------------------------------------------------- what it comes to


def memory(tasks: Sequence[Task], spans: Sequence[Span], costs: Costs, stages: Stages, parts: int = 1, queue: int = 0) -> list[int]:
    """Count the bytes that each worker holds at its peak.

    Parameters, gradients and the optimiser's state of its blocks all the time; a block's graph and output from its forward to its
    backward pass; received inputs until the backward pass of the block that read them; received messages until they are used.
    A queue counts as full.

    """
    ends = {(t.kind, t.block, t.batch, t.part): span.end for t, span in zip(tasks, spans, strict=True) if t.to < 0}
    used: dict[int, float] = defaultdict(float)  # message -> when the last task that waits for it is done
    for task, span in zip(tasks, spans, strict=True):
        for i in task.after:
            used[i] = max(used[i], span.end)
    changes: list[list[tuple[float, int]]] = [[] for _ in stages]
    for i, (task, span) in enumerate(zip(tasks, spans, strict=True)):
        if task.kind == "again" or (task.kind == "forward" and ("again", task.block, task.batch, task.part) not in ends):
            worker, begin, end = task.worker, span.start, ends["backward", task.block, task.batch, task.part]
            size = costs[task.block].graph_bytes // parts
        elif task.to > task.worker:
            if queue:
                continue
            worker, begin, size = task.to, span.end, task.size
            end = max(used[i], ends["backward", task.block + 1, task.batch, task.part])
        elif task.to >= 0:
            worker, begin, end, size = task.to, span.end, used[i], task.size
        else:
            continue
        if end > begin:
            changes[worker] += [(begin, size), (end, -size)]
    held = []
    for s, blocks in enumerate(stages):
        always = sum(costs[k].kept_bytes - costs[k].graph_bytes for k in blocks)
        always += queue * costs[blocks[0] - 1].activation_bytes if s else 0
        flying = [size for _, size in sorted(changes[s])]  # what is released at a moment goes before what comes then
        held.append(always + max(accumulate(flying), default=0))
    return held


def mean_delay(schedule: Schedule, tasks: Sequence[Task], spans: Sequence[Span], stages: Stages) -> float:
    """Return by how many batches used values are older than the batch they are used with, the mean over all uses; 0 where none are.

    Targets: ``LATE`` at every stage but the last. Errors: updates of a block between the forward pass that made the error and its
    backward pass. Inputs in a queue: the worker's turns since it came.
    """
    if schedule.delayed == "target":
        return STALE_BATCHES * (len(stages) > 1)
    if schedule.delayed == "error":
        return _updates_between(tasks, spans)
    ages = [age for s in range(1, len(stages)) for age in _ages(schedule, tasks, spans, stages, s)] if schedule.delayed else []
    return fmean(ages) if ages else 0.0


def _updates_between(tasks: Sequence[Task], spans: Sequence[Span]) -> float:
    """Count a block's updates between its forward and its backward pass of a batch, the mean over blocks and batches."""
    begun, ages = dict[tuple[int, int], int](), list[int]()
    updates: dict[int, int] = defaultdict(int)
    for task, _ in sorted(zip(tasks, spans, strict=True), key=lambda network: network[1]):
        place = task.block, task.batch
        if task.kind == "forward":
            begun[place] = updates[task.block]
        elif task.kind == "backward":
            ages.append(updates[task.block] - begun[place])
        elif task.kind == "update":
            updates[task.block] += 1
    return fmean(ages)


def _ages(schedule: Schedule, tasks: Sequence[Task], spans: Sequence[Span], stages: Stages, s: int) -> list[int]:
    """Return the turns of worker s since what it reads came, at each of its turns."""
    came = deque(sorted(span.end for t, span in zip(tasks, spans, strict=True) if t.to == s))
    turns = (span.start for t, span in zip(tasks, spans, strict=True) if (t.kind, t.block) == ("forward", stages[s][0]))
    ages, queue = list[int](), deque[list[int]](maxlen=max(1, schedule.queue))  # [times read, −turn of its coming]
    for turn, start in enumerate(turns):
        while came and came[0] <= start:
            came.popleft()
            queue.append([0, -turn])
        chosen = min(queue)  # of the batches read least often the newest, as dgl-async does
        chosen[0] += 1
        ages.append(turn + chosen[1])
    return ages


def balanced_split(costs: Costs, workers: int, cuts: Sequence[int]) -> list[range]:
    """Return the blocks of each worker, as even as can be; workers beyond the parts that there can be get none."""
    return partition([cost.seconds for cost in costs], min(workers, len(cuts) + 1), cuts)


def throughput_point(schedule: Schedule, costs: Costs, stages: Stages, link: Link, batches: int, workers: int) -> ThroughputPoint:
    """Summarise a schedule."""
    tasks = schedule.tasks(costs, stages, batches)
    spans = simulate(tasks, link)
    makespan, work = max(span.end for span in spans), sum(cost.seconds for cost in costs)
    return ThroughputPoint(
        schedule.label,
        schedule.waits,
        workers,
        len(stages),
        batches,
        makespan / batches,
        batches * work / makespan,
        max(sum(costs[k].seconds for k in blocks) for blocks in stages) / work,
        1 - batches * work / (len(stages) * makespan),
        sum(task.size for task in tasks) / makespan,
        max(memory(tasks, spans, costs, stages, schedule.parts, schedule.queue)),
        mean_delay(schedule, tasks, spans, stages),
    )


def gantt_bars(schedule: Schedule, costs: Costs, stages: Stages, link: Link, batches: int) -> list[Bar]:
    """Return the boxes of a picture: neighbouring tasks of one kind and batch are one box, messages one each."""
    tasks = schedule.tasks(costs, stages, batches)
    found: list[Bar] = []
    last: dict[int, int] = {}  # worker -> its latest box
    for task, span in sorted(zip(tasks, simulate(tasks, link), strict=True), key=lambda network: network[1]):
        bar = Bar(schedule.label, schedule.waits, len(stages), task.worker, task.kind, task.batch, task.part, task.to, span.start, span.end)
        if bar.end == bar.start:
            continue
        i = last.get(task.worker)
        if task.to < 0 and i is not None and found[i][4:7] == bar[4:7] and math.isclose(found[i].end, bar.start):
            found[i] = found[i]._replace(end=bar.end)
            continue
        if task.to < 0:
            last[task.worker] = len(found)
        found.append(bar)
    return found


# -------------------------------------------------------------------------------------------------------------- of rules


class Measured(NamedTuple):
    """A rule on its network, and what its blocks cost here."""

    method: Method
    rows: list[CostRow]
    cuts: list[int]

    @property
    def costs(self) -> list[BlockCost]:
        """Return the blocks' costs, first to last."""
        return [row.cost() for row in self.rows]


def measure_costs(
    config: Config, shape: tuple[int, ...], classes: int, device: torch.device, rounds: int, data: Data | None = None
) -> Measured:
    """Measure what the blocks of a config's rule cost on generated images, or on a batch of another task's data.

    Args:
        config: method, model, batch size, optimiser.
        shape: of an example: (C, H, W) of an image.
        classes: number of them.
        device: where to measure.
        rounds: of measuring.
        data: of a task other than the default; None: images are generated.

    """
    network = build_model_and_method(config, shape, classes, device)
    with step_context():
        made = _batch(config, network.method, shape, classes, device) if data is None else first_batch(config, data, device)
        costs = block_costs(network, config, *made, rounds)
    rows = [CostRow(config.method, config.model.name, len(made[0]) if data is not None else config.batch_size, *cost) for cost in costs]
    return Measured(network.method, rows, allowed_cuts(network.method))


def costs_from_rows(config: Config, shape: tuple[int, ...], classes: int, rows: Sequence[CostRow]) -> Measured:
    """Return what :func:`measure_costs` gave before, from its rows.

    Raises:
        InputError: the rows are of other blocks.

    """
    network = build_model_and_method(config, shape, classes, torch.device("cpu"))
    mine = [row for row in rows if (row.method, row.model) == (config.method, config.model.name)]
    if [row.name for row in mine] != network.block_names():
        raise InputError(f"the costs of {config.method} on {config.model.name} are not among these rows, or are of other blocks")
    return Measured(network.method, mine, allowed_cuts(network.method))


def _batch(config: Config, method: Method, shape: tuple[int, ...], classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make a batch of noise as the rule reads it."""
    draw = generator(config.seed, "noise images")
    images = torch.randint(256, (config.batch_size, *shape), dtype=torch.uint8, generator=draw).to(device)
    labels = torch.randint(classes, (config.batch_size,), generator=draw).to(device)
    x, y = method.make_inputs(images, labels, 0, normalizer("pm1", images))
    method.items.make_known(y)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, y


def throughput_curves(
    found: Sequence[Measured], link: Link, batches: int, parts: int, workers: Sequence[int] = WORKERS
) -> list[ThroughputPoint]:
    """Return every schedule of every rule on each number of workers, and on as many as each rule's blocks can be parted for."""
    points: list[ThroughputPoint] = []
    workers = sorted({*workers, *(len(one.cuts) + 1 for one in found)})
    for one in found:
        for schedule in schedules(one.rows[0].method, one.method, parts):
            known: dict[int, ThroughputPoint] = {}
            for n in workers:
                stages = balanced_split(one.costs, n, one.cuts)
                if len(stages) not in known:
                    known[len(stages)] = throughput_point(schedule, one.costs, stages, link, batches, n)
                points.append(known[len(stages)]._replace(workers=n))
    return points


def pictured(found: Sequence[Measured], workers: int, link: Link, parts: int, seconds: float) -> list[Bar]:
    """Return the boxes of every schedule of every rule until some moment; those that begin before it."""
    rows: list[Bar] = []
    for one in found:
        stages = balanced_split(one.costs, workers, one.cuts)
        loads = [sum(one.costs[k].seconds for k in blocks) for blocks in stages]
        for schedule in schedules(one.rows[0].method, one.method, parts):
            pace = max(loads) if schedule.waits.startswith("below") else min(loads)  # of the worker that comes furthest in that time
            batches = min(math.ceil(seconds / pace) + len(stages), MOST_PICTURED)
            rows += [bar for bar in gantt_bars(schedule, one.costs, stages, link, batches) if bar.start < seconds]
    return rows


def first_batches(found: Sequence[Measured]) -> float:
    """Return seconds worth drawing: what one worker needs for two batches of the cheapest rule, and a bit."""
    return 2.3 * min(sum(cost.seconds for cost in one.costs) for one in found)
