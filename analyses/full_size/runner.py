"""Work through the list: train an item, write its csv file after every epoch, stop cleanly when the time is spent."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from analyses.full_size.items import GRID, RATE_TRIALS, Item, multiply_adds
from analyses.full_size.results import merged, read_rows, rows_of, summary, write_rows
from gradlens.runtime.errors import INTERRUPTED, Stopped, unknown
from gradlens.runtime.text_files import read_json, read_text, write_text
from gradlens.training.build import build_model_and_method
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_run
from gradlens.training.run_files import is_run, write
from gradlens.training.runs.train_run import train_or_reuse, train_run
from gradlens.training.step import training_step

BEGUN = "begun.txt"  # in a run directory: when the run was begun


@dataclass
class Machine:
    """Where and with what the list is worked through."""

    out: Path  # run directories and the decoded data: large, not committed
    results: Path  # csv files and rates: small, committed
    device: torch.device
    precision: str
    data: str  # as a config says it
    data_name: str  # as figures say it
    commit: str
    say: Callable[[str], None] = field(default=lambda text: print(text, flush=True))

    @property
    def device_name(self) -> str:
        """What the csv files call the device: the accelerator's own name, or ``cpu``."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)

    def config(self, item: Item, deadline: float = math.inf) -> Config:
        """Return the item's settings on this machine; a learning rate that is to be chosen is chosen first, if it was not before.

        Raises:
            OutOfTime: the deadline came while a rate was being chosen; the next call goes on with its trials.

        """
        here = {"data": self.data, "precision": self.precision}
        lr = {"lr": learning_rate(item.rate, self, deadline)} if item.rate else {}
        return make_config(**{**item.config.as_dict(), **here, **lr})

    def csv(self, item: Item) -> Path:
        """The item's csv file."""
        return self.results / item.family / f"{item.name}.csv"


class OutOfTime(Exception):
    """The minutes are spent before an item could be begun."""


class _Deadline:
    """Asks the training loop to save and end when the time has come; a watcher of the loop's events."""

    def __init__(self, deadline: float) -> None:
        self.deadline, self.asked = deadline, False

    def __call__(self, event: str, numbers: dict[str, Any]) -> None:
        """Take an event of the training loop (see ``gradlens.runtime.progress``)."""
        if event == "step" and time.monotonic() >= self.deadline:
            self.stop()

    def stop(self) -> None:
        """As Ctrl-C does; once, since a second request would not save."""
        if not self.asked:
            self.asked = True
            signal.raise_signal(signal.SIGINT)


def chosen(items: Sequence[Item], wanted: Sequence[str]) -> list[Item]:
    """The items asked for: by name, by family, or by priority (a number); all where nothing is asked for.

    Raises:
        InputError: a word that names none of them.

    """
    if not wanted:
        return list(items)
    named = [(item, {item.part, item.name, item.family, str(item.priority)}) for item in items]
    for item, known in named:  # with --width, an item answers to its name at full width too
        known |= {name.removesuffix(f"-w{item.config.model.width}") for name in (item.part, item.name, item.family)}
    for word in wanted:
        if not any(word in known for _, known in named):
            raise unknown("item", word, sorted(set().union(*(known for _, known in named))))
    return [item for item, known in named if known & set(wanted)]


def finished(item: Item, machine: Machine) -> bool:
    """Whether the item's csv file reaches its last epoch."""
    return int(summary(read_rows(machine.csv(item)))["epochs"]) >= item.until


# ------------------------------------------------------------------------------------------------------ one training


class _Epochs(_Deadline):
    """Follows a training: its csv file is brought up to date after each epoch, and it is asked to stop when the time has come."""

    def __init__(self, item: Item, machine: Machine, run_dir: Path, deadline: float) -> None:
        super().__init__(deadline)
        self.item, self.machine, self.run_dir = item, machine, run_dir
        self.epoch = 0  # the last one whose row is written

    def __call__(self, event: str, numbers: dict[str, Any]) -> None:
        """Take an event of the training loop."""
        if event == "evaluate":
            begun = self.run_dir / BEGUN
            if not begun.exists():
                write_text(begun, f"{time.strftime('%Y-%m-%dT%H:%M:%S')}-{os.urandom(4).hex()}")
        if event != "step":
            return
        whole = int(numbers["epoch"]) - 1  # epochs that have their row when the next one's first step is reported
        if whole > self.epoch:
            self.epoch = whole
            self.write()
            if whole >= self.item.until:
                self.stop()
        super().__call__(event, numbers)

    def write(self) -> None:
        """Bring the csv file up to what the run directory holds."""
        run, path = load_run(self.run_dir), self.machine.csv(self.item)
        begun = read_text(self.run_dir / BEGUN).strip()
        machine = self.machine
        rows = rows_of(run, self.item.name, machine.data_name, machine.commit, begun, machine.device_name)
        write_rows(path, merged(read_rows(path), rows))
        if rows:
            last = rows[-1]
            self.machine.say(f"{self.item.name}: epoch {last['epoch']} of {self.item.until}, test accuracy {last['test_accuracy']:.4f}")


def train_item(item: Item, machine: Machine, deadline: float = math.inf) -> bool:
    """Train an item to its end or until the deadline; begin it, or go on where its run directory still is.

    Returns:
        Whether the item is done.

    Raises:
        Stopped: Ctrl-C, or a loss that is not finite; what was measured up to there is in the csv file.
        OutOfTime: nothing was begun.

    """
    config = machine.config(item, deadline)
    name = f"{item.name}-{config.digest()}"  # another precision, rate or list of settings is another run, and stands in nobody's way
    run_dir = machine.out / name
    context = RunContext(out=machine.out, name=name, device=machine.device, resume=is_run(run_dir))
    watch = _Epochs(item, machine, run_dir, deadline)
    stopped: Stopped | None = None
    try:
        train_run(config, context, watch)
    except Stopped as reason:
        stopped = reason
    if (run_dir / BEGUN).exists():
        watch.write()
    if stopped and not (watch.asked and stopped.status == INTERRUPTED):
        raise stopped
    return finished(item, machine)


def work(items: Sequence[Item], machine: Machine, minutes: float | None = None) -> tuple[list[str], list[str]]:
    """Train items in order until all are done or the minutes are spent.

    A loss that is not finite ends that item, not the list.

    Returns:
        The parts that are done, and those that are left.

    """
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    failed = []
    for item in items:
        if time.monotonic() >= deadline:
            break
        if finished(item, machine) or item.name in failed:
            continue
        try:
            train_item(item, machine, deadline)
        except OutOfTime:
            break
        except Stopped as stopped:
            if stopped.status == INTERRUPTED:
                raise
            machine.say(f"{item.name}: {stopped}")
            failed.append(item.name)
    done = [item.part for item in items if finished(item, machine)]
    return done, [item.part for item in items if item.part not in done]


# ------------------------------------------------------------------------------------------------------ learning rates


def learning_rate(key: str, machine: Machine, deadline: float = math.inf) -> float:
    """Choose a key's learning rate by the final accuracy on a tenth of its training images, held out; stored with all scores.

    Raises:
        OutOfTime: the deadline came first; finished trials are kept as runs, the one under way is gone on with next time.

    """
    path = machine.results / "rates.json"
    content: dict[str, Any] = read_json(path) if path.exists() else {}
    if key not in content:
        settings = RATE_TRIALS[key]
        grid = GRID[settings.get("optimizer", "adam")]
        machine.say(f"{key}: choosing a learning rate of {', '.join(f'{lr:g}' for lr in grid)}, on held-out images")
        scores: dict[float, float] = {}
        trial = {**settings, "data": machine.data, "precision": machine.precision, "validation": 0.1}
        best = _widened(grid, scores, lambda lr: _score(make_config(**{**trial, "lr": lr}), machine, deadline))
        content[key] = {
            "lr": best, "validation_accuracy": {f"{lr:g}": score for lr, score in scores.items()},
            "at_an_end_of_the_grid": best in (min(scores), max(scores)), "settings": settings, "data": machine.data_name,
            "device": machine.device_name, "precision": machine.precision, "commit": machine.commit,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, (json.dumps(content, indent=1) + "\n").encode())
    return float(content[key]["lr"])


def _widened(grid: Sequence[float], scores: dict[float, float], score: Callable[[float], float], most: int = 2) -> float:
    """The best rate of a grid that is widened by a factor of about three while its best is at an end, ``most`` times at the most.

    Args:
        grid: rates to begin with, in order.
        scores: filled in: rate -> score.
        score: of one rate; of equals the smaller rate is taken.
        most: how many rates may be added.

    """
    scores.update({lr: score(lr) for lr in grid})
    for _ in range(most + 1):
        best = max(scores, key=lambda lr: (scores[lr], -lr))
        beyond = {min(scores): min(scores) / 3, max(scores): max(scores) * 3}.get(best)
        if beyond is None or len(scores) == len(grid) + most:
            break
        rounded = float(f"{beyond:.1g}")
        scores[rounded] = score(rounded)
    return best


def _score(config: Config, machine: Machine, deadline: float) -> float:
    """Final accuracy on the held-out images, 0 where the loss became infinite."""
    watch = _Deadline(deadline)
    try:
        (run,) = train_or_reuse([config], RunContext(out=machine.out / "rates", device=machine.device), lambda c: watch)
    except Stopped as stopped:
        if stopped.status == INTERRUPTED:
            if watch.asked:
                raise OutOfTime from stopped
            raise
        return 0.0
    return float(run.summary["validation"]["final_accuracy"])


# -------------------------------------------------------------------------------------------------------------- the table


@cache
def _rate_here(device: torch.device, precision: str) -> float:
    """Multiply-adds a second of a bp step of BasicCNN on this machine: three steps of 64 images."""
    network = build_model_and_method(make_config(method="bp"), (3, 32, 32), 10, device)
    optimizer = torch.optim.SGD(network.model.parameters(), lr=0.0)
    x, y = torch.zeros(64, 3, 32, 32, device=device), torch.zeros(64, dtype=torch.long, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        float(training_step(network, optimizer, x, y, bf16=precision == "bf16").loss)
        seconds.append(time.perf_counter() - began)
    full = Item("", "", "", 0, make_config(method="bp", limit=64, data="cifar10"), 1)
    return multiply_adds(full) / min(seconds[1:])


def standing(item: Item, machine: Machine) -> Mapping[str, Any]:
    """One line of the table: what is done, what it costs, how long it took or may take."""
    stands = summary(read_rows(machine.csv(item)))
    cost = multiply_adds(item)
    done = min(int(stands["epochs"]), item.until)
    measured = done and stands["device"] == machine.device_name and stands["precision"] == machine.precision
    seconds = stands["seconds"] / stands["epochs"] * item.until if measured else cost / _rate_here(machine.device, machine.precision)
    return {
        "item": item.part, "priority": item.priority, "epochs": f"{done} of {item.until}", "multiply_adds": cost,
        "minutes": seconds / 60, "how": "measured" if measured else "estimated", "made_by": ", ".join(stands["commits"]),
        "on": " ".join(w for w in (stands["device"], stands["precision"]) if w),
    }  # fmt: skip
