"""Experience replay: the new corpus and the memory of all earlier ones, shuffled together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from train.data import Samples
from train.strategies.base import Strategy, StrategySettings


class ExperienceReplay(Strategy):
    """Trains on new and remembered samples alike; with `replay_share`, on a fixed mixture in every batch."""

    earlier = "memory"

    def __init__(self, current: Samples, earlier: list[Samples], settings: StrategySettings) -> None:
        super().__init__(current, earlier, settings)
        self.samples = Samples.concatenate([current, *earlier])
        self._new = len(current)
        self._share = settings.replay_share if earlier else None

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """One epoch. With a share, once through the new corpus, and through memory as often as it takes."""
        if self._share is None:
            yield from super().batches(batch_size, generator)
            return
        replayed = min(max(round(self._share * batch_size), 1), batch_size - 1)
        remembered = self._endless_memory(generator)
        for fresh in torch.randperm(self._new, generator=generator).split(batch_size - replayed):
            yield torch.cat([fresh, torch.stack([next(remembered) for _ in range(replayed)])])

    def _endless_memory(self, generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            yield from self._new + torch.randperm(len(self.samples) - self._new, generator=generator)
