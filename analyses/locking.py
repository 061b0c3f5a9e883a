"""Who waits for whom: backprop, its pipelines and rules that unlock layers, on BasicCNN and VGG16; the simulation against real processes.

Costs of each block are measured on noise in CIFAR-10's sizes, batches of 32, one thread (heads of dgl: mlp-sr), then schedules are
simulated over them and a link of 10 Gbit/s and 50 µs (`docs/timeline.md`). What was measured lies in ``block_costs.csv``: as long as it
is there, figures are drawn from it, the same each time. What is deleted from it is measured anew.

Claim: on two workers the simulated speed-up is within 15 % of that of ``torchrun --nproc-per-node 2 -m gradlens train … --parallel layers``
on the same split, one thread a process, against one process with one thread. Each is run in turn, several rounds; the speed of a run is
that of its fastest epoch but the first, and the best round counts: a shared machine slows a round down, never up. One that has no core
free for each process shows no speed-up at all, so run this where nothing else runs. Messages cross a socket of one machine there, so the
simulated link is one of 1 GB/s and 100 µs, which counts for little at these sizes; that two processes share caches and memory bandwidth
is not simulated. Each run is kept in ``measured.csv`` and not made again. Exact dni is not among them: a real worker waits for the
message from above before it goes backward, the simulated one afterwards.

    python -m analyses.locking --data cifar10          # a quarter of an hour on two free cores
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from analyses.study import HERE, REFUTED, SUPPORTED, arguments, publish
from gradlens.config import Config, make
from gradlens.longtable import read_csv, write_csv
from gradlens.plots import save
from gradlens.run import load
from gradlens.schedules import Schedule, schedules
from gradlens.timeline import DEFAULT_METHODS, CostRow, Link, Measured, Point, curves, measured, pictured, point, remembered, split
from gradlens.timeline_pictures import gantt, over_workers

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 32
MODELS = {"basic-cnn": 3, "vgg16": 4}  # -> workers in the picture
ETHERNET, LOOPBACK = Link(1.25e9, 50e-6), Link(1e9, 100e-6)
PARTS, BATCHES, LONG = 4, 32, 500  # microbatches; batches of the curves, and where filling shall not count
WITHIN = 0.15
REAL = {  # schedule -> what trains it so; of each model
    "basic-cnn": {"dgl": ("dgl", False), "dfa exact": ("dfa", False), "dfa stale": ("dfa", True), "dni stale": ("dni", True)},
    "vgg16": {"dgl": ("dgl", False), "dfa exact": ("dfa", False), "dfa stale": ("dfa", True)},
}
STEPS, EPOCHS = 20, 3  # updates in an epoch of a real run


class Real(NamedTuple):
    """A rule on one real process and on two."""

    model: str
    schedule: str
    split: str  # blocks of each of the two, as 8+6
    one_images_per_s: float  # the best round
    two_images_per_s: float

    @property
    def speedup(self) -> float:
        """What the second process brings."""
        return self.two_images_per_s / self.one_images_per_s


def config(method: str, model: str) -> Config:
    """A rule on a model, as costs are measured and runs are trained."""
    options = {"head": "mlp-sr"} if method.startswith("dgl") else {}
    return make(method=method, model=model, data="cifar10", batch_size=BATCH, options=options)


def costs(args: Namespace, rounds: int) -> dict[str, list[Measured]]:
    """What blocks cost, by model: as stored, or measured and stored."""
    path = args.figures / "locking" / "block_costs.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_csv(path, CostRow) if path.exists() else []
    for model in MODELS:
        for method in DEFAULT_METHODS:
            if (method, model) not in {(row.method, row.model) for row in rows}:
                print(f"measuring {method} on {model}", flush=True)
                rows += measured(config(method, model), SHAPE, CLASSES, torch.device("cpu"), rounds).rows
                write_csv(path, rows)
    return {model: [remembered(config(method, model), SHAPE, CLASSES, rows) for method in DEFAULT_METHODS] for model in MODELS}


def speed(method: str, model: str, sizes: Sequence[int], stale: bool, data: str) -> float:
    """Images a second of a short real run: one process for each of ``sizes``, which are the blocks of each."""
    with tempfile.TemporaryDirectory() as out:
        settings = {
            "model": model, "data": data, "limit": STEPS * BATCH, "limit-test": 100, "batch-size": BATCH, "epochs": EPOCHS,
            "record-every": 0, "diagnose-every": 0, "threads": 1, "out": out, "run-name": "run",
        }  # fmt: skip
        flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        sets = [f"{name}={value}" for name, value in config(method, model).options.items() if (name, value) == ("head", "mlp-sr")]
        command = ["gradlens", "train", method, *flags, *(text for pair in sets for text in ("--set", pair)), "--quiet"]
        launch = [sys.executable, "-m"]
        if len(sizes) > 1:
            launch += ["torch.distributed.run", "--nproc-per-node", str(len(sizes)), "-m"]
            command += ["--parallel", "layers", "--split", ",".join(map(str, sizes)), *(["--stale"] if stale else [])]
        done = subprocess.run([*launch, *command], cwd=HERE.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        return max(row.images_per_s for row in load(Path(out) / "run").timing if row.epoch > 1)


def ways(found: Mapping[str, Sequence[Measured]]) -> Iterator[tuple[str, Measured, Schedule]]:
    """The schedules that the program can run on several processes, of each model."""
    for model, ones in found.items():
        for one in ones:
            for schedule in schedules(one.rows[0].method, one.method, PARTS):
                if schedule.label in REAL[model]:
                    yield model, one, schedule


def real(args: Namespace, found: Mapping[str, Sequence[Measured]], rounds: int) -> list[Real]:
    """What two processes come to: as stored, or run and stored."""
    path = args.figures / "locking" / "measured.csv"
    rows = read_csv(path, Real) if path.exists() else []
    for model, one, schedule in ways(found):
        if (model, schedule.label) in {(row.model, row.schedule) for row in rows}:
            continue
        method, stale = REAL[model][schedule.label]
        sizes = [len(blocks) for blocks in split(one.costs, 2, one.cuts)]
        alone, together = list[float](), list[float]()
        for _ in range(rounds):
            alone.append(speed(method, model, [sum(sizes)], stale, args.data))
            together.append(speed(method, model, sizes, stale, args.data))
        rows.append(Real(model, schedule.label, "+".join(map(str, sizes)), max(alone), max(together)))
        print(f"{model} {schedule.label} on two processes: {rows[-1].speedup:.2f} times as fast", flush=True)
        write_csv(path, rows)
    return rows


def simulated(row: Real, one: Measured, schedule: Schedule) -> Point:
    """The same split of the same blocks on two simulated workers, without the filling."""
    ends = list(accumulate(map(int, row.split.split("+"))))
    stages = [range(a, b) for a, b in pairwise([0, *ends])]
    return point(schedule, one.costs, stages, LOOPBACK, LONG, len(stages))


def claim(row: Real, p: Point) -> dict[str, Any]:
    """A real run beside its simulation, and whether they are as near as they were to be."""
    off = p.speedup / row.speedup - 1
    said = {"speedup": row.speedup, "simulated": p.speedup, "limit": 1 / p.busiest, "off": off, "within": WITHIN}
    return {**row._asdict(), **said, "verdict": SUPPORTED if abs(off) <= WITHIN else REFUTED}


def main() -> None:
    """Measure or read costs and real runs, draw both models, say how near the simulation came; write figures/locking."""
    args = arguments(__doc__ or "", numbers={"rounds": 3})
    torch.set_num_threads(1)
    found = costs(args, args.rounds)
    points: dict[str, list[Point]] = {}
    for model, ones in found.items():
        seconds = 2.3 * sum(cost.seconds for cost in ones[0].costs)
        title = f"{model} · batches of {BATCH} images 3x32x32 · links of 10 Gbit/s"
        bars = pictured(ones, MODELS[model], ETHERNET, PARTS, seconds)
        save(gantt(bars, seconds, title=title), bars, args.figures / "locking", f"{model}_timeline")
        points[model] = curves(ones, ETHERNET, BATCHES, PARTS)
        save(over_workers(points[model], title=title), points[model], args.figures / "locking", f"{model}_workers")
    rows = {(row.model, row.schedule): row for row in real(args, found, args.rounds)}
    claims = [claim(row, simulated(row, one, schedule)) for m, one, schedule in ways(found) if (row := rows[m, schedule.label])]
    for c in claims:
        print(f"{c['model']} {c['schedule']}, {c['split']}: {c['speedup']:.2f} measured, {c['simulated']:.2f} simulated: {c['verdict']}")
    settings = {"batch_size": BATCH, "input": SHAPE, "microbatches": PARTS, "batches": BATCHES, "dgl_head": "mlp-sr"}
    best = {model: {p.schedule: p.speedup for p in ps if p.workers == max(q.used for q in ps)} for model, ps in points.items()}
    publish("locking", [], args, {"settings": settings, "speedup_at_most_workers": best, "two_processes": claims}, figures=False)


if __name__ == "__main__":
    main()
