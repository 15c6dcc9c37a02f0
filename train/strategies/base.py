"""What a strategy may decide about one stage of training.

Strategy files import torch for types only or inside functions, so that --help can read their options quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ser_memory.common.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.dropout import Dropout
    from ser_memory.train.model import Network, Parameters
    from ser_memory.train.objective import Objective
    from ser_memory.train.samples import Batch, Samples


@dataclass(frozen=True)
class Kept:
    """What a stack of R runs carries on from one earlier corpus; row r, or the r-th share of samples, is run r's."""

    samples: Samples | None = None  # of the memory, R * m; or the whole training split, common to all runs
    answers: Tensor | None = None  # (R, m, K) predictions of the model for the memory when its stage ended
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
    order: Sequence[np.random.Generator]  # per run, for the order of batches
    chance: Sequence[np.random.Generator]  # per run, for everything else that a strategy draws

    @property
    def runs(self) -> int:
        return len(self.start)

    def memories(self) -> list[Batch]:
        """(R, m, ...) the memory of each earlier corpus, on the device of the parameters."""
        return [kept.samples.shared(self.start) for kept in self.kept if kept.samples is not None]

    def draw(self, size: int, n: int) -> Tensor:
        """(R, min(n, size)) int64: different numbers below `size`, chosen for each run on its own."""
        import torch

        chosen = np.stack([generator.permutation(size)[:n] for generator in self.chance])
        return torch.from_numpy(chosen).to(self.start.device)

    def gradient(self) -> Parameters:
        """Room for a gradient of all runs."""
        return self.network.unpack(self.start.new_empty(self.start.shape))


class Strategy:
    """One stage under one policy towards what came before; as it stands, plain training on one corpus.

    `earlier` says what the strategy may still see of earlier corpora, and `keep` gets exactly that: nothing, the
    episodic memory, or the whole training split. `options` is the class of its options, declared beside it.
    """

    earlier: ClassVar[Literal["nothing", "memory", "corpora"]] = "nothing"
    options: ClassVar[type[Options]] = Options

    def __init__(self, stage: Stage, options: Any) -> None:
        """`options` is an instance of the class's `options`."""
        from ser_memory.train.samples import Pool

        self.stage = stage
        self.pool = Pool(stage.current)  # what `batches` numbers

    @classmethod
    def refuse_single_samples(cls, options: Any) -> None:
        """Raise UsageError if the options ask for the CCC of one utterance, which teaches nothing."""

    @classmethod
    def keep(cls, network: Network, parameters: Parameters, train: Samples, allowed: Samples | None) -> Kept:
        """What to carry on from a corpus as its stage ends: of its samples at most those `allowed`.

        `train` is its training split. The result holds nothing of it but statistics.
        """
        del network, parameters, train
        return Kept(allowed)

    def batches(self) -> Iterator[Tensor]:
        """One epoch: (R, B) int64 numbers into `pool`, all of it in an order of each run's own."""
        import torch

        orders = np.stack([self.pool.shuffled(generator) for generator in self.stage.order])
        return iter(torch.from_numpy(orders).split(self.stage.batch_size, dim=1))

    def output_gradient(self, index: Tensor, prediction: Tensor, gradient: Tensor) -> Tensor:
        """(R, B, K) gradient of what is minimised with respect to the batch's predictions; `gradient` is the loss's."""
        del index, prediction
        return gradient

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        """The (R, P) gradient to step along instead of the batch's."""
        del parameters
        return gradient
