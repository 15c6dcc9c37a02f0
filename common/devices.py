"""Which device torch runs on; torch is imported only when this is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import UsageError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str) -> torch.device:
    """A torch device by name; `auto` takes cuda, else mps, else the CPU.

    Raises UsageError when the device asked for is not there.
    """
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name.split(":")[0], False):
        there = ", ".join(device for device, is_there in present.items() if is_there)
        raise UsageError(f"Device {name!r} is not available here: use --device auto, or one of {there}.")
    return torch.device(name)
