"""Draw keyed random numbers: every draw comes from a generator keyed by (seed, purpose, index…), never from a shared one.

So a draw does not depend on earlier draws: a resumed run, a run with recording on, and a run on several processes all
use the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def key(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit integer that is a function of its arguments."""
    digest = hashlib.blake2b(repr((seed, purpose, *index)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """Return a new CPU generator for one purpose; draw on the CPU and copy, so that all devices use the same draws."""
    return torch.Generator().manual_seed(key(seed, purpose, *index))


def forked() -> AbstractContextManager[None]:
    """Restore torch's global generators, of the CPU and of the CUDA devices in use, after the context."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else [])  # type: ignore[no-untyped-call]


def seed_global(value: int) -> None:
    """Seed torch's global generators, like ``torch.manual_seed``, which takes milliseconds without an accelerator.

    (It records the call stack for every kind of accelerator that could be initialised later.)
    """
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


@contextmanager
def seeded(seed: int, purpose: str, *index: int) -> Iterator[None]:
    """Seed torch's global generators inside the context, for code that uses them (module constructors); restore them after it.

    Args:
        seed: seed of the run.
        purpose: name of the draws.
        index: further numbers of the key (a step, a block).

    Yields:
        nothing; a context manager.

    """
    with forked():
        seed_global(key(seed, purpose, *index))
        yield
