"""Which device torch runs on; torch is imported only when this is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_memory.common.errors import UsageError

if TYPE_CHECKING:
    import torch


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
