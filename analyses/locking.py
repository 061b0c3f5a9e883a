"""Who waits for whom: backprop, its pipelines and rules that unlock layers, on BasicCNN and VGG16; the simulation against real processes.

Costs of each block are measured on noise in CIFAR-10's sizes, batches of 32, one thread (heads of dgl: mlp-sr), then schedules are
simulated over them and a link of 10 Gbit/s and 50 µs (docs/how-to/timeline.md). The costs lie in ``block_costs.csv``: as long as it
is there, figures are drawn from it, the same each time. What is deleted from it is measured anew.

Tests of two sentences, by what two processes of one thread gained over one, in the three rounds of figures/parallel and of
``measured_*.json`` (rounds stand for seeds: they repeat one measurement). "The greedy model can be trained in parallel": dgl on VGG16, at
least 1.5, half of what a second process could bring. "Backward and update locking can be removed": dni, whose blocks wait
for no other's backward pass, with late messages on BasicCNN, at least 1.1; the forward lock is lifted by dni-unlocked, in the simulation
only. Three rounds see 0.3 of dgl's gain beyond its bound and 0.06 of dni's.

Beside them: on two workers the simulated speed-up is within 15 % of the gain that `gradlens bench` measures under torchrun: two processes
of one thread each against one process with one thread, interleaved, on the split it chose. What it measured lies in
``measured_<model>.json``, beside what two processes gain there that share nothing; a machine without a core free for each shows no gain at
all, so measure where nothing else runs. Messages cross a socket of one machine there, so the simulated link is one of 1 GB/s and 100 µs,
which counts for little at these sizes; that two processes share caches and memory bandwidth is not simulated.

    python -m analyses.locking --data cifar10          # a quarter of an hour on two free cores
"""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from analyses.training.cost import announce_cost
from analyses.training.study import HERE, arguments, publish
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.methods import DEFAULT_SIMULATION
from gradlens.reporting.style import head, save_figure
from gradlens.reporting.timeline import gantt, over_workers
from gradlens.runtime.csv_tables import read_csv, write_csv
from gradlens.runtime.text_files import read_json
from gradlens.training.config import Config, make_config
from gradlens.training.cost.pipeline_schedules import Schedule, schedules
from gradlens.training.cost.simulation import (
    Bar,
    CostRow,
    Link,
    Measured,
    ThroughputPoint,
    costs_from_rows,
    measure_costs,
    pictured,
    throughput_curves,
    throughput_point,
)

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 32
SMALL = "basic-cnn"
MODELS = {SMALL: 3, "vgg16": 4}  # -> workers in the picture
SHOWN = ("bp", "bp 1f1b", "dgl", "dni exact", "dfa exact")  # schedules of the smaller picture
ETHERNET, LOOPBACK = Link(1.25e9, 50e-6), Link(1e9, 100e-6)
PARTS, BATCHES, LONG = 4, 32, 500  # microbatches; batches of the curves, and where filling shall not count
WITHIN = 0.15
REAL = {"basic-cnn": (("dgl", "dfa"), ("dfa", "dni")), "vgg16": (("dgl", "dfa"), ())}  # what is measured on two processes: exact, stale


class Real(NamedTuple):
    """What a second process brought, as `gradlens bench` measured it."""

    model: str
    schedule: str
    split: str  # blocks of each of the two, as 8,6
    gain: float
    low: float
    high: float
    machine: float  # what two processes gain that share nothing


def config(method: str, model: str) -> Config:
    """A rule on a model, as costs are measured and runs are trained."""
    options = {"head": "mlp-sr"} if method.startswith("dgl") else {}
    return make_config(method=method, model=model, data="cifar10", batch_size=BATCH, options=options)


def costs(args: Namespace, rounds: int) -> dict[str, list[Measured]]:
    """What blocks cost, by model: as stored, or measured and stored."""
    path = args.figures / "locking" / "block_costs.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read_csv(path, CostRow) if path.exists() else []
    for model in MODELS:
        for method in DEFAULT_SIMULATION:
            if (method, model) not in {(row.method, row.model) for row in rows}:
                print(f"measuring {method} on {model}", flush=True)
                rows += measure_costs(config(method, model), SHAPE, CLASSES, torch.device("cpu"), rounds).rows
                write_csv(path, rows)
    return {model: [costs_from_rows(config(method, model), SHAPE, CLASSES, rows) for method in DEFAULT_SIMULATION] for model in MODELS}


def bench(model: str, methods: Sequence[str], stale: bool, rounds: int, path: Path) -> None:
    """Measure rules on two processes against one."""
    sets = ["--set", "dgl.head=mlp-sr"] if "dgl" in methods else []
    command = ["gradlens", "bench", *methods, "--model", model, "--data", "cifar10", "--batch-size", str(BATCH), "--threads", "1", *sets]
    command += ["--device", "cpu", "--rounds", str(rounds), "--quiet", "--json", str(path.absolute()), *(["--stale"] if stale else [])]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    done = subprocess.run([*launch, *command], cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def real(args: Namespace, rounds: int) -> list[Real]:
    """What two processes come to: as stored, or measured and stored."""
    rows = []
    for model, kinds in REAL.items():
        for methods, stale in zip(kinds, (False, True), strict=True):
            path = args.figures / "locking" / f"measured_{model}{'_stale' * stale}.json"
            if methods and not path.exists():
                print(f"measuring {', '.join(methods)} on two processes, {model}", flush=True)
                bench(model, methods, stale, rounds, path)
            for row in read_json(path)["rows"] if methods else []:
                schedule = row["method"] if row["how"] == "layers" else f"{row['method']} {row['how']}"
                rows.append(Real(model, schedule, row["split"], row["gain"], row["low"], row["high"], row["machine"]))
    return rows


def way(ones: Sequence[Measured], label: str) -> tuple[Measured, Schedule]:
    """The costs and the schedule that go by a name."""
    found = ((one, s) for one in ones for s in schedules(one.rows[0].method, one.method, PARTS) if s.label == label)
    return next(found)


def simulated(row: Real, one: Measured, schedule: Schedule) -> ThroughputPoint:
    """The same split of the same blocks on two simulated workers, without the filling."""
    ends = list(accumulate(map(int, row.split.split(","))))
    stages = [range(a, b) for a, b in pairwise([0, *ends])]
    return throughput_point(schedule, one.costs, stages, LOOPBACK, LONG, len(stages))


def beside(row: Real, p: ThroughputPoint) -> dict[str, Any]:
    """A real run beside its simulation, and whether they are as near as they were to be."""
    off = p.speedup / row.gain - 1
    said = {"simulated": p.speedup, "limit": 1 / p.busiest, "off": off, "within": WITHIN}
    return {**row._asdict(), **said, "verdict": "agrees" if abs(off) <= WITHIN else "differs"}


GAIN, HALF, SOME = "gain of a second process", 1.5, 1.1  # half of what it could bring, and more than nothing


def gains(name: str, says: str, contrast: dict[str, float], at_least: float, primary_of: str = "") -> Test:
    """A test of what a second process brings, round by round."""
    return Test(name, f"{GAIN}: {says}", GAIN, contrast, "times", at_least=at_least, primary_of=primary_of, repeats="round")


TESTS = (
    gains("dgl-in-parallel", "dgl on VGG16", {"dgl, vgg16": 1}, HALF, "dgl-parallel"),
    gains("locks-removed", "dni with late messages on BasicCNN", {"dni stale, basic-cnn": 1}, SOME, "unlocking"),
    *details("dgl-parallel", gains("dgl-on-a-small-net", "dgl on BasicCNN", {"dgl, basic-cnn": 1}, HALF)),
    *details("unlocking", gains("dfa-exact", "dfa on VGG16", {"dfa exact, vgg16": 1}, SOME)),
)


def rounds_of(file: Path) -> dict[str, list[float]]:
    """rule, how and model -> the gains of the rounds, in their order, of a file of `gradlens bench`.

    Older files hold the smallest, the median and the largest alone, which are all of three rounds, in another order.

    Raises:
        ValueError: an older file has more rounds than these.

    """
    stored = read_json(file)
    how = {"layers": "", "1f1b, 4 microbatches": " 1f1b"}
    found = {}
    for row in stored["rows"]:
        if not row.get("rounds") and stored["rounds"] != 3:
            raise ValueError(f"{file}: {stored['rounds']} rounds, of which it holds three")
        gains = [alone / together for alone, together, _ in row.get("rounds", ())]
        name = f"{row['method']}{how.get(row['how'], ' ' + row['how'])}, {stored['model']}"
        found[name] = gains or [row["low"], row["gain"], row["high"]]
    return found


def values_of(figures: Path) -> dict[str, dict[str, list[float]]]:
    """quantity -> rule and model -> gain of each round; where both folders have one, that of figures/parallel, which the pages show."""
    files = [*sorted((figures / "locking").glob("measured_*.json")), *sorted((figures / "parallel").glob("*.json"))]
    return {GAIN: {name: rounds for file in files for name, rounds in rounds_of(file).items()}}


def few(bars: Sequence[Bar], seconds: float, title: str) -> Figure:
    """Five schedules of a model one above the other, in letters that a page can show."""
    figure = gantt(bars, seconds)
    figure.set_size_inches(8, 5.6 if bars[0].used <= 3 else 6.8)
    for text in figure.findobj(Text):
        text.set_fontsize(max(8.0, text.get_fontsize()))  # type: ignore[attr-defined]
    head(figure, "Backprop's workers wait for all above, dgl's for the block below only", f"{title} · dark and light: batches in turn")
    return figure


def speed_message(points: Sequence[ThroughputPoint]) -> str:
    """The largest speed-up of some schedules, the best first."""
    best = {name: max(p.speedup for p in points if p.schedule == name) for name in SHOWN}
    said = ", ".join(f"{name} {best[name]:.1f}".replace(" ", "\u00a0") for name in sorted(best, key=lambda name: -best[name]))
    return f"Speed-up by up to {max(p.used for p in points)} workers: {said}"


def main() -> None:
    """Measure or read costs and real runs, draw both models, say how near the simulation came; write figures/locking."""
    args = arguments(__doc__ or "", numbers={"rounds": 3})
    announce_cost(30, "a quarter of an hour on two free cores; what is stored is not measured anew")
    torch.set_num_threads(1)
    found = costs(args, args.rounds)
    points: dict[str, list[ThroughputPoint]] = {}
    for model, ones in found.items():
        seconds = 2.3 * sum(cost.seconds for cost in ones[0].costs)
        title = f"{model} · batches of {BATCH} images 3x32x32 · links of 10 Gbit/s"
        bars = pictured(ones, MODELS[model], ETHERNET, PARTS, seconds)
        shown = [bar for bar in bars if bar.schedule in SHOWN]
        save_figure(few(shown, seconds, title), shown, args.figures / "locking", f"{model}_who_waits")
        points[model] = throughput_curves(ones, ETHERNET, BATCHES, PARTS)
        speeds = over_workers(points[model])
        head(speeds, speed_message(points[model]), f"simulated from measured costs · {title}")
        save_figure(speeds, points[model], args.figures / "locking", f"{model}_workers")
    pairs = []
    for row in real(args, args.rounds):
        one, schedule = way(found[row.model], row.schedule)
        pairs.append(beside(row, simulated(row, one, schedule)))
    for c in pairs:
        print(f"{c['model']} {c['schedule']}, {c['split']}: {c['gain']:.2f} measured, {c['simulated']:.2f} simulated: {c['verdict']}")
    settings = {"batch_size": BATCH, "input": SHAPE, "microbatches": PARTS, "batches": BATCHES, "dgl_head": "mlp-sr"}
    best = {model: {p.schedule: p.speedup for p in ps if p.workers == max(q.used for q in ps)} for model, ps in points.items()}
    results = {"settings": settings, "speedup_at_most_workers": best, "two_processes": pairs, "values": values_of(args.figures)}
    report(TESTS, results)
    publish("locking", [], args, results, figures=False)


if __name__ == "__main__":
    main()
