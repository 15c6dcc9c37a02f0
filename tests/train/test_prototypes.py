"""Statistics in place of utterances, beside literal means and covariances."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ser_memory.common.errors import SerError
from ser_memory.train.memory import prototypes as module
from ser_memory.train.memory.prototypes import Prototypes, homes, prototypes
from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples
from ser_memory.train.settings import TrainingSettings
from tests.train.worlds import ACOUSTIC_WIDTH, begin, learnable, samples

Array = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float64]
GRID = np.array(list(itertools.product(range(3), repeat=2)))
BLOCKS = (slice(0, 6), slice(6, 11), slice(11, 13))  # of the columns of `rows_of`: acoustic, text, targets


def rows_of(given: Samples) -> Rows:
    """(N, V)"""
    index = torch.arange(len(given))
    return torch.cat([values.flatten(1) for values in given.batch(index)], dim=1).double().numpy()


def cells_of(given: Samples) -> Array:
    """By thirds of [-1, 1]; no label of the tests is on an edge."""
    activation, valence = np.searchsorted([-1 / 3, 1 / 3], given.targets.numpy()).T
    return np.asarray(activation * 3 + valence)


def units(rows: Rows) -> Rows:
    """(V,) what one of a column is worth: its deviation, times the root of the columns in its block."""
    found = np.empty(rows.shape[1])
    for block in BLOCKS:
        found[block] = rows[:, block].std(axis=0) * np.sqrt(block.stop - block.start)
    return found


class TestStatistics:
    def test_means_and_counts_are_those_of_the_cells(self) -> None:
        given = learnable(600, 0)
        made, rows, cells = prototypes(given, 4, 12), rows_of(given), cells_of(given)
        assert made.counts.tolist() == np.bincount(cells, minlength=9).tolist()
        for cell in range(9):
            np.testing.assert_allclose(made.means[cell], rows[cells == cell].mean(axis=0), atol=1e-5)

    @pytest.mark.parametrize("rank", [1, 3, 8])
    def test_factors_are_the_leading_part_of_the_covariance(self, rank: int) -> None:
        """In units in which every block of columns varies as much as any other."""
        given = learnable(600, 1)
        made, rows, cells = prototypes(given, rank, 12), rows_of(given), cells_of(given)
        assert made.factors.shape == (9, 13, rank)
        for cell in range(9):
            covariance = np.cov((rows[cells == cell] / units(rows)).T, bias=True)
            values, vectors = np.linalg.eigh(covariance)
            leading = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
            ours = made.factors[cell] / units(rows)[:, None]
            np.testing.assert_allclose(ours @ ours.T, leading, atol=1e-5)

    def test_all_directions_are_the_covariance_itself(self) -> None:
        given = learnable(900, 2)
        made, rows, cells = prototypes(given, 13, 12), rows_of(given), cells_of(given)
        for cell in range(9):
            covariance = np.cov(rows[cells == cell].T, bias=True)
            np.testing.assert_allclose(made.factors[cell] @ made.factors[cell].T, covariance, atol=1e-4)

    def test_many_columns(self) -> None:
        """Where not every direction can be followed: as much of the variance as the best choice has, within 1 %."""
        random = torch.Generator().manual_seed(3)
        given = replace(
            learnable(500, 3),
            acoustic=torch.randn(500, 40, generator=random) @ torch.randn(40, 150, generator=random),
        )
        rank, rows = 5, rows_of(given)
        made = prototypes(given, rank, 1000)  # one cell
        scale = rows.std(axis=0) * np.sqrt(np.repeat([150, 5, 2], [150, 5, 2]))
        best = np.linalg.eigvalsh(np.cov((rows / scale).T, bias=True))[-rank:].sum()
        held = ((made.factors[made.counts.argmax()] / scale[:, None]) ** 2).sum()
        assert 0.99 * best < held < 1.001 * best

    def test_targets_are_not_lost_among_many_features(self) -> None:
        """Also in other units: most of their variance in a cell is drawn again, with what goes along in features."""
        random = torch.Generator().manual_seed(4)
        given = learnable(2000, 4)
        loud = 1000 * torch.randn(2000, 300, generator=random)
        loud[:, 0] = 1000 * given.targets[:, 0]
        made = prototypes(replace(given, acoustic=loud), 8, 12)
        rows, cells = given.targets.numpy(), cells_of(given)
        for cell in range(9):
            factor = made.factors[cell]
            assert ((factor[-2:] ** 2).sum(axis=1) > 0.9 * rows[cells == cell].var(axis=0)).all()
            together = factor[0] @ factor[-2] / np.sqrt((factor[0] ** 2).sum() * (factor[-2] ** 2).sum())
            assert together > 0.95

    def test_the_rank_is_below_a_third_of_the_count(self) -> None:
        for n, seed in itertools.product((1, 3, 4, 12, 13, 40, 80), range(3)):
            made = prototypes(samples(n, seed), 6, 4)
            for count, factor in zip(made.counts.tolist(), made.factors, strict=True):
                rank = int((np.abs(factor).max(axis=0) > 0).sum())
                assert rank == 0 if count < 4 else 3 * rank < count
                assert rank == min(6, (count - 1) // 3) or count == 0
                assert not factor[:, rank:].any()

    def test_a_column_that_never_changes_stays_as_it_is(self) -> None:
        given = learnable(300, 5)
        given.acoustic[:, 2] = 0.1
        made = prototypes(given, 8, 12)
        assert not made.factors[:, 2].any()
        assert (made.draw(50, [np.random.default_rng(0)]).acoustic[:, 2] == torch.tensor(0.1)).all()

    def test_same_rows_same_bytes(self) -> None:
        one, other = (prototypes(learnable(300, 6), 8, 12) for _ in range(2))
        for name in ("counts", "means", "factors"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
        assert one.counts.dtype == np.int64
        assert one.means.dtype == one.factors.dtype == np.float32
        assert one.nbytes == 9 * 8 + 9 * 13 * 4 + 9 * 13 * 8 * 4

    def test_a_corpus_larger_than_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Mapped from a file and read in small blocks, as from memory and at once."""
        given = learnable(300, 7)
        whole = prototypes(given, 8, 12)
        stored = np.memmap(tmp_path / "acoustic", np.float32, "w+", shape=(300, ACOUSTIC_WIDTH))
        stored[:] = given.acoustic.numpy()
        mapped = replace(given, acoustic=torch.from_numpy(stored), streamed=True)
        monkeypatch.setattr(module, "_VALUES", 13 * 40)  # 40 rows
        parts = prototypes(mapped, 8, 12)
        assert np.array_equal(whole.counts, parts.counts)
        np.testing.assert_allclose(whole.means, parts.means, atol=1e-6)
        np.testing.assert_allclose(whole.factors, parts.factors, atol=1e-4)

    def test_rows_of_a_split_are_found_in_their_cache(self) -> None:
        given = learnable(300, 8)
        rows = torch.arange(300).flip(0)[::2]
        some = Samples(given.acoustic, given.text, rows, given.targets[rows], given.speakers[rows])
        ours, theirs = prototypes(some, 4, 12), prototypes(some.select(torch.arange(150)), 4, 12)
        np.testing.assert_array_equal(ours.factors, theirs.factors)


class TestUnrated:
    def test_a_dimension_that_is_not_rated_is_not_drawn(self) -> None:
        given = learnable(300, 9)
        given.targets[:, 1] = torch.nan
        made = prototypes(given, 4, 12)
        drawn = made.draw(200, [np.random.default_rng(0)])
        assert drawn.targets[:, 1].isnan().all()
        assert drawn.targets[:, 0].isfinite().all()
        assert drawn.acoustic.isfinite().all()
        assert np.flatnonzero(made.counts).tolist() == [1, 4, 7]  # of valence only the middle
        alone = prototypes(replace(given, targets=given.targets[:, :1]), 4, 12)
        np.testing.assert_allclose(made.means[[1, 4, 7], :-1], alone.means, atol=1e-6)
        np.testing.assert_allclose(made.factors[[1, 4, 7], :-1], alone.factors, atol=1e-5)

    def test_rows_without_a_rating_do_not_count(self) -> None:
        given = learnable(300, 10)
        given.targets[::3, 0] = torch.nan
        rated = torch.arange(300)[torch.arange(300) % 3 > 0]
        ours, theirs = prototypes(given, 4, 12), prototypes(given.select(rated), 4, 12)
        for name in ("counts", "means", "factors"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))

    def test_no_row_with_all_ratings(self) -> None:
        given = learnable(20, 11)
        given.targets[::2, 0] = torch.nan
        given.targets[1::2, 1] = torch.nan
        with pytest.raises(SerError, match="No training utterance has a label in every dimension"):
            prototypes(given, 4, 12)

    def test_cells_follow_labels_that_are_not_trained(self) -> None:
        given = learnable(300, 12)
        both = prototypes(given, 4, 12)
        one = prototypes(replace(given, targets=given.targets[:, :1], rated=given.targets), 4, 12)
        assert np.array_equal(both.counts, one.counts)
        np.testing.assert_allclose(both.means[:, :-1], one.means, atol=1e-6)


@pytest.mark.parametrize(
    ("counts", "merged"),
    [
        ([20, 20, 20, 20, 20, 20, 20, 20, 20], [20, 20, 20, 20, 20, 20, 20, 20, 20]),
        ([0, 0, 0, 0, 20, 0, 0, 0, 0], [0, 0, 0, 0, 20, 0, 0, 0, 0]),
        ([3, 0, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0, 0]),  # the last one stays
        ([3, 30, 0, 20, 40, 0, 0, 0, 0], [0, 30, 0, 23, 40, 0, 0, 0, 0]),  # of two neighbours, the smaller
        ([3, 20, 0, 20, 40, 0, 0, 0, 0], [0, 23, 0, 20, 40, 0, 0, 0, 0]),  # of equal ones, the first
        ([3, 0, 90, 0, 50, 0, 0, 0, 0], [0, 0, 90, 0, 53, 0, 0, 0, 0]),  # diagonal before two steps
        ([3, 5, 30, 0, 0, 0, 0, 0, 0], [0, 0, 38, 0, 0, 0, 0, 0, 0]),  # again and again
        ([6, 6, 0, 0, 0, 0, 0, 0, 9], [0, 12, 0, 0, 0, 0, 0, 0, 9]),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1], None),
    ],
)  # fmt: skip
def test_small_cells_are_merged(counts: list[int], merged: list[int] | None) -> None:
    given = np.array(counts)
    home = homes(given, GRID, 9)
    found = np.bincount(home, weights=given, minlength=9).astype(int)
    assert found.sum() == sum(counts)
    assert min(found[found > 0]) >= min(9, sum(counts))
    assert merged is None or found.tolist() == merged
    assert given.tolist() == counts


class TestDraw:
    def drawn(self, made: Prototypes, n: int, *seeds: int) -> Samples:
        return made.draw(n, [np.random.default_rng(seed) for seed in seeds])

    def test_moments_are_those_of_the_statistics(self) -> None:
        given = replace(learnable(900, 13), targets=learnable(900, 13).targets / 2)  # nothing to cut off
        made, n = prototypes(given, 13, 1000), 200_000
        rows = rows_of(self.drawn(made, n, 0))
        corpus = rows_of(given)
        deviations = corpus.std(axis=0)
        assert np.abs((rows.mean(axis=0) - corpus.mean(axis=0)) / deviations).max() < 5 / np.sqrt(n)
        difference = (np.cov(rows.T) - np.cov(corpus.T, bias=True)) / np.outer(deviations, deviations)
        # Only targets beyond [-1, 1] are cut: 3.5 deviations from the mean.
        assert np.abs(difference).max() < 0.01

    def test_cells_are_drawn_in_proportion(self) -> None:
        given = learnable(900, 14)
        given.targets[:, 0] = given.targets[:, 0].abs() * 0.99 + 0.005
        made = prototypes(given, 1, 12)
        still = replace(made, factors=np.zeros_like(made.factors))  # so that a row tells its cell
        values, counts = np.unique(self.drawn(still, 90_000, 0).acoustic[:, 0].numpy(), return_counts=True)
        shares = {float(mean): count / 900 for mean, count in zip(made.means[:, 0], made.counts, strict=True)}
        for value, count in zip(values, counts, strict=True):
            assert abs(count / 90_000 - shares[float(value)]) < 0.01
        assert len(values) == (made.counts > 0).sum()

    def test_targets_stay_on_the_scale(self) -> None:
        targets = self.drawn(prototypes(learnable(300, 15), 8, 12), 5000, 0).targets
        assert targets.min() == -1
        assert targets.max() == 1

    def test_no_row_of_the_corpus_is_among_them(self) -> None:
        given = learnable(300, 16)
        drawn, corpus = rows_of(self.drawn(prototypes(given, 8, 12), 2000, 0)), rows_of(given)
        assert min(np.abs(corpus - row).max(axis=1).min() for row in drawn) > 1e-2

    def test_each_run_has_its_own(self) -> None:
        made = prototypes(learnable(300, 17), 8, 12)
        both, first, second = (self.drawn(made, 40, *seeds) for seeds in ((0, 1), (0,), (1,)))
        for name in ("acoustic", "text", "targets"):
            expected = torch.cat([getattr(first, name), getattr(second, name)])
            assert torch.equal(getattr(both, name), expected)
        assert not torch.equal(first.acoustic, second.acoustic)
        assert (both.speakers == UNKNOWN_SPEAKER).all()
        assert both.rows.tolist() == list(range(80))

    def test_layers_come_back_in_their_shape(self) -> None:
        given = learnable(200, 18)
        layered = replace(given, acoustic=given.acoustic.unflatten(1, (2, 3)))
        ours, flat = (self.drawn(prototypes(each, 4, 12), 50, 0) for each in (layered, given))
        assert ours.acoustic.shape == (50, 2, 3)
        assert torch.equal(ours.acoustic.flatten(1), flat.acoustic)


def test_pseudo_rows_are_new_in_every_epoch() -> None:
    training = begin(
        "prototype-replay", learnable(60, 0), [learnable(100, 1)], options={"prototype_rows": 20},
        loop=TrainingSettings(batch_size=16, epochs=2),
    )  # fmt: skip
    pools = []
    for _ in range(2):
        index = torch.cat(list(training.strategy.batches()), dim=1)
        assert sorted(index[0].tolist()) == list(range(80))
        pools.append(training.strategy.pool.batch(torch.arange(80)[None]).acoustic[0])
    assert torch.equal(pools[0][:60], pools[1][:60])
    assert not torch.isclose(pools[0][60:], pools[1][60:]).all(dim=1).any()
