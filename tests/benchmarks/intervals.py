"""Do the 95% intervals of the report contain the true value 95 times in 100?

    .venv/bin/python -m tests.benchmarks.intervals [--repeats 1000] [--resamples 1000] [--speakers 10,20,50]

Simulated test sets: speakers differ in their emotion and in how the model hears them, and have 10 to 60 utterances each.
The true CCC follows from the variances; the true UAR is that of two million utterances. Each table line is one
interval: how often it contained the true value, and how long it was on average. Four ways from resamples to an interval
are compared. The report uses the one of `statistics.interval`, the expanded percentile.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from ser_memory.common.metrics import uar
from ser_memory.train.report.statistics import (
    CONFIDENCE,
    Scores,
    ccc_scores,
    interval,
    resample_speakers,
    resample_utterances,
    uar_scores,
)  # fmt: skip

Floats = npt.NDArray[np.float64]
TAIL = (1 - CONFIDENCE) / 2
SEEDS = 2


@dataclass(frozen=True)
class Model:
    """A linear listener: prediction = bias + slope * truth + what it adds for a speaker, an utterance and a seed."""

    slope: float
    bias: float
    speaker: float  # standard deviations
    utterance: float
    seed: float

    def ccc(self) -> float:
        variance = self.slope**2 * VARIANCE + self.speaker**2 + self.utterance**2 + self.seed**2
        return 2 * self.slope * VARIANCE / (VARIANCE + variance + self.bias**2)

    def predict(self, truth: Floats, speakers: npt.NDArray[np.intp], noise: np.random.Generator) -> Floats:
        """(R, N), seeds in rows."""
        added = self.speaker * noise.standard_normal(speakers.max() + 1)[speakers]
        added = added + self.utterance * noise.standard_normal(len(truth))
        seeds = self.seed * noise.standard_normal((SEEDS, len(truth)))
        return np.asarray(self.bias + self.slope * truth + added + seeds)


SPEAKER, UTTERANCE = 0.15, 0.3  # standard deviations of the truth, whose mean is 0
VARIANCE = SPEAKER**2 + UTTERANCE**2
BASELINE = Model(slope=0.5, bias=0.05, speaker=0.12, utterance=0.15, seed=0.05)
OURS = Model(slope=0.7, bias=0.0, speaker=0.10, utterance=0.15, seed=0.05)


def draw_truth(
    sizes: npt.NDArray[np.intp], noise: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """(N,) truth and speakers."""
    speakers = np.repeat(np.arange(len(sizes)), sizes)
    own = SPEAKER * noise.standard_normal(len(sizes))[speakers]
    return own + UTTERANCE * noise.standard_normal(len(speakers)), speakers


def true_uar(model: Model, noise: np.random.Generator, n: int = 2_000_000) -> float:
    """Of n utterances, each of a speaker of its own."""
    truth, speakers = draw_truth(np.ones(n, dtype=np.intp), noise)
    return uar(truth, model.predict(truth, speakers, noise)[0])


def percentile(scores: Scores, left_out: Floats) -> tuple[float, float]:
    low, high = np.quantile(scores.resampled, [TAIL, 1 - TAIL])
    return low, high


def bca(scores: Scores, left_out: Floats) -> tuple[float, float]:
    """Efron (1987, JASA 82, 171-185), with the acceleration from the scores without one of the groups."""
    bias = norm.ppf(np.clip(np.mean(scores.resampled < scores.value), 1e-6, 1 - 1e-6))
    d = left_out.mean() - left_out
    acceleration = np.sum(d**3) / (6 * np.sum(d**2) ** 1.5)
    z = bias + norm.ppf([TAIL, 1 - TAIL])
    low, high = np.quantile(scores.resampled, norm.cdf(bias + z / (1 - acceleration * z)))
    return low, high


def student(scores: Scores, left_out: Floats) -> tuple[float, float]:
    """The value and its bootstrap standard error, with Student's t."""
    reach = t.ppf(1 - TAIL, len(left_out) - 1) * scores.resampled.std(ddof=1)
    return scores.value - reach, scores.value + reach


def expanded(scores: Scores, left_out: Floats) -> tuple[float, float]:
    ends = interval(scores)
    assert ends.low is not None
    assert ends.high is not None
    return ends.low, ends.high


METHODS: dict[str, Callable[[Scores, Floats], tuple[float, float]]] = {
    "percentile": percentile, "expanded": expanded, "BCa": bca, "student": student,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--speakers", default="10,20,50")
    options = parser.parse_args()
    noise = np.random.default_rng(2023)
    truths = {
        "CCC": (OURS.ccc(), BASELINE.ccc()),
        "UAR": (true_uar(OURS, noise), true_uar(BASELINE, noise)),
    }
    print("true values: " + ", ".join(f"{name} {a:.4f} and {b:.4f}" for name, (a, b) in truths.items()))
    for number in map(int, options.speakers.split(",")):
        found = cover(number, options.repeats, options.resamples, truths, noise)
        print(f"\n{number} speakers, {options.repeats} test sets: % with the true value (mean length)")
        print("  drawn      interval of     " + "".join(f"{name:>16}" for name in METHODS))
        for unit, measure in dict.fromkeys((unit, measure) for unit, measure, _ in found):
            shown = (np.mean(found[unit, measure, name], axis=0) for name in METHODS)
            cells = "".join(f"{100 * inside:8.1f} ({length:.3f})" for inside, length in shown)
            print(f"  {unit:9}  {measure:15} {cells}")


def cover(
    number: int, repeats: int, resamples: int, truths: dict[str, tuple[float, float]], noise: np.random.Generator
) -> dict[tuple[str, str, str], list[tuple[bool, float]]]:  # fmt: skip
    """Drawn unit, measure, method -> whether each interval had the true value, and its length."""
    found = defaultdict(list)
    for repeat in range(repeats):
        truth, speakers = draw_truth(noise.integers(10, 61, number), noise)
        predictions = [model.predict(truth, speakers, noise) for model in (OURS, BASELINE)]
        for drawn in (
            resample_utterances(len(truth), resamples, repeat),
            resample_speakers(speakers.astype(str), resamples, repeat),
        ):
            size = drawn.counts.shape[1]
            without = replace(drawn, counts=np.ones((size, size), np.uint8) - np.eye(size, dtype=np.uint8))
            for name, scorer in (("CCC", ccc_scores), ("UAR", uar_scores)):
                ours, baseline = (scorer(truth, each, drawn) for each in predictions)
                ours_left, baseline_left = (scorer(truth, each, without).resampled for each in predictions)
                value, other = truths[name]
                for measure, true, scores, left in (
                    (name, value, ours, ours_left),
                    (f"{name} difference", value - other, ours - baseline, ours_left - baseline_left),
                ):
                    for label, method in METHODS.items():
                        low, high = method(scores, left)
                        found[drawn.unit, measure, label].append((low <= true <= high, high - low))
    return found


if __name__ == "__main__":
    main()
