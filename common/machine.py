"""The machine: its cores, its memory, and the devices that torch runs on. torch is imported only when needed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ser_memory.common.errors import UsageError

if TYPE_CHECKING:
    import torch

_CGROUPS = Path("/sys/fs/cgroup")  # where Linux shows the limits of containers and of batch systems
_OWN_CGROUP = Path("/proc/self/cgroup")


def cores() -> int:
    """Cores that this process may use: its affinity, or fewer where a container's CPU quota is lower; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(int, _cpu_quotas())]))


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or fewer where a container allows fewer."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # cgroup version 2, then version 1; "max" is no limit
    limits = [*_cgroup_values("memory.max"), *_cgroup_values("memory.limit_in_bytes", "memory")]
    return min([machine, *(int(limit) for limit in limits if limit.isdigit())])


def _cpu_quotas() -> list[float]:
    """Cores' worth of time that each control group of this process may use; version 2, then version 1."""
    pairs = [text.split() for text in _cgroup_values("cpu.max")]
    quotas, periods = _cgroup_values("cpu.cfs_quota_us", "cpu"), _cgroup_values("cpu.cfs_period_us", "cpu")
    pairs += [list(pair) for pair in zip(quotas, periods, strict=False)]
    return [
        int(quota) / int(period)
        for quota, period in (pair for pair in pairs if len(pair) == 2)  # noqa: PLR2004
        if quota.isdigit() and period.isdigit() and int(period) > 0  # "max" and -1 are no limit
    ]


def _cgroup_values(name: str, controller: str = "") -> list[str]:
    """What a file says in this process's control group and in all groups around it.

    Version 1 has a tree of groups per controller, version 2 has one tree, whose controller is "".
    """
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux
        return []
    values: list[str] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            try:
                values.append((_CGROUPS / controller / group / name).read_text(encoding="utf-8").strip())
            except (
                OSError,
                UnicodeDecodeError,
            ):  # the root has no limits, and a container may hide its parents
                continue
    return values


@contextmanager
def one_core_each() -> Iterator[None]:
    """Within it torch and NumPy compute on the caller's core alone, and freed memory is kept for what comes next.

    Workers side by side, a core each, are faster than one whose threads wait for each other at every operation.
    """
    import torch
    from threadpoolctl import threadpool_limits

    keep_heap()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


def keep_heap() -> None:
    """Tell glibc to keep large blocks for reuse: page faults on fresh ones cost a tenth of an encoder's time."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library, which manages its memory its own way
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # from malloc.h
    mallopt(arena_max, 1)  # the arenas of threads are too small for such blocks
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 1 << 30)


def give_back_free_memory() -> None:
    """Give the pages of glibc's free blocks back to the system; `keep_heap` keeps them otherwise.

    Inputs of ever other lengths leave gaps between blocks that nothing else fits into, and the heap would grow.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def resolve_devices(names: str) -> list[torch.device]:
    """Several torch devices by their names, separated by commas, such as `cuda:0,cuda:1`."""
    return [resolve_device(name.strip()) for name in names.split(",")]


def resolve_device(name: str) -> torch.device:
    """A torch device by name: auto, cpu, cuda, cuda:1, mps; `auto` takes cuda, else mps, else the CPU.

    Raises UsageError when the device asked for is not there.
    """
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    kind, _, number = name.partition(":")
    there_is = present.get(kind, False)
    if there_is and number:
        there_is = kind == "cuda" and number.isdigit() and int(number) < torch.cuda.device_count()
    if not there_is:
        there = ", ".join(device for device, is_there in present.items() if is_there)
        raise UsageError(f"Device {name!r} is not available here: use --device auto, or one of {there}.")
    return torch.device(name)
