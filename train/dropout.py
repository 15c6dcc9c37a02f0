"""Dropout masks, drawn quickly and from a random stream per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

_WORDS = 1 << 16  # a 16-bit word decides about one unit, so a rate is exact to 1 / 65,536


class Dropout:
    """Masks for a stack of R runs: 0, or 1 / (1 - rate) where a unit is kept.

    PyTorch draws a 32-bit number per unit, which takes a fifth of a training step. On a CPU, four units share a
    64-bit word of NumPy's SFC64 (O'Neill 2014). Elsewhere the device's own generator fills 16-bit words.
    """

    def __init__(
        self,
        dropouts: Mapping[str, tuple[int, float]],
        seeds: Sequence[np.random.SeedSequence],
        device: torch.device,
    ) -> None:
        """Start the streams of R runs.

        Args:
            dropouts: width and rate in [0, 1) of every dropout by name.
            seeds: of each run.
            device: where the masks are needed.
        """
        self._dropouts = dict(dropouts)
        self._words: _Words = _HostWords(seeds) if device.type == "cpu" else _DeviceWords(seeds, device)

    def masks(self, rows: int) -> dict[str, Tensor]:
        """(R, rows, width) float32 for every dropout by name."""
        sizes = [rows * width for width, _ in self._dropouts.values()]
        words = self._words.draw(sum(sizes)).split(sizes, dim=1)
        return {
            name: _scaled(piece, rate).unflatten(1, (rows, width))
            for piece, (name, (width, rate)) in zip(words, self._dropouts.items(), strict=True)
        }

    def state(self) -> list[Any]:
        """The state of each run's stream. JSON can hold it, once NumPy arrays are lists."""
        return self._words.state()

    def restore(self, state: Sequence[Any]) -> None:
        """Go on from a `state` on a device of the same type.

        Raises ValueError if it is that of another number of runs.
        """
        self._words.restore(state)


class _Words(Protocol):
    """Random 16-bit words from a stream per run."""

    def draw(self, n: int) -> Tensor:
        """(R, n) int16, uniform over all values."""
        ...

    def state(self) -> list[Any]: ...
    def restore(self, state: Sequence[Any]) -> None: ...


class _HostWords:
    def __init__(self, seeds: Sequence[np.random.SeedSequence]) -> None:
        self._streams = [np.random.SFC64(seed) for seed in seeds]

    def draw(self, n: int) -> Tensor:
        raw = [stream.random_raw(-(-n // 4)).view(np.int16)[:n] for stream in self._streams]
        return torch.from_numpy(raw[0][None] if len(raw) == 1 else np.stack(raw))

    def state(self) -> list[Any]:
        return [stream.state for stream in self._streams]

    def restore(self, state: Sequence[Any]) -> None:
        for stream, saved in zip(self._streams, state, strict=True):
            stream.state = saved


class _DeviceWords:
    def __init__(self, seeds: Sequence[np.random.SeedSequence], device: torch.device) -> None:
        self._device = device
        self._generators = [_generator(seed, device) for seed in seeds]

    def draw(self, n: int) -> Tensor:
        words = torch.empty(len(self._generators), n, dtype=torch.int16, device=self._device)
        for row, generator in zip(words, self._generators, strict=True):
            row.random_(-_WORDS // 2, _WORDS // 2, generator=generator)
        return words

    def state(self) -> list[Any]:
        """Bytes as numbers: on CUDA 16 of them, the seed and the offset."""
        return [None if one is None else one.get_state().tolist() for one in self._generators]

    def restore(self, state: Sequence[Any]) -> None:
        for generator, saved in zip(self._generators, state, strict=True):
            if generator is not None:
                generator.set_state(torch.tensor(saved, dtype=torch.uint8))  # on the CPU for every device


def _generator(seed: np.random.SeedSequence, device: torch.device) -> torch.Generator | None:
    """None on `meta`, whose tensors hold no values."""
    if device.type == "meta":
        return None
    return torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))


def _scaled(words: Tensor, rate: float) -> Tensor:
    """1 / (1 - rate) where a word falls into the kept share of its range, else 0."""
    threshold, scale = round(rate * _WORDS) - _WORDS // 2, 1 / (1 - rate)
    if words.device.type == "cpu":  # NumPy compares 16-bit words ten times faster than PyTorch
        return torch.from_numpy(np.multiply(words.numpy() >= threshold, np.float32(scale)))
    return (words >= threshold).float().mul_(scale)
