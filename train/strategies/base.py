"""What a strategy can decide about one stage of training."""

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
    """Options of single strategies; the others ignore them."""

    replay_share: float | None = (
        None  # experience-replay: share of each batch from memory, in (0, 1); None to shuffle all together
    )
    gem_margin: float = 0.0  # gem, a-gem: lower bound of the dual variables; 0 projects exactly
    gem_batch: int | None = None  # gem, a-gem: remembered samples per gradient, None for all
    der_alpha: float = 0.5  # der++: weight of the distance to stored outputs
    der_beta: float = 0.5  # der++: weight of the loss on remembered targets
    ewc_strength: float = 100.0  # ewc: weight of the penalty
    lwf_strength: float = 1.0  # lwf: weight of the distance to the old model's outputs

    def of(self, strategy: type[Strategy]) -> dict[str, object]:
        """The options that a strategy uses."""
        return {name: getattr(self, name) for name in strategy.options}


@dataclass(frozen=True)
class Kept:
    """What a stack of R runs keeps from one earlier corpus. Row r, or the r-th share of samples, is run r's."""

    samples: Samples | None = None  # the memories, R * m; or the whole training split, common to all runs
    answers: Tensor | None = None  # (R, m, K) predictions for the memory when its stage ended
    parameters: Tensor | None = None  # (R, P) at that time
    importance: Tensor | None = None  # (R, P) of each parameter for that corpus


@dataclass(frozen=True)
class Stage:
    """The beginning of one stage of training, for a stack of R runs."""

    network: Network
    start: Tensor  # (R, P) parameters
    objective: Objective
    current: Samples
    kept: Sequence[Kept]  # of each earlier corpus
    batch_size: int
    dropout: Dropout
    order: Sequence[np.random.Generator]  # one per run, for the order of batches
    chance: Sequence[np.random.Generator]  # one per run, for everything else that a strategy draws

    @property
    def runs(self) -> int:
        return len(self.start)


class Strategy:
    """One stage under one policy towards earlier corpora. This base class is plain training on one corpus.

    `earlier` declares what the strategy may still see of earlier corpora: nothing, the episodic memory, or the
    whole training split. `keep` gets exactly that.
    """

    earlier: ClassVar[Literal["nothing", "memory", "corpora"]] = "nothing"
    options: ClassVar[tuple[str, ...]] = ()  # names of the StrategySettings it uses

    def __init__(self, stage: Stage, settings: StrategySettings) -> None:
        self.stage = stage
        self.settings = settings
        self.pool = Pool(stage.current)  # the samples that `batches` refers to by number

    @classmethod
    def keep(cls, network: Network, parameters: Parameters, train: Samples, allowed: Samples | None) -> Kept:
        """What to keep from a corpus when its stage ends. Of its samples, at most those `allowed`.

        `train` is the corpus's training split. The result may contain statistics of it, but no samples.
        """
        del network, parameters, train
        return Kept(allowed)

    def batches(self) -> Iterator[Tensor]:
        """One epoch: (R, B) int64 numbers into `pool`, all of it once, in a different order for each run."""
        orders = np.stack([self.pool.shuffled(generator) for generator in self.stage.order])
        return iter(torch.from_numpy(orders).split(self.stage.batch_size, dim=1))

    def output_gradient(self, index: Tensor, prediction: Tensor, gradient: Tensor) -> Tensor:
        """(R, B, K) gradient of everything to be minimised, with respect to the batch's predictions.

        Args:
            index: (R, B) numbers of the batch's samples in `pool`.
            prediction: (R, B, K) predictions for the batch.
            gradient: (R, B, K) gradient of the loss alone.
        """
        del index, prediction
        return gradient

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        """The (R, P) gradient for the optimiser, from that of the batch; may change `gradient` in place."""
        del parameters
        return gradient


def remembered(stage: Stage) -> list[Batch]:
    """The memory of each earlier corpus, (R, m, ...) each."""
    return [whole(kept.samples, stage.start) for kept in stage.kept if kept.samples is not None]


def whole(memory: Samples, parameters: Tensor) -> Batch:
    """A memory of R * m samples as (R, m, ...), on the device of the (R, P) parameters."""
    batch = memory.batch(torch.arange(len(memory), device=memory.rows.device))
    return batch.to(parameters.device).unflatten(0, (len(parameters), -1))


def together(memories: Sequence[Batch]) -> Batch | None:
    """All memories as one, (R, m, ...); None without any."""
    return Batch(*(torch.cat(values, dim=1) for values in zip(*memories, strict=True))) if memories else None


def draw(size: int, n: int, stage: Stage) -> Tensor:
    """(R, min(n, size)) different numbers below `size`, drawn by each run for itself."""
    chosen = np.stack([generator.permutation(size)[:n] for generator in stage.chance])
    return torch.from_numpy(chosen).to(stage.start.device)


def take(values: Tensor, index: Tensor) -> Tensor:
    """(R, m, ...) values and (R, B) numbers, which refer to the run's own values -> (R, B, ...)."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]
