"""What a corpus is like, without its utterances: mean and leading covariance in every cell of its labels.

Pseudo-rows are drawn from these statistics as from a mixture of normal distributions, x = mean + factor z with
z ~ N(0, I), in place of remembered utterances.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.errors import SerError
from ser_memory.common.labels import N_BINS, to_bins
from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_VALUES = 2**24  # of the corpus that are in memory at a time, 64 MiB
_MORE = 16  # directions that are followed beside the wanted ones, which are exact sooner with them
_ROUNDS = 5  # readings of the corpus that these directions take


@dataclass(frozen=True)
class Prototypes:
    """Statistics of one corpus per cell of low, middle and high activation and valence.

    There is a place for each of the C cells, also for those without rows, so that the size depends on shapes alone.
    The V values of a row are its acoustic embedding (of several layers one after the other), its text embedding and
    its K targets.
    """

    counts: Integers  # (C,) rows of each cell; 0 also of one that was merged into another
    means: Floats  # (C, V), NaN in the column of a target that the corpus does not rate
    factors: Floats  # (C, V, r); their columns beyond the rank of a cell are 0
    acoustic_shape: tuple[int, ...]  # (D,), or (L, D)
    dimensions: int  # K

    @property
    def nbytes(self) -> int:
        """Bytes of all statistics."""
        return self.counts.nbytes + self.means.nbytes + self.factors.nbytes

    def draw(
        self, n: int, generators: Sequence[np.random.Generator], device: torch.device | str = "cpu"
    ) -> Samples:
        """R * n pseudo-rows of R runs on a device, those of run r from generator r alone; their speaker is unknown.

        Cells are drawn in proportion to their counts. Targets are cut to [-1, 1], which normal values can leave; a
        target that the corpus does not rate is NaN. Rows of a run come in the order of cells.
        """
        rows = torch.cat([self._rows(n, generator) for generator in generators]).to(device)
        acoustic = math.prod(self.acoustic_shape)
        text = rows.shape[1] - acoustic - self.dimensions
        parts = rows.split([acoustic, text, self.dimensions], dim=1)
        return Samples(
            parts[0].unflatten(1, self.acoustic_shape),
            parts[1],
            torch.arange(len(rows), device=device),
            parts[2].clamp(-1, 1),
            torch.full((len(rows),), UNKNOWN_SPEAKER, device=device),
        )

    def _rows(self, n: int, generator: np.random.Generator) -> Tensor:
        """(n, V)"""
        sizes = generator.multinomial(n, self.counts / self.counts.sum())
        scores = torch.from_numpy(generator.standard_normal((n, self.factors.shape[2]), dtype=np.float32))
        cells = zip(self.means, self.factors, scores.split(sizes.tolist()), strict=True)
        return torch.cat(
            [torch.from_numpy(mean) + own @ torch.from_numpy(factor).T for mean, factor, own in cells]
        )


def prototypes(samples: Samples, rank: int, minimum: int) -> Prototypes:
    """The statistics of a corpus, whose rows are read in blocks, several times.

    Args:
        samples: the corpus. Its cells are the bins of `labels`; a label that is NaN counts as the middle.
        rank: directions per cell at most. A cell always has fewer than a third of its count, so that each stands
            for several rows: with as many directions as rows, the rows could be computed from them.
        minimum: rows that a cell has at least. Smaller ones are merged, see `homes`; the last one stays.

    The covariance of a cell, divided by the count, is replaced by its leading part. What leads depends on the units,
    and the few targets would hardly count beside a thousand features. So every column is divided by its
    standard deviation in the corpus, and by the root of the number of columns in its block: acoustic, text and
    targets then vary by 1 in all, and the directions of the targets, with what of the features goes along with them,
    are among the first. The factors are in the units of the rows again.

    Where the corpus rates a dimension only in part, rows without that rating do not count. Raises SerError if there
    is no row with all ratings. The same rows give the same bytes on the same machine.
    """
    targets = samples.targets.cpu().numpy()
    rated = ~np.isnan(targets).all(axis=0)
    rows = np.flatnonzero(~np.isnan(targets[:, rated]).any(axis=1))
    if not len(rows):
        raise SerError(
            "No training utterance has a label in every dimension that its corpus rates, so there is nothing to take "
            "statistics of: complete the labels of some utterances, or train with another strategy."
        )
    labels = samples.labels.cpu().numpy()[rows]
    places = np.array(list(itertools.product(range(N_BINS), repeat=labels.shape[1])))
    cells = np.ravel_multi_index(
        tuple(to_bins(np.nan_to_num(labels, nan=0.0)).T), (N_BINS,) * labels.shape[1]
    )
    cells = homes(np.bincount(cells, minlength=len(places)), places, minimum)[cells]

    corpus = _Corpus(samples, rows, cells, len(places))
    means, deviations = _moments(corpus)
    factors = _factors(corpus, means, _scale(deviations, corpus.blocks), rank)
    means[:, -len(rated) :][:, ~torch.from_numpy(rated)] = torch.nan
    return Prototypes(
        corpus.counts.numpy(),
        means.float().numpy(),
        factors.float().numpy(),
        tuple(samples.acoustic.shape[1:]),
        len(rated),
    )


def homes(counts: Integers, places: Integers, minimum: int) -> Integers:
    """(C,) the cell that each one's rows count for, so that none with rows has fewer than `minimum`.

    The cell with fewest rows is merged into the nearest one with rows, again and again until all are large enough or
    a single one is left. Of equally near ones it is the one with fewer rows: the labels that are rare stay together,
    where a large cell would hide them. Then, and among equally small ones, it is the first.

    Args:
        counts: (C,) rows.
        places: (C, J) of the cells on the grid; distances are Euclidean.
        minimum: rows that a cell has at least.
    """
    home, counts = np.arange(len(counts)), counts.copy()
    while True:
        there = np.flatnonzero(counts)
        small = there[counts[there].argmin()]
        if counts[small] >= minimum or len(there) == 1:
            return home
        others = there[there != small]
        distances = ((places[others] - places[small]) ** 2).sum(axis=1)
        nearest = others[np.lexsort((counts[others], distances))[0]]
        home[home == small] = nearest
        counts[nearest] += counts[small]
        counts[small] = 0


class _Corpus:
    """The rows of a corpus, read anew from the first to the last whenever it is iterated over.

    PyTorch computes with them, not NumPy, because a process that trains beside others limits its threads.
    """

    def __init__(self, samples: Samples, rows: Integers, cells: Integers, n_cells: int) -> None:
        """`rows` are those of `samples` that count, and `cells` the cell of each, below `n_cells`."""
        self._samples, self._rows, self._cells = samples, torch.from_numpy(rows), torch.from_numpy(cells)
        self.counts = torch.from_numpy(np.bincount(cells, minlength=n_cells))
        self.blocks = (
            math.prod(samples.acoustic.shape[1:]), samples.text.shape[1], samples.targets.shape[1]
        )  # fmt: skip

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Cells and some of their rows, (M, V) float32, which may be overwritten; 0 for targets that are not rated."""
        size = max(_VALUES // sum(self.blocks), 1)
        for rows, cells in zip(self._rows.split(size), self._cells.split(size), strict=True):
            batch = self._samples.batch(rows.to(self._samples.rows.device))
            acoustic, text, targets = (values.flatten(1).cpu() for values in batch)
            values = torch.cat([acoustic, text, targets.nan_to_num(nan=0.0)], dim=1)
            there, sizes = cells.unique(return_counts=True)
            by_cell = values[cells.argsort(stable=True)].split(sizes.tolist())
            yield from zip(there.tolist(), by_cell, strict=True)


def _moments(corpus: _Corpus) -> tuple[Tensor, Tensor]:
    """(C, V) float64 means of the cells, 0 without rows, and (V,) standard deviations in the whole corpus."""
    n = corpus.counts.sum()
    # Sums of distances from any row: a column that never changes has a deviation of 0, and not of a rounding.
    first = next(iter(corpus))[1][0].double()
    sums, squares = first.new_zeros(len(corpus.counts), len(first)), torch.zeros_like(first)
    for cell, values in corpus:
        moved = values.double().sub_(first)
        sums[cell] += moved.sum(dim=0)
        squares += moved.square_().sum(dim=0)
    counts = corpus.counts[:, None]
    means = torch.where(counts > 0, first + sums / counts.clamp(min=1), 0.0)
    return means, (squares / n - (sums.sum(dim=0) / n).square()).clamp_(min=0).sqrt_()


def _scale(deviations: Tensor, blocks: Sequence[int]) -> Tensor:
    """(V,) factors that give every block of columns a variance of 1 in all; 0 for a column that never changes."""
    parts = [
        torch.where(block > 0, 1 / (block * (block > 0).sum().sqrt()), 0.0)
        for block in deviations.split(list(blocks))
    ]
    return torch.cat(parts)


def _factors(corpus: _Corpus, means: Tensor, scale: Tensor, rank: int) -> Tensor:
    """(C, V, rank) float64: eigenvectors of the scaled covariances times the roots of their eigenvalues, scaled back.

    Subspace iteration from random directions (Halko, Martinsson and Tropp 2011, algorithm 4.4): it needs no covariance
    of V x V, which all layers of an encoder make too large, and no more rows in memory than a block.
    """
    width = min(len(scale), rank + _MORE)
    start = torch.from_numpy(np.random.default_rng(0).standard_normal((len(means), len(scale), width)))
    counts = corpus.counts[:, None, None].clamp(min=1)
    products = start
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(products).Q
        narrow, products = basis.float(), torch.zeros_like(basis)  # of every covariance and its basis
        for cell, values in corpus:
            scaled = values.sub_(means[cell].float()).mul_(scale.float())
            products[cell] += scaled.T @ (scaled @ narrow[cell])
        products /= counts
    small = basis.mT @ products
    eigenvalues, turned = torch.linalg.eigh((small + small.mT) / 2)
    ranks = ((corpus.counts - 1) // 3).clamp(0, rank)
    lengths = eigenvalues.clamp(min=0).sqrt().flip(1).where(torch.arange(width) < ranks[:, None], 0.0)
    vectors = (basis @ turned).flip(2)  # the largest first
    # Of the two signs of an eigenvector the one that makes its largest value positive.
    vectors *= vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()
    unscaled = torch.where(scale > 0, 1 / scale, 0.0)[:, None]
    factors = means.new_zeros(*means.shape, rank)
    factors[:, :, : min(width, rank)] = (vectors * lengths[:, None] * unscaled)[:, :, :rank]
    return factors
