"""Measure memory of the process and its device, and synchronise with the device."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.autograd.profiler import profile


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far in megabytes: allocated on a CUDA device, else the resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def wait(device: torch.device) -> None:
    """Wait until a device has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def allocations(work: Callable[[], object]) -> list[int]:
    """Record bytes of each allocation (positive) and release (negative) of torch's CPU allocator while ``work`` runs, in order.

    Releases of memory that was allocated before are left out: torch reports them if an earlier profile recorded the allocation,
    and Python's garbage collector may cause them at any moment.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it logs each start and stop on stderr
    with profile(profile_memory=True) as profiler:  # torch.profiler's own would import the compiler, which takes seconds
        work()
    results: Any = profiler.kineto_results
    alive, changes = set[int](), list[int]()
    for _, address, size in sorted(_changes(results.experimental_event_tree())):
        if size > 0:
            alive.add(address)
        elif address in alive:
            alive.remove(address)
        else:
            continue
        changes.append(size)
    return changes


def _changes(events: Iterable[Any]) -> Iterator[tuple[int, int, int]]:
    """Yield (time, address, bytes) of each allocation in a tree of torch's profiler events."""
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory instead of returning it to the kernel and faulting it in again, page by page.

    A training step allocates and frees the same large tensors again and again; by default each of them is a separate mapping.
    The process's memory then stays at its peak. Returns whether it took effect (glibc on Linux only).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, -1))
