"""Cost of a training step, next to a hand-written PyTorch loop measured in the same run: time, memory, multiply-adds."""

from __future__ import annotations

import itertools
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens._version import __version__
from gradlens.data.split import Data
from gradlens.data.transforms import normalizer
from gradlens.gradients.block_pass import outputs, reads_blocks
from gradlens.gradients.lens import Lens
from gradlens.gradients.losses import LOSSES, NONE, Loss
from gradlens.gradients.method import Method
from gradlens.methods import BASELINE
from gradlens.runtime.csv_tables import csv_line
from gradlens.runtime.memory import allocations, wait
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.step_context import step_context
from gradlens.tasks.registry import DEFAULT, TASKS
from gradlens.training.batches import first_batch
from gradlens.training.build import build_model_and_method
from gradlens.training.config import Config, make_config
from gradlens.training.cost.flops import count
from gradlens.training.optimizers import make_optimizer
from gradlens.training.step import Outcome, Recording, training_step

RECORD_EVERY = (1, 4, 16, 64)
SHORTEST = 0.05  # seconds: steps are repeated until a measurement has taken at least this long


@dataclass(frozen=True)
class Cost:
    """One row: what a step costs on average, and as a ratio to the plain loop in channels-last layout."""

    method: str  # plain (the hand-written loop), plain-default-layout (PyTorch's own), plain-in-lens (read by Lens), or a rule
    options: dict[str, Any]  # the rule's options that are not its defaults
    record_every: int  # 0: never
    precision: str  # fp32, bf16
    images_per_s: float
    time_ratio: float  # step time / plain's: the median over rounds of each round's ratio
    memory_mb: float | None  # memory a step adds at its peak to what was allocated before it; None where that is unknown (mps)
    memory_ratio: float | None
    multiply_adds: float  # an image
    flop_ratio: float
    rate_share: float  # multiply-adds a second / those of bp (of plain, where bp is not measured), unrecorded, first precision
    task_share: float | None = None  # of a step's time for making views, patches or masks of the images; None: the rule makes none
    seconds: list[float] = field(default_factory=list)  # of a step in each round, in their order; files of older versions: none


@dataclass(frozen=True)
class Bench:
    """All rows of one run, and where they were measured."""

    model: str
    data: str
    input: tuple[int, ...]  # (C, H, W)
    batch_size: int
    rounds: int
    threads: int
    device: str
    cpu: str  # the vector instructions torch uses
    versions: dict[str, str]
    rows: list[Cost]
    example: str = "image"  # what a batch holds

    def to_json(self) -> str:
        """Return the whole as a JSON object, with a list of objects under ``rows``."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass
class _Step:
    """A step that can be run again and again, and what was measured of it."""

    run: Callable[[], object]
    within: Callable[[], AbstractContextManager[object]] = nullcontext  # what it runs in, which is entered once a measurement
    multiply_adds: float = 0
    memory: int | None = None  # bytes
    seconds: list[float] = field(default_factory=list)  # a step, by round

    def time(self, device: torch.device) -> None:
        """Time it once more."""
        with self.within():
            self.seconds.append(seconds_per_step(self.run, device))


_Sizes = tuple[tuple[int, ...], int]  # what a network is built for: the shape of an example, the number of classes


@dataclass(frozen=True)
class _Candidate:
    """A loop to measure: its step, and the same step with the truth measured on it."""

    method: str
    options: dict[str, Any]
    precision: str
    optimizer: torch.optim.Optimizer
    step: _Step
    recorded: _Step | None = None
    task: _Step | None = None  # making views, patches or masks: part of the step

    def steps(self) -> list[tuple[str, _Step]]:
        """List what is measured, by name."""
        name = f"{self.method} {self.precision}"
        others = ((f"{name}, recorded", self.recorded), (f"{name}, views", self.task))
        return [(name, self.step), *((text, step) for text, step in others if step)]


# ------------------------------------------------------------------------------------------------------ what is measured


def _output(model: nn.Module, x: Tensor) -> Tensor:
    """Run a network; one whose blocks read several earlier ones is no plain ``nn.Sequential``."""
    if isinstance(model, nn.Sequential) and any(map(reads_blocks, model)):
        *_, z = outputs(model, x)
    else:
        z = model(x)
    return z


def _per_item(z: Tensor, y: Tensor) -> Tensor:
    """Compute the mean cross-entropy of z [N, *, C] and y [N, *]; a class of -1 is no item."""
    return F.cross_entropy(z.flatten(0, -2), y.flatten(), ignore_index=NONE)


def _one_logit(z: Tensor, y: Tensor) -> Tensor:
    """Compute the mean log loss of log odds z [N, 1] and y [N], 0 or 1."""
    return F.binary_cross_entropy_with_logits(z[:, 0], y.to(z.dtype))


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, x: Tensor, y: Tensor, bf16: bool = False) -> None:
    """Run a plain PyTorch training step, x [N, C, H, W], y [N]: forward, loss, ``backward()``, optimiser step."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        value = loss(_output(model, x), y)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _plain(
    config: Config, x: Tensor, y: Tensor, sizes: _Sizes, name: str, layout: torch.memory_format = torch.channels_last, read: bool = False
) -> _Candidate:
    settings = {**config.as_dict(), "method": BASELINE, "options": {}, "compile": False, "init_from": None}
    network = build_model_and_method(make_config(**settings), *sizes, x.device)
    model = network.model.to(memory_format=layout)  # type: ignore[call-overload]
    if config.compile:
        model.compile()
    optimizer = make_optimizer(config, network)
    loss = F.cross_entropy if config.loss == "ce" else LOSSES[config.loss]
    if config.task != DEFAULT:
        one_logit = config.loss == "bce" and y.ndim == 1  # others have a loss of this name on pairs of nodes
        loss = _per_item if config.loss == "ce" else _one_logit if one_logit else TASKS[config.task].losses[config.loss]
    laid = x.contiguous(memory_format=layout) if x.ndim == 4 else x
    lens = Lens(model, warn=False) if read else None

    def trained() -> None:
        if lens is not None:
            lens.clear()
        plain_step(model, optimizer, loss, laid, y, config.precision == "bf16")

    step = _Step(trained) if lens is None else _Step(trained, lambda: lens)
    return _Candidate(name, {}, config.precision, optimizer, step)


def _ours(config: Config, x: Tensor, y: Tensor, sizes: _Sizes, record: bool) -> _Candidate:
    network = build_model_and_method(config, *sizes, x.device)
    optimizer = make_optimizer(config, network)
    bf16, numbers = config.precision == "bf16", itertools.count(1 << 30)  # past every warm-up
    rule = network.method
    posed = type(rule).make_inputs is not Method.make_inputs
    images = x.add(1).mul(127.5).round().to(torch.uint8).contiguous() if posed else x
    to_input = normalizer("pm1", images)

    def made(n: int) -> tuple[Tensor, Tensor]:
        inputs, targets = rule.make_inputs(images, y, n, to_input) if posed else (x, y)
        rule.items.make_known(targets)
        return inputs, targets

    def trained(record: Recording | None = None) -> Outcome:
        n = next(numbers)
        rule.start(max(1, config.epochs), n)  # part of a step: rules may draw in it
        return training_step(network, optimizer, *made(n), record, bf16)

    step = _Step(trained)
    task = _Step(lambda: made(next(numbers))) if posed else None
    recorded = _Step(lambda: [csv_line(row) for row in trained(Recording(0)).rows]) if record else None
    defaults = {**type(network.method).Options().model_dump(), **TASKS[config.task].rule_options}
    changed = {name: value for name, value in config.options.items() if value != defaults[name]}
    return _Candidate(config.method, changed, config.precision, optimizer, step, recorded, task)


def _candidates(configs: Sequence[Config], x: Tensor, y: Tensor, sizes: _Sizes, record: bool) -> list[_Candidate]:
    """Return the plain loop first, of each further precision, of the default layout and (with ``record``) in a Lens; then the methods."""
    precisions = {config.precision: config for config in reversed(configs)}
    first = configs[0]
    others = [config for name, config in precisions.items() if name != first.precision]
    return [
        *(_plain(config, x, y, sizes, "plain") for config in (first, *others)),
        _plain(first, x, y, sizes, "plain-default-layout", torch.contiguous_format),
        *([_plain(first, x, y, sizes, "plain-in-lens", read=True)] if record and not first.compile else []),  # compiled code is not read
        *(_ours(config, x, y, sizes, record) for config in configs),
    ]


# ---------------------------------------------------------------------------------------------------- how it is measured


def seconds_per_step(step: Callable[[], object], device: torch.device) -> float:
    """Time one step (wall clock, s): the mean over as many as fit into ``SHORTEST``, at least one."""
    wait(device)
    steps, began = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - began < SHORTEST:
        step()
        steps += 1
    wait(device)
    return (time.perf_counter() - began) / steps


def added_memory(step: Callable[[], object], device: torch.device) -> int | None:
    """Measure the bytes a step adds, at its peak, to what was allocated before it; None where no exact count can be had (mps).

    CUDA: torch's own peak counter. CPU: the highest running sum over all allocations and releases of torch's allocator,
    as its profiler reports them (which does not count the release of what was there before). oneDNN takes reordered operands
    and scratch from that allocator and is included. What a library allocates by itself (compiled kernels, MKL's packing
    buffers) and what malloc keeps of memory given back are not: with MALLOC_MMAP_THRESHOLD_=32768, which keeps none, the
    kernel's peak of resident memory is the count to about 1 % for plain and bp steps (recorded steps count up to a
    sixth more: memory that was allocated and never written).
    """
    if device.type == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        return None
    live = peak = 0
    for change in allocations(step):
        live += change
        peak = max(peak, live)
    return peak


def _weigh(step: _Step, optimizer: torch.optim.Optimizer, device: torch.device, compiled: bool) -> None:
    """Count multiply-adds and memory; the first step also makes the optimiser's state, which is no step's added memory."""
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():  # operations in compiled code cannot be counted
        step.multiply_adds = count(step.run)
    if compiled:
        step.run()
    optimizer.zero_grad(set_to_none=True)  # gradients count as a step's own for everyone alike
    with step.within():
        step.memory = added_memory(step.run, device)


# --------------------------------------------------------------------------------------------------------------- rows


def _recorded_every(n: int, step: _Step, recorded: _Step) -> _Step:
    """Return a loop that records every n-th step, from one step of each kind: n−1 unrecorded, one recorded."""
    return _Step(
        step.run,
        multiply_adds=((n - 1) * step.multiply_adds + recorded.multiply_adds) / n,
        memory=max(step.memory, recorded.memory) if step.memory is not None and recorded.memory is not None else None,
        seconds=[((n - 1) * u + r) / n for u, r in zip(step.seconds, recorded.seconds, strict=True)],
    )


def _median_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of each round's ratio: what changes from round to round for all loops alike cancels."""
    return median(a / b for a, b in zip(mine, theirs, strict=True))


def _row(candidate: _Candidate, record_every: int, step: _Step, plain: _Step, pace: _Step, images: int) -> Cost:
    task = candidate.task
    return Cost(
        method=candidate.method,
        options=candidate.options,
        record_every=record_every,
        precision=candidate.precision,
        images_per_s=images / median(step.seconds),
        time_ratio=_median_ratio(step.seconds, plain.seconds),
        memory_mb=None if step.memory is None else step.memory / 1e6,
        memory_ratio=step.memory / plain.memory if step.memory is not None and plain.memory else None,
        multiply_adds=step.multiply_adds / images,
        flop_ratio=step.multiply_adds / plain.multiply_adds,
        rate_share=step.multiply_adds / pace.multiply_adds * _median_ratio(pace.seconds, step.seconds),
        task_share=_median_ratio(task.seconds, step.seconds) if task else None,
        seconds=list(step.seconds),
    )


def _rows(candidates: Sequence[_Candidate], record_every: Iterable[int], images: int) -> list[Cost]:
    plain = candidates[0]
    pace = next((c for c in candidates if c.method == BASELINE and c.precision == plain.precision), plain).step
    rows = []
    for candidate in candidates:
        rows.append(_row(candidate, 0, candidate.step, plain.step, pace, images))
        if candidate.recorded:
            for n in record_every:
                mixed = _recorded_every(n, candidate.step, candidate.recorded)
                rows.append(_row(candidate, n, mixed, plain.step, pace, images))
    return rows


def bench(
    configs: Sequence[Config],
    shape: tuple[int, ...],
    classes: int,
    device: torch.device,
    rounds: int = 7,
    record_every: Sequence[int] = RECORD_EVERY,
    progress: Progress = no_progress,
    data: Data | None = None,
) -> Bench:
    """Measure a hand-written loop and each config's step on generated images, or a batch of another task's data, interleaved in one run.

    Each round times one step of every loop in turn (several of a short one), so that what slows the machine slows all, and
    the next round goes through them in the opposite order.
    Recording every n-th step is put together from an unrecorded and a recorded step timed in the same round: (n−1)·u + r
    over n; its memory is the larger of the two. Multiply-adds and memory are counted on steps of their own before.

    Args:
        configs: one a method (and precision), bp first; all of one model, batch size and optimiser.
        shape: of an example: (C, H, W) of an image.
        classes: number of classes.
        device: where to run; on a CPU with the threads torch is set to.
        rounds: interleaved rounds.
        record_every: recording intervals to report beside "never"; () leaves recording out.
        progress: called before each measurement.
        data: of a task other than the default; None: images are generated.

    Raises:
        InputError: a model that does not fit the images, a rule that does not fit the model.
        ValueError: no config, or configs of different models or batch sizes.

    """
    if len({(c.model.name, c.model.width, c.model.depth, c.model.stem, c.batch_size, c.data.name) for c in configs}) != 1:
        raise ValueError("bench compares configs of one model, data set and batch size")
    first = configs[0]
    with step_context():
        made = _generated(first, shape, classes, device) if data is None else first_batch(first, data, device)
        return _measured(configs, *made, (shape, classes), device, rounds, record_every, progress)


def _generated(config: Config, shape: tuple[int, ...], classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make normalised images of noise with labels."""
    random = torch.Generator().manual_seed(config.seed)
    x = torch.rand(config.batch_size, *shape, generator=random).mul_(2).sub_(1)
    x = x.to(device).contiguous(memory_format=torch.channels_last)
    return x, torch.randint(classes, (config.batch_size,), generator=random).to(device)


def _measured(
    configs: Sequence[Config],
    x: Tensor,
    y: Tensor,
    sizes: _Sizes,
    device: torch.device,
    rounds: int,
    record_every: Sequence[int],
    progress: Progress,
) -> Bench:
    first = configs[0]
    candidates = _candidates(configs, x, y, sizes, record=bool(record_every))
    steps = [(candidate, name, step) for candidate in candidates for name, step in candidate.steps()]
    total = len(steps) * (rounds + 1)
    for i, (candidate, name, step) in enumerate(steps):
        progress(i, total, f"multiply-adds and memory: {name}")
        _weigh(step, candidate.optimizer, device, first.compile)
    for r in range(rounds):
        for i, (_, name, step) in enumerate(steps[:: -1 if r % 2 else 1]):  # what runs before a step can cost it 3 %
            progress((r + 1) * len(steps) + i, total, f"time, round {r + 1} of {rounds}: {name}")
            step.time(device)
    progress(total, total, "done")
    return Bench(
        model=first.model.name,
        data=first.data.name,
        input=tuple(x.shape[1:]),
        batch_size=len(x),
        rounds=rounds,
        threads=torch.get_num_threads(),
        device=str(device),
        cpu=torch.backends.cpu.get_cpu_capability(),
        versions={"gradlens": __version__, "torch": torch.__version__, "python": platform.python_version()},
        rows=_rows(candidates, record_every, len(x)),
        example=TASKS[first.task].example,
    )
