"""Makes what lies beside this file: tables of a short run of each rule, and runs that were interrupted, as version 0.1.0 wrote them.

    PYTHONPATH=TREE python tests/compat/saved.py tables|halves [RULE ...]

writes them anew with the ``gradlens`` of a tree; they are committed as commit 2b15772 made them. A new rule needs its tables only.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compare_trees import MACHINE, NETWORKS, RULES, TEACHER, interrupted, program

HERE = Path(__file__).resolve().parent
TABLES = ("metrics.csv", "gradients.csv")
# Five epochs of four updates, the first and the last recorded. Plain SGD: Adam makes of a gradient that is nothing but rounding (a bias
# before BatchNorm) a step as large as any other, and CPUs round differently.
SHORT = "--data digits --limit 128 --limit-test 64 --batch-size 32 --epochs 5 --optimizer sgd --momentum 0.9 --lr 0.01 --augment"
RECORDS = "--record-every 19 --diagnose-every 1"
SHALLOW = {"bp", "shallow", "fa", "usf", "brsf", "frsf", "dfa", "simclr", "context-encoder", "distil"}  # two blocks show all they do
ON_THE_CNN = {"dgl", "overlap", "predsim", "infopro", "kp", "simclr-local", "loco", "cpc-local", "context-encoder-local"}
HALVES = {"bp": "", "dni": "--set width=4", "dgl-async": "--set width=4 --set warmup=0 --set buffer=2"}  # interrupted after:
HALF = 11
LONG = "--data digits --limit 160 --limit-test 64 --batch-size 32 --epochs 4 --model mlp --width 4 --lr 3e-3 --lr-schedule cosine"


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """A working directory for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run(*words: str) -> int:
    status, said = program("train", *" ".join(words).split())
    if status not in (0, 130):
        raise RuntimeError(f"{' '.join(words)}: exit status {status}: {said}")
    return status


def short_run(rule: str, folder: Path) -> Path:
    """Train a rule for its tables, in a working directory; the run directory."""
    with inside(folder):
        if rule == "distil" and not Path(TEACHER).exists():
            out, name = TEACHER.split("/")
            _run("bp", SHORT, NETWORKS["mlp"], MACHINE, f"--record-every 0 --out {out} --run-name {name}")
        network = NETWORKS["cnn" if rule in ON_THE_CNN else "mlp"] + " --depth 2" * (rule in SHALLOW)
        _run(rule, SHORT, RECORDS, network, MACHINE, RULES[rule], f"--out . --run-name {rule}")
    return folder / rule


def long_run(rule: str, folder: Path, *, resume: bool = False) -> Path:
    """Train, or go on with, a run of ``HALVES``; the run directory."""
    with inside(folder):
        _run(rule, LONG, HALVES[rule], "--record-every 6 --diagnose-every 3", MACHINE, f"--out . --run-name {rule}", "--resume" * resume)
    return folder / rule


def _keep(run: Path, place: Path, first: int = 0) -> None:
    """Store a run's tables, of the recorded steps from ``first`` on."""
    place.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        with (run / name).open(newline="", encoding="utf-8") as file, (place / name).open("w", newline="", encoding="utf-8") as saved:
            csv.writer(saved, lineterminator="\n").writerows(
                [_rounded(value) for value in row]
                for row in csv.reader(file)
                if name == "metrics.csv" or row[0] == "step" or int(row[0]) >= first
            )


def _rounded(value: str) -> str:
    """Eight digits of a fraction are enough to be compared to four."""
    try:
        return f"{float(value):.8g}" if "." in value else value
    except ValueError:
        return value


def make_tables(rules: list[str]) -> None:
    """Write ``tables/RULE``."""
    with tempfile.TemporaryDirectory() as folder:
        for rule in rules:
            _keep(short_run(rule, Path(folder)), HERE / "tables" / rule)


def make_halves(rules: list[str]) -> None:
    """Write ``interrupted/RULE``, a run directory, and ``ends/RULE``, what follows in the run that nothing interrupts."""
    for rule in rules:
        with tempfile.TemporaryDirectory() as folder:
            _keep(long_run(rule, Path(folder)), HERE / "ends" / rule, HALF)
        with tempfile.TemporaryDirectory() as folder, interrupted(HALF):
            half, place = long_run(rule, Path(folder)), HERE / "interrupted" / rule
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(half, place)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    what, *which = sys.argv[1:]
    {"tables": make_tables, "halves": make_halves}[what](which or list(RULES if what == "tables" else HALVES))
