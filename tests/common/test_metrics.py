"""CCC and UAR against literal formulas and scikit-learn, degenerate input included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import recall_score

from ser_memory.common.labels import to_bins, to_unit
from ser_memory.common.metrics import ccc, uar

values = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(-2, 2, width=32))
pairs = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.float64, n, elements=st.floats(-1.5, 1.5, width=32))] * 2)
)


def literal_ccc(x: list[float], y: list[float]) -> float:
    """Lin's formula, term by term, in exact sums."""
    n = len(x)
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    var_x = math.fsum((v - mean_x) ** 2 for v in x) / n
    var_y = math.fsum((v - mean_y) ** 2 for v in y) / n
    cov = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
    return 2 * cov / (var_x + var_y + (mean_x - mean_y) ** 2)


def literal_bin(value: float) -> int:
    """Three equal-width bins of [-1, 1], right-open, the top edge in the last; edges up to float32 rounding."""
    value += 1e-6
    return 0 if value < -1 / 3 else 1 if value < 1 / 3 else 2


@given(pairs)
def test_ccc_is_lins_formula(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    if np.ptp(x) < 1e-3 or np.ptp(y) < 1e-3:
        return
    assert ccc(x, y) == pytest.approx(literal_ccc(list(x), list(y)), abs=1e-12)
    assert ccc(x, y) == pytest.approx(ccc(y, x), abs=1e-12)
    assert -1 <= ccc(x, y) <= 1


def test_ccc_by_hand() -> None:
    # means 2 and 3, variances 2/3 and 2/3, covariance 2/3: (4/3) / (4/3 + 1)
    assert ccc([1, 2, 3], [2, 3, 4]) == pytest.approx(4 / 7)
    assert ccc([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


@given(values, st.floats(-2, 2))
def test_a_constant_shows_no_concordance(x: np.ndarray, constant: float) -> None:
    flat = np.full(len(x), constant)
    assert ccc(x, flat) == 0
    assert ccc(flat, x) == 0
    assert ccc(flat, flat) == 0


@pytest.mark.parametrize("scale", [1e-160, 1e-8, 1e8, 1e160])
def test_ccc_does_not_depend_on_the_unit(scale: float) -> None:
    x, y = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.5, 1.0, 1.5, 4.0])
    assert ccc(x * scale, y * scale) == pytest.approx(ccc(x, y), rel=1e-12)


@given(pairs)
def test_uar_is_the_mean_recall_of_present_bins(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    true_bins, predicted_bins = [literal_bin(v) for v in x], [literal_bin(v) for v in y]
    recalls = []
    for present in sorted(set(true_bins)):
        hits = [p == present for t, p in zip(true_bins, predicted_bins, strict=True) if t == present]
        recalls.append(sum(hits) / len(hits))
    assert uar(x, y) == pytest.approx(sum(recalls) / len(recalls), abs=1e-12)
    by_sklearn = recall_score(true_bins, predicted_bins, average="macro", labels=sorted(set(true_bins)))
    assert uar(x, y) == pytest.approx(by_sklearn, abs=1e-12)


def test_uar_counts_only_bins_that_occur() -> None:
    assert uar([-1, -1, 1], [-1, 0, 1]) == 0.75
    assert uar([0, 0], [0, 1]) == 0.5
    assert uar([0.9], [5.0]) == 1.0  # a prediction beyond the scale belongs to the last bin


def test_bin_edges() -> None:
    third = 1 / 3
    assert to_bins([-5, -1, -third - 1e-5, 0, third - 1e-5, 1, 5]).tolist() == [0, 0, 0, 1, 1, 2, 2]
    ratings = to_unit([1, 2, 3, 4, 5, 6, 7], 1, 7)
    for on_edge in (ratings, ratings.astype(np.float32)):
        assert to_bins(on_edge).tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_scaling() -> None:
    assert to_unit([1, 4, 7], 1, 7).tolist() == [-1, 0, 1]
    with pytest.raises(Exception, match="scale 5 to 5 is empty"):
        to_unit([1], 5, 5)


@pytest.mark.parametrize(
    ("x", "y"),
    [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]]), ([1.0, np.nan], [1.0, 2.0]), ([np.inf], [0.0])],
)
def test_what_is_no_pair_of_vectors_is_refused(x: list[float], y: list[float]) -> None:
    for metric in (ccc, uar):
        with pytest.raises(ValueError, match="truth and prediction must be"):
            metric(x, y)
