"""Ridge regression from sums over utterances: linear heads in closed form, without the rows.

The sums of several corpora add up to the sums of all their rows, so learning one corpus after the other gives what
learning them together gives (ACIL: Zhuang et al. 2022, "ACIL: Analytic class-incremental learning with absolute
memorization and privacy protection"; RanPAC: McDonnell et al. 2023, "RanPAC: Random projections and pre-trained
models for continual learning").

Rounding. A sum of products a'b has an error of about eps |a| |b|, and subtracting from it later does not make it smaller.
So centred sums are only as exact as the sums about zero that they come from. `ROUNDING` times that counts as zero here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh
from scipy.linalg.blas import dsyr, dsyr2, dsyrk
from scipy.optimize import brentq

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.floating]

BLOCK_ROWS = 1024  # one product of matrices; enough to keep it bound by arithmetic, not by memory
MIRROR_ROWS = 512
ROUNDING = 16 * np.finfo(np.float64).eps

# The ridge is looked for from a millionth of the smallest eigenvalue, where it changes no direction, to a thousand
# times the largest, where it only scales all of them, and the scale is set afterwards. It is never below a trillionth
# of the largest: a direction a millionth as wide as the widest is the rounding of float32, and gets no large weight.
BELOW, ABOVE, NARROWEST = 1e-6, 1e3, 1e-12
GRID_PER_DECADE = 4


@dataclass(frozen=True)
class Sums:
    """Sums over utterances: all that ridge regression needs of them. Adding them joins corpora, in any order.

    For F features and K targets, all float64 and about zero (not centred).
    """

    n: int
    features: Floats  # (F,) sum of the features
    products: Floats  # (F, F) sum of their products in pairs, symmetric
    cross: Floats  # (F, K) sum of the products of features and targets
    targets: Floats  # (K,) sum of the targets
    squares: Floats  # (K,) sum of their squares

    @classmethod
    def of(cls, features: Rows, targets: Rows) -> Sums:
        """Sums over the rows of (n, F) features and (n, K) targets, float32 or float64, computed in float64.

        Raises ValueError if the shapes do not fit each other or a value is not finite.
        """
        return cls.over([(features, targets)])

    @classmethod
    def over(cls, blocks: Iterable[tuple[Rows, Rows]]) -> Sums:
        """The same over blocks of rows, ((n, F) features, (n, K) targets) each.

        Needs memory for one (F, F) matrix and `BLOCK_ROWS` rows beside the blocks. The result has the same bits
        for the same rows in the same order, however they are cut into blocks. Raises ValueError as `of` does, and
        if there is no block.
        """
        running: _Running | None = None
        for features, targets in blocks:
            if running is None:
                running = _Running(_width(features), _width(targets))
            running.add(features, targets)
        if running is None:
            raise ValueError("no block of rows, so the numbers of features and targets are unknown")
        return running.sums()

    def __add__(self, other: Sums) -> Sums:
        """The sums over both; ValueError if the numbers of features or targets differ."""
        if self.cross.shape != other.cross.shape:
            raise ValueError(
                f"sums of (features, targets) {self.cross.shape} and {other.cross.shape} cannot be added"
            )
        return Sums(
            self.n + other.n,
            self.features + other.features,
            self.products + other.products,
            self.cross + other.cross,
            self.targets + other.targets,
            self.squares + other.squares,
        )

    def part(self, columns: int, targets: Sequence[int]) -> Sums:
        """The sums of the first `columns` features and of the given targets; shares its large arrays with these.

        Raises ValueError if there are fewer columns, and IndexError if there is no such target.
        """
        if not 0 < columns <= len(self.features):
            raise ValueError(f"{columns} columns of {len(self.features)}; allowed: 1 to {len(self.features)}")
        chosen = list(targets)
        return Sums(
            self.n,
            self.features[:columns],
            self.products[:columns, :columns],
            self.cross[:columns, chosen],
            self.targets[chosen],
            self.squares[chosen],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of a compact copy of the arrays: of the symmetric products, one triangle."""
        size = len(self.features)
        numbers = size + size * (size + 1) // 2 + self.cross.size + self.targets.size + self.squares.size
        return numbers * self.products.itemsize


class _Running:
    """Collects rows in a buffer of `BLOCK_ROWS`, and adds their products whenever it is full.

    Features and targets are columns of one matrix, so that one symmetric product has all sums. Rows are taken about
    the mean of the first buffer and moved back at the end: otherwise the error of the sums would grow with n where
    a mean is far from zero.
    """

    def __init__(self, features: int, targets: int) -> None:
        width = features + targets
        self._features = features
        self._targets = targets
        self._buffer = np.empty((BLOCK_ROWS, width))
        self._filled = 0
        self._n = 0
        self._origin = np.zeros(width)
        self._sums = np.zeros(width)
        self._products = np.zeros((width, width), order="F")  # as BLAS wants it; the upper triangle is used

    def add(self, features: Rows, targets: Rows) -> None:
        """Add rows; ValueError if their shapes differ from each other or from earlier ones."""
        expected = (len(features), self._features), (len(features), self._targets)
        if (features.shape, targets.shape) != expected:
            raise ValueError(
                f"a block of features {features.shape} and targets {targets.shape}; expected {expected}"
            )
        start = 0
        while start < len(features):
            stop = min(start + BLOCK_ROWS - self._filled, len(features))
            rows = self._buffer[self._filled : self._filled + stop - start]
            rows[:, : self._features] = features[start:stop]
            rows[:, self._features :] = targets[start:stop]
            self._filled += stop - start
            start = stop
            if self._filled == BLOCK_ROWS:
                self._flush()

    def _flush(self) -> None:
        rows = self._buffer[: self._filled]
        with np.errstate(invalid="ignore", over="ignore"):  # `sums` refuses what is not finite
            if not self._n:
                self._origin = rows.mean(axis=0)
            rows -= self._origin
            self._sums += rows.sum(axis=0)
        # The transpose of rows in C order is the Fortran order that BLAS wants: nothing is copied.
        self._products = dsyrk(1.0, rows.T, beta=1.0, c=self._products, overwrite_c=True)
        self._n += self._filled
        self._filled = 0

    def sums(self) -> Sums:
        """The sums about zero. Nothing can be added afterwards."""
        if self._filled:
            self._flush()
        # With z = x - o: sum xx' = sum zz' + o (sum z + n o / 2)' + (sum z + n o / 2) o'.
        origin, half = self._origin, self._sums + self._n / 2 * self._origin
        products = dsyr2(1.0, origin, half, a=self._products, overwrite_a=True)
        totals = self._sums + self._n * origin
        # Finite squares bound all other products.
        if not (np.isfinite(totals).all() and np.isfinite(products.diagonal()).all()):
            raise ValueError("features or targets are not finite, or too large to be squared")
        _mirror(products)
        at = self._features
        return Sums(
            self._n,
            totals[:at],
            products[:at, :at],
            products[:at, at:].copy(),
            totals[at:],
            products.diagonal()[at:].copy(),
        )


def _width(rows: Rows) -> int:
    if rows.ndim != 2:  # noqa: PLR2004  (rows and columns)
        raise ValueError(f"an array of shape {rows.shape}; expected rows and columns")
    return int(rows.shape[1])


def _mirror(matrix: Floats) -> None:
    """Copy the upper triangle of a square matrix to the lower, in place and without a second matrix."""
    for start in range(0, len(matrix), MIRROR_ROWS):
        stop = min(start + MIRROR_ROWS, len(matrix))
        square = matrix[start:stop, start:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T


@dataclass(frozen=True)
class Criterion:
    """Generalised cross-validation of one target as a function of the ridge (Golub, Heath and Wahba 1979).

    n RSS / (n - df)^2 with df = 1 + sum d / (d + ridge) over the eigenvalues d of the centred products, the 1 for
    the intercept. In the eigenbasis, with s = ridge / (d + ridge), RSS = left + sum s^2 explained and
    n - df = spare + sum s: sums of positive numbers, which lose no digits where either is small.
    """

    n: int
    eigenvalues: Floats  # (R,) above zero
    explained: Floats  # (R,) sum of squares of the target along each direction, at ridge 0
    left: float  # its sum of squares that no direction explains
    spare: int  # n - 1 - R, the degrees of freedom left at ridge 0

    def __call__(self, ridge: float) -> float:
        """The criterion at a ridge above zero."""
        s = ridge / (self.eigenvalues + ridge)
        return float(self.n * (self.left + s**2 @ self.explained) / (self.spare + s.sum()) ** 2)

    def slope(self, log_ridge: float) -> float:
        """A number with the sign of the criterion's derivative."""
        s = 1 / (1 + self.eigenvalues * np.exp(-log_ridge))
        change = s * (1 - s)  # ds / d log ridge
        rss = self.left + s**2 @ self.explained
        return float((s * change) @ self.explained * (self.spare + s.sum()) - rss * change.sum())

    def best(self) -> float:
        """The ridge of the smallest criterion: the best of a grid, then the root of the slope beside it.

        A search for the smallest value itself would end within sqrt(eps) of it, depending on rounding: the same
        corpora in another order would have visibly other weights.
        """
        smallest, largest = self.eigenvalues.min(), self.eigenvalues.max()
        low, high = max(BELOW * smallest, NARROWEST * largest), ABOVE * largest
        grid = np.geomspace(low, high, 1 + int(np.ceil(GRID_PER_DECADE * np.log10(high / low))))
        at = int(np.argmin([self(ridge) for ridge in grid]))
        before, after = np.log(grid[max(at - 1, 0)]), np.log(grid[min(at + 1, len(grid) - 1)])
        if self.slope(before) < 0 < self.slope(after):
            return float(np.exp(brentq(self.slope, before, after, xtol=1e-14)))
        return float(grid[at])  # at an end of the grid, or the criterion is flat


@dataclass(frozen=True)
class Spectrum:
    """Centred sums in the eigenbasis of the products, without the R - F directions that have no spread."""

    n: int
    eigenvalues: Floats  # (R,) ascending, above rounding
    vectors: Floats  # (F, R) orthonormal columns
    cross: Floats  # (R, K) products of the targets with the features along each vector
    spreads: Floats  # (K,) sum of squares of the targets about their means; 0 within rounding

    @classmethod
    def of(cls, sums: Sums) -> Spectrum:
        """By one symmetric eigendecomposition; needs memory for three (F, F) matrices beside the sums."""
        means, target_means = sums.features / sums.n, sums.targets / sums.n
        length, lengths = np.sqrt(np.trace(sums.products)), np.sqrt(sums.squares)
        centred = dsyr(-sums.n, means, a=np.array(sums.products, order="F"), overwrite_a=True)
        # Divide and conquer is the quickest driver by far.
        values, vectors = eigh(centred, lower=False, overwrite_a=True, driver="evd")
        # n centred rows have at most n - 1 directions, however much rounding many joined corpora have gathered.
        first = max(
            len(values) - (sums.n - 1), int(np.searchsorted(values, ROUNDING * length**2, side="right"))
        )
        values, vectors = values[first:], vectors[:, first:]
        cross = vectors.T @ (sums.cross - np.outer(means, sums.targets))
        cross[np.abs(cross) <= ROUNDING * length * lengths] = 0
        spreads = sums.squares - target_means * sums.targets
        spreads[spreads <= ROUNDING * sums.squares] = 0
        return cls(sums.n, values, vectors, cross, spreads)

    def criterion(self, target: int) -> Criterion:
        """Generalised cross-validation of one target."""
        explained = self.cross[:, target] ** 2 / self.eigenvalues
        spare = self.n - 1 - len(self.eigenvalues)
        # A difference of sums of squares: rounding can make it negative. Where as many directions as centred rows
        # explain everything it is 0, and rounding would decide the criterion at small ridges.
        left = max(float(self.spreads[target] - explained.sum()), 0.0) if spare else 0.0
        return Criterion(self.n, self.eigenvalues, explained, left, spare)

    def matched(self, target: int, ridge: float) -> Floats:
        """(R,) weights along the vectors, scaled so that predictions have the spread of the target."""
        # Ridge regression but for a factor that keeps large ridges away from the smallest floats.
        weights: Floats = self.cross[:, target] * (
            (self.eigenvalues[-1] + ridge) / (self.eigenvalues + ridge)
        )
        weights *= np.sqrt(self.spreads[target] / (self.eigenvalues @ weights**2))
        return weights


@dataclass(frozen=True)
class Solution:
    """Linear functions of the features, one per target."""

    weights: Floats  # (F, K)
    intercepts: Floats  # (K,)
    ridges: Floats  # (K,) chosen or given; infinite where the mean is predicted
    learned: npt.NDArray[np.bool_]  # (K,) False where the targets' mean is predicted

    def predict(self, features: Rows) -> Floats:
        """(n, K) predictions for (n, F) features."""
        return features @ self.weights + self.intercepts


def solve(sums: Sums, ridge: float | None = None, factor: float = 1.0) -> Solution:
    """Ridge regression with a free intercept; predictions have the training targets' means and spreads.

    Args:
        sums: of one row or more. Features should have comparable scales: a ridge treats all of them alike, and
            columns some 1e-8 as wide as the widest drown in the rounding of its products.
        ridge: the penalty of the squared weights, at least 0, on the scale of the products; None chooses it for each
            target by generalised cross-validation (see `Criterion`).
        factor: above 0; what a chosen ridge is multiplied with.

    Means and spreads: CCC = 2 r s t / (s^2 + t^2 + (difference of means)^2) with correlation r > 0 and standard
    deviations s, t is largest where the means are equal and s = t, and is r there (Lin 1989). The correlation on
    the training rows is not negative at any ridge. Where it is zero, or the target or all features have no spread,
    the target's mean is predicted.

    Raises ValueError if there is no row, or the ridge is negative or not finite.
    """
    if sums.n == 0:
        raise ValueError("sums of no rows; ridge regression needs at least one")
    if ridge is not None and not 0 <= ridge < np.inf:
        raise ValueError(f"a ridge of {ridge}; allowed: 0 or more, and finite")
    spectrum = Spectrum.of(sums)
    learned = (spectrum.spreads > 0) & spectrum.cross.any(axis=0)
    along = np.zeros_like(spectrum.cross)
    ridges = np.full(len(learned), np.inf)
    for target in np.flatnonzero(learned).tolist():
        ridges[target] = factor * spectrum.criterion(target).best() if ridge is None else ridge
        along[:, target] = spectrum.matched(target, ridges[target])
    weights = spectrum.vectors @ along
    intercepts = (sums.targets - sums.features @ weights) / sums.n
    return Solution(weights, intercepts, ridges, learned)
