"""Rating scale -> [-1, 1], and [-1, 1] -> bins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ser_memory.common.errors import SerError

N_BINS = 3  # low, middle, high
# Ratings fall on bin edges (3 of 1 to 7 is -1/3), and -1/3 in float32 lies just below -1/3.
_ON_EDGE = 1e-6


def to_unit(ratings: npt.ArrayLike, low: float, high: float) -> npt.NDArray[np.float64]:
    """Min-max scale ratings of any shape from [low, high] to [-1, 1].

    Raises SerError when the scale is empty (high <= low).
    """
    if not high > low:
        raise SerError(f"The rating scale {low:g} to {high:g} is empty: its maximum must exceed its minimum.")
    return 2.0 * (np.asarray(ratings, dtype=np.float64) - low) / (high - low) - 1.0


def from_unit(values: npt.ArrayLike, low: float, high: float) -> npt.NDArray[np.float64]:
    """The inverse of `to_unit`: values of any shape from [-1, 1], which they may leave, to [low, high]."""
    return low + (np.asarray(values, dtype=np.float64) + 1.0) * (high - low) / 2.0


def to_bins(values: npt.ArrayLike, n_bins: int = N_BINS) -> npt.NDArray[np.int64]:
    """Cut values into `n_bins` equal-width bins of [-1, 1], numbered from 0.

    Bins are closed on the left and open on the right, with the top edge in the last; what is within float32
    rounding (1e-6) of an edge is on it, and what lies outside [-1, 1] (a prediction can) belongs to the
    nearest bin. Same shape as `values`, which must not be NaN.
    """
    edges = np.linspace(-1.0, 1.0, n_bins + 1)[1:-1] - _ON_EDGE
    return np.digitize(np.asarray(values, dtype=np.float64), edges).astype(np.int64)
