"""Several processes on this machine that share a run, without a launcher: forked, each with its rank."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from processes import Program, free_port
from torch.distributed import TCPStore

from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup, join, leave


def _of_rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _main(rank: int, ranks: int, port: int, act: Callable[..., Any], out: str, args: tuple[Any, ...]) -> None:
    os.environ.update(_of_rank(rank, ranks, port))
    torch.set_num_threads(1)
    world = join(torch.device("cpu"), 120)
    result = act(world, *args)
    torch.save(result, f"{out}/{rank}.pt")
    leave()


def together(ranks: int, act: Callable[..., Any], out: Path, *args: Any) -> list[Any]:
    """What ``act(world, *args)`` gives on each rank; ``act`` is a function of a module that can be imported."""
    mp.start_processes(_main, args=(ranks, free_port(), act, str(out), args), nprocs=ranks, start_method="forkserver")
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def alone(act: Callable[[ProcessGroup], Any], *args: Any) -> Any:
    """The same in this process."""
    return act(SINGLE_PROCESS, *args)


def side_by_side(folder: Path, *commands: Sequence[str | Path], before: Callable[[], Any] | None = None) -> list[Program]:
    """``gradlens`` on several ranks, each with its own command line; ``before`` is called in each of them first.

    The store is in this process, as torchrun has it in its own: a rank that ends takes nothing with it that others look into.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = []
    for rank, words in enumerate(commands):
        environment = {**_of_rank(rank, len(commands), store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        started.append(Program(folder, *words, before=before, env=environment))
        started[-1].kept = store
    return started
