"""Tests and intervals: the noise of training over seeds, and that of the test set over utterances and speakers.

Pure functions of arrays; nothing here reads a file or prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln
from scipy.stats import norm, t, ttest_1samp

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.labels import N_BINS, to_bins

SIGNIFICANT = 0.05
CONFIDENCE = 0.95
FEWEST_SEEDS = 3  # below, a t-test says next to nothing, and the correction of the effect size is not defined
FEWEST_GROUPS = (
    10  # utterances or known speakers; below, resampling them gives intervals that are far too short
)
RESAMPLES = 2000

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.unsignedinteger[Any]]

_ROUNDING = 1e-12  # of values that are equal
_BLOCK = 4_000_000  # numbers of a block of resamples in float64: 32 MB


@dataclass(frozen=True)
class Paired:
    """Ours against a baseline over the seeds that both have."""

    n: int  # seeds
    difference: float  # mean of ours - baseline
    low: float | None = None  # ends of the 95% t interval of the mean difference
    high: float | None = None
    p: float | None = None  # two-sided, not corrected
    effect: float | None = None  # d_z with Hedges' correction: differences in units of their own deviation


def paired(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    r"""Two-sided paired t-test of two mappings seed -> figure, over the seeds that both have.

    The interval is :math:`\bar d \pm t_{0.975, n-1}\, s / \sqrt n` with :math:`s` the standard deviation of the n
    differences (n - 1 in its denominator). The effect size is :math:`J(n-1)\,\bar d / s`: d_z of Lakens (2013,
    Frontiers in Psychology 4:863, eq. 6) without its bias,
    :math:`J(m) = \Gamma(m/2) / (\sqrt{m/2}\,\Gamma((m-1)/2))` (Hedges 1981, Journal of Educational Statistics 6,
    107-128).

    None with fewer than three seeds in common. If all differences are equal (within 1e-12), they have no spread, and
    interval, p and effect size are None: the test is undefined. Only the difference is given.
    """
    d = _differences(ours, baseline)
    if len(d) < FEWEST_SEEDS:
        return None
    if np.ptp(d) < _ROUNDING:
        return Paired(len(d), float(d.mean()))
    test = ttest_1samp(d, 0.0)
    low, high = test.confidence_interval(CONFIDENCE)
    effect = hedges(len(d) - 1) * d.mean() / d.std(ddof=1)
    return Paired(len(d), float(d.mean()), float(low), float(high), float(test.pvalue), float(effect))


def hedges(freedom: int) -> float:
    """The factor that takes the bias from an effect size with this many degrees of freedom, at least 2; in (0, 1)."""
    return float(np.exp(gammaln(freedom / 2) - gammaln((freedom - 1) / 2)) / np.sqrt(freedom / 2))


def differs(ours: Mapping[int, float], baseline: Mapping[int, float]) -> int:
    """Whether a two-sided paired t-test over the seeds that both have gives p < SIGNIFICANT: 1 if ours is higher,
    -1 if it is lower, and 0 if it does not.

    Both map a seed to a figure. 0 if they share fewer than three seeds, or if all differences are equal.
    """
    d = _differences(ours, baseline)
    if len(d) < FEWEST_SEEDS or np.ptp(d) < _ROUNDING:
        return 0  # without spread in the differences the test is undefined
    return int(np.sign(d.mean())) if ttest_1samp(d, 0.0).pvalue < SIGNIFICANT else 0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values of one table, adjusted so that the chance of any false claim in it is at most that of one test.

    Step-down: the i-th smallest of m is multiplied by m - i + 1, made monotone, and cut at 1 (Holm 1979,
    Scandinavian Journal of Statistics 6, 65-70). None is no test: it stays None and does not count.
    """
    tests = {place: p for place, p in enumerate(p_values) if p is not None}
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(tests, key=tests.__getitem__)):
        largest = max(largest, min(1.0, (len(tests) - rank) * tests[place]))
        adjusted[place] = largest
    return adjusted


@dataclass(frozen=True)
class Resamples:
    """Bootstrap samples of one split, drawn once, so that all strategies are compared on the same ones."""

    unit: str  # what was drawn: utterance or speaker
    groups: npt.NDArray[np.intp]  # (N,) the group of each utterance: itself, or that of its speaker
    counts: Counts  # (B, C) how often each of C groups was drawn; B is 0 if there is a note
    note: str = ""  # why nothing was drawn


def resample_utterances(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
    """B times n of n utterances, with replacement (Efron and Tibshirani 1993, An Introduction to the Bootstrap).

    With fewer than ten utterances nothing is drawn, and `note` says so.
    """
    return _resample("utterance", np.arange(n), n, n, resamples, seed)


def resample_speakers(speakers: npt.ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
    """B times as many of the speakers as there are, with replacement, each with all of its utterances.

    `speakers` are the (N,) names of the speakers of N utterances. This is the cluster bootstrap (Davison and Hinkley 1997,
    Bootstrap Methods and their Application, section 3.8). Utterances of one speaker resemble each other, so N of them
    tell less than N independent ones. Each utterance of an `Unknown` speaker is a group of its own. With fewer than
    ten known speakers nothing is drawn, and `note` says so.
    """
    numbers: dict[object, int] = {}  # by first appearance, so that names do not matter
    groups = [
        numbers.setdefault(place if name == UNKNOWN else str(name), len(numbers))
        for place, name in enumerate(np.asarray(speakers).tolist())
    ]
    known = sum(isinstance(name, str) for name in numbers)
    return _resample("speaker", np.array(groups, dtype=np.intp), len(numbers), known, resamples, seed)


def _resample(
    unit: str, groups: npt.NDArray[np.intp], size: int, known: int, resamples: int, seed: int
) -> Resamples:
    """Draw from `size` groups, in the smallest integers that hold the counts: 124 MB for 31,000 groups, 2,000 times."""
    few = known < FEWEST_GROUPS
    counts = np.empty((0 if few else resamples, size), dtype=np.min_scalar_type(size))
    generator = np.random.default_rng(seed)
    for row in counts:
        row[:] = np.bincount(generator.integers(size, size=size), minlength=size)
    return Resamples(unit, groups, counts, f"too few {unit}s" if few else "")


@dataclass(frozen=True)
class Scores:
    """One measure of one strategy, the mean over its seeds. The difference of two is that of all their values."""

    resamples: Resamples
    value: float  # on the split itself
    resampled: Floats  # (B,) on each resample

    def __sub__(self, other: Scores) -> Scores:
        if self.resamples is not other.resamples:
            raise ValueError("Scores of different resamples have no paired difference.")
        return Scores(self.resamples, self.value - other.value, self.resampled - other.resampled)


def ccc_scores(truth: npt.ArrayLike, predictions: npt.ArrayLike, resamples: Resamples) -> Scores:
    """CCC of (R, N) predictions of R seeds against the (N,) truth, the mean over the seeds, on each resample.

    From weighted moments; as `ser_memory.common.metrics.ccc`, a resample with a constant truth or prediction gives 0.
    Raises ValueError on shapes that differ, or values that are not finite.
    """
    x, y = _arrays(truth, predictions)
    shift = y.mean(axis=1) - x.mean()
    x, y = x - x.mean(), y - y.mean(axis=1, keepdims=True)  # centred, so that the moments lose no digits
    terms = np.concatenate([[np.ones_like(x), x, x * x], y, y * y, x * y])
    scale = terms.max(axis=1)

    def combine(sums: Floats) -> Floats:
        moments = sums / sums[..., :1]
        mean_x, square_x = moments[..., 1, None], moments[..., 2, None]
        mean_y, square_y, product = np.split(moments[..., 3:], 3, axis=-1)
        var_x, var_y = square_x - mean_x**2, square_y - mean_y**2
        spread = var_x + var_y + (mean_y - mean_x + shift) ** 2
        largest_y = scale[3 + len(y) : 3 + 2 * len(y)]
        varies = (var_x > _ROUNDING * scale[2]) & (var_y > _ROUNDING * largest_y)
        ccc = 2 * (product - mean_x * mean_y) / np.where(varies, spread, 1.0)
        return np.asarray(np.where(varies, ccc, 0.0).mean(axis=-1))

    return _scores(terms.T, combine, resamples)


def uar_scores(truth: npt.ArrayLike, predictions: npt.ArrayLike, resamples: Resamples) -> Scores:
    """UAR of (R, N) predictions of R seeds against the (N,) truth, the mean over the seeds, on each resample.

    As `ser_memory.common.metrics.uar`: bins absent from the truth of a resample do not count in it.
    Raises ValueError on shapes that differ, or values that are not finite.
    """
    x, y = _arrays(truth, predictions)
    bins = np.arange(N_BINS)[:, None]
    true = to_bins(x) == bins
    hits = true[None] & (to_bins(y)[:, None] == bins)
    terms = np.concatenate([true, hits.reshape(-1, len(x))]).astype(np.float64)

    def combine(sums: Floats) -> Floats:
        sizes = sums[..., None, :N_BINS]
        found = sums[..., N_BINS:].reshape(*sums.shape[:-1], len(y), N_BINS)
        recalls = found / np.maximum(sizes, 1.0)  # 0 for a bin that does not occur
        return np.asarray((recalls.sum(axis=-1) / (sizes > 0).sum(axis=-1)).mean(axis=-1))

    return _scores(terms.T, combine, resamples)


@dataclass(frozen=True)
class Interval:
    """A value on one test set, and where it would be on others."""

    value: float
    low: float | None  # ends of the 95% interval, None if there is a note
    high: float | None
    unit: str  # what was drawn: utterance or speaker
    groups: int  # how many there were to draw from; an unknown speaker's utterance is one
    note: str = ""  # why there is no interval


def interval(scores: Scores) -> Interval:
    r"""95% interval of a score, or of a difference of two, over the test sets that could have been drawn.

    The expanded percentile interval of Hesterberg (2015, The American Statistician 69, 371-386): the quantiles of the
    resamples at :math:`\Phi(-\sqrt{C / (C-1)}\, t_{0.975, C-1})` and at one minus that, with C groups. With ten
    speakers its coverage is nearer to 95% than that of the plain percentile, BCa and Student intervals; with many
    groups it is the plain percentile interval. `tests/benchmarks/intervals.py` measures this.
    """
    resamples, size = scores.resamples, scores.resamples.counts.shape[1]
    if resamples.note:
        return Interval(scores.value, None, None, resamples.unit, size, resamples.note)
    tail = norm.cdf(-np.sqrt(size / (size - 1)) * t.ppf((1 + CONFIDENCE) / 2, size - 1))
    low, high = np.quantile(scores.resampled, [tail, 1 - tail])
    return Interval(scores.value, float(low), float(high), resamples.unit, size)


def _scores(terms: Floats, combine: Callable[[Floats], Floats], resamples: Resamples) -> Scores:
    """(N, F) terms of each utterance, and how their (..., F) sums make the measure."""
    size = resamples.counts.shape[1]
    sums = np.stack([np.bincount(resamples.groups, term, size) for term in terms.T], axis=1)  # (C, F)
    step = max(1, _BLOCK // size)
    blocks = [
        combine(resamples.counts[start : start + step].astype(np.float64) @ sums)
        for start in range(0, len(resamples.counts), step)
    ]
    return Scores(resamples, float(combine(sums.sum(axis=0))), np.concatenate([*blocks, np.empty(0)]))


def _differences(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Floats:
    return np.array([ours[seed] - baseline[seed] for seed in sorted(ours.keys() & baseline.keys())])


def _arrays(truth: npt.ArrayLike, predictions: npt.ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 2 or y.shape[1] != len(x) or y.size == 0:  # noqa: PLR2004
        raise ValueError(f"truth must be (N,) and predictions (R, N), not {x.shape} and {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("truth and predictions must be finite.")
    return x, y
