"""The runs of a study, many at a time: local processes, or a Ray cluster. Runs of lost workers are resumed.

Every point is a run directory of the normal kind, trained by `gradlens train`: whatever happens to this process or to a worker, what a run
has saved stays, and the same study resumes from there with the same rows.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.errors import INTERRUPTED, InputError, Stopped
from gradlens.runtime.extras import install_command
from gradlens.runtime.interrupts import interruptible
from gradlens.runtime.text_files import write_text
from gradlens.training.context import RunContext
from gradlens.training.metrics import score_of, score_text
from gradlens.training.run_directory import Metric, load_run
from gradlens.training.run_files import is_run
from gradlens.training.runs.check import check
from gradlens.training.sweep.study import StudyPoint

RETRIES = 2  # how often the run of a lost worker is started again
PAUSE = 0.2  # seconds between looks at the workers
GRACE = 20.0  # seconds that workers get to save after Ctrl-C


class State(NamedTuple):
    """State of one point of the grid."""

    what: str  # waiting, running, finished, failed
    tries: int = 0
    why: str = ""  # of a failure: the run's own last sentence


SweepWatch = Callable[[Mapping[str, State]], None]


@dataclass
class _Worker:
    """One local process at work."""

    point: StudyPoint
    process: subprocess.Popen[bytes]
    errors: Any  # the file its stderr goes to


def must_be_possible(points: Sequence[StudyPoint], context: RunContext) -> None:
    """Check every point that is not finished before the first is trained.

    Raises:
        InputError: what is wrong with one of them; a directory of its name that holds another run.

    """
    for point in points:
        path = context.out / point.name
        if is_run(path):
            begun = load_run(path)
            if differ := point.config.differences(begun.config):
                raise InputError(f"{path} holds another run: {'; '.join(differ)}")
            if begun.finished:
                begun.require_sources("; give the study another --out")
                continue
        check(point.config, replace(context, name=point.name, resume=is_run(path)))


def is_finished(point: StudyPoint, out: Path) -> bool:
    """Return whether a point's run has reached its end."""
    return (out / point.name / "summary.json").exists() and load_run(out / point.name).finished


def progress_of(point: StudyPoint, out: Path) -> tuple[int, str]:
    """Return the epochs finished of a run under way, and its last held-out score in words, "" without one."""
    rows = [row for row in read_table(out / point.name / "metrics.csv", Metric) if row.split in ("test", "validation")]
    if not rows:
        return 0, ""
    score = score_of(rows[-1])
    return rows[-1].epoch, score_text(score, rows[-1].score_name) if score == score else ""


# ------------------------------------------------------------------------------------------------------ local processes


def _die_with_parent() -> None:
    """Set up a worker before it begins: Linux ends it when the process that started it is gone, however that ended."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _command(point: StudyPoint, context: RunContext, flags: Mapping[str, Any], config: Path) -> list[str]:
    words = [sys.executable, "-m", "gradlens", "train", point.config.method, "--config", str(config), "--out", str(context.out)]
    words += ["--run-name", point.name, "--quiet", *(["--resume"] if is_run(context.out / point.name) else [])]
    for name, value in flags.items():
        words += [f"--{name}"] if value is True else [] if value is False else [f"--{name}", str(value)]
    return words


def run_local(
    points: Sequence[StudyPoint], context: RunContext, flags: Mapping[str, Any], jobs: int, watch: SweepWatch
) -> dict[str, State]:
    """Train what is not finished, ``jobs`` runs at a time, each in a process of its own.

    Args:
        points: of the study.
        context: ``out`` is the folder of the run directories.
        flags: of `gradlens train` on where runs are made: device, threads, data-dir, download.
        jobs: processes.
        watch: shown the states whenever one changes, and now and then.

    Raises:
        Stopped: interrupted; the workers have saved.

    """
    states = {point.name: State("finished" if is_finished(point, context.out) else "waiting") for point in points}
    waiting = deque(point for point in points if states[point.name].what == "waiting")
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="gradlens-study-") as folder, interruptible() as interrupted:
        try:
            while waiting or workers:
                while waiting and len(workers) < jobs:
                    point = waiting.popleft()
                    states[point.name] = states[point.name]._replace(what="running", tries=states[point.name].tries + 1)
                    workers.append(_begin(point, context, flags, Path(folder)))
                watch(states)
                time.sleep(PAUSE)
                if interrupted():
                    raise Stopped("interrupted; every run has saved", INTERRUPTED)
                for worker in [w for w in workers if w.process.poll() is not None]:
                    workers.remove(worker)
                    state = _ended(worker, states[worker.point.name], context.out)
                    states[worker.point.name] = state
                    if state.what == "waiting":
                        waiting.append(worker.point)
        finally:
            _end(workers)
    watch(states)
    return states


def _begin(point: StudyPoint, context: RunContext, flags: Mapping[str, Any], folder: Path) -> _Worker:
    config = folder / f"{point.name}.json"
    write_text(config, json.dumps({"config": point.config.as_dict()}))
    errors = (folder / f"{point.name}.err").open("w+b")
    environment = {**os.environ, "OMP_NUM_THREADS": str(flags.get("threads", 1)), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        _command(point, context, flags, config), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        env=environment, start_new_session=True, preexec_fn=_die_with_parent,
    )  # fmt: skip
    return _Worker(point, process, errors)


def _ended(worker: _Worker, state: State, out: Path) -> State:
    """Return the state of a run whose process has ended."""
    worker.errors.seek(0)
    lines = worker.errors.read().decode(errors="replace").strip().splitlines()
    worker.errors.close()
    if worker.process.returncode == 0 and is_finished(worker.point, out):
        return state._replace(what="finished", why="")
    why = lines[-1].removeprefix("gradlens: ") if lines else f"its process ended with status {worker.process.returncode}"
    lost = worker.process.returncode < 0 or worker.process.returncode >= 128  # killed: no reason of the run's own
    return state._replace(what="waiting" if lost and state.tries <= RETRIES else "failed", why=why)


def _end(workers: Sequence[_Worker]) -> None:
    """Signal workers to checkpoint and exit; kill them after a timeout."""
    for worker in workers:
        worker.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE
    for worker in workers:
        try:
            worker.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.errors.close()


# ------------------------------------------------------------------------------------------------------------------ Ray


def train_point(config: Mapping[str, Any], context: RunContext) -> str:
    """Train or resume one run in this process; return "" when it is finished, else why it failed."""
    from gradlens.training.config import make_config
    from gradlens.training.runs.train_run import train_run

    made = make_config(**config)
    resume = is_run(context.out / made.run_name())
    try:
        if not (resume and load_run(context.out / made.run_name()).finished):
            train_run(made, replace(context, name=made.run_name(), resume=resume))
    except (InputError, Stopped) as error:
        return str(error)
    return ""


def _must_be_reachable(address: str) -> None:
    """Refuse an address without a cluster at once: Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise InputError(f"--address {address}: no Ray cluster can be reached: {(error.strerror or str(error)).lower()}") from error


def run_on_ray(points: Sequence[StudyPoint], context: RunContext, threads: int, address: str, watch: SweepWatch) -> dict[str, State]:
    """Train what is not finished on a Ray cluster, whose machines all reach ``context.out`` by the same path.

    Ray restarts the task of a lost worker on any free worker; the task resumes from the run's checkpoint.

    Args:
        points: of the study.
        context: ``out`` is the folder of the run directories, on a file system that all machines share.
        threads: CPU cores of a run.
        address: of the cluster; "auto": the one this machine belongs to; "local": one made here for this study.
        watch: shown the states now and then.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached.
        Stopped: interrupted.

    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--address needs Ray: `{install_command('ray')}`") from error
    states = {point.name: State("finished" if is_finished(point, context.out) else "waiting") for point in points}
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}}
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": environment}
    _must_be_reachable(address)
    try:
        if address == "local":
            ray.init(include_dashboard=False, **settings)
        else:
            ray.init(address=address, **settings)
    except Exception as error:  # Ray raises many types for a cluster that is not there
        raise InputError(f"--address {address}: no Ray cluster can be reached: {str(error).splitlines()[0]}") from error
    with interruptible() as interrupted:
        return _on_ray(ray, points, context, threads, states, interrupted, watch)


def _on_ray(
    ray: Any,
    points: Sequence[StudyPoint],
    context: RunContext,
    threads: int,
    states: dict[str, State],
    interrupted: Callable[[], bool],
    watch: SweepWatch,
) -> dict[str, State]:
    try:
        task = ray.remote(num_cpus=threads, max_retries=RETRIES)(train_point)
        there = replace(context, out=context.out.absolute())
        todo = {task.remote(p.config.as_dict(), there): p for p in points if states[p.name].what == "waiting"}
        for point in todo.values():
            states[point.name] = State("running", 1)
        while todo:
            watch(states)
            if interrupted():
                raise Stopped("interrupted; what the runs had saved is kept", INTERRUPTED)
            done, _ = ray.wait(list(todo), num_returns=1, timeout=1.0)
            for reference in done:
                point = todo.pop(reference)
                try:
                    why = ray.get(reference)
                except ray.exceptions.RayError as error:
                    why = str(error).splitlines()[0]
                states[point.name] = State("failed", 1, why) if why else State("finished", 1)
    finally:
        ray.shutdown()
    watch(states)
    return states
