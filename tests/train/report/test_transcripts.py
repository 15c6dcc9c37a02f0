"""The slope of a figure over word error rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, ttest_1samp

from ser_memory.train.report.transcripts import Slope, slope

RATES = [0.0, 0.1, 0.25, 0.6]


def test_lines_by_hand() -> None:
    found = slope([0.0, 0.5, 1.0], {3: [0.6, 0.5, 0.4], 1: [0.5, 0.5, 0.5]})
    assert found is not None
    assert found.by_seed == pytest.approx({1: 0.0, 3: -0.2})
    assert found.value == pytest.approx(-0.1)
    assert (found.low, found.high) == (None, None)  # two seeds


def test_against_scipy() -> None:
    random = np.random.default_rng(0)
    figures = {seed: list(random.normal(0.5 - 0.2 * np.array(RATES), 0.02)) for seed in range(5)}
    found = slope(RATES, figures)
    lines = [linregress(RATES, values).slope for values in figures.values()]
    expected = ttest_1samp(lines, 0.0).confidence_interval(0.95)
    assert isinstance(found, Slope)
    assert list(found.by_seed.values()) == pytest.approx(lines)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_seeds_that_do_not_differ_have_no_interval() -> None:
    found = slope(RATES, {seed: [0.5, 0.45, 0.4, 0.3] for seed in range(5)})
    assert found is not None
    assert found.value == pytest.approx(linregress(RATES, [0.5, 0.45, 0.4, 0.3]).slope)
    assert (found.low, found.high) == (None, None)


def test_without_two_rates_there_is_no_line() -> None:
    assert slope([0.2, 0.2], {0: [0.1, 0.2]}) is None
    assert slope(RATES, {}) is None
    with pytest.raises(ValueError, match="Seed 7 has 1 figures for 2 word error rates"):
        slope([0.0, 0.1], {7: [0.5]})
