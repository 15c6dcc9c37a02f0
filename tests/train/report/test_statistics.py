"""Tests and intervals beside scipy, statsmodels, literal loops and numbers worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.metrics import ccc, uar
from ser_memory.train.report.statistics import (
    Resamples,
    Scores,
    ccc_scores,
    differs,
    hedges,
    holm,
    interval,
    paired,
    resample_speakers,
    resample_utterances,
    uar_scores,
)

Floats = npt.NDArray[np.float64]
SCORERS: dict[str, tuple[Callable[..., Scores], Callable[..., float]]] = {
    "ccc": (ccc_scores, ccc),
    "uar": (uar_scores, uar),
}

figures = st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=3, max_size=8)
pairs = figures.flatmap(
    lambda ours: st.tuples(st.just(ours), st.lists(st.floats(-1, 1), min_size=len(ours), max_size=len(ours)))
)


def by_seed(values: Any) -> dict[int, float]:
    return dict(enumerate(values))


def split(n: int = 200, seeds: int = 3, seed: int = 0) -> tuple[Floats, Floats]:
    """Truth (N,) and predictions (R, N) that tell some of it."""
    noise = np.random.default_rng(seed)
    truth = noise.uniform(-1, 1, n)
    return truth, 0.2 + 0.5 * truth + 0.3 * noise.standard_normal((seeds, n))


# -- seeds


def test_a_paired_test_worked_by_hand() -> None:
    # Differences 0.1, 0.15, 0.2: mean 0.15, s 0.05, t = 0.15 / (0.05 / sqrt 3) = 3 sqrt 3 with 2 degrees of freedom,
    # where p = 1 - t / sqrt(t^2 + 2) = 1 - 5.19615 / 5.38516; t_0.975 = 4.302653; J(2) = 1 / sqrt(pi).
    result = paired({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.4, 1: 0.45, 2: 0.5})
    assert result is not None
    assert result.n == 3
    assert result.difference == pytest.approx(0.15)
    assert result.p == pytest.approx(0.0350987, abs=1e-6)
    assert (result.low, result.high) == pytest.approx((0.025793, 0.274207), abs=1e-6)
    assert result.effect == pytest.approx(3 * 0.5641896, abs=1e-6)


@given(pairs)
def test_paired_beside_scipy_and_statsmodels(pair: tuple[list[float], list[float]]) -> None:
    ours, baseline = map(np.array, pair)
    result = paired(by_seed(ours), by_seed(baseline))
    assert result is not None
    assert result.difference == pytest.approx(np.mean(ours - baseline), abs=1e-12)
    if np.ptp(ours - baseline) < 1e-9:
        return
    assert result.p == pytest.approx(stats.ttest_rel(ours, baseline).pvalue, rel=1e-6)
    assert (result.low, result.high) == pytest.approx(DescrStatsW(ours - baseline).tconfint_mean(), rel=1e-6)


@given(pairs, st.randoms())
def test_paired_does_not_depend_on_order_level_or_direction(
    pair: tuple[list[float], list[float]], random: Any
) -> None:
    ours, baseline = by_seed(pair[0]), by_seed(pair[1])
    if np.ptp(np.subtract(*pair)) < 1e-6:
        return
    result, order = paired(ours, baseline), random.sample(sorted(ours), len(ours))
    assert result == paired({seed: ours[seed] for seed in order}, baseline)
    renamed = paired({9 - seed: ours[seed] for seed in ours}, {9 - seed: baseline[seed] for seed in ours})
    lifted = paired({seed: v + 0.25 for seed, v in ours.items()}, {s: v + 0.25 for s, v in baseline.items()})
    swapped = paired(baseline, ours)
    assert result is not None
    assert renamed is not None
    assert lifted is not None
    assert swapped is not None
    values = [result.difference, result.low, result.high, result.p, result.effect]
    for other in (renamed, lifted):
        assert [other.difference, other.low, other.high, other.p, other.effect] == pytest.approx(
            values, rel=1e-4, abs=1e-9
        )
    assert swapped.low is not None
    assert swapped.high is not None
    assert swapped.effect is not None
    assert [-swapped.difference, -swapped.high, -swapped.low, swapped.p, -swapped.effect] == pytest.approx(
        values
    )


def test_what_has_no_test() -> None:
    three = {0: 0.5, 1: 0.6, 2: 0.7}
    assert paired(three, {0: 0.1, 1: 0.2}) is None
    assert paired(three, {}) is None
    equal = paired(three, {0: 0.4, 1: 0.5, 2: 0.6})
    assert equal is not None
    assert equal.n == 3
    assert equal.difference == pytest.approx(0.1)
    assert (equal.low, equal.high, equal.p, equal.effect) == (None,) * 4
    assert paired(three, three | {7: 0.1}) == replace(equal, difference=0.0)  # only the seeds that both have


def test_marks_are_those_of_a_paired_test() -> None:
    noise = np.random.default_rng(0)
    for seeds in [3, 4, 5] * 20:
        baseline = noise.standard_normal(seeds)
        ours = baseline + noise.normal(0, 1) + 0.3 * noise.standard_normal(seeds)
        significant = stats.ttest_rel(ours, baseline).pvalue < 0.05
        expected = np.sign(np.mean(ours - baseline)) if significant else 0
        assert differs(by_seed(ours), by_seed(baseline)) == expected
    assert differs({0: 0.5}, {0: 0.1}) == differs({}, {}) == 0
    assert differs({0: 0.5, 1: 0.6}, {0: 0.1, 1: 0.21}) == 0  # two seeds are not enough, as in a report


def test_the_corrected_effect_size_has_no_bias() -> None:
    # 20,000 experiments of five seeds whose true d_z is 0.8.
    draws = 0.8 + np.random.default_rng(0).standard_normal((20_000, 5))
    found = hedges(4) * np.mean(draws.mean(axis=1) / draws.std(axis=1, ddof=1))
    assert found == pytest.approx(0.8, abs=0.015)
    assert hedges(4) == pytest.approx(0.7978846, abs=1e-6)  # 1 / (sqrt 2 * Gamma(1.5)) = sqrt(2 / pi)
    assert hedges(200) == pytest.approx(1 - 3 / (4 * 200 - 1), abs=1e-5)  # the usual approximation


def test_holm_worked_by_hand() -> None:
    # Sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not be below the one before.
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
        pytest.approx(0.02),
    ]
    assert holm([None, None]) == [None, None]
    assert holm([]) == []
    several = np.random.default_rng(0).random(9) ** 3
    assert holm(several.tolist()) == pytest.approx(multipletests(several, method="holm")[1])


@settings(max_examples=30)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=20))
def test_holm_by_its_definition(p_values: list[float | None]) -> None:
    tests = sorted(p for p in p_values if p is not None)
    steps = [min(1.0, (len(tests) - i) * p) for i, p in enumerate(tests)]
    expected = [
        None if p is None else pytest.approx(max(steps[: tests.index(p) + tests.count(p)])) for p in p_values
    ]
    assert holm(p_values) == expected


# -- the test set


@pytest.mark.parametrize("metric", SCORERS)
@pytest.mark.parametrize("by_speaker", [False, True])
def test_scores_beside_a_literal_loop(metric: str, by_speaker: bool) -> None:
    scorer, plain = SCORERS[metric]
    truth, predictions = split(n=97)
    speakers = [UNKNOWN if i % 9 == 0 else f"s{i % 12}" for i in range(97)]
    drawn = resample_speakers(speakers, 50) if by_speaker else resample_utterances(97, 50)
    scores = scorer(truth, predictions, drawn)
    expected = []
    for counts in drawn.counts:
        rows = [row for row in range(97) for _ in range(counts[drawn.groups[row]])]
        expected.append(np.mean([plain(truth[rows], prediction[rows]) for prediction in predictions]))
    assert scores.resampled == pytest.approx(expected, abs=1e-12)
    assert scores.value == pytest.approx(np.mean([plain(truth, each) for each in predictions]), abs=1e-12)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=10, max_size=40),
    st.sampled_from(list(SCORERS)),
)
def test_each_once_is_the_plain_measure(values: list[tuple[float, float]], metric: str) -> None:
    scorer, plain = SCORERS[metric]
    truth, prediction = np.array(values).round(3).T
    drawn = replace(resample_utterances(len(truth), 1), counts=np.ones((1, len(truth)), np.uint8))
    scores = scorer(truth, prediction[None], drawn)
    assert scores.value == pytest.approx(plain(truth, prediction), abs=1e-9)
    assert scores.resampled == pytest.approx([scores.value], abs=1e-12)


def test_a_resample_without_variation_has_no_concordance() -> None:
    # Only the first speaker is drawn: its truth is constant; then only the second: its predictions are.
    truth = np.array([0.1, 0.1, 0.1, 0.3, 0.9, -0.7])
    predictions = np.array([[0.1, 0.1, 0.1, 0.3, 0.3, 0.3], [0.4, 0.2, 0.7, 0.3, 0.9, -0.7]])
    drawn = Resamples("speaker", np.array([0, 0, 0, 1, 1, 1]), np.array([[2, 0], [0, 2]], dtype=np.uint8))
    assert ccc_scores(truth, predictions, drawn).resampled == pytest.approx([0.0, 0.5])
    # The UAR of the first is the recall of the middle alone, 1 and 1/3; of the second, of high, low and middle.
    assert uar_scores(truth, predictions, drawn).resampled == pytest.approx([2 / 3, (1 / 3 + 1) / 2])
    constant = ccc_scores(np.full(6, 0.1), np.full((2, 6), 0.7), drawn)
    assert (constant.value, *constant.resampled) == (0, 0, 0)


def test_small_spread_far_from_the_truth_loses_no_digits() -> None:
    truth, predictions = split(n=50)
    squeezed = 1000 + 1e-5 * predictions
    drawn = resample_utterances(50, 5)
    expected = [
        np.mean([ccc(np.repeat(truth, counts), np.repeat(each, counts)) for each in squeezed])
        for counts in drawn.counts
    ]
    assert ccc_scores(truth, squeezed, drawn).resampled == pytest.approx(expected, rel=1e-5)


def test_blocks_give_what_one_product_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, predictions = split()
    drawn = resample_utterances(len(truth), 100)
    whole = ccc_scores(truth, predictions, drawn)
    monkeypatch.setattr("ser_memory.train.report.statistics._BLOCK", 7 * len(truth))
    assert ccc_scores(truth, predictions, drawn).resampled == pytest.approx(whole.resampled, abs=1e-13)


def test_resamples_draw_every_group_alike_and_can_be_drawn_again() -> None:
    drawn = resample_utterances(500, 400)
    assert drawn.counts.shape == (400, 500)
    assert (drawn.counts.sum(axis=1) == 500).all()
    # Each count is binomial with mean 1 and variance 1 - 1/500.
    assert drawn.counts.mean(axis=0) == pytest.approx(np.ones(500), abs=5 / np.sqrt(400))
    assert drawn.counts.var() == pytest.approx(1 - 1 / 500, abs=0.02)
    assert np.array_equal(drawn.counts, resample_utterances(500, 400).counts)
    assert not np.array_equal(drawn.counts, resample_utterances(500, 400, seed=1).counts)
    assert resample_utterances(300, 1).counts.dtype == np.uint16  # 300 of one do not fit into a byte


def test_names_of_speakers_do_not_matter() -> None:
    speakers = [f"s{i % 15}" for i in range(90)]
    drawn = resample_speakers(speakers, 20)
    renamed = resample_speakers([str(100 - i % 15) for i in range(90)], 20)
    assert np.array_equal(drawn.groups, renamed.groups)
    assert np.array_equal(drawn.counts, renamed.counts)
    alone = resample_speakers(
        [f"{i}" for i in range(90)], 20
    )  # a speaker per utterance: utterances are drawn
    assert np.array_equal(alone.counts, resample_utterances(90, 20).counts)


def test_unknown_is_no_speaker() -> None:
    known = [f"s{i % 10}" for i in range(30)]
    drawn = resample_speakers([*known, UNKNOWN, UNKNOWN], 20)
    assert len(set(drawn.groups[:30])) == 10
    assert drawn.groups[30:].tolist() == [10, 11]
    assert resample_speakers([*known[:9], *[UNKNOWN] * 50], 20).note == "too few speakers"


def test_too_few_to_draw_from_says_so() -> None:
    truth, predictions = split(n=90)
    scores = ccc_scores(truth, predictions, resample_speakers([f"s{i % 9}" for i in range(90)]))
    found = interval(scores)
    assert (found.low, found.high, found.groups, found.note) == (None, None, 9, "too few speakers")
    assert found.value == pytest.approx(np.mean([ccc(truth, each) for each in predictions]))
    assert interval(scores - scores).note == "too few speakers"
    assert resample_utterances(9).note == "too few utterances"


def test_the_ends_of_an_interval() -> None:
    # t_0.975 with 9 degrees of freedom is 2.262157; times sqrt(10 / 9) 2.384526; below minus that lies 0.008551.
    values = np.linspace(0, 1, 2001)
    few = interval(Scores(resample_utterances(10, 1), 0.5, values))
    assert (few.low, few.high) == pytest.approx((0.008551, 1 - 0.008551), abs=2e-6)
    many = interval(Scores(resample_utterances(100_000, 1), 0.5, values))
    assert (many.low, many.high) == pytest.approx((0.025, 0.975), abs=1e-4)


def test_the_spread_of_the_resamples_beside_scipy() -> None:
    truth, predictions = split(n=150, seeds=1)
    ours = ccc_scores(truth, predictions, resample_utterances(150, 3000))
    theirs = stats.bootstrap(
        (truth, predictions[0]), ccc, paired=True, vectorized=False, n_resamples=1000, method="percentile", rng=0
    )  # fmt: skip
    assert ours.resampled.std(ddof=1) == pytest.approx(theirs.standard_error, rel=0.1)
    found = interval(ours)
    limits = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high), abs=0.02)


def test_a_difference_is_paired() -> None:
    truth, predictions = split()
    drawn = resample_utterances(len(truth), 500)
    ours, baseline = ccc_scores(truth, predictions, drawn), ccc_scores(truth, predictions - 0.05, drawn)
    gap = ours - baseline
    assert gap.value == ours.value - baseline.value
    assert gap.resampled == pytest.approx(ours.resampled - baseline.resampled)
    assert gap.resampled.std() < ours.resampled.std() / 2  # much the same model on the same utterances
    with pytest.raises(ValueError, match="no paired difference"):
        ours - ccc_scores(truth, predictions, resample_utterances(len(truth), 500))


def test_speakers_that_differ_make_the_interval_longer() -> None:
    noise = np.random.default_rng(0)
    speaker = np.repeat(np.arange(20), 30)
    truth = noise.standard_normal(20)[speaker] + 0.3 * noise.standard_normal(600)
    predictions = (truth + noise.standard_normal(20)[speaker])[None]
    by_utterance = ccc_scores(truth, predictions, resample_utterances(600, 500))
    by_speaker = ccc_scores(truth, predictions, resample_speakers(speaker.astype(str), 500))
    assert by_speaker.resampled.std() > 2 * by_utterance.resampled.std()


@pytest.mark.parametrize("scorer", [ccc_scores, uar_scores])
def test_arrays_that_do_not_fit_are_refused(scorer: Callable[..., Scores]) -> None:
    drawn = resample_utterances(10, 2)
    for predictions in (np.zeros(10), np.zeros((2, 9)), np.zeros((0, 10))):
        with pytest.raises(ValueError, match="predictions"):
            scorer(np.zeros(10), predictions, drawn)
    with pytest.raises(ValueError, match="finite"):
        scorer(np.full(10, np.nan), np.zeros((1, 10)), drawn)
