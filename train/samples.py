"""Utterances as tensors: labels in memory, embeddings where they are, batches by number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

UNKNOWN_SPEAKER = -1  # the code of all speakers that are not known

# Rows of a cache larger than memory are read in blocks of _BLOCK rows; WINDOW rows at a time are in memory and shuffled.
_BLOCK = 256
WINDOW = 64 * _BLOCK


class Batch(NamedTuple):
    """What a step or a prediction is computed on."""

    acoustic: Tensor  # (..., D) float32, or (..., L, D)
    text: Tensor  # (..., E) float32
    targets: Tensor  # (..., K) float32

    def to(self, device: torch.device) -> Batch:
        return Batch(*(values.to(device) for values in self))

    def expand(self, runs: int) -> Batch:
        """(R, ...): the same for all runs, not copied."""
        return Batch(*(values.expand(runs, *values.shape) for values in self))

    def take(self, index: Tensor) -> Batch:
        """Each run's own (R, B) numbers of (R, m, ...) -> (R, B, ...)."""
        return Batch(*(take(values, index) for values in self))

    def join(self, others: Sequence[Batch]) -> Batch:
        """(R, m + ..., ...): these and the others' utterances, run by run."""
        return Batch(*(torch.cat(values, dim=1) for values in zip(self, *others, strict=True)))

    def unflatten(self, dim: int, sizes: tuple[int, ...]) -> Batch:
        return Batch(*(values.unflatten(dim, sizes) for values in self))


@dataclass(frozen=True)
class Samples:
    """Utterances: the embeddings of a whole cache, and which of its rows these utterances are."""

    acoustic: Tensor  # (M, D) float32, or (M, L, D) with the layers to be weighted
    text: Tensor  # (M, E) float32
    rows: Tensor  # (N,) int64
    targets: Tensor  # (N, K) float32, a column per dimension, in [-1, 1]
    speakers: Tensor  # (N,) int64, a code per speaker of the corpus, UNKNOWN_SPEAKER if unknown
    streamed: bool = False  # more than memory should hold: shuffle so that rows are read near each other
    rated: Tensor | None = None  # (N, J) labels like the targets, of dimensions that are not trained too

    @property
    def labels(self) -> Tensor:
        """(N, J) of all rated dimensions, whichever are trained: memories are chosen by these."""
        return self.targets if self.rated is None else self.rated

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Bytes of these utterances, were they copied."""
        per_row = (self.acoustic, self.text, self.rows, self.targets, self.speakers)
        return len(self) * sum(values.element_size() * math.prod(values.shape[1:]) for values in per_row)

    def batch(self, index: Tensor) -> Batch:
        """The utterances at (K,) int64 `index`, copied."""
        rows = self.rows.index_select(0, index)
        return Batch(
            self.acoustic.index_select(0, rows),
            self.text.index_select(0, rows),
            self.targets.index_select(0, index),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All utterances in order, `size` at a time."""
        for index in torch.arange(len(self), device=self.rows.device).split(size):
            yield self.batch(index)

    def shared(self, parameters: Tensor) -> Batch:
        """R * m utterances of R runs -> (R, m, ...), where the (R, P) parameters are."""
        batch = self.batch(torch.arange(len(self), device=self.rows.device))
        return batch.to(parameters.device).unflatten(0, (len(parameters), -1))

    def select(self, index: Tensor) -> Samples:
        """The utterances at (K,) int64 `index`, copied: nothing of the others is kept."""
        index = index.to(self.rows.device)
        acoustic, text, targets = self.batch(index)
        rows = torch.arange(len(index), device=index.device)
        rated = None if self.rated is None else self.rated.index_select(0, index)
        return Samples(acoustic, text, rows, targets, self.speakers.index_select(0, index), rated=rated)

    def to(self, device: torch.device | str) -> Samples:
        """The same on a device."""
        return Samples(
            self.acoustic.to(device),
            self.text.to(device),
            self.rows.to(device),
            self.targets.to(device),
            self.speakers.to(device),
            self.streamed,
            None if self.rated is None else self.rated.to(device),
        )

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """The utterances of all parts, in order, copied. Speaker codes of different corpora may coincide."""
        whole = [part.select(torch.arange(len(part))) for part in parts]
        acoustic, text, targets, speakers, labels = (
            torch.cat([getattr(part, name) for part in whole])
            for name in ("acoustic", "text", "targets", "speakers", "labels")
        )
        rows = torch.arange(len(targets), device=targets.device)
        return Samples(acoustic, text, rows, targets, speakers, rated=labels)

    def shuffled(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """(N,) a random order; of streamed samples, one that reads the file in runs."""
        return _shuffled(len(self), self.streamed, generator)


def parts_of(index: Tensor, sizes: Sequence[int]) -> Tensor:
    """Numbers on the host, into parts of these sizes one after the other -> the number of the part that each is in."""
    return torch.bucketize(index.contiguous(), torch.tensor(sizes).cumsum(dim=0), right=True)


def take(values: Tensor, index: Tensor) -> Tensor:
    """(R, m, ...) and each run's own (R, B) numbers -> (R, B, ...)."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]


def _shuffled(n: int, streamed: bool, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random order of n; streamed, of blocks of neighbours, and then within every window of blocks."""
    if not streamed:
        return generator.permutation(n)
    blocks = generator.permutation(-(-n // _BLOCK))
    order = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    order = order[order < n]
    for start in range(0, n, WINDOW):
        generator.shuffle(order[start : start + WINDOW])
    return order


class Pool:
    """Samples of several corpora addressed as one, without copying them together.

    The first part is common to all runs of a stack. Of each further part, a run has a share of its own where
    `owned`: rows r * n / R to (r + 1) * n / R.
    """

    def __init__(
        self, common: Samples, further: Sequence[Samples] = (), runs: int = 1, owned: bool = True
    ) -> None:
        self._parts = [common, *further]
        self._shares = [runs if owned and number else 1 for number in range(len(self._parts))]
        self._sizes = [len(part) // share for part, share in zip(self._parts, self._shares, strict=True)]

    def __len__(self) -> int:
        return sum(self._sizes)

    def shuffled(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """(N,) a random order of one run's numbers, of all parts together."""
        return _shuffled(len(self), any(part.streamed for part in self._parts), generator)

    def parts(self, index: Tensor) -> Tensor:
        """(R, B) int64 on the host, numbers of samples -> (R, B) the number of the part that each is in."""
        return parts_of(index, self._sizes)

    def batch(self, index: Tensor) -> Batch:
        """(R, B) int64 on the host, each run's own numbers -> tensors of (R, B, ...)."""
        device = self._parts[0].rows.device
        if len(self._parts) == 1:
            flat = self._parts[0].batch(index.reshape(-1).to(device))
            return flat.unflatten(0, tuple(index.shape))
        run = torch.arange(len(index))[:, None]
        whole: list[Tensor] = []
        start = 0
        for part, share, size in zip(self._parts, self._shares, self._sizes, strict=True):
            # Chosen on the host, so that a GPU need not tell how many there are.
            place = ((index >= start) & (index < start + size)).reshape(-1).nonzero()[:, 0]
            source = (index - start + (run * size if share > 1 else 0)).reshape(-1)[place]
            values = part.batch(source.to(device))
            whole = whole or [value.new_empty(index.numel(), *value.shape[1:]) for value in values]
            for into, value in zip(whole, values, strict=True):
                into.index_copy_(0, place.to(device), value)
            start += size
        return Batch(*whole).unflatten(0, tuple(index.shape))
