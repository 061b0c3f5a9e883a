"""Who waits for whom: backprop, its pipelines and rules that unlock layers, on BasicCNN and VGG16; the simulation against real processes.

Costs of each block are measured on noise in CIFAR-10's sizes, batches of 32, one thread (heads of dgl: mlp-sr), then schedules are
simulated over them and a link of 10 Gbit/s and 50 µs (`docs/timeline.md`). What was measured lies in ``block_costs.csv``: as long as it
is there, figures are drawn from it, the same each time. Measure anew by deleting it.

Claim: on two workers the simulated speed-up is within 15 % of that of ``torchrun --nproc-per-node 2 -m gradlens train … --parallel layers``
on the same split, one thread a process, against one process with one thread. Each is run in turn, several rounds; the speed of a run is
that of its fastest epoch but the first, and the best round counts: a shared machine slows a round down, never up. Messages cross a
socket of one machine there, so the simulated link is one of 1 GB/s and 100 µs, which counts for little at these sizes; that two
processes share caches and memory bandwidth is not simulated. What was measured lies in ``measured.csv``, read again like the costs.

    python -m analyses.locking --data cifar10          # a quarter of an hour on two free cores
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from analyses.study import HERE, SUPPORTED, arguments, publish
from gradlens.config import Config, make
from gradlens.longtable import read_csv, write_csv
from gradlens.plots import save
from gradlens.run import load
from gradlens.schedules import schedules
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
    """A real run on two processes beside its simulation."""

    model: str
    schedule: str
    split: str  # blocks of each process
    one_images_per_s: float  # a process alone, best round
    two_images_per_s: float
    measured: float  # speed-up
    simulated: float
    limit: float  # one batch's work / that of the worker with the most


def config(method: str, model: str) -> Config:
    """A rule on a model, as costs are measured and runs are trained."""
    options = {"head": "mlp-sr"} if method.startswith("dgl") else {}
    return make(method=method, model=model, data="cifar10", batch_size=BATCH, options=options)


def costs(args: Namespace, rounds: int) -> dict[str, list[Measured]]:
    """What blocks cost, by model: as stored, or measured and stored."""
    path, rows = args.figures / "locking" / "block_costs.csv", list[CostRow]()
    if not path.exists():
        for model in MODELS:
            for method in DEFAULT_METHODS:
                print(f"measuring {method} on {model}", flush=True)
                rows += measured(config(method, model), SHAPE, CLASSES, torch.device("cpu"), rounds).rows
        path.parent.mkdir(parents=True, exist_ok=True)
        write_csv(path, rows)
    rows = read_csv(path, CostRow)
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


def validated(model: str, found: Sequence[Measured], data: str, rounds: int) -> list[Real]:
    """Two real processes beside two simulated workers, every schedule that the program can run so."""
    rows = []
    for one in found:
        for schedule in schedules(one.rows[0].method, one.method, PARTS):
            if schedule.label not in REAL[model]:
                continue
            method, stale = REAL[model][schedule.label]
            stages = split(one.costs, 2, one.cuts)
            sizes = [len(blocks) for blocks in stages]
            alone, together = list[float](), list[float]()
            for _ in range(rounds):
                alone.append(speed(method, model, [sum(sizes)], stale, data))
                together.append(speed(method, model, sizes, stale, data))
            p = point(schedule, one.costs, stages, LOOPBACK, LONG, 2)
            one_, two = max(alone), max(together)
            rows.append(Real(model, schedule.label, "+".join(map(str, sizes)), one_, two, two / one_, p.speedup, 1 / p.busiest))
            print(f"{model} {schedule.label}: {two / one_:.2f} measured, {p.speedup:.2f} simulated", flush=True)
    return rows


def real(args: Namespace, found: dict[str, list[Measured]], rounds: int) -> list[Real]:
    """What two processes came to: as stored, or run and stored."""
    path = args.figures / "locking" / "measured.csv"
    if not path.exists():
        write_csv(path, [row for model, ones in found.items() for row in validated(model, ones, args.data, rounds)])
    return read_csv(path, Real)


def close(row: Real) -> bool:
    """Whether the simulation is as near to the measurement as it was to be."""
    return abs(row.simulated / row.measured - 1) <= WITHIN


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
    rows = real(args, found, args.rounds)
    for row in rows:
        off = row.simulated / row.measured - 1
        word = SUPPORTED if close(row) else "not supported"
        print(f"{row.model} {row.schedule}: {row.measured:.2f} measured, {row.simulated:.2f} simulated ({off:+.0%}): within 15 % is {word}")
    settings = {"batch_size": BATCH, "input": SHAPE, "microbatches": PARTS, "batches": BATCHES, "dgl_head": "mlp-sr"}
    best = {model: {p.schedule: p.speedup for p in ps if p.workers == max(q.used for q in ps)} for model, ps in points.items()}
    claims = [{**row._asdict(), "within": WITHIN, "holds": close(row)} for row in rows]
    publish("locking", [], args, {"settings": settings, "speedup_at_most_workers": best, "two_processes": claims}, figures=False)


if __name__ == "__main__":
    main()
