"""What each sampler promises, beyond what all of them do (tests/contracts)."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from scipy.stats import chisquare

from ser_memory.train.memory.samplers import SAMPLERS, _cells
from tests.contracts.test_strategies import corpus, even, tally

Array = npt.NDArray[np.int64]
Made = tuple[Array, Array, npt.NDArray[np.float32], int, int]
often = settings(max_examples=150, deadline=None)


def cells(bins: Array) -> Array:
    return bins[:, 0] * 3 + bins[:, 1]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_cells_are_the_combinations_of_bins(dimensions: int) -> None:
    bins = np.array(list(itertools.product(range(3), repeat=dimensions)))
    assert _cells(bins).tolist() == list(range(3**dimensions))


def choose(name: str, made: Made) -> Array:
    bins, speakers, embeddings, n, seed = made
    return SAMPLERS[name](bins, speakers, embeddings, n, np.random.default_rng(seed))


@often
@given(made=corpus())
def test_emotion_is_even_over_cells(made: Made) -> None:
    there = cells(made[0])
    assert even(tally(there[choose("emotion", made)], there), tally(there, there))


@often
@given(made=corpus())
def test_speaker_is_even_over_known_speakers_and_unknown_fill_up(made: Made) -> None:
    speakers, n = made[1], made[3]
    chosen = speakers[choose("speaker", made)]
    known = speakers[speakers >= 0]
    assert even(tally(chosen[chosen >= 0], known), tally(known, known))
    assert (chosen >= 0).sum() == min(n, len(known))


@often
@given(made=corpus())
def test_speaker_emotion_is_even_over_cells_and_speakers_share_each(made: Made) -> None:
    bins, speakers, _, n, _ = made
    there, rows = cells(bins), choose("speaker-emotion", made)
    assert even(tally(there[rows], there), tally(there, there))
    if n < len(bins):
        for cell in np.unique(there):  # unknown speakers only when a cell has no known ones left
            of_cell, taken = speakers[there == cell], speakers[rows][there[rows] == cell]
            assert not (taken < 0).any() or (taken >= 0).sum() == (of_cell >= 0).sum()


def test_speaker_emotion_spreads_over_speakers() -> None:
    """Where every speaker has every cell, both are even within one, though random would be far from it."""
    random = np.random.default_rng(0)
    bins = np.stack(np.divmod(np.tile(np.arange(9), 400), 3), axis=1)
    speakers = np.repeat(np.arange(20), 180)[random.permutation(3600)]
    rows = SAMPLERS["speaker-emotion"](bins, speakers, np.ones((3600, 1), np.float32), 180, random)
    assert set(Counter(cells(bins)[rows].tolist()).values()) == {20}
    assert set(Counter(speakers[rows].tolist()).values()) <= {8, 9, 10}
    plain = Counter(speakers[random.permutation(3600)[:180]].tolist())
    assert max(plain.values()) - min(plain.values()) > 2


@often
@given(made=corpus())
def test_density_gives_every_cell_its_share_within_one(made: Made) -> None:
    bins, n = made[0], made[3]
    there = cells(bins)
    counts = tally(there[choose("density", made)], there)
    for cell, available in tally(there, there).items():
        assert abs(counts[cell] - available * min(1.0, n / len(bins))) < 1 + 1e-9


def test_density_keeps_the_corpus_distribution() -> None:
    """Chi-square over cells, pooled over many choices; the same test refuses the even sampler."""
    random = np.random.default_rng(3)
    shares = np.array([0.02, 0.05, 0.03, 0.15, 0.4, 0.1, 0.05, 0.15, 0.05])
    bins = np.stack(np.divmod(random.choice(9, 5000, p=shares), 3), axis=1)
    there = cells(bins)
    expected = np.bincount(there, minlength=9) / 5000

    def p_value(name: str) -> float:
        rows = [
            SAMPLERS[name](
                bins,
                np.zeros(5000, np.int64),
                np.ones((5000, 1), np.float32),
                101,
                np.random.default_rng(seed),
            )
            for seed in range(200)
        ]
        observed = np.bincount(there[np.concatenate(rows)], minlength=9)
        return float(chisquare(observed, expected * observed.sum()).pvalue)

    assert p_value("density") > 0.05
    assert p_value("emotion") < 1e-6


@pytest.mark.parametrize("name", ["random", "density"])
def test_every_utterance_is_alike_likely(name: str) -> None:
    random = np.random.default_rng(4)
    bins = np.stack(np.divmod(random.choice(9, 60, p=random.dirichlet(np.ones(9))), 3), axis=1)
    times = np.zeros(60)
    for seed in range(3000):
        rows = SAMPLERS[name](
            bins, np.zeros(60, np.int64), np.ones((60, 1), np.float32), 12, np.random.default_rng(seed)
        )
        times[rows] += 1
    assert chisquare(times).pvalue > 1e-3
    assert times.sum() == 12 * 3000


def test_coverage_is_the_greedy_k_centre() -> None:
    """Against a literal version, and at most twice as far as the best of many random choices."""
    random = np.random.default_rng(5)
    points = random.standard_normal((60, 5)).astype(np.float32) + 100
    bins, speakers = np.zeros((60, 2), np.int64), np.zeros(60, np.int64)
    rows = SAMPLERS["coverage"](bins, speakers, points, 8, np.random.default_rng(1))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    literal = []
    for first in range(60):  # whichever it began with
        chosen = [first]
        while len(chosen) < 8:
            chosen.append(int(distances[chosen].min(axis=0).argmax()))
        literal.append(sorted(chosen))
    assert rows.tolist() in literal

    def reach(chosen: Array) -> float:
        return float(distances[chosen].min(axis=0).max())

    best = min(reach(random.permutation(60)[:8]) for _ in range(2000))
    assert reach(rows) <= 2 * best


def test_coverage_looks_at_a_part_of_large_corpora() -> None:
    class Counting:
        asked = 0

        def __len__(self) -> int:
            return 5000

        def __getitem__(self, index: Array) -> npt.NDArray[np.float32]:
            self.asked += len(index)
            return index[:, None].astype(np.float32)

    embeddings = Counting()
    rows = SAMPLERS["coverage"](
        np.zeros((5000, 2), np.int64), np.zeros(5000, np.int64), embeddings, 20, np.random.default_rng(0)
    )
    assert len(rows) == 20
    assert embeddings.asked == 200
    assert np.diff(rows).min() > 50  # spread along the line: 5000 / 20 apart would be best


def far_from_mean(points: npt.NDArray[np.floating], rows: Array) -> float:
    return float(np.linalg.norm(points[rows].mean(axis=0) - points.mean(axis=0)))


@pytest.mark.parametrize("seed", range(5))
def test_herding_is_the_greedy_search_for_the_mean(seed: int) -> None:
    """Against a literal version that computes all means anew; all 60 rows are candidates."""
    random = np.random.default_rng(seed)
    points = (random.standard_normal((60, 5)) + 100).astype(np.float32)
    exact = points.astype(np.float64)
    literal: list[int] = []
    while len(literal) < 8:
        others = [row for row in range(60) if row not in literal]
        literal.append(min(others, key=lambda row: far_from_mean(exact, np.array([*literal, row]))))
    bins, speakers = np.zeros((60, 2), np.int64), np.zeros(60, np.int64)
    rows = SAMPLERS["herding"](bins, speakers, points, 8, np.random.default_rng(seed))
    assert rows.tolist() == sorted(literal)


def test_herding_is_nearer_to_the_mean_than_random() -> None:
    """Of a corpus with many more rows than candidates, read in blocks and not at once."""

    class Blocks:
        largest = 0
        points = np.random.default_rng(6).exponential(size=(5000, 8)).astype(np.float32)

        def __len__(self) -> int:
            return len(self.points)

        def __getitem__(self, index: Array) -> npt.NDArray[np.float32]:
            self.largest = max(self.largest, len(index))
            return self.points[index]

    embeddings = Blocks()
    bins, speakers = np.zeros((5000, 2), np.int64), np.zeros(5000, np.int64)
    for seed in range(5):
        near, far = (
            far_from_mean(
                embeddings.points,
                SAMPLERS[name](bins, speakers, embeddings, 20, np.random.default_rng(seed)),
            )
            for name in ("herding", "random")
        )
        assert near < far / 5
    assert embeddings.largest < 5000


def test_herding_chooses_by_chance_among_equals() -> None:
    """Otherwise a corpus in the order of its speakers would give its first ones."""
    times = np.zeros(60)
    bins, speakers, points = np.zeros((60, 2), np.int64), np.zeros(60, np.int64), np.ones((60, 4), np.float32)
    for seed in range(1000):
        times[SAMPLERS["herding"](bins, speakers, points, 12, np.random.default_rng(seed))] += 1
    assert chisquare(times).pvalue > 1e-3
