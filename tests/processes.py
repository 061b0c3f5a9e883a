"""The program in processes of its own that start at once: a server imports the libraries, never computes, and is forked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENOUGH = 300  # seconds for anything here on a busy machine

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "gradlens.training.runs.train_run",
        "gradlens.cli.main",
        "gradlens.runtime.process_group",
        "gradlens.training.sweep.workers",
        "sklearn.datasets",
        "torchvision",
    ]
)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _program(arguments: Sequence[str], folder: Path, environment: dict[str, str], before: Callable[[], Any] | None, files: Path) -> None:
    import torch

    from gradlens.cli.main import main

    os.chdir(folder)
    os.environ.update(environment)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(files.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    sys.argv = ["gradlens", *arguments]
    if before is not None:
        before()
    main()


class Program:
    """``gradlens ARGUMENTS`` in a forked process: what its signals, its exit status and its two streams are is as if it were typed."""

    started = 0
    kept: Any = None  # what must not end before it

    def __init__(
        self, folder: Path, *arguments: str | Path, before: Callable[[], Any] | None = None, env: dict[str, str] | None = None
    ) -> None:
        Program.started += 1
        folder.mkdir(parents=True, exist_ok=True)
        self.files = folder.parent / f".{folder.name}-{Program.started}"  # beside the folder, whose content tests look at
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
        words = [str(word) for word in arguments]
        self.process = FORKED.Process(target=_program, args=(words, folder, environment, before, self.files), daemon=True)
        self.process.start()
        self.pid = int(self.process.pid or 0)

    def send(self, signal_: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, signal_)

    def finished(self) -> tuple[int | None, str, str]:
        """Wait for the end: (exit status, stdout, stderr)."""
        self.process.join(ENOUGH)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"not finished after {ENOUGH} seconds: {self._said('err')}")
        return self.process.exitcode, self._said("out"), self._said("err")

    def _said(self, stream: str) -> str:
        file = self.files.with_suffix(f".{stream}")
        return file.read_text(encoding="utf-8") if file.exists() else ""


def wait_for(condition: Callable[[], object]) -> None:
    """Until something has happened."""
    until = time.monotonic() + ENOUGH
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
