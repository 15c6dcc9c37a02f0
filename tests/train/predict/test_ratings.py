"""Windows -> the rating of a recording, by formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from ser_memory.train.predict.ratings import Heard, Rating, rating_of


def heard(seeds: int = 1, **changes: object) -> Heard:
    facts = {
        "starts": np.array([0.0, 30.0, 50.0]),
        "ends": np.array([30.0, 50.0, 60.0]),
        "silent": np.array([False, True, False]),
        "clipped": np.array([False, False, True]),
        "distances": np.array([0.5, 2.0, 0.5]),
        "predictions": np.random.default_rng(0).normal(0, 0.5, (seeds, 3, 2)),
        "texts": ["good", None, "day"],
    }
    return Heard(**{**facts, **changes})  # type: ignore[arg-type]


def test_the_rating_is_the_mean_over_time() -> None:
    given = heard()
    rating = rating_of("a.wav", ("activation", "valence"), given, 3.0)
    v = given.predictions[0, :, 1]
    assert rating.values is not None
    assert rating.values["valence"] == pytest.approx((30 * v[0] + 20 * v[1] + 10 * v[2]) / 60)
    assert rating.spread == {}
    assert (rating.duration, rating.text) == (60, "good day")
    assert rating.distance == pytest.approx((30 * 0.5 + 20 * 2 + 10 * 0.5) / 60)
    assert rating.flags == ("clipped",)
    assert [moment.flags for moment in rating.track] == [(), ("silent", "far"), ("clipped",)]
    assert rating.track[2].values["valence"] == v[2]


def test_spread_is_that_of_the_seeds_means() -> None:
    given = heard(4)
    rating = rating_of("a.wav", ("activation", "valence"), given, 3.0)
    means = [
        sum(w * x for w, x in zip((30, 20, 10), seed[:, 0], strict=True)) / 60 for seed in given.predictions
    ]
    middle = sum(means) / 4
    assert rating.values is not None
    assert rating.spread is not None
    assert rating.values["activation"] == pytest.approx(middle)
    assert rating.spread["activation"] == pytest.approx((sum((x - middle) ** 2 for x in means) / 3) ** 0.5)
    assert rating.track[0].spread["activation"] == pytest.approx(np.std(given.predictions[:, 0, 0], ddof=1))


def test_flags_of_one_short_window() -> None:
    one = heard(
        starts=np.zeros(1), ends=np.ones(1), silent=np.ones(1, bool), clipped=np.zeros(1, bool),
        distances=np.array([1.5]), predictions=np.zeros((1, 1, 2)), texts=[None],
    )  # fmt: skip
    rating = rating_of("a.wav", ("activation", "valence"), one, 3.0)
    assert rating.flags == rating.track[0].flags == ("short", "silent", "far")


def test_another_scale() -> None:
    rating = rating_of("a.wav", ("activation", "valence"), heard(3), 3.0)
    scaled = rating.on_scale(1, 7)
    assert rating.values is not None
    assert scaled.values is not None
    assert rating.spread is not None
    assert scaled.spread is not None
    for name in rating.values:
        assert scaled.values[name] == pytest.approx(4 + 3 * rating.values[name])
        assert scaled.spread[name] == pytest.approx(3 * rating.spread[name])
        assert scaled.track[1].values[name] == pytest.approx(4 + 3 * rating.track[1].values[name])
    failed = Rating("b.wav", error="no")
    assert failed.on_scale(0, 1) is failed
