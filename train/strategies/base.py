"""What a strategy may decide about one stage of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ser_memory.train.data import Batch, Pool, Samples
from ser_memory.train.dropout import Dropout
from ser_memory.train.model import Network, Parameters
from ser_memory.train.objective import Objective


@dataclass(frozen=True)
class StrategySettings:
    """Options of single strategies; the others do not look at them."""

    replay_share: float | None = None  # experience-replay: share of each batch from memory, None as it falls
    gem_margin: float = 0.0  # gem, a-gem: lower bound of the dual variables, 0 to project exactly
    gem_batch: int | None = None  # gem, a-gem: remembered samples per gradient, None for all
    der_alpha: float = 0.5  # der++: weight of the distance to stored outputs
    der_beta: float = 0.5  # der++: weight of the loss on remembered targets
    ewc_strength: float = 100.0  # ewc: weight of the penalty
    lwf_strength: float = 1.0  # lwf: weight of the distance to the old model's outputs

    def of(self, strategy: type[Strategy]) -> dict[str, object]:
        """Those that a strategy looks at."""
        return {name: getattr(self, name) for name in strategy.options}


@dataclass(frozen=True)
class Kept:
    """What a stack of R runs carries on from one earlier corpus; row r, or the r-th share of samples, is run r's."""

    samples: Samples | None = None  # of the memory, R * m; or the whole training split, common to all runs
    answers: Tensor | None = None  # (R, m, 2) of the model to the memory when its stage ended
    parameters: Tensor | None = None  # (R, P) of the model then
    importance: Tensor | None = None  # (R, P) of each parameter to that corpus


@dataclass(frozen=True)
class Stage:
    """One stage of training as it begins, for a stack of R runs."""

    network: Network
    start: Tensor  # (R, P) parameters
    objective: Objective
    current: Samples
    kept: Sequence[Kept]  # of each earlier corpus
    batch_size: int
    dropout: Dropout
    order: Sequence[np.random.Generator]  # a run's own, for the order of batches
    chance: Sequence[np.random.Generator]  # a run's own, for what a strategy draws besides

    @property
    def runs(self) -> int:
        return len(self.start)


class Strategy:
    """One stage under one policy towards what came before; as it stands, plain training on one corpus.

    `earlier` says what the strategy may still see of earlier corpora, and `keep` is given exactly that:
    nothing, the episodic memory, or the whole training split.
    """

    earlier: ClassVar[Literal["nothing", "memory", "corpora"]] = "nothing"
    options: ClassVar[tuple[str, ...]] = ()  # the StrategySettings it looks at

    def __init__(self, stage: Stage, settings: StrategySettings) -> None:
        self.stage = stage
        self.settings = settings
        self.pool = Pool(stage.current)  # what `batches` numbers

    @classmethod
    def keep(cls, network: Network, parameters: Parameters, train: Samples, allowed: Samples | None) -> Kept:
        """What to carry on from a corpus as its stage ends: of its samples at most those `allowed`.

        `train` is its training split, and what is returned holds nothing of it but statistics.
        """
        del network, parameters, train
        return Kept(allowed)

    def batches(self) -> Iterator[Tensor]:
        """One epoch: (R, B) int64 numbers into `pool`, all of it in an order of each run's own."""
        orders = np.stack([self.pool.shuffled(generator) for generator in self.stage.order])
        return iter(torch.from_numpy(orders).split(self.stage.batch_size, dim=1))

    def output_gradient(self, index: Tensor, prediction: Tensor, gradient: Tensor) -> Tensor:
        """(R, B, 2) gradient of what is minimised with respect to the batch's predictions; `gradient` is the loss's."""
        del index, prediction
        return gradient

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        """The (R, P) gradient to step along instead of the batch's."""
        del parameters
        return gradient


def remembered(stage: Stage) -> list[Batch]:
    """(R, m, ...) the memory of each earlier corpus."""
    return [whole(kept.samples, stage.start) for kept in stage.kept if kept.samples is not None]


def whole(memory: Samples, parameters: Tensor) -> Batch:
    """(R, m, ...) a memory of R * m samples, where the (R, P) parameters are."""
    batch = memory.batch(torch.arange(len(memory), device=memory.rows.device))
    return batch.to(parameters.device).unflatten(0, (len(parameters), -1))


def together(memories: Sequence[Batch]) -> Batch | None:
    """(R, m, ...) all memories as one, None without any."""
    return Batch(*(torch.cat(values, dim=1) for values in zip(*memories, strict=True))) if memories else None


def draw(size: int, n: int, stage: Stage) -> Tensor:
    """(R, min(n, size)) different numbers below `size`, of each run's own choice."""
    chosen = np.stack([generator.permutation(size)[:n] for generator in stage.chance])
    return torch.from_numpy(chosen).to(stage.start.device)


def take(values: Tensor, index: Tensor) -> Tensor:
    """(R, m, ...) and each run's own (R, B) numbers -> (R, B, ...)."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]
