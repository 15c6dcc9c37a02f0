"""Ridge regression from sums, against scikit-learn and formulas written out over all rows."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from ser_memory.common.metrics import ccc
from ser_memory.train import ridge as module
from ser_memory.train.ridge import Floats, Solution, Spectrum, Sums, solve


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are tiny: threads would spend their time waiting for each other."""
    with threadpool_limits(1):
        yield


FIELDS = ("features", "products", "cross", "targets", "squares")


def data(n: int, columns: int, seed: int = 0, noise: float = 1.0) -> tuple[Floats, Floats]:
    """Features away from zero and two targets that depend on them, in part."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((n, columns)) + random.standard_normal(columns)
    weights = random.standard_normal((columns, 2)) / np.sqrt(columns)
    return features, features @ weights + noise * random.standard_normal((n, 2)) + 0.5


def layer_normalised(rows: Floats) -> Floats:
    centred = rows - rows.mean(axis=1, keepdims=True)
    normalised: Floats = centred / centred.std(axis=1, keepdims=True)
    return normalised


def matched(prediction: Floats, target: Floats) -> Floats:
    scale = target.std() / prediction.std()
    moved: Floats = (prediction - prediction.mean()) * scale + target.mean()
    return moved


def hat(features: Floats, ridge: float) -> Floats:
    """The (n, n) matrix that maps targets to the predictions of ridge regression with a free intercept."""
    n, columns = features.shape
    design = np.column_stack([np.ones(n), features - features.mean(axis=0)])
    penalty = ridge * np.diag([0.0] + [1.0] * columns)
    inverse: Floats = np.linalg.solve(design.T @ design + penalty, design.T)
    return design @ inverse


def literal_gcv(features: Floats, target: Floats, ridge: float) -> float:
    smoother = hat(features, ridge)
    n = len(target)
    rss = ((target - smoother @ target) ** 2).sum()
    return float(n * rss / (n - np.trace(smoother)) ** 2)


def agree(one: Solution, other: Solution, features: Floats, relative: float = 1e-8) -> None:
    np.testing.assert_array_equal(one.learned, other.learned)
    np.testing.assert_allclose(one.ridges, other.ridges, rtol=relative)
    spread = one.predict(features).std(axis=0).max() + 1e-300
    np.testing.assert_allclose(
        one.predict(features) / spread, other.predict(features) / spread, rtol=relative, atol=relative
    )


# Sums


@pytest.mark.parametrize("rows", [1, 7, module.BLOCK_ROWS, 2 * module.BLOCK_ROWS + 5])
def test_sums_are_the_literal_ones(rows: int) -> None:
    features, targets = data(rows, 6)
    sums = Sums.of(features, targets)
    assert sums.n == rows
    for name, literal in {
        "features": features.sum(axis=0),
        "products": features.T @ features,
        "cross": features.T @ targets,
        "targets": targets.sum(axis=0),
        "squares": (targets**2).sum(axis=0),
    }.items():
        np.testing.assert_allclose(getattr(sums, name), literal, rtol=1e-12, atol=1e-12 * rows)
    np.testing.assert_array_equal(sums.products, sums.products.T)


def test_products_wider_than_a_mirrored_strip_are_symmetric() -> None:
    features, targets = data(20, module.MIRROR_ROWS + 30)
    products = Sums.of(features, targets).products
    np.testing.assert_array_equal(products, products.T)
    np.testing.assert_allclose(products, features.T @ features, atol=1e-12)


@pytest.mark.parametrize("size", [1, 37, 1000, 1024, 5000])
def test_blocks_of_any_size_give_the_same_bits(size: int) -> None:
    features, targets = data(2500, 5)
    whole = Sums.of(features, targets)
    cut = Sums.over((features[at : at + size], targets[at : at + size]) for at in range(0, 2500, size))
    assert cut.n == whole.n
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))


def test_float32_rows_give_the_sums_of_the_same_values_in_float64() -> None:
    features, targets = (rows.astype(np.float32) for rows in data(300, 5))
    single, double = (
        Sums.of(features, targets),
        Sums.of(features.astype(np.float64), targets.astype(np.float64)),
    )
    for name in FIELDS:
        assert getattr(single, name).dtype == np.float64
        np.testing.assert_array_equal(getattr(single, name), getattr(double, name))


def test_rows_in_any_memory_order_and_with_steps_are_taken() -> None:
    features, targets = data(300, 6)
    expected = Sums.of(features[::2, 1:5].copy(), targets[::2].copy())
    for ordered in (np.ascontiguousarray, np.asfortranarray):
        views = ordered(features)[::2, 1:5], ordered(targets)[::2]
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(Sums.of(*views), name), getattr(expected, name))


def test_sums_leave_the_rows_as_they_were() -> None:
    features, targets = data(50, 4)
    before = features.copy(), targets.copy()
    sums = Sums.of(features, targets)
    products = sums.products.copy()
    solve(sums)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(targets, before[1])
    np.testing.assert_array_equal(sums.products, products)


def test_a_part_is_the_sums_of_those_columns() -> None:
    features, targets = data(60, 8)
    part, alone = Sums.of(features, targets).part(3, [1]), Sums.of(features[:, :3], targets[:, 1:])
    assert part.n == alone.n
    for name in FIELDS:
        np.testing.assert_allclose(getattr(part, name), getattr(alone, name), rtol=1e-12, atol=1e-12)
    agree(solve(part), solve(alone), features[:, :3])
    swapped = solve(Sums.of(features, targets).part(8, [1, 0]))
    np.testing.assert_allclose(
        swapped.weights[:, ::-1], solve(Sums.of(features, targets)).weights, rtol=1e-12
    )


def test_a_compact_copy_has_one_triangle() -> None:
    sums = Sums.of(*data(9, 5))
    arrays = [sums.products[np.triu_indices(5)], sums.features, sums.cross, sums.targets, sums.squares]
    assert sums.nbytes == sum(array.nbytes for array in arrays)


def wrong_shapes() -> Sums:
    return Sums.of(np.zeros((3, 2)), np.zeros((4, 1)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (wrong_shapes, r"features \(3, 2\) and targets \(4, 1\)"),
        (lambda: Sums.of(np.zeros(3), np.zeros((3, 1))), "rows and columns"),
        (lambda: Sums.over([]), "no block"),
        (lambda: Sums.over([data(3, 2), data(3, 4)]), r"\(3, 4\).*expected \(\(3, 2\)"),
        (lambda: Sums.of(*data(3, 2)) + Sums.of(*data(3, 4)), r"\(2, 2\) and \(4, 2\)"),
        (lambda: Sums.of(np.array([[1.0], [np.nan]]), np.zeros((2, 1))), "not finite"),
        (lambda: Sums.of(np.array([[np.inf], [-np.inf]]), np.zeros((2, 1))), "not finite"),
        (lambda: Sums.of(np.array([[1e200], [0.0]]), np.zeros((2, 1))), "too large"),
        (lambda: Sums.of(*data(3, 2)).part(3, [0]), "allowed: 1 to 2"),
        (lambda: solve(Sums.of(np.zeros((0, 2)), np.zeros((0, 1)))), "no rows"),
        (lambda: solve(Sums.of(*data(3, 2)), ridge=-1.0), "0 or more"),
        (lambda: solve(Sums.of(*data(3, 2)), ridge=np.nan), "0 or more"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wrong()


# The solution


@pytest.mark.parametrize(("n", "columns"), [(200, 10), (40, 40), (41, 40), (30, 80)])
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 300.0])
def test_weights_are_scikit_learns_scaled_to_the_targets_spread(n: int, columns: int, ridge: float) -> None:
    features, targets = data(n, columns)
    solution = solve(Sums.of(features, targets), ridge)
    assert solution.learned.all()
    np.testing.assert_array_equal(solution.ridges, ridge)
    for k in range(2):
        reference = Ridge(alpha=ridge, solver="svd").fit(features, targets[:, k])
        plain = reference.predict(features)
        scale = targets[:, k].std() / plain.std()
        np.testing.assert_allclose(
            solution.weights[:, k],
            reference.coef_ * scale,
            rtol=1e-8,
            atol=1e-8 * np.abs(reference.coef_ * scale).max(),
        )
        assert solution.intercepts[k] == pytest.approx(
            targets[:, k].mean() - features.mean(axis=0) @ reference.coef_ * scale, rel=1e-8
        )
        np.testing.assert_allclose(
            solution.predict(features)[:, k], matched(plain, targets[:, k]), rtol=1e-8, atol=1e-8
        )


def test_ridge_zero_is_least_squares() -> None:
    features, targets = data(60, 5)
    design = np.column_stack([np.ones(60), features])
    plain = design @ np.linalg.lstsq(design, targets, rcond=None)[0]
    prediction = solve(Sums.of(features, targets), 0.0).predict(features)
    for k in range(2):
        np.testing.assert_allclose(prediction[:, k], matched(plain[:, k], targets[:, k]), atol=1e-8)


@pytest.mark.parametrize(("n", "columns"), [(200, 10), (60, 40), (41, 40), (30, 80)])
def test_the_criterion_is_the_literal_one(n: int, columns: int) -> None:
    features, targets = data(n, columns)
    spectrum = Spectrum.of(Sums.of(features, targets))
    for k, ridge in itertools.product(range(2), [1e-1, 1.0, 1e2, 1e5]):
        literal = literal_gcv(features, targets[:, k], ridge)
        assert spectrum.criterion(k)(ridge) == pytest.approx(literal, rel=1e-8)


@pytest.mark.parametrize("noise", [0.2, 1.0, 4.0])
@pytest.mark.parametrize(("n", "columns"), [(200, 10), (60, 40), (30, 80)])
def test_the_chosen_ridge_has_the_smallest_criterion(n: int, columns: int, noise: float) -> None:
    features, targets = data(n, columns, seed=3, noise=noise)
    solution = solve(Sums.of(features, targets))
    largest = np.linalg.eigvalsh(np.cov(features.T, ddof=0) * n)[-1]
    for k in range(2):

        def criterion(log_ridge: float, k: int = k) -> float:
            return literal_gcv(features, targets[:, k], float(np.exp(log_ridge)))

        coarse = np.log(np.geomspace(1e-6 * largest, 1e3 * largest, 28))
        start = coarse[np.argmin([criterion(ridge) for ridge in coarse])]
        best = minimize_scalar(
            criterion, bounds=(start - 0.8, start + 0.8), method="bounded", options={"xatol": 1e-9}
        )
        chosen = np.log(solution.ridges[k])
        if coarse[0] < start < coarse[-1]:
            assert criterion(chosen) <= best.fun * (1 + 1e-8)
            assert chosen == pytest.approx(best.x, abs=1e-6)  # what a search by values can resolve
        else:  # it falls towards no ridge or towards an infinite one, and is flat there
            assert criterion(chosen) <= best.fun * (1 + 1e-3)


def test_each_target_has_a_ridge_of_its_own() -> None:
    features, targets = data(100, 20)
    targets[:, 1] = targets[:, 0] + 10 * np.random.default_rng(8).standard_normal(100)
    solution = solve(Sums.of(features, targets))
    assert solution.ridges[1] > 5 * solution.ridges[0]
    for k in range(2):
        alone = solve(Sums.of(features, targets[:, [k]]))
        np.testing.assert_allclose(alone.weights[:, 0], solution.weights[:, k], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("columns", [10, 80])
def test_predictions_have_the_targets_moments_and_the_best_ccc(columns: int) -> None:
    features, targets = data(60, columns, noise=3)
    for ridge in (None, 1.0, 1e4):
        solution = solve(Sums.of(features, targets), ridge)
        prediction = solution.predict(features)
        np.testing.assert_allclose(prediction.mean(axis=0), targets.mean(axis=0), rtol=1e-8)
        np.testing.assert_allclose(prediction.std(axis=0), targets.std(axis=0), rtol=1e-8)
        for k in range(2):
            plain = Ridge(alpha=solution.ridges[k]).fit(features, targets[:, k]).predict(features)
            reached = ccc(targets[:, k], prediction[:, k])
            assert reached >= ccc(targets[:, k], plain)
            assert reached == pytest.approx(np.corrcoef(plain, targets[:, k])[0, 1])
            for scale, shift in [(0.95, 0.0), (1.05, 0.0), (1.0, 0.05), (1.0, -0.05)]:
                middle = targets[:, k].mean()
                other = middle + scale * (prediction[:, k] - middle) + shift
                assert ccc(targets[:, k], other) < reached


@pytest.mark.parametrize(("sizes", "columns"), [((150, 9, 1100), 12), ((20, 9, 30), 100), ((1, 2, 40), 40)])
@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
def test_corpora_join_in_any_order(sizes: tuple[int, ...], columns: int, noise: float) -> None:
    corpora = [data(n, columns, seed, noise) for seed, n in enumerate(sizes)]
    corpora = [(layer_normalised(features), targets) for features, targets in corpora]
    features, targets = (np.concatenate(parts) for parts in zip(*corpora, strict=True))
    together = solve(Sums.of(features, targets))
    for order in itertools.permutations(Sums.of(*corpus) for corpus in corpora):
        joined = functools.reduce(operator.add, order)
        assert joined.n == len(features)
        agree(solve(joined), together, features)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40),
    columns=st.integers(1, 30),
    seed=st.integers(0, 10_000),
    cut=st.integers(0, 40),
    shift=st.sampled_from([0.0, 10.0]),
    normalise=st.booleans(),
)
def test_any_shape_is_solved(
    n: int, columns: int, seed: int, cut: int, shift: float, normalise: bool
) -> None:
    features, targets = data(n, columns, seed)
    if normalise and columns > 1:
        features = layer_normalised(features)
    features = features + shift
    solution = solve(Sums.of(features, targets))
    prediction = solution.predict(features)
    assert np.isfinite(prediction).all()
    np.testing.assert_allclose(prediction.mean(axis=0), targets.mean(axis=0), atol=1e-8)
    for k in np.flatnonzero(solution.learned):
        assert prediction[:, k].std() == pytest.approx(targets[:, k].std(), rel=1e-6)
        plain = Ridge(alpha=solution.ridges[k], solver="svd").fit(features, targets[:, k]).predict(features)
        np.testing.assert_allclose(prediction[:, k], matched(plain, targets[:, k]), atol=1e-6)
    parts = [Sums.of(features[:cut], targets[:cut]), Sums.of(features[cut:], targets[cut:])]
    given_ridge = float(solution.ridges[0]) if solution.learned[0] else 1.0
    agree(
        solve(parts[1] + parts[0], given_ridge),
        solve(Sums.of(features, targets), given_ridge),
        features,
        1e-7,
    )


# Numbers that are hard


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("target_scale", [1e-6, 1e6])
def test_the_unit_of_features_and_targets_changes_nothing(scale: float, target_scale: float) -> None:
    features, targets = data(80, 12)
    expected = solve(Sums.of(features, targets))
    solution = solve(Sums.of(features * scale, targets * target_scale))
    np.testing.assert_allclose(solution.ridges, expected.ridges * scale**2, rtol=1e-8)
    np.testing.assert_allclose(
        solution.predict(features * scale) / target_scale, expected.predict(features), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("columns", [20, 300])
def test_layer_normalised_rows_are_solved_though_one_eigenvalue_is_zero(columns: int) -> None:
    features, targets = data(200, columns)
    features = layer_normalised(features)
    spectrum = Spectrum.of(Sums.of(features, targets))
    assert len(spectrum.eigenvalues) == min(columns - 1, 199)
    solution = solve(Sums.of(features, targets))
    for k in range(2):
        plain = Ridge(alpha=solution.ridges[k], solver="svd").fit(features, targets[:, k]).predict(features)
        np.testing.assert_allclose(solution.predict(features)[:, k], matched(plain, targets[:, k]), atol=1e-7)
    np.testing.assert_allclose(
        solution.weights.sum(axis=0), 0, atol=1e-8
    )  # none along the constant direction


@pytest.mark.parametrize("distance", [0.0, 1e-12, 1e-7, 1e-4])
def test_columns_that_are_nearly_the_same_share_the_weight(distance: float) -> None:
    features, targets = data(200, 6)
    random = np.random.default_rng(4)
    doubled = np.column_stack([features, features + distance * random.standard_normal(features.shape)])
    solution = solve(Sums.of(doubled, targets), 5.0)
    np.testing.assert_allclose(solution.weights[:6], solution.weights[6:], atol=50 * distance + 1e-8)
    for k in range(2):
        plain = Ridge(alpha=5.0, solver="svd").fit(doubled, targets[:, k]).predict(doubled)
        np.testing.assert_allclose(solution.predict(doubled)[:, k], matched(plain, targets[:, k]), atol=1e-8)
    free = solve(Sums.of(doubled, targets))
    np.testing.assert_allclose(free.predict(doubled).std(axis=0), targets.std(axis=0), rtol=1e-6)


def test_columns_of_very_different_scales_are_as_exact_as_the_ridge_is_far_from_rounding() -> None:
    features, targets = data(200, 13)
    features = features * np.logspace(-6, 6, 13)
    largest = np.linalg.eigvalsh(features.T @ features)[-1]
    for relative in (1e-4, 1e-6, 1e-8):
        solution = solve(Sums.of(features, targets), relative * largest)
        for k in range(2):
            plain = (
                Ridge(alpha=relative * largest, solver="svd").fit(features, targets[:, k]).predict(features)
            )
            error = np.abs(solution.predict(features)[:, k] - matched(plain, targets[:, k])).max()
            assert error < module.ROUNDING / relative * targets[:, k].std()
    chosen = solve(Sums.of(features, targets)).predict(features)
    np.testing.assert_allclose(chosen.std(axis=0), targets.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_means_far_from_zero_cost_no_more_digits_than_they_must(mean: float) -> None:
    features, targets = data(5000, 5)
    near, far = solve(Sums.of(features, targets)), solve(Sums.of(features + mean, targets))
    error = np.abs(near.predict(features) - far.predict(features + mean)).max()
    assert error < 100 * np.finfo(np.float64).eps * mean**2


def test_means_far_from_zero_leave_nothing_over_where_features_explain_everything() -> None:
    for seed in range(6):
        features, targets = data(30, 40, seed)
        near, far = (Spectrum.of(Sums.of(features + mean, targets)) for mean in (0.0, 1e4))
        for k, ridge in itertools.product(range(2), (1e-6, 1e-3, 1.0)):
            assert far.criterion(k)(ridge) == pytest.approx(near.criterion(k)(ridge), rel=1e-3)


def test_means_too_far_from_zero_leave_the_mean() -> None:
    features, targets = data(5000, 5)
    solution = solve(Sums.of(features + 1e9, targets))
    assert not solution.learned.any()


def test_targets_that_features_explain_fully_are_reached() -> None:
    features, targets = data(100, 8, noise=0)
    solution = solve(Sums.of(features, targets))
    np.testing.assert_allclose(solution.predict(features), targets, atol=1e-5)


def test_a_direction_within_the_rounding_of_float32_gets_no_large_weight() -> None:
    random = np.random.default_rng(1)
    wide, narrow = random.standard_normal((2, 300))
    features = np.column_stack([wide, wide + 1e-6 * narrow])
    solution = solve(Sums.of(features, (wide + 10 * narrow)[:, None]))
    largest = np.linalg.eigvalsh(np.cov(features.T) * 300)[-1]
    assert solution.ridges[0] == pytest.approx(1e-12 * largest, rel=0.01)


@pytest.mark.parametrize("n", [2, 3, 20])
def test_constant_targets_and_features_leave_the_mean(n: int) -> None:
    features, targets = data(n, 4)
    targets[:, 0] = 0.3
    solution = solve(Sums.of(features, targets))
    np.testing.assert_array_equal(solution.learned, [False, True])
    np.testing.assert_array_equal(solution.weights[:, 0], 0)
    np.testing.assert_allclose(solution.predict(features)[:, 0], 0.3, rtol=1e-12)
    assert np.isinf(solution.ridges[0])
    features[:] = features[0]
    solution = solve(Sums.of(features, targets))
    assert not solution.learned.any()
    np.testing.assert_allclose(
        solution.predict(features), targets.mean(axis=0)[None].repeat(n, 0), rtol=1e-12
    )


def test_constants_stay_constants_over_many_rows_and_corpora() -> None:
    """0.03 and 0.3 are no binary fractions, and errors of the same sign would add up."""
    features, targets = np.full((40_000, 1), 0.03), np.full((40_000, 1), 0.3)
    varied = np.random.default_rng(2).standard_normal((40_000, 1))
    corpora = [Sums.of(features[:n], targets[:n]) for n in (40_000, 3, 1000, 17)]
    for sums in (corpora[0], functools.reduce(operator.add, corpora)):
        about_zero = sums.features**2 / sums.n
        np.testing.assert_allclose(sums.products[0], about_zero, rtol=4 * np.finfo(np.float64).eps)
        spectrum = Spectrum.of(sums)
        assert spectrum.eigenvalues.size == 0
        np.testing.assert_array_equal(spectrum.spreads, 0)
    assert not solve(Sums.of(features, varied)).learned.any()
    assert not solve(Sums.of(varied, targets)).learned.any()


def test_a_constant_column_gets_no_weight() -> None:
    features, targets = data(50, 4)
    features[:, 2] = 7.1
    solution = solve(Sums.of(features, targets))
    np.testing.assert_allclose(solution.weights[2], 0, atol=1e-12)
    others = [0, 1, 3]
    alone = solve(Sums.of(features[:, others], targets))
    np.testing.assert_allclose(solution.weights[others], alone.weights, rtol=1e-8, atol=1e-10)


def test_targets_that_no_feature_goes_with_leave_the_mean() -> None:
    """Each row twice, with two targets whose mean is the same: rounding is all that correlates."""
    features, targets = data(500, 5)
    targets[:] = 0.3
    solution = solve(Sums.of(np.vstack([features, features]), np.vstack([targets - 0.7, targets + 0.7])))
    assert not solution.learned.any()
    np.testing.assert_array_equal(solution.weights, 0)
    np.testing.assert_allclose(solution.predict(features), 0.3, rtol=1e-12)


def test_one_row_is_predicted_and_two_rows_are_reached() -> None:
    features, targets = data(2, 5)
    one = solve(Sums.of(features[:1], targets[:1]))
    assert not one.learned.any()
    np.testing.assert_allclose(one.predict(features), targets[[0, 0]], rtol=1e-12)
    for ridge in (None, 0.0, 1.0, 1e300):
        two = solve(Sums.of(features, targets), ridge)
        assert two.learned.all()
        np.testing.assert_allclose(two.predict(features), targets, rtol=1e-8)


def test_no_rows_add_nothing() -> None:
    features, targets = data(30, 4)
    empty: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] = (
        np.zeros((0, 4), np.float32),
        np.zeros((0, 2), np.float32),
    )
    whole = Sums.of(features, targets)
    for other in (whole + Sums.of(*empty), Sums.over([empty, (features, targets), empty])):
        assert other.n == 30
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(other, name), getattr(whole, name))
