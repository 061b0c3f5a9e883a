"""Speed-up of several ranks over one process: the same steps alone and together, interleaved in one run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from gradlens.data.split import Data, Split
from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import ProcessGroup
from gradlens.runtime.progress import Progress, no_progress
from gradlens.training.config import Config
from gradlens.training.loop import make_update
from gradlens.training.parallel.choose import make_stage, measure_costs
from gradlens.training.parallel.layer_parallel import waits_for_above
from gradlens.training.parallel.stage import LayerStage
from gradlens.training.runs.build_state import build_on_rank, build_state
from gradlens.training.state import TrainState

SECONDS = 4.0  # that one measurement lasts at least
FILLING = 2  # steps before the clock starts


class Round(NamedTuple):
    """Seconds of a step in one round."""

    alone: float  # in one process
    together: float  # on all ranks
    beside: float  # on the slowest of as many processes side by side


class Gain(NamedTuple):
    """Speed-up of a rule on several ranks."""

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
    bound: float | None  # total / largest stage, by the costs of the blocks: what ranks that never wait would gain; None for data
    megabytes_per_s: float | None  # sent from rank to rank; None where torch's engine sends
    rounds: tuple[Round, ...] = ()  # in their order; in a file a list each; older files: none


def generated(shape: tuple[int, ...], classes: int, images: int, seed: int) -> Data:
    """Generate random images and labels."""
    g = torch.Generator().manual_seed(seed)

    def split(n: int) -> Split:
        return Split(torch.randint(256, (n, *shape), generator=g, dtype=torch.uint8), torch.randint(classes, (n,), generator=g))

    return Data(split(images), split(classes), tuple(map(str, range(classes))))


def _kind(config: Config, method: Method) -> str:
    if config.parallel.mode == "data":
        return "data"
    if method.pipelined:
        return f"{config.parallel.schedule}, {config.parallel.microbatches} microbatches"
    if "replay_buffer" in method.depends_on:
        return "queues"
    return ("stale" if config.parallel.stale else "exact") if waits_for_above(method) else "layers"


class _Steps:
    """The updates of one run, from where the last ones ended."""

    def __init__(self, state: TrainState) -> None:
        self.state, self.made = state, 0

    def run(self, steps: int) -> None:
        """Make so many updates."""
        for _ in range(steps):
            make_update(self.state, self.made)
            self.made += 1

    def finish(self) -> None:
        """Finish what is under way."""
        if isinstance(self.state.stage, LayerStage):
            self.state.stage.finish_pending()


def _seconds(ranks: ProcessGroup, work: _Steps | None, steps: int, by: int) -> float:
    """Time so many steps (wall clock, s) on a pipeline that is full: on rank ``by``, ``FILLING`` steps after the first."""
    dist.barrier()
    began = 0.0
    if work is not None:
        work.run(FILLING)
        began = time.perf_counter()
        work.run(steps)
    spent = time.perf_counter() - began
    if work is not None:
        work.finish()
    return float(ranks.all_gather_object(spent)[by])


def _measure(
    config: Config, data: Data, device: torch.device, ranks: ProcessGroup, seconds: float, rounds: int, before: Callable[[int, int], None]
) -> Gain:
    """Measure one config on all ranks against one process; ``before`` is called with each round's number and steps."""
    single = config.in_one_process()
    state = ranks.fail_together(lambda: build_on_rank(config, data, device, ranks))
    costs = measure_costs(state) if config.parallel.mode == "layers" else None
    state.stage = ranks.fail_together(lambda: make_stage(state, costs))
    alone, shared = _Steps(build_state(single, data, device)), _Steps(state)
    for work in (shared, alone):
        work.run(2)
        work.finish()
    dist.barrier()
    began = time.perf_counter()
    if ranks.is_main:
        alone.run(1)
    steps = ranks.broadcast_object(max(4, round(seconds / (time.perf_counter() - began))))
    found, sent = [], 0
    for r in range(rounds):
        before(r, steps)
        first = _seconds(ranks, alone if ranks.is_main else None, steps, by=0)
        so_far = _bytes_sent(state)
        second = _seconds(ranks, shared, steps, by=ranks.num_ranks - 1)
        sent += _bytes_sent(state) - so_far
        beside = max(ranks.all_gather_object(_seconds(ranks, alone, steps, by=ranks.rank)))
        found.append(Round(first / steps, second / steps, beside / steps))
    return _gain(state, found, sum(ranks.all_gather_object(sent)) / (steps + FILLING) / rounds, costs)


def _bytes_sent(state: TrainState) -> int:
    """Count the bytes that this rank has sent from block to block so far; 0 where blocks are not spread."""
    return state.stage.bytes_sent() if isinstance(state.stage, LayerStage) else 0


def _gain(state: TrainState, rounds: Sequence[Round], sent: float, costs: Sequence[float] | None) -> Gain:
    """Summarise the rounds; ``sent`` is in bytes a step, of all ranks, ``costs`` in seconds, of each block."""
    config, ranks, stage = state.config, state.ranks, state.stage
    ratios = [r.alone / r.together for r in rounds]
    machine = median(ranks.num_ranks * r.alone / r.beside for r in rounds)
    alone, together = median(r.alone for r in rounds), median(r.together for r in rounds)
    split, bound = "", None
    if isinstance(stage, LayerStage) and costs is not None:
        split = ",".join(str(len(blocks)) for blocks in stage.ranges)
        bound = sum(costs) / max(sum(costs[k] for k in blocks) for blocks in stage.ranges)
    rate = sent / together / 1e6 if sent else None
    kind, threads, gain = _kind(config, state.network.method), torch.get_num_threads(), (median(ratios), min(ratios), max(ratios))
    return Gain(config.method, kind, ranks.num_ranks, threads, split, alone, together, *gain, machine, bound, rate, tuple(rounds))


def bench_ranks(
    configs: Sequence[Config],
    shape: tuple[int, ...],
    classes: int,
    device: torch.device,
    ranks: ProcessGroup,
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
        ranks: the ranks.
        rounds: in turns; medians of ratios are given.
        progress: called before each round.
        seconds: that one measurement lasts at least.

    Raises:
        InputError: one process only.

    """
    if ranks.is_single_process:
        raise InputError("--parallel needs several processes: start torchrun --nproc-per-node N -m gradlens bench …")
    data = generated(shape, classes, 8 * max(config.batch_size for config in configs), 0)
    found = []
    for i, config in enumerate(configs):

        def before(r: int, steps: int, i: int = i, config: Config = config) -> None:
            progress(i * rounds + r, len(configs) * rounds, f"{config.method}, {steps} steps alone and on {ranks.num_ranks} ranks")

        found.append(_measure(config, data, device, ranks, seconds, rounds, before))
    return found


def to_json(rows: Sequence[Gain], about: dict[str, Any]) -> str:
    """Return the rows and what they are about."""
    return json.dumps({**about, "rows": [row._asdict() for row in rows]}, indent=1) + "\n"
