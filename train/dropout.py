"""Dropout masks, drawn cheaply and from a stream of each run's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

_WORDS = 1 << 16  # a mask's entry is decided by a 16-bit word, so a rate is exact to 1 / 65,536


class Dropout:
    """Masks for a stack of runs: 0, or 1 / (1 - rate) where a unit is kept.

    PyTorch draws a 32-bit number per unit, a fifth of a training step; here four units share a 64-bit word of
    SFC64 (O'Neill 2014) on a CPU, and on a GPU its own generator fills 16-bit words.
    """

    def __init__(
        self,
        dropouts: Mapping[str, tuple[int, float]],
        seeds: Sequence[np.random.SeedSequence],
        device: torch.device,
    ) -> None:
        self._dropouts = dict(dropouts)
        self._device = device
        self._on_cpu = device.type == "cpu"
        if self._on_cpu:
            self._streams = [np.random.SFC64(seed) for seed in seeds]
        else:
            numbers = [int(seed.generate_state(1, np.uint64)[0] >> 1) for seed in seeds]
            self._generators = [torch.Generator(device).manual_seed(number) for number in numbers]

    def masks(self, rows: int) -> dict[str, Tensor]:
        """(R, rows, width) float32 for every place of dropout."""
        sizes = [rows * width for width, _ in self._dropouts.values()]
        words = self._words(sum(sizes)).split(sizes, dim=1)
        return {
            name: _scaled(piece, rate).unflatten(1, (rows, width))
            for piece, (name, (width, rate)) in zip(words, self._dropouts.items(), strict=True)
        }

    @property
    def streams(self) -> list[np.random.SFC64]:
        """Of each run, on a CPU."""
        return self._streams

    def _words(self, n: int) -> Tensor:
        """(R, n) int16, every value alike likely."""
        if self._on_cpu:
            raw = [stream.random_raw(-(-n // 4)).view(np.int16)[:n] for stream in self._streams]
            return torch.from_numpy(raw[0][None] if len(raw) == 1 else np.stack(raw))
        words = torch.empty(len(self._generators), n, dtype=torch.int16, device=self._device)
        for row, generator in zip(words, self._generators, strict=True):
            row.random_(-_WORDS // 2, _WORDS // 2, generator=generator)
        return words


def _scaled(words: Tensor, rate: float) -> Tensor:
    """1 / (1 - rate) where a word falls into the kept share of its range, else 0."""
    threshold, scale = round(rate * _WORDS) - _WORDS // 2, 1 / (1 - rate)
    if words.device.type == "cpu":  # numpy's comparison of 16-bit words is ten times faster than PyTorch's
        return torch.from_numpy(np.multiply(words.numpy() >= threshold, np.float32(scale)))
    return (words >= threshold).float().mul_(scale)
