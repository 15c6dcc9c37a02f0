"""AUC and rates against literal formulas, and their intervals against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ser_memory.train.audit.measures import auc, share, threshold


def test_auc_is_the_probability_of_the_right_order() -> None:
    members, others = [3.0, 1.0, 2.0, 2.0], [0.0, 2.0, 1.5]
    pairs = [(a > b) + 0.5 * (a == b) for a in members for b in others]
    assert auc(members, others).value == pytest.approx(np.mean(pairs))
    random = np.random.default_rng(0)
    x, y = random.normal(1, 1, 50).round(1), random.normal(0, 1, 70).round(1)
    assert auc(x, y).value == pytest.approx(roc_auc_score([1] * 50 + [0] * 70, np.concatenate([x, y])))


def test_its_interval_has_the_variance_of_delong() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(0.5, 1, 30), random.normal(0, 1, 40)
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    v10, v01 = psi.mean(axis=1), psi.mean(axis=0)
    theta = psi.mean()
    s10, s01 = ((v10 - theta) ** 2).sum() / 29, ((v01 - theta) ** 2).sum() / 39
    found = auc(x, y)
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(s10 / 30 + s01 / 40))


def test_perfect_scores_have_an_interval_too() -> None:
    found = auc(np.arange(10) + 100, np.arange(20))
    assert (found.value, found.high) == (1, 1)
    assert 0.8 < found.low < 0.99
    assert auc(np.arange(1000) + 5000, np.arange(2000)).low > 0.99
    turned = auc(np.arange(20), np.arange(10) + 100)
    assert (turned.value, turned.high) == pytest.approx((0, 1 - found.low))


def test_it_covers_the_truth() -> None:
    random = np.random.default_rng(2)
    truth = 0.5 * (1 + math.erf(1 / 2))  # of normal scores that are 1 apart
    found = [auc(random.normal(1, 1, 60), random.normal(0, 1, 80)) for _ in range(400)]
    assert 0.92 < np.mean([each.low <= truth <= each.high for each in found]) < 0.98


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_no_scores_are_refused(members: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match="AUC needs"):
        auc(members, others)


def test_share_has_wilsons_interval() -> None:
    n, p, z = 40, 3 / 40, 1.959964
    centre, reach = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n),
    )
    found = share(3, 40)
    assert (found.value, found.low, found.high) == pytest.approx((p, centre - reach, centre + reach))


def test_threshold_lets_one_percent_pass() -> None:
    scores = np.random.default_rng(0).permutation(1000)
    assert (scores > threshold(scores)).sum() == 10
    assert threshold(np.arange(50)) == 49
