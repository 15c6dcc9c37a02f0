"""Each attack against a literal formula, and on made-up rows where it must and must not work."""

from __future__ import annotations

import numpy as np
import pytest

from ser_memory.train.audit import attacks
from ser_memory.train.audit.measures import auc

RANDOM = np.random.default_rng(0)


def rows(n: int, columns: int) -> np.ndarray:
    return RANDOM.standard_normal((n, columns))


def test_nearest_is_the_nearest_in_standard_deviations() -> None:
    memory, queries = rows(30, 4) * [1, 10, 0.1, 1] + 5, rows(20, 4) + 5
    scale = memory.std(axis=0)
    distances = np.sqrt((((queries[:, None] - memory) / scale) ** 2).sum(axis=2))
    found, places = attacks.nearest(queries, memory)
    np.testing.assert_allclose(found, distances.min(axis=1))
    np.testing.assert_array_equal(places, distances.argmin(axis=1))
    own, places = attacks.nearest(memory.astype(np.float32), memory.astype(np.float32))
    assert own.max() < 1e-6
    np.testing.assert_array_equal(places, np.arange(30))


def test_nearest_bears_a_column_that_never_changes() -> None:
    memory = np.ones((3, 2))
    assert attacks.nearest(memory, memory)[0].max() == 0


def test_members_are_in_the_span_of_few_rows() -> None:
    members, others = rows(10, 30), rows(20, 30)
    attack = attacks.SumsAttack.on(members.T @ members)
    assert attack.rank == 10
    solved = np.linalg.lstsq(members.T, others.T, rcond=None)[0]
    literal = np.linalg.norm(others.T - members.T @ solved, axis=0) / np.linalg.norm(others, axis=1)
    np.testing.assert_allclose(-attack.inside_span(others), literal, atol=1e-6)
    assert (attack.inside_span(members) == 0).all()


def test_all_rows_are_in_the_span_of_many() -> None:
    members = rows(100, 10)
    assert (attacks.SumsAttack.on(members.T @ members).inside_span(rows(20, 10)) == 0).all()


@pytest.mark.parametrize(
    ("n", "columns", "low", "high"), [(1000, 200, 0.87, 0.99), (4000, 200, 0.58, 0.7), (4000, 10, 0.47, 0.53)]
)
def test_leverage_works_with_few_rows_per_feature(n: int, columns: int, low: float, high: float) -> None:
    members, others = rows(n, columns), rows(1500, columns)
    products = members.T @ members
    attack = attacks.SumsAttack.on(products)
    literal = np.einsum("ij,ij->i", others @ np.linalg.inv(products), others)
    np.testing.assert_allclose(-attack.leverage(others), literal, rtol=1e-4)
    assert low < auc(attack.leverage(members[:1500]), attack.leverage(others)).value < high


def test_distance_to_subspaces() -> None:
    means = np.array([[0.0, 0, 0], [10, 0, 0]])
    factors = np.array([[[1.0, 0], [0, 2.0], [0, 0]], [[3.0, 0], [0, 0], [0, 0]]])
    scale = np.sqrt((factors**2).sum(axis=2).mean(axis=0) + means.var(axis=0))
    scale[2] = 1  # without spread
    distance, length = attacks.near_subspaces(np.array([[2.0, 4, 5], [10, 0, 0.5]]), means, factors)
    np.testing.assert_allclose(distance, [-5, -0.5])
    np.testing.assert_allclose(length, [-min(np.hypot(2, 2), 8 / 3), 0], atol=1e-9)


def test_errors_count_rated_dimensions() -> None:
    found = attacks.small_errors(np.array([[0.5, 0.0], [0.0, 1.0]]), np.array([[0.0, np.nan], [1.0, 0.0]]))
    np.testing.assert_allclose(found, [-0.25, -1.0])


def test_linkage_is_the_auc_of_each_query() -> None:
    centres, speakers, held = 2 * rows(4, 6), np.repeat(np.arange(4), 5), np.repeat(np.arange(4), 3)
    memory, queries = centres[held] + rows(12, 6), centres[speakers] + rows(20, 6)
    found = attacks.link(queries, speakers, memory, held)
    scale = memory.std(axis=0)
    distances = np.linalg.norm((queries[:, None] - memory) / scale, axis=2)
    for place, (row, speaker) in enumerate(zip(distances, speakers, strict=True)):
        own = held == speaker
        assert found.apart[place] == pytest.approx(auc(-row[own], -row[~own]).value)
        assert found.right[place] == (held[row.argmin()] == speaker)
    assert found.chance == pytest.approx(0.25)


def test_codes_let_an_attacker_take_means() -> None:
    centres, speakers, held = rows(4, 20), np.repeat(np.arange(4), 50), np.repeat(np.arange(4), 20)
    memory, queries = centres[held] + 3 * rows(80, 20), centres[speakers] + 3 * rows(200, 20)
    alone = attacks.link(queries, speakers, memory, held)
    grouped = attacks.link(queries, speakers, memory, held, groups=held + 7)
    means = np.stack([memory[held == speaker].mean(axis=0) for speaker in range(4)])
    scale = memory.std(axis=0)
    right = np.linalg.norm((queries[:, None] - means) / scale, axis=2).argmin(axis=1) == speakers
    np.testing.assert_array_equal(grouped.right, right)
    assert grouped.right.mean() > alone.right.mean()
