"""What a strategy declares, keeps of earlier corpora, and decides about one stage of training.

Strategy files import torch for types only or inside functions, so that --help can read their options quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ser_memory.common.options import Options
from ser_memory.train.kept import KeptBytes

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.dropout import Dropout
    from ser_memory.train.memory.prototypes import Prototypes
    from ser_memory.train.model import Architecture, Network, Parameters
    from ser_memory.train.objective import Objective
    from ser_memory.train.ridge import Sums
    from ser_memory.train.samples import Batch, Samples


@dataclass(frozen=True)
class Kept:
    """What a stack of R runs keeps from one earlier corpus. Row r, or the r-th share of samples, is run r's."""

    samples: Samples | None = None  # the memories, R * m; or the whole training split, common to all runs
    answers: Tensor | None = None  # (R, m, K) predictions for the memory when its stage ended
    parameters: Tensor | None = None  # (R, P) at that time
    importance: Tensor | None = None  # (R, P) of each parameter for that corpus
    sums: Mapping[tuple[str, ...], Sums] | None = None  # by the dimensions that are rated
    held_out: Samples | None = None  # R * h remembered samples that are looked at, and not trained on
    prototypes: Prototypes | None = None  # statistics, common to all runs
    rated: Tensor | None = None  # (K,) bool, of each dimension whether the corpus has ratings

    @property
    def rows(self) -> int:
        """Remembered utterances, of all runs."""
        return sum(len(part) for part in (self.samples, self.held_out) if part is not None)

    @property
    def size(self) -> KeptBytes:
        """Bytes of all of it."""
        tensors = {name: value.nbytes for name, value in vars(self).items() if hasattr(value, "nbytes")}
        tensors.pop("rated", None)  # a fact about a corpus, not a part of it
        parameters = tensors.pop("parameters", 0) + tensors.pop("importance", 0)
        memory = tensors.pop("prototypes", 0) + sum(each.nbytes for each in (self.sums or {}).values())
        memory += sum(each.size for each in (self.samples, self.held_out) if each is not None)
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
        """(R, min(n, size)) int64: different numbers below `size`, chosen for each run on its own; on the host."""
        import torch

        chosen = np.stack([generator.permutation(size)[:n] for generator in self.chance])
        return torch.from_numpy(chosen)

    def gradient(self) -> Parameters:
        """Room for a gradient of all runs."""
        return self.network.unpack(self.start.new_empty(self.start.shape))


class Strategy:
    """One policy towards earlier corpora: what every entry of the registry declares.

    `earlier` is what it may still see of earlier corpora: nothing, the episodic memory, or the whole training split.
    `options` are the classes of its options, declared beside it.
    """

    earlier: ClassVar[Literal["nothing", "memory", "corpora"]] = "nothing"
    options: ClassVar[tuple[type[Options], ...]] = ()
    keeps: ClassVar[tuple[str, ...]] = ()  # fields of `Kept` that its later stages need
    by_gradient: ClassVar[bool] = True  # all that train by gradient steps share their first stage

    @classmethod
    def refuse_single_samples(cls, *options: Any) -> None:
        """Raise UsageError if the options ask for the CCC of one utterance, which teaches nothing."""


class ClosedFormStrategy(Strategy):
    """A model that follows from sums over the training rows of all corpora so far, without a step of training."""

    by_gradient = False

    def __init__(self, architecture: Architecture, seed: int, *options: Any) -> None:
        """`options` are instances of the class's `options`, in their order."""

    @classmethod
    def depends_on_seed(cls, *options: Any) -> bool:
        """Whether another seed gives another model."""
        raise NotImplementedError

    @property
    def columns(self) -> int:
        """F, the number of features."""
        raise NotImplementedError

    @property
    def working_bytes(self) -> int:
        """Bytes of memory that `solve` needs."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        raise NotImplementedError

    def patterns(self, train: Samples) -> list[tuple[str, ...]]:
        """The sets of dimensions that some utterance is rated in: `keep` has sums for each."""
        raise NotImplementedError

    def kept_bytes(self, dimensions: Sequence[str]) -> KeptBytes:
        """Bytes of the sums over utterances that are rated in these dimensions."""
        raise NotImplementedError

    def keep(self, train: Samples) -> Kept:
        """The sums over the training split of one corpus."""
        raise NotImplementedError

    def solve(self, kept: Kept) -> Tensor:
        """(P,) float64 parameters, from the sums over all corpora so far, the current one too."""
        raise NotImplementedError

    def predict(self, parameters: Tensor, samples: Samples) -> Tensor:
        """(N, K) float32 predictions."""
        raise NotImplementedError


class GradientStrategy(Strategy):
    """One stage of training by gradient steps. This base class is plain training on one corpus."""

    def __init__(self, stage: Stage, *options: Any) -> None:
        """`options` are instances of the class's `options`, in their order."""
        from ser_memory.train.samples import Pool

        self.stage = stage
        self.pool = Pool(stage.current)  # the samples that `batches` refers to by number

    @classmethod
    def keep(
        cls,
        network: Network,
        parameters: Parameters,
        train: Samples,
        allowed: Samples | None,
        *options: Any,
    ) -> Kept:
        """What to keep from a corpus when its stage ends. Of its samples, at most those `allowed`.

        `train` is the corpus's training split. The result may contain statistics of it, but no samples. `options` are
        instances of the class's `options`, in their order.
        """
        del network, parameters, train, options
        return Kept(allowed)

    def batches(self) -> Iterator[Tensor]:
        """One epoch: (R, B) int64 numbers into `pool`, all of it once, in a different order for each run."""
        import torch

        orders = np.stack([self.pool.shuffled(generator) for generator in self.stage.order])
        return iter(torch.from_numpy(orders).split(self.stage.batch_size, dim=1))

    def output_gradient(self, index: Tensor, prediction: Tensor, targets: Tensor) -> Tensor:
        """(R, B, K) gradient of everything to be minimised, with respect to the batch's predictions.

        Args:
            index: (R, B) numbers of the batch's samples in `pool`, on the host.
            prediction: (R, B, K) predictions for the batch.
            targets: (R, B, K) their targets, NaN where there is no rating.
        """
        del index
        return self.stage.objective(prediction, targets)[1]

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        """The (R, P) gradient for the optimiser, from that of the batch; may change `gradient` in place."""
        del parameters
        return gradient

    def bent_shares(self) -> list[float] | None:
        """(R,) the share of the steps since the last call, in [0, 1], whose gradient memory has changed.

        None of a strategy that changes none. It is called after every epoch, not at every step.
        """
        return None
