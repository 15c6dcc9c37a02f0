"""What a CPU has, and how work on it is kept from getting in its own way."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where a container allows less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return machine


@contextmanager
def one_core_each() -> Iterator[None]:
    """Within it torch computes on the caller's core alone, and freed memory is kept for what comes next.

    Workers side by side, a core each, are faster than one whose threads wait for each other at every operation.
    """
    import torch

    keep_heap()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_heap() -> None:
    """Tell glibc to reuse large blocks for good: page faults on fresh ones cost a tenth of an encoder's time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library, which manages its memory its own way
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # from malloc.h
    mallopt(arena_max, 1)  # the arenas of threads are too small for such blocks
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 1 << 30)
