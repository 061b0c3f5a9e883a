"""Several processes on this machine that share a computation, without a launcher: each runs a function of its World."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from gradlens.world import ALONE, World, join, leave


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _main(rank: int, ranks: int, port: int, act: Callable[..., Any], out: str, args: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    world = join(torch.device("cpu"), 120)
    result = act(world, *args)
    torch.save(result, f"{out}/{rank}.pt")
    leave()


def together(ranks: int, act: Callable[..., Any], out: Path, *args: Any) -> list[Any]:
    """What ``act(world, *args)`` gives on each rank; ``act`` is a function of a module that can be imported."""
    mp.start_processes(_main, args=(ranks, free_port(), act, str(out), args), nprocs=ranks, start_method="spawn")
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def alone(act: Callable[[World], Any], *args: Any) -> Any:
    """The same in this process."""
    return act(ALONE, *args)
