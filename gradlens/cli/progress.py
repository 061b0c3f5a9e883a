"""Progress display: a live line on a terminal, plain lines every few seconds elsewhere. All on stderr."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gradlens.runtime.terminal import rich_console
from gradlens.training.metrics import ACCURACY, score_text

if TYPE_CHECKING:
    from gradlens.training.config import Config

PLAIN_SECONDS = 15.0  # between lines where there is no terminal
LONG, FIRST = 30.0, 4.0  # seconds: work that takes longer shows an estimate, after the first seconds


class Display:
    """Progress of one run after the other; ``watch(label, epochs)`` gives the callback that ``fit`` takes.

    Args:
        quiet: show nothing.
        runs: how many runs there will be, for "run 2 of 4".

    """

    def __init__(self, quiet: bool, runs: int = 1) -> None:
        self.console = rich_console(stderr=True)
        self.quiet, self.runs, self.started = quiet, runs, 0
        self.live: Progress | None = None
        if not quiet and self.console.is_terminal:
            self.live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[numbers]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=self.console,
            )

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def watch(self, label: str, epochs: int, items: str = "images") -> _Line:
        """Return the display of the next run, which counts ``items``."""
        self.started += 1
        prefix = f"[{self.started}/{self.runs}] " if self.runs > 1 else ""
        return _Line(self, prefix + label, epochs, items)

    def watch_run(self, label: str, config: Config) -> _Line:
        """Return the display of the next run, by its config."""
        from gradlens.tasks.registry import TASKS

        return self.watch(label, config.epochs, f"{TASKS[config.task].item}s")

    def count(self, label: str) -> _Count:
        """Return a display for work that is counted: called with (done, total, what comes next)."""
        return _Count(self, label)


class _Count:
    """Show one line for counted work; a long duration is estimated as soon as the first part is done."""

    def __init__(self, display: Display, label: str) -> None:
        self.display, self.label = display, label
        self.task = display.live.add_task(label, total=None, numbers="") if display.live else None
        self.began = self.printed = time.monotonic()
        self.total, self.first = 0, 0
        self.estimated = False

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take how far the work is; another total, or less that is done, is other work."""
        now = time.monotonic()
        if total != self.total or done < self.first:
            self.began, self.total, self.first, self.estimated = now, total, done, False
        if self.display.live and self.task is not None:
            self.display.live.update(self.task, completed=done, total=total, numbers=f"{done}/{total} {what}")
        if self.display.quiet:
            return
        seconds = now - self.began
        left = seconds / (done - self.first) * (total - done) if done > self.first else 0.0
        if not self.estimated and seconds > FIRST and left > LONG:
            self.estimated, self.printed = True, now
            self._print(f"about {seconds + left:,.0f} s in all")
        elif not self.display.live and now - self.printed > PLAIN_SECONDS:
            self.printed = now
            self._print(f"{done}/{total} {what}" + (f", about {left:,.0f} s left" if left else ""))

    def _print(self, text: str) -> None:
        if self.display.live:
            self.display.live.console.print(f"{self.label}: {text}")
        else:
            print(f"{self.label}: {text}", file=self.display.console.file, flush=True)


def _answer(numbers: dict[str, Any]) -> str:
    """Format a score, or the loss of rules that make no predictions."""
    if not math.isfinite(numbers["score"]):
        return f"loss {numbers['loss']:.4f}"
    name = "" if numbers["score_name"] == ACCURACY else f"{numbers['score_name']} "
    return f"{name}{score_text(numbers['score'], numbers['score_name'])}"


class _Line:
    """One run's line."""

    def __init__(self, display: Display, label: str, epochs: int, items: str) -> None:
        self.display, self.label, self.epochs, self.items = display, label, epochs, items
        self.printed = self.began = time.monotonic()
        self.first_step: int | None = None
        self.test = ""
        self.task: TaskID | None = None
        if display.live:
            self.task = display.live.add_task(label, total=None, numbers="evaluating the untrained network")

    def __call__(self, event: str, numbers: dict[str, Any]) -> None:
        """Take one event of ``fit``: step, evaluate, metric or regret."""
        if self.display.quiet:
            return
        if event == "metric" and numbers["split"] == "train-eval":
            self._print(f"epoch {numbers['epoch']}/{self.epochs}: training examples in eval mode {_answer(numbers)}")
        elif event == "metric" and numbers["split"] != "train":
            best = f" (best {score_text(numbers['best'], numbers['score_name'])})" if math.isfinite(numbers["best"]) else ""
            self.test = f"{numbers['split']} {_answer(numbers)}{best}"
            loss = f", {numbers['split']} loss {numbers['loss']:.4f}" if best else ""
            self._print(f"epoch {numbers['epoch']}/{self.epochs}: {self.test}{loss}")
        elif event == "evaluate" and self.display.live and self.task is not None:
            self.display.live.update(self.task, numbers=f"evaluating, {self.test}" if self.test else "evaluating")
        elif event == "regret":
            self._print("online probe: the best fixed probes in hindsight")
        elif event == "step":
            self._step(numbers)

    def _step(self, n: dict[str, Any]) -> None:
        accuracy = f"  acc {n['accuracy']:.1%}" if math.isfinite(n["accuracy"]) else ""
        loss = (
            f"  loss {n['loss']:.4f}" if math.isfinite(n["loss"]) else ""
        )  # of blocks on several ranks it is known only when they synchronise
        rate = f"  {n['images_per_s']:,.0f} {self.items}/s" if n["images_per_s"] else ""
        text = f"epoch {n['epoch']}/{self.epochs}{loss}{accuracy}{rate}"
        if self.display.live and self.task is not None:
            tail = f"  {self.test}" if self.test else ""
            self.display.live.update(self.task, description=self.label, completed=n["step"], total=n["total"], numbers=text + tail)
            return
        if self.first_step is None:
            self.first_step = n["step"] - 1
        if time.monotonic() - self.printed > PLAIN_SECONDS:
            done = n["step"] - self.first_step
            left = (time.monotonic() - self.began) / done * (n["total"] - n["step"])
            self._print(f"{text}  step {n['step']}/{n['total']}  about {left:,.0f} s left")

    def _print(self, text: str) -> None:
        """Print a line where there is no live display."""
        if not self.display.live:
            self.printed = time.monotonic()
            print(f"{self.label}: {text}", file=self.display.console.file, flush=True)
