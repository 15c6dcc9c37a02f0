"""How much the quality of transcripts matters: word error rate against a figure, with one line for each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from ser_memory.train.report.data import RunData
from ser_memory.train.report.statistics import CONFIDENCE, FEWEST_SEEDS
from ser_memory.train.report.variants import variant_of
from ser_memory.train.runs import Variant
from ser_memory.train.settings import OWN_TRANSCRIPTS

_ROUNDING = 1e-12  # of slopes that are equal


@dataclass(frozen=True)
class Slope:
    """The change of a figure when the word error rate rises from 0 to 1: a steep fall is far below 0."""

    value: float  # mean of the seeds
    by_seed: dict[int, float]
    low: float | None = (
        None  # ends of the 95% t interval over seeds; None with fewer than three, or if all are equal
    )
    high: float | None = None


def slope(rates: Sequence[float], figures: Mapping[int, Sequence[float]]) -> Slope | None:
    r"""The least-squares line of each seed's figures over the word error rates.

    Args:
        rates: word error rates of T kinds of transcripts, 0 for the reference; above 1 with many insertions.
        figures: seed -> the T figures, such as CCC, in the same order.

    Each seed's slope is :math:`\sum_i (w_i - \bar w)(c_i - \bar c) / \sum_i (w_i - \bar w)^2`. The interval is that of
    a t-test on the slopes: it tells whether the slope would differ from 0 if the models were trained again, not
    whether it would on other utterances. Slopes that do not depend on the seed have no interval. None if there are not
    two different rates, or no seed. Raises ValueError if a seed has not as many figures as there are rates.
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
    if len(slopes) < FEWEST_SEEDS or np.ptp(slopes) < _ROUNDING:
        return Slope(mean, by_seed)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(slopes) - 1) * slopes.std(ddof=1) / np.sqrt(len(slopes)))
    return Slope(mean, by_seed, mean - half, mean + half)


@dataclass(frozen=True)
class Course:
    """The CCC of one variant on one corpus after the last stage, over kinds of transcripts."""

    corpus: str
    variant: Variant
    dimension: str
    n: int  # utterances
    kinds: tuple[str, ...]  # names of the transcripts
    rates: tuple[float, ...]  # word error rate of each kind
    by_seed: Mapping[int, tuple[float, ...]]  # the figures of the seeds that have all kinds

    @property
    def means(self) -> tuple[float, ...]:
        """For each kind, over the seeds."""
        return tuple(np.mean(list(self.by_seed.values()), axis=0).tolist())

    @property
    def slope(self) -> Slope | None:
        """Of the figures over the word error rates."""
        return slope(self.rates, self.by_seed)


def courses(runs: Mapping[str, RunData], split: str) -> list[Course]:
    """What runs on different transcripts show, for the corpora whose word error rates are known; empty for others."""
    kinds = {label: str(run.config.get("transcripts", OWN_TRANSCRIPTS)) for label, run in runs.items()}
    if len(set(kinds.values())) < 2:  # noqa: PLR2004  # nothing to compare
        return []
    found: dict[tuple[str, Variant, str], dict[str, tuple[float, dict[int, float], int]]] = {}
    for label, run in runs.items():
        last = max(row.stage for row in run.results)
        for row in run.overall:
            rate = rate_of(run, row.corpus)
            if (row.stage, row.split, row.metric) == (last, split, "ccc") and rate is not None:
                key = (row.corpus, variant_of(row), row.dimension)
                _, values, _ = found.setdefault(key, {}).setdefault(kinds[label], (rate, {}, row.n))
                values[row.seed] = row.value
    return [_course(*key, by_kind) for key, by_kind in found.items() if len(by_kind) > 1]


def _course(
    corpus: str, variant: Variant, dimension: str, by_kind: Mapping[str, tuple[float, dict[int, float], int]]
) -> Course:
    seeds = set.intersection(*(set(values) for _, values, _ in by_kind.values()))
    return Course(
        corpus, variant, dimension, next(iter(by_kind.values()))[2], tuple(by_kind),
        tuple(rate for rate, _, _ in by_kind.values()),
        {seed: tuple(values[seed] for _, values, _ in by_kind.values()) for seed in sorted(seeds)},
    )  # fmt: skip


def rate_of(run: RunData, corpus: str) -> float | None:
    """The word error rate of a run's transcripts of a corpus, 0 for the reference itself; None if it is not known."""
    told = run.config.get("word_errors", {}).get(corpus)
    if told is None:
        return None
    if told:
        rate = told.get("word_error_rate")
        return None if rate is None else float(rate)
    # The cache's own transcripts are the reference of those that were made beside it.
    return 0.0 if run.config.get("transcripts", OWN_TRANSCRIPTS) == OWN_TRANSCRIPTS else None
