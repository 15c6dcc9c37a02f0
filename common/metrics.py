"""Measures of a whole split at once: never a mean over batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ser_memory.common.labels import N_BINS, to_bins


def ccc(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    r"""Lin's concordance correlation coefficient, in [-1, 1].

    .. math:: \frac{2\,\mathrm{cov}(x, y)}{\sigma_x^2 + \sigma_y^2 + (\mu_x - \mu_y)^2}

    with population variances (Lin 1989, Biometrics 45, 255-268). `truth` and `prediction` are (N,), N >= 1.
    A constant truth or a constant prediction shows no concordance and gives 0, also where both are the
    same constant and the formula would be 0 / 0.

    Raises ValueError on shapes that differ, empty input, or values that are not finite.

    >>> ccc([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    1.0
    """
    x, y = _pair(truth, prediction)
    if np.all(x == x[0]) or np.all(y == y[0]):
        return 0.0
    dx, dy = x - x.mean(), y - y.mean()
    # Scaled by the larger spread, so that tiny or huge values neither vanish nor overflow when squared.
    unit = max(np.abs(dx).max(), np.abs(dy).max(), abs(x.mean() - y.mean()))
    dx, dy, shift = dx / unit, dy / unit, (x.mean() - y.mean()) / unit
    concordance = 2.0 * np.mean(dx * dy) / (np.mean(dx * dx) + np.mean(dy * dy) + shift * shift)
    return float(np.clip(concordance, -1.0, 1.0))  # rounding may lead beyond


def uar(truth: npt.ArrayLike, prediction: npt.ArrayLike, n_bins: int = N_BINS) -> float:
    """Unweighted average recall of binned values, in [0, 1].

    Both (N,) inputs, in [-1, 1], are cut by `ser_memory.common.labels.to_bins`; the recall of each bin that occurs in
    the truth has the same weight, large or small. Bins absent from the truth do not count.

    Raises ValueError on shapes that differ, empty input, or values that are not finite.

    >>> uar([-1.0, -1.0, 1.0], [-1.0, 0.0, 1.0])
    0.75
    """
    x, y = _pair(truth, prediction)
    true_bins, predicted_bins = to_bins(x, n_bins), to_bins(y, n_bins)
    return float(np.mean([np.mean(predicted_bins[true_bins == b] == b) for b in np.unique(true_bins)]))


def _pair(
    truth: npt.ArrayLike, prediction: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or x.size == 0:
        raise ValueError(
            f"truth and prediction must be (N,) with N >= 1 and alike, not {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("truth and prediction must be finite")
    return x, y
