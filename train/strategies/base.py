"""What a strategy may decide about one stage of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from train.data import Samples
from train.model import EmotionModel
from train.objective import Objective


@dataclass(frozen=True)
class StrategySettings:
    """Options of single strategies; the others do not look at them."""

    replay_share: float | None = None  # experience-replay: share of each batch from memory, None as it falls
    gem_margin: float = 0.0  # gem: lower bound of the dual variables, 0 to project exactly


class Strategy:
    """One stage under one policy towards what came before; as it stands, plain training on one corpus.

    `earlier` says what the strategy may still see of earlier corpora, and its instances are given exactly
    that, one Samples per earlier corpus: nothing, the episodic memory, or the whole training splits.
    """

    earlier: ClassVar[Literal["nothing", "memory", "corpora"]] = "nothing"

    def __init__(self, current: Samples, earlier: list[Samples], settings: StrategySettings) -> None:
        del earlier, settings
        self.samples = current  # what `batches` indexes

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """One epoch: (B,) int64 indices into `samples`, shuffled."""
        return iter(torch.randperm(len(self.samples), generator=generator).split(batch_size))

    def adjust_gradients(self, model: EmotionModel, objective: Objective) -> None:
        """Change the gradients that the batch has left on the model, before the optimiser's step."""
