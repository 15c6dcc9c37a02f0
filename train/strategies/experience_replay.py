"""Experience replay: the new corpus and the memory of all earlier ones, shuffled together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import Stage
from ser_memory.train.strategies.mixture import Mixture, ReplayLossOptions

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ExperienceReplayOptions(Options):
    title = "Strategies experience-replay and prototype-replay"

    replay_share: float | None = option(
        None,
        minimum=0,
        above=True,
        maximum=1,
        below=True,
        unset="no fixed share, new and remembered utterances are shuffled together",
        help="Share of each batch from memory.",
    )


class ExperienceReplay(Mixture):
    """Trains on new and remembered samples alike; with `replay_share`, on a fixed mixture in every batch."""

    # With the type of the base class, because prototype replay sees less.
    earlier: ClassVar[Literal["nothing", "memory", "corpora"]] = "memory"
    keeps: ClassVar[tuple[str, ...]] = ("samples",)
    options: ClassVar[tuple[type[Options], ...]] = (ReplayLossOptions, ExperienceReplayOptions)

    def __init__(
        self, stage: Stage, loss: ReplayLossOptions, options: ExperienceReplayOptions, *others: Any
    ) -> None:
        super().__init__(stage, loss)
        self._share = options.replay_share if stage.kept else None

    def batches(self) -> Iterator[Tensor]:
        """One epoch. With a share, once through the new corpus, and through memory as often as it takes."""
        import torch

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
        """(n,) numbers of remembered samples, all of them before any comes again."""
        start = len(self.stage.current)
        size = len(self.pool) - start
        rounds = [start + generator.permutation(size) for _ in range(-(-n // size))]
        return np.concatenate(rounds)[:n]
