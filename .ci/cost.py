"""A plugin of pytest for CI: what a run of the tests cost, printed and written to the file that GRADLENS_COST names."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

BEGAN = time.monotonic()


def _cpu_seconds() -> float:
    """Of this process and of all that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@pytest.hookimpl(hookwrapper=True)
def pytest_sessionfinish() -> Iterator[None]:
    """Let a server of forks end when the tests do, in every worker: the time of a process counts once it is waited for."""
    yield
    with suppress(Exception):  # a part of the standard library that has no public name
        forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: Any) -> None:
    """Say it once, where the workers have been waited for."""
    if hasattr(config, "workerinput"):
        return
    wall, cpu = time.monotonic() - BEGAN, _cpu_seconds()
    print(f"tests: {wall:.0f} seconds, {cpu:.0f} CPU seconds")
    if file := os.environ.get("GRADLENS_COST"):
        Path(file).write_text(f"{wall:.0f} {cpu:.0f}\n", encoding="utf-8")
