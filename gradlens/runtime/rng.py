"""Keyed randomness: every draw comes from a generator named by (seed, purpose, index…), never from a shared stream.

So a draw does not depend on what was drawn before it: a resumed run, a run with recording on, and (later) a run
spread over several processes all see the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def key(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit integer that depends on all its arguments and on nothing else."""
    digest = hashlib.blake2b(repr((seed, purpose, *index)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A fresh CPU generator for one purpose; draw on the CPU and move, so that all devices see the same draws."""
    return torch.Generator().manual_seed(key(seed, purpose, *index))


def forked() -> AbstractContextManager[None]:
    """What is drawn inside leaves torch's global streams, of the CPU and of the CUDA devices in use, as they were."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else [])  # type: ignore[no-untyped-call]


def seed_global(value: int) -> None:
    """Seed torch's global streams, as ``torch.manual_seed`` does, which without an accelerator takes milliseconds.

    For every kind of accelerator that might yet be started it writes down the call stack.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


@contextmanager
def seeded(seed: int, purpose: str, *index: int) -> Iterator[None]:
    """Run code that draws from torch's global CPU stream (module constructors) on a keyed one; the global one is restored."""
    with forked():
        seed_global(key(seed, purpose, *index))
        yield
