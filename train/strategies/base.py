"""What a strategy can decide about one stage of training.

Strategy files import torch for types only or inside functions, so that --help can read their options quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ser_memory.common.options import Options
from ser_memory.train.kept import KeptBytes

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.dropout import Dropout
    from ser_memory.train.memory.prototypes import Prototypes
    from ser_memory.train.model import Network, Parameters
    from ser_memory.train.objective import Objective
    from ser_memory.train.samples import Batch, Samples


@dataclass(frozen=True)
class Kept:
    """What a stack of R runs keeps from one earlier corpus. Row r, or the r-th share of samples, is run r's."""

    samples: Samples | None = None  # the memories, R * m; or the whole training split, common to all runs
    answers: Tensor | None = None  # (R, m, K) predictions for the memory when its stage ended
    parameters: Tensor | None = None  # (R, P) at that time
    importance: Tensor | None = None  # (R, P) of each parameter for that corpus
    prototypes: Prototypes | None = None  # statistics, common to all runs

    @property
    def size(self) -> KeptBytes:
        """Bytes of all of it."""
        tensors = {name: value.nbytes for name, value in vars(self).items() if hasattr(value, "nbytes")}
        parameters = tensors.pop("parameters", 0) + tensors.pop("importance", 0)
        memory = tensors.pop("prototypes", 0) + (self.samples.size if self.samples else 0)
        return KeptBytes(memory, parameters, sum(tensors.values()))


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
    """One stage under one policy towards earlier corpora. This base class is plain training on one corpus.

    `earlier` declares what the strategy may still see of earlier corpora: nothing, the episodic memory, or the
    whole training split. `keep` gets exactly that. `options` is the class of its options, declared beside it.
    """

    earlier: ClassVar[Literal["nothing", "memory", "corpora"]] = "nothing"
    options: ClassVar[type[Options]] = Options

    def __init__(self, stage: Stage, options: Any) -> None:
        """`options` is an instance of the class's `options`."""
        from ser_memory.train.samples import Pool

        self.stage = stage
        self.pool = Pool(stage.current)  # the samples that `batches` refers to by number

    @classmethod
    def refuse_single_samples(cls, options: Any) -> None:
        """Raise UsageError if the options ask for the CCC of one utterance, which teaches nothing."""

    @classmethod
    def keep(cls, network: Network, parameters: Parameters, train: Samples, allowed: Samples | None) -> Kept:
        """What to keep from a corpus when its stage ends. Of its samples, at most those `allowed`.

        `train` is the corpus's training split. The result may contain statistics of it, but no samples.
        """
        del network, parameters, train
        return Kept(allowed)

    def batches(self) -> Iterator[Tensor]:
        """One epoch: (R, B) int64 numbers into `pool`, all of it once, in a different order for each run."""
        import torch

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

    def bent_shares(self) -> list[float] | None:
        """(R,) the share of the steps since the last call, in [0, 1], whose gradient memory has changed.

        None of a strategy that changes none. It is called after every epoch, not at every step.
        """
        return None
