"""Which differences between strategies are more than the noise of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import ttest_rel

SIGNIFICANT = 0.05
_ROUNDING = 1e-12  # of differences that are equal


def differs(ours: Mapping[int, float], baseline: Mapping[int, float]) -> int:
    """Whether a two-sided paired t-test over the seeds that both have gives p < SIGNIFICANT: 1 if ours is higher,
    -1 if it is lower, and 0 if it does not.

    Both map a seed to a figure. 0 if they share fewer than two seeds, or if all differences are equal.
    """
    seeds = sorted(set(ours) & set(baseline))
    a, b = [ours[seed] for seed in seeds], [baseline[seed] for seed in seeds]
    if len(seeds) < 2 or np.ptp(np.subtract(a, b)) < _ROUNDING:  # noqa: PLR2004
        return 0  # without spread in the differences the test is undefined
    return int(np.sign(np.mean(np.subtract(a, b)))) if ttest_rel(a, b).pvalue < SIGNIFICANT else 0
