"""Experience replay: the new corpus and the memory of all earlier ones, shuffled together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.train.data import Pool
from ser_memory.train.strategies.base import Stage, Strategy, StrategySettings


class ExperienceReplay(Strategy):
    """Treats new and remembered samples alike. With `replay_share`, every batch holds that share of memory."""

    earlier = "memory"
    options = ("replay_share",)

    def __init__(self, stage: Stage, settings: StrategySettings) -> None:
        super().__init__(stage, settings)
        memories = [kept.samples for kept in stage.kept if kept.samples is not None]
        self.pool = Pool(stage.current, memories, stage.runs)
        self._share = settings.replay_share if memories else None

    def batches(self) -> Iterator[Tensor]:
        """One epoch. With a share, it covers the new corpus once, and the memory as often as needed."""
        if self._share is None:
            yield from super().batches()
            return
        size = self.stage.batch_size
        replayed = min(max(round(self._share * size), 1), size - 1)
        fresh = np.stack([self.stage.current.shuffled(generator) for generator in self.stage.order])
        steps = -(-fresh.shape[1] // (size - replayed))
        old = np.stack([self._from_memory(steps * replayed, generator) for generator in self.stage.order])
        parts = (
            torch.from_numpy(fresh).split(size - replayed, dim=1),
            torch.from_numpy(old).split(replayed, dim=1),
        )
        for new, remembered in zip(*parts, strict=True):
            yield torch.cat([new, remembered], dim=1)

    def _from_memory(self, n: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """(n,) numbers of remembered samples. None comes again before all have come."""
        start = len(self.stage.current)
        size = len(self.pool) - start
        rounds = [start + generator.permutation(size) for _ in range(-(-n // size))]
        return np.concatenate(rounds)[:n]
