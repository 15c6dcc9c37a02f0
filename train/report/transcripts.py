"""How much the quality of transcripts matters: word error rate against a figure, with one line for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95
FEWEST_SEEDS = 3  # for an interval


@dataclass(frozen=True)
class Slope:
    """The change of a figure when the word error rate rises from 0 to 1: a steep fall is far below 0."""

    value: float  # mean of the seeds
    by_seed: dict[int, float]
    low: float | None = None  # ends of the 95% t interval over seeds; None with fewer than three seeds
    high: float | None = None


def slope(rates: Sequence[float], figures: Mapping[int, Sequence[float]]) -> Slope | None:
    r"""The least-squares line of each seed's figures over the word error rates.

    Args:
        rates: word error rates of T kinds of transcripts, 0 for the reference; above 1 with many insertions.
        figures: seed -> the T figures, such as CCC, in the same order.

    Each seed's slope is :math:`\sum_i (w_i - \bar w)(c_i - \bar c) / \sum_i (w_i - \bar w)^2`. The interval is that of
    a t-test on the slopes: it tells whether the slope would differ from 0 if the models were trained again, not
    whether it would on other utterances. None if there are not two different rates, or no seed. Raises ValueError if
    a seed has not as many figures as there are rates.
    """
    x = np.asarray(rates, np.float64)
    if not figures or len(x) == 0 or np.ptp(x) == 0:
        return None
    x = x - x.mean()
    by_seed = {}
    for seed, values in sorted(figures.items()):
        if len(values) != len(x):
            raise ValueError(f"Seed {seed} has {len(values)} figures for {len(x)} word error rates.")
        by_seed[seed] = float(x @ np.asarray(values, np.float64) / (x @ x))
    slopes = np.array(list(by_seed.values()))
    mean = float(slopes.mean())
    if len(slopes) < FEWEST_SEEDS:
        return Slope(mean, by_seed)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(slopes) - 1) * slopes.std(ddof=1) / np.sqrt(len(slopes)))
    return Slope(mean, by_seed, mean - half, mean + half)
