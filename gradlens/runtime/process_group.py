"""Discover the ranks of a run started by ``torchrun``, detect failed ranks, and write from rank 0 only.

Every rank runs the same program on the same config; only rank 0 writes. Communication of training is in ``batch_shard.py`` (parts
of a batch) and ``layer_parallel.py`` (parts of a network).
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.torchrun_environment import is_launched, restarts

T = TypeVar("T")

HEARTBEAT_INTERVAL = 1.0  # seconds between heartbeats
HEARTBEAT_TIMEOUT = 12.0  # seconds without a heartbeat after which a rank counts as failed
HEARTBEAT_THREAD = "signs of life"  # name of the thread that sends heartbeats
POLL_INTERVAL = 0.1  # seconds between polls in waits without a limit
MESSAGE_TIMEOUT = 600.0  # default seconds to wait for another rank's message: longer than any evaluation or checkpoint should take


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks of a run, and the rank of this process."""

    rank: int = 0
    num_ranks: int = 1
    store: Any = None  # torch.distributed.Store shared by all ranks

    @property
    def is_single_process(self) -> bool:
        """Return whether the run has one process only."""
        return self.num_ranks == 1

    @property
    def is_main(self) -> bool:
        """Return whether this rank writes the run directory."""
        return self.rank == 0

    def all_gather_object(self, obj: Any) -> list[Any]:
        """Gather an object from each rank, in the order of ranks. Collective: call on every rank."""
        if self.is_single_process:
            return [obj]
        gathered: list[Any] = [None] * self.num_ranks
        dist.all_gather_object(gathered, obj)
        return gathered

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Broadcast rank ``src``'s object to all ranks. Collective: call on every rank."""
        if self.is_single_process:
            return obj
        gathered = [obj if self.rank == src else None]
        dist.broadcast_object_list(gathered, src=src)
        return gathered[0]

    def fail_together(self, act: Callable[[], T]) -> T:
        """Return the result of ``act``; if it raises InputError on any rank, raise the same error on all.

        Raises:
            InputError: that of this rank or of another.

        """
        if self.is_single_process:
            return act()
        refused: InputError | None = None
        try:
            result = act()
        except InputError as error:
            refused = error
        messages = self.all_gather_object(None if refused is None else str(refused))
        if wrong := [(rank, text) for rank, text in enumerate(messages) if text is not None]:
            rank, text = wrong[0]
            common_error = InputError(text if len(wrong) == self.num_ranks else f"rank {rank}: {text}")
            common_error.trace = refused.trace if refused else ""
            raise common_error from refused
        return result

    def first_on_each_machine(self, act: Callable[[], object]) -> None:
        """Run ``act`` on the first rank of each machine while all others wait, without a time limit. Collective: call on every rank.

        Raises:
            InputError: that of any of them, the same on all ranks.

        """
        if self.is_single_process:
            act()
            return
        machines = self.all_gather_object(socket.gethostname())
        firsts = [rank for rank, machine in enumerate(machines) if rank == machines.index(machine)]
        refused: InputError | None = None
        if self.rank in firsts:
            try:
                act()
            except InputError as error:
                refused = error
            self.store.set(f"first/{self.rank}", "done")
        while not self.store.check([f"first/{rank}" for rank in firsts]):  # not a message, which times out after ten minutes
            time.sleep(POLL_INTERVAL)

        def refuse() -> None:
            if refused:
                raise refused

        try:
            self.fail_together(refuse)
        finally:
            if self.rank in firsts:  # all ranks have read it
                self.store.delete_key(f"first/{self.rank}")

    def any_stop_or_save(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Return (whether any rank is to stop, whether rank 0 is to save), the same on all ranks."""
        if self.is_single_process:
            return stop, save
        flags = torch.tensor([int(stop), int(save and self.is_main)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags[0]), bool(flags[1])

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Sum a tensor over ranks, without its graph."""
        if self.is_single_process:
            return x
        x = x.detach().clone()
        dist.all_reduce(x)
        return x

    def claim_error_report(self) -> bool:
        """Return whether this rank reports why the run ends: only the first failing rank does."""
        if self.store is None:
            return True
        with suppress(Exception):  # without a store every rank may report
            return int(self.store.add("end", 1)) == 1
        return True


SINGLE_PROCESS = ProcessGroup()


_current_group = SINGLE_PROCESS


def current_process_group() -> ProcessGroup:
    """Return the ranks that this process has joined."""
    return _current_group


def local_device(name: str) -> str:
    """Return the device of this process by name: ``auto`` and ``cuda`` become one GPU for each process of a machine."""
    if not is_launched() or name not in ("auto", "cuda"):
        return name
    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return "cpu" if name == "auto" else name


def join(device: torch.device, timeout: float = MESSAGE_TIMEOUT) -> ProcessGroup:
    """Connect to the other processes of the launcher; ``SINGLE_PROCESS`` if there are none.

    Args:
        device: device of this process; CUDA communicates by nccl (CPU tensors by gloo), others by gloo.
        timeout: seconds to wait for a message before the run is stopped.

    Raises:
        InputError: a device that does not support several processes.
        Stopped: the other processes cannot be reached.

    """
    if not is_launched():
        return SINGLE_PROCESS
    if device.type == "mps":
        raise InputError("--device mps: several processes need cpu or cuda")
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, rank, ranks = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
        attempt = PrefixStore(_attempt(), store)  # torchrun's store may hold outdated addresses of an earlier attempt
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise Stopped(f"rank {rank} of {ranks} cannot connect to the others: {str(error).splitlines()[0]}") from error
    global _current_group
    _current_group = ProcessGroup(rank, ranks, _client())
    _start_heartbeat(_current_group)
    return _current_group


def _attempt() -> str:
    return f"gradlens/{restarts()}"


def _client() -> Store:
    """Open another connection to the launcher's store: existing ones may be blocked in a wait."""
    where, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(_attempt(), TCPStore(where, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30)))


def leave() -> None:
    """Disconnect from the other ranks at the end of a successful run. Collective: call on every rank."""
    global _current_group
    if _current_group.is_single_process:
        return
    _heartbeat_stopped.set()
    for thread in threading.enumerate():
        if thread.name == HEARTBEAT_THREAD:
            thread.join()
    try:
        dist.barrier()  # rank 0 may host the store that the others read
    except RuntimeError:  # another rank failed in its last work, and reports it
        stop(1)
    dist.destroy_process_group()
    _current_group = SINGLE_PROCESS


def stop(status: int) -> NoReturn:
    """End this process immediately, without waiting for other ranks, which have ended or will."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def stop_on_lost_rank(updates_done: Callable[[], int], saved_note: Callable[[], str]) -> Iterator[None]:
    """Turn failed communication inside the context into ``Stopped``.

    Args:
        updates_done: returns the number of updates so far.
        saved_note: returns a note about what has been saved, for the message.

    Raises:
        Stopped: another rank has failed.

    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error) and "Connection" not in str(error):
            raise
        raise Stopped(f"another rank is gone after about {updates_done()} updates{saved_note()}") from error


# ---------------------------------------------------------------------------------------------------------- heartbeats

_heartbeat_stopped = threading.Event()


def _start_heartbeat(ranks: ProcessGroup) -> None:
    """Start the thread that sends a heartbeat every second and checks those of the other ranks."""
    ranks.store.set(f"who/{ranks.rank}", f"{socket.gethostname()} {os.getpid()}")
    _heartbeat_stopped.clear()
    threading.Thread(target=_heartbeat_loop, args=(ranks,), daemon=True, name=HEARTBEAT_THREAD).start()


def _heartbeat_loop(ranks: ProcessGroup) -> None:
    store = _client()
    last_heartbeats: dict[int, tuple[bytes, float]] = {}
    n = 0
    while not _heartbeat_stopped.wait(HEARTBEAT_INTERVAL if n else 0):
        n += 1
        try:
            store.set(f"beat/{ranks.rank}", str(n))
            for rank in range(ranks.num_ranks):
                key = f"beat/{rank}"
                beat = store.get(key) if store.check([key]) else b""
                if rank not in last_heartbeats or last_heartbeats[rank][0] != beat:
                    last_heartbeats[rank] = beat, time.monotonic()
        except Exception:  # noqa: BLE001 - any error of the store means that the launcher has ended
            if not _heartbeat_stopped.is_set():
                _stop_this_rank("the launcher is gone", ranks)
        for rank, (_, since) in last_heartbeats.items():
            if rank != ranks.rank and time.monotonic() - since > HEARTBEAT_TIMEOUT and not _heartbeat_stopped.is_set():
                _kill_rank(ranks, rank)
                _stop_this_rank(f"no heartbeat from rank {rank} for {HEARTBEAT_TIMEOUT:.0f} s", ranks)


def _kill_rank(ranks: ProcessGroup, rank: int) -> None:
    """Kill a rank that hangs on this machine: the launcher's SIGTERM does not reach a stopped process."""
    with suppress(Exception):
        host, pid = ranks.store.get(f"who/{rank}").decode().rsplit(" ", 1)
        if host == socket.gethostname():
            os.kill(int(pid), signal.SIGKILL)


def _stop_this_rank(why: str, ranks: ProcessGroup) -> NoReturn:
    if ranks.claim_error_report():
        print(f"gradlens: {why}: all ranks stop; --resume continues from the last checkpoint", file=sys.stderr, flush=True)
    stop(1)


# ------------------------------------------------------------------------------------------------------- agreement


def require_same_run(ranks: ProcessGroup, settings: Mapping[str, Any]) -> None:
    """Reject ranks that have different settings.

    Args:
        ranks: the ranks.
        settings: values that must be the same on all ranks: the config, versions, hashes of the data.

    Raises:
        InputError: the setting that differs, and the rank.

    """
    mine = {**settings, "torch": torch.__version__, "python": ".".join(platform.python_version_tuple()[:2])}
    first, *others = ranks.all_gather_object(mine)
    for rank, theirs in enumerate(others, 1):
        for name in {**first, **theirs}:
            if first.get(name) != theirs.get(name):
                there, here = theirs.get(name), first.get(name)
                raise InputError(f"rank {rank} has another {name} than rank 0: {there!r}, rank 0 has {here!r}; start all with the same")
