"""Attacks on what a bundle keeps. Each gives a score per row that is higher the more it looks like a member.

Functions of arrays: rows are (N, D), float32 or float64. An attacker has the bundle and can compute the row of any
recording, since the encoders are public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from ser_memory.train.ridge import NARROWEST

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.floating]

_BLOCK = 1 << 24  # distances computed together: 128 MB
_ROUNDING = 1e-9  # of the share of a row that is outside a span
_SMALL_RIDGE = 1e-6  # of the mean eigenvalue, for directions without spread


def spreads(rows: Rows) -> Floats:
    """(D,) standard deviation of each column; 1 for a column that never changes."""
    deviations = np.asarray(rows, np.float64).std(axis=0)
    return np.where(deviations > 0, deviations, 1.0)


def nearest(rows: Rows, memory: Rows) -> tuple[Floats, Integers]:
    """(N,) distance to the nearest of (M, D) remembered rows, and (N,) its number; the first of equally near ones.

    Columns are in units of their standard deviation in the memory.
    """
    scale = spreads(memory)
    held = memory / scale
    squares = (held**2).sum(axis=1)
    distances, places = np.empty(len(rows)), np.empty(len(rows), np.int64)
    step = max(1, _BLOCK // (len(held) + held.shape[1]))
    for start in range(0, len(rows), step):
        block = rows[start : start + step] / scale
        place = (squares - 2 * block @ held.T).argmin(axis=1)
        places[start : start + step] = place
        distances[start : start + step] = np.linalg.norm(block - held[place], axis=1)
    return distances, places


@dataclass(frozen=True)
class SumsAttack:
    """Rows against the (F, F) sums F'F of products of features over all training rows."""

    eigenvalues: Floats  # (F,) ascending
    vectors: Floats  # (F, F)

    @classmethod
    def on(cls, products: Floats) -> SumsAttack:
        """Decomposes the sums once for all rows."""
        values, vectors = eigh(products)
        return cls(np.maximum(values, 0), vectors)

    @property
    def rank(self) -> int:
        """Directions in which the training rows spread."""
        return int((self.eigenvalues > NARROWEST * self.eigenvalues[-1]).sum())

    def inside_span(self, features: Rows) -> Floats:
        """(N,) minus the share of each row's length that no combination of training rows explains.

        With fewer training rows than features, the share is 0 for a member and above 0 for others. With more, it is 0
        for all.
        """
        along = (features @ self.vectors[:, -self.rank :]) ** 2
        outside = 1 - along.sum(axis=1) / np.maximum((features.astype(np.float64) ** 2).sum(axis=1), 1e-300)
        return -np.sqrt(np.where(outside > _ROUNDING, outside, 0))

    def leverage(self, features: Rows) -> Floats:
        """(N,) minus x'(F'F + ridge)^-1 x. A row that is in the sums has pulled them towards itself.

        For a row that is outside, the leverage is h / (1 - h), if it would be h inside.
        """
        ridge = _SMALL_RIDGE * self.eigenvalues.mean()
        weights: Floats = 1 / (self.eigenvalues + ridge)
        return np.asarray(-((features @ self.vectors) ** 2 @ weights))


def near_subspaces(rows: Rows, means: Rows, factors: Rows) -> tuple[Floats, Floats]:
    """(N,) minus the distance to the nearest cell's subspace mean + factor z, and (N,) minus the smallest |z|.

    Args:
        rows: (N, V).
        means: (C, V) of the cells.
        factors: (C, V, r); columns beyond the rank of a cell are 0.

    Columns are in units of their spread by these statistics, of which z ~ N(0, I) are the coordinates.
    """
    total = (factors.astype(np.float64) ** 2).sum(axis=2).mean(axis=0) + means.astype(np.float64).var(axis=0)
    scale = np.sqrt(np.where(total > 0, total, 1.0))
    distances, lengths = np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    for mean, factor in zip(means, factors, strict=True):
        away = (rows - mean) / scale
        spanned = factor[:, factor.any(axis=0)] / scale[:, None]
        coordinates = away @ np.linalg.pinv(spanned).T if spanned.size else np.zeros((len(rows), 0))
        residual = np.linalg.norm(away - coordinates @ spanned.T, axis=1)
        distances = np.minimum(distances, residual)
        lengths = np.minimum(lengths, np.linalg.norm(coordinates, axis=1))
    return -distances, -lengths


def small_errors(prediction: Rows, targets: Rows) -> Floats:
    """(N,) minus the mean squared error over the rated dimensions, of (N, K) predictions; targets may be NaN.

    Yeom et al. (2018), Privacy risk in machine learning: training rows have smaller errors. NaN without any rating.
    """
    squared = (prediction.astype(np.float64) - targets) ** 2
    rated = np.isfinite(squared)
    with np.errstate(invalid="ignore"):
        return np.asarray(-np.where(rated, squared, 0).sum(axis=1) / rated.sum(axis=1))


@dataclass(frozen=True)
class Linkage:
    """Whether rows of a known speaker find the memory's rows of that speaker."""

    apart: Floats  # (Q,) of each query: the AUC of the memory's rows of its speaker against those of others
    right: Bools  # (Q,) whether the nearest is of its speaker
    chance: float  # the share that would be right if the nearest was any


def link(
    rows: Rows, speakers: Integers, memory: Rows, held: Integers, groups: Integers | None = None
) -> Linkage:
    """Link (Q, D) rows of known speakers to an (M, D) memory, in which each of them has rows.

    Args:
        rows: other recordings of the speakers, none of them in the memory.
        speakers: (Q,) the speaker of each.
        memory: the remembered rows.
        held: (M,) the true speaker of each. At least two different ones.
        groups: (M,) the speaker codes of the bundle, which the attacker sees: rows with the same code are compared as
            one, by their mean. None without codes.
    """
    if groups is not None:
        numbers, firsts, place = np.unique(groups, return_index=True, return_inverse=True)
        means = np.zeros((len(numbers), memory.shape[1]))
        np.add.at(means, place, memory)
        scale = spreads(memory)
        candidates, names = means / np.bincount(place)[:, None] / scale, held[firsts]
    else:
        scale, names = spreads(memory), held
        candidates = memory / scale
    own = speakers[:, None] == names
    queries = rows / scale
    distances = (candidates**2).sum(axis=1) - 2 * queries @ candidates.T
    order = distances.argsort(axis=1, kind="stable")
    sorted_own = np.take_along_axis(own, order, axis=1)
    n_own = own.sum(axis=1)
    # The AUC from ranks: farther others per own row. Ties of real distances do not matter.
    beaten = np.cumsum(~sorted_own[:, ::-1], axis=1)[:, ::-1]
    apart = (beaten * sorted_own).sum(axis=1) / (n_own * (own.shape[1] - n_own))
    return Linkage(apart, sorted_own[:, 0], float((n_own / own.shape[1]).mean()))
