"""What several ranks gain over one process: the same steps alone and together, in turns, in one run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from gradlens.data.split import Data, Split
from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import ProcessGroup
from gradlens.runtime.progress import Progress, no_progress
from gradlens.training.config import Config
from gradlens.training.loop import Training
from gradlens.training.parallel.block_costs import block_costs
from gradlens.training.parallel.choose import stage_of

SECONDS = 4.0  # that one measurement lasts at least
FILLING = 2  # steps before the clock starts


class Gain(NamedTuple):
    """What a rule gains on several ranks."""

    method: str
    how: str  # data; layers, exact, stale, queues or a pipeline's schedule
    ranks: int
    threads: int  # of each
    split: str  # blocks of each rank
    alone: float  # seconds of a step in one process
    together: float  # seconds of a step on all ranks
    gain: float  # alone / together, the median over rounds of each round's ratio
    low: float  # the smallest of them
    high: float  # the largest
    machine: float  # the same for as many processes side by side that share nothing: ranks × alone / side by side
    bound: float | None  # total / largest stage, by the costs of the blocks: what waiting for nobody could give; None for data
    megabytes_per_s: float | None  # sent from rank to rank; None where torch's engine sends


def generated(shape: tuple[int, int, int], classes: int, images: int, seed: int) -> Data:
    """Random images and labels."""
    g = torch.Generator().manual_seed(seed)

    def split(n: int) -> Split:
        return Split(torch.randint(256, (n, *shape), generator=g, dtype=torch.uint8), torch.randint(classes, (n,), generator=g))

    return Data(split(images), split(classes), tuple(map(str, range(classes))))


def _kind(config: Config, training: Training) -> str:
    if config.parallel == "data":
        return "data"
    method = training.pair.method
    if method.pipelined:
        return f"{config.schedule}, {config.microbatches} microbatches"
    if "replay_buffer" in method.depends_on:
        return "queues"
    return ("stale" if config.stale else "exact") if method.depends_on & {"delayed_message", "output_error"} else "layers"


class _Loop:
    """The steps of one training, from where the last ones ended."""

    def __init__(self, training: Training) -> None:
        self.training, self.at = training, 0

    def run(self, steps: int) -> None:
        """So many updates; what is under way is finished."""
        t = self.training
        for _ in range(steps):
            if t.stage:
                t.stage.step(self.at, False, False)
            else:
                t._step(self.at)
            self.at += 1

    def finish(self) -> None:
        """Finish what is under way."""
        if self.training.stage:
            self.training.stage.finish_pending()


def _seconds(world: ProcessGroup, loop: _Loop | None, steps: int, by: int) -> float:
    """Wall clock of so many steps on a pipeline that is full: seen from rank ``by``, ``FILLING`` steps after the first."""
    dist.barrier()
    began = 0.0
    if loop is not None:
        loop.run(FILLING)
        began = time.perf_counter()
        loop.run(steps)
    spent = time.perf_counter() - began
    if loop is not None:
        loop.finish()
    return float(world.all_gather_object(spent)[by])


def _measured(
    config: Config, data: Data, device: torch.device, world: ProcessGroup, rounds: int, seconds: float, before: Callable[[int, int], None]
) -> Gain:
    """One config on all ranks against one process; ``before`` each round is told its number and how many steps it has."""
    single = config.model_copy(update={"parallel": "none", "ranks": 1, "sync_batchnorm": False, "stale": False, "split": None})
    alone = _Loop(Training(single, data, device))
    training = Training(config, data, device, world=world)
    training.stage = stage_of(training)
    shared = _Loop(training)
    shared.run(2)
    shared.finish()
    alone.run(2)
    dist.barrier()
    began = time.perf_counter()
    if world.is_main:
        alone.run(1)
    steps = world.broadcast_object(max(4, round(seconds / (time.perf_counter() - began))))
    times: list[tuple[float, ...]] = []
    sent = 0
    for r in range(rounds):
        before(r, steps)
        first = _seconds(world, alone if world.is_main else None, steps, by=0)
        so_far = training.stage.bytes_sent() if training.stage else 0
        second = _seconds(world, shared, steps, by=world.num_ranks - 1)
        sent += (training.stage.bytes_sent() if training.stage else 0) - so_far
        beside = max(world.all_gather_object(_seconds(world, alone, steps, by=world.rank)))
        times.append((first / steps, second / steps, beside / steps))
    return _gain(config, training, world, times, sum(world.all_gather_object(sent)), (steps + FILLING) * rounds)


def _gain(config: Config, training: Training, world: ProcessGroup, times: Sequence[tuple[float, ...]], sent: int, steps: int) -> Gain:
    ratios = [alone / together for alone, together, _ in times]
    machine = median(world.num_ranks * alone / beside for alone, _, beside in times)
    alone, together, _ = (median(each) for each in zip(*times, strict=True))
    layers, bound = training.stage, None
    if layers:
        costs = [c.seconds for c in block_costs(training.pair, config, *training.batch(0))] if world.is_main else []
        costs = world.broadcast_object(costs)
        bound = sum(costs) / max(sum(costs[k] for k in blocks) for blocks in layers.ranges)
    rate = sent / steps / together / 1e6 if layers and sent else None
    split = ",".join(str(len(blocks)) for blocks in layers.ranges) if layers else ""
    kind, threads, gain = _kind(config, training), torch.get_num_threads(), (median(ratios), min(ratios), max(ratios))
    return Gain(config.method, kind, world.num_ranks, threads, split, alone, together, *gain, machine, bound, rate)


def bench_ranks(
    configs: Sequence[Config],
    shape: tuple[int, int, int],
    classes: int,
    device: torch.device,
    world: ProcessGroup,
    rounds: int,
    progress: Progress = no_progress,
    seconds: float = SECONDS,
) -> list[Gain]:
    """Measure each config on all ranks against one process, on generated images; every rank runs the same program.

    A round is so many steps alone (the other ranks wait), as many together, and as many on each rank by itself at the same time;
    steps together are timed when the pipeline is full, as it is but for an epoch's ends.

    Args:
        configs: of several ranks.
        shape: (C, H, W) of the images.
        classes: number of classes.
        device: of this rank.
        world: the ranks.
        rounds: in turns; medians of ratios are given.
        progress: called before each round.
        seconds: that one measurement lasts at least.

    Raises:
        InputError: one process only.

    """
    if world.is_single_process:
        raise InputError("one process has nobody to share with: torchrun --nproc-per-node N -m gradlens bench …")
    data = generated(shape, classes, 8 * max(config.batch_size for config in configs), 0)
    found = []
    for i, config in enumerate(configs):

        def before(r: int, steps: int, i: int = i, config: Config = config) -> None:
            progress(i * rounds + r, len(configs) * rounds, f"{config.method}, {steps} steps alone and on {world.num_ranks} ranks")

        found.append(_measured(config, data, device, world, rounds, seconds, before))
    return found


def to_json(rows: Sequence[Gain], about: dict[str, Any]) -> str:
    """The rows and what they are about."""
    return json.dumps({**about, "rows": [row._asdict() for row in rows]}, indent=1) + "\n"
