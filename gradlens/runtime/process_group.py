"""The processes that share one run, as ``torchrun`` starts them: who is there, how one notices that another is gone, who speaks.

Every rank runs the same program on the same config; rank 0 alone writes. What a rank sends and adds up is in ``batch_shard.py`` (parts
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

HEARTBEAT_INTERVAL = 1.0  # seconds between signs of life
HEARTBEAT_TIMEOUT = 12.0  # seconds without one after which a rank counts as gone: it is stopped, or its machine is
HEARTBEAT_THREAD = "signs of life"  # the thread that gives them
POLL_INTERVAL = 0.1  # seconds between looks for what is waited for without a limit
MESSAGE_TIMEOUT = 600.0  # seconds that a rank waits for another's message by default: longer than any evaluation or checkpoint should take


@dataclass(frozen=True)
class ProcessGroup:
    """The ranks of a run, and which one this process is."""

    rank: int = 0
    num_ranks: int = 1
    store: Any = None  # torch.distributed.Store that all ranks see

    @property
    def is_single_process(self) -> bool:
        """Whether one process has the run to itself."""
        return self.num_ranks == 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run directory."""
        return self.rank == 0

    def all_gather_object(self, obj: Any) -> list[Any]:
        """What each rank says, by rank; all must ask."""
        if self.is_single_process:
            return [obj]
        said: list[Any] = [None] * self.num_ranks
        dist.all_gather_object(said, obj)
        return said

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """What one rank says, on all ranks; all must ask."""
        if self.is_single_process:
            return obj
        said = [obj if self.rank == src else None]
        dist.broadcast_object_list(said, src=src)
        return said[0]

    def fail_together(self, act: Callable[[], T]) -> T:
        """What ``act`` gives, unless some rank refuses: then all do, in the same words.

        Raises:
            InputError: of this rank or another.

        """
        if self.is_single_process:
            return act()
        refused: InputError | None = None
        try:
            result = act()
        except InputError as error:
            refused = error
        said = self.all_gather_object(None if refused is None else str(refused))
        if wrong := [(rank, text) for rank, text in enumerate(said) if text is not None]:
            rank, text = wrong[0]
            said_by_all = InputError(text if len(wrong) == self.num_ranks else f"rank {rank}: {text}")
            said_by_all.trace = refused.trace if refused else ""
            raise said_by_all from refused
        return result

    def first_on_each_machine(self, act: Callable[[], object]) -> None:
        """Do something on the first rank of each machine while all others wait, however long it takes. Collective: call on every rank.

        Raises:
            InputError: of any of them, the same on all ranks.

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
        while not self.store.check([f"first/{rank}" for rank in firsts]):  # not a message, for which ranks wait ten minutes at most
            time.sleep(POLL_INTERVAL)

        def refuse() -> None:
            if refused:
                raise refused

        try:
            self.fail_together(refuse)
        finally:
            if self.rank in firsts:  # all have seen it
                self.store.delete_key(f"first/{self.rank}")

    def any_stop_or_save(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """(whether any rank was asked to stop, whether rank 0 wants to save), the same on all ranks."""
        if self.is_single_process:
            return stop, save
        asked = torch.tensor([int(stop), int(save and self.is_main)])
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked[0]), bool(asked[1])

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """The sum over ranks of a tensor, without its graph."""
        if self.is_single_process:
            return x
        x = x.detach().clone()
        dist.all_reduce(x)
        return x

    def claim_error_report(self) -> bool:
        """Whether this rank may say why the run ends: the first that has a reason to. Of the others nobody wants to hear."""
        if self.store is None:
            return True
        with suppress(Exception):  # a store that is gone keeps nobody from speaking
            return int(self.store.add("end", 1)) == 1
        return True


SINGLE_PROCESS = ProcessGroup()


_current_group = SINGLE_PROCESS


def current_process_group() -> ProcessGroup:
    """The ranks that this process has joined."""
    return _current_group


def local_device(name: str) -> str:
    """The device of this process by name: ``auto`` and ``cuda`` become one GPU for each process of a machine."""
    if not is_launched() or name not in ("auto", "cuda"):
        return name
    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return "cpu" if name == "auto" else name


def join(device: torch.device, timeout: float = MESSAGE_TIMEOUT) -> ProcessGroup:
    """Meet the other processes that the launcher has started; ``SINGLE_PROCESS`` where it started none.

    Args:
        device: this process's; CUDA talks by nccl (and the CPU's messages by gloo), all else by gloo.
        timeout: seconds to wait for a message before the run is given up.

    Raises:
        InputError: a device on which processes cannot talk.
        Stopped: the others do not come.

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
        attempt = PrefixStore(_attempt(), store)  # torchrun's store may be that of an earlier attempt, with addresses that are no more
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise Stopped(f"rank {rank} of {ranks} does not reach the others: {str(error).splitlines()[0]}") from error
    global _current_group
    _current_group = ProcessGroup(rank, ranks, _client())
    _start_heartbeat(_current_group)
    return _current_group


def _attempt() -> str:
    return f"gradlens/{restarts()}"


def _client() -> Store:
    """A connection of its own to the launcher's store: another one may be waiting in it."""
    where, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return PrefixStore(_attempt(), TCPStore(where, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30)))


def leave() -> None:
    """Part from the other ranks at the end of a run that went well; all must come to it."""
    global _current_group
    if _current_group.is_single_process:
        return
    _heartbeat_stopped.set()
    for thread in threading.enumerate():
        if thread.name == HEARTBEAT_THREAD:
            thread.join()
    try:
        dist.barrier()  # rank 0 may hold the store that the others look into
    except RuntimeError:  # it failed with what it still had to do by itself, and says so
        stop(1)
    dist.destroy_process_group()
    _current_group = SINGLE_PROCESS


def stop(status: int) -> NoReturn:
    """End this process at once: the others are gone or will be, and nothing of them must be waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def stop_on_lost_rank(updates_done: Callable[[], int], saved_note: Callable[[], str]) -> Iterator[None]:
    """Inside, a message that cannot be sent or does not come ends the run in one sentence.

    Args:
        updates_done: updates made so far.
        saved_note: what of them is safe, in words.

    Raises:
        Stopped: another rank is gone.

    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error) and "Connection" not in str(error):
            raise
        raise Stopped(f"another rank is gone after about {updates_done()} updates{saved_note()}") from error


# ------------------------------------------------------------------------------------------------------ signs of life

_heartbeat_stopped = threading.Event()


def _start_heartbeat(ranks: ProcessGroup) -> None:
    """Tell the others every second that this process lives, and see that they do."""
    ranks.store.set(f"who/{ranks.rank}", f"{socket.gethostname()} {os.getpid()}")
    _heartbeat_stopped.clear()
    threading.Thread(target=_heartbeat_loop, args=(ranks,), daemon=True, name=HEARTBEAT_THREAD).start()


def _heartbeat_loop(ranks: ProcessGroup) -> None:
    store = _client()
    heard: dict[int, tuple[bytes, float]] = {}
    n = 0
    while not _heartbeat_stopped.wait(HEARTBEAT_INTERVAL if n else 0):
        n += 1
        try:
            store.set(f"beat/{ranks.rank}", str(n))
            for rank in range(ranks.num_ranks):
                key = f"beat/{rank}"
                beat = store.get(key) if store.check([key]) else b""
                if rank not in heard or heard[rank][0] != beat:
                    heard[rank] = beat, time.monotonic()
        except Exception:  # noqa: BLE001 - whatever the store raises, it is gone, and with it the launcher
            if not _heartbeat_stopped.is_set():
                _stop_this_rank("the launcher is gone", ranks)
        for rank, (_, since) in heard.items():
            if rank != ranks.rank and time.monotonic() - since > HEARTBEAT_TIMEOUT and not _heartbeat_stopped.is_set():
                _kill_rank(ranks, rank)
                _stop_this_rank(f"nothing was heard of rank {rank} for {HEARTBEAT_TIMEOUT:.0f} seconds", ranks)


def _kill_rank(ranks: ProcessGroup, rank: int) -> None:
    """Kill a rank that hangs on this machine: the launcher's polite signal does not reach a stopped process."""
    with suppress(Exception):
        host, pid = ranks.store.get(f"who/{rank}").decode().rsplit(" ", 1)
        if host == socket.gethostname():
            os.kill(int(pid), signal.SIGKILL)


def _stop_this_rank(why: str, ranks: ProcessGroup) -> NoReturn:
    if ranks.claim_error_report():
        print(f"gradlens: {why}: all ranks stop; --resume goes on from the last checkpoint", file=sys.stderr, flush=True)
    stop(1)


# ------------------------------------------------------------------------------------------------------- agreement


def require_same_run(ranks: ProcessGroup, settings: Mapping[str, Any]) -> None:
    """Refuse ranks that are not about the same run.

    Args:
        ranks: the ranks.
        settings: what must be the same on all: the config, versions, hashes of the data.

    Raises:
        InputError: what differs, and where.

    """
    mine = {**settings, "torch": torch.__version__, "python": ".".join(platform.python_version_tuple()[:2])}
    first, *others = ranks.all_gather_object(mine)
    for rank, theirs in enumerate(others, 1):
        for name in {**first, **theirs}:
            if first.get(name) != theirs.get(name):
                there, here = theirs.get(name), first.get(name)
                raise InputError(f"rank {rank} is about another run than rank 0: {name} is {there!r} there and {here!r} here")
