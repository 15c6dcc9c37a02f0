"""Linear heads in closed form (ACIL, Zhuang et al. 2022; RanPAC, McDonnell et al. 2023): ridge regression on sums.

Nothing is forgotten, whatever the order of the corpora: the sums over all of them give the model of all rows at once.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ser_memory.common.options import Options, option
from ser_memory.train.kept import KeptBytes
from ser_memory.train.strategies.base import ClosedFormStrategy, Kept

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.model import Architecture
    from ser_memory.train.samples import Batch, Samples

_ROWS = 4096  # whose features are in memory together


@dataclass(frozen=True)
class AnalyticOptions(Options):
    title = "Strategy analytic"

    analytic_features: int | None = option(
        None,
        minimum=1,
        none="none",
        help="Number of random features, ReLU of a fixed random projection, that replace each embedding.",
    )
    analytic_ridge: float = option(
        1.0, minimum=0, above=True, help="Factor of the ridge that generalised cross-validation chooses."
    )


class Analytic(ClosedFormStrategy):
    """Activation reads the features of the acoustic embedding, valence those of the text too, as in the network.

    Features are the embeddings after layer normalisation, or `--analytic-features` random ones of each. They are float32;
    everything after them is float64. An utterance without a rating of a dimension counts for the others.
    """

    keeps = ("sums",)
    options = (AnalyticOptions,)

    def __init__(self, architecture: Architecture, seed: int, options: AnalyticOptions) -> None:
        wide = options.analytic_features
        self._architecture = architecture
        self._expansion = None if wide is None else (seed, wide)
        self._ridge = options.analytic_ridge
        self._acoustic = wide or architecture.acoustic_width  # columns of features; these come first
        self._all = self._acoustic + (wide or architecture.text_width) * architecture.reads_text

    @classmethod
    def depends_on_seed(cls, options: AnalyticOptions) -> bool:
        return options.analytic_features is not None

    @property
    def size(self) -> int:
        return sum(columns + 1 for columns in self.columns_read)

    def patterns(self, train: Samples) -> list[tuple[str, ...]]:
        rated = np.unique(train.targets.isfinite().cpu().numpy(), axis=0)
        return [self._names(pattern) for pattern in rated if pattern.any()]

    def kept_bytes(self, dimensions: Sequence[str]) -> KeptBytes:
        f, k = self._all, len(dimensions)
        return KeptBytes(memory=8 * (f * (f + 1) // 2 + f + f * k + 2 * k))

    @property
    def columns(self) -> int:
        return self._all

    @property
    def working_bytes(self) -> int:
        """Memory that solving needs: the sums, a copy of them and their eigenvectors."""
        return 4 * 8 * self._all**2

    @property
    def columns_read(self) -> list[int]:
        """Of each dimension how many of the first columns it reads."""
        return [self._all if head.text else self._acoustic for head in self._architecture.heads]

    def keep(self, train: Samples) -> Kept:
        from ser_memory.train.ridge import Sums

        rated = train.targets.isfinite().cpu().numpy()
        sums = {}
        for pattern in np.unique(rated, axis=0):
            if pattern.any():
                rows = np.flatnonzero((rated == pattern).all(axis=1))
                sums[self._names(pattern)] = Sums.over(self._blocks(train, rows, np.flatnonzero(pattern)))
        return Kept(sums=sums)

    def solve(self, kept: Kept) -> Tensor:
        import torch

        from ser_memory.train.ridge import solve

        sums = kept.sums or {}
        pieces: dict[str, npt.NDArray[np.float64]] = {}
        alike: dict[tuple[int, tuple[tuple[str, ...], ...]], list[str]] = {}
        for name, columns in zip(self._architecture.dimensions, self.columns_read, strict=True):
            having = tuple(names for names in sums if name in names)
            alike.setdefault((columns, having), []).append(name)
        for (columns, having), names in alike.items():
            if not having:  # no corpus so far rates them
                pieces |= {name: np.zeros(columns + 1) for name in names}
                continue
            parts = [sums[each].part(columns, [each.index(name) for name in names]) for each in having]
            solution = solve(reduce(operator.add, parts), factor=self._ridge)
            for column, name in enumerate(names):
                pieces[name] = np.append(solution.weights[:, column], solution.intercepts[column])
        return torch.from_numpy(np.concatenate([pieces[name] for name in self._architecture.dimensions]))

    def predict(self, parameters: Tensor, samples: Samples) -> Tensor:
        import torch

        weights = parameters.cpu().numpy()
        made = []
        for batch in samples.batches(_ROWS):
            features = self.features(batch).astype(np.float64)
            columns, at = [], 0
            for n in self.columns_read:
                columns.append(features[:, :n] @ weights[at : at + n] + weights[at + n])
                at += n + 1
            made.append(np.stack(columns, axis=1))
        return torch.from_numpy(np.concatenate(made).astype(np.float32))

    def _names(self, pattern: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(
            name for name, there in zip(self._architecture.dimensions, pattern, strict=True) if there
        )

    def _blocks(
        self, train: Samples, rows: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Features and rated targets of some rows, a block at a time."""
        import torch

        for index in torch.from_numpy(rows).to(train.rows.device).split(_ROWS):
            batch = train.batch(index)
            yield self.features(batch), batch.targets.cpu().numpy()[:, targets]

    def features(self, batch: Batch) -> npt.NDArray[np.float32]:
        """(B, F) of a batch: those of the acoustic embedding, then those of the text."""
        embeddings = [batch.acoustic, batch.text][: 1 + self._architecture.reads_text]
        normal = [_normalised(each) for each in embeddings]
        if self._expansion is None:
            return np.concatenate(normal, axis=1)
        return np.concatenate(
            [np.maximum(x @ w, 0) for x, w in zip(normal, self.projections, strict=True)], axis=1
        )

    @cached_property
    def projections(self) -> list[npt.NDArray[np.float32]]:
        """(D, N) of each embedding, with entries of variance 1 / D, the same for a seed everywhere; none without."""
        if self._expansion is None:
            return []
        seed, n = self._expansion
        random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(b"analytic features")]))
        widths = [self._architecture.acoustic_width, self._architecture.text_width]
        return [
            (random.standard_normal((width, n), np.float32) / np.float32(math.sqrt(width)))
            for width in widths[: 1 + self._architecture.reads_text]
        ]


def joined(one: Kept, other: Kept) -> Kept:
    """The sums over the rows of both."""
    sums = dict(one.sums or {})
    for names, more in (other.sums or {}).items():
        sums[names] = sums[names] + more if names in sums else more
    return Kept(sums=sums)


def _normalised(embedding: Tensor) -> npt.NDArray[np.float32]:
    """(B, D) with mean 0 and variance 1 in every row."""
    from torch.nn.functional import layer_norm

    normal: npt.NDArray[np.float32] = layer_norm(embedding, embedding.shape[-1:]).cpu().numpy()
    return normal
