"""Masks: their rates, their scale, and a stream for each run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ser_memory.train.dropout import Dropout

PLACES = {"a": (64, 0.2), "b": (33, 0.1), "c": (5, 0.0)}


def dropout(*seeds: int) -> Dropout:
    return Dropout(PLACES, [np.random.SeedSequence(seed) for seed in seeds], torch.device("cpu"))


def test_units_are_dropped_at_the_rate_and_the_rest_scaled() -> None:
    masks = dropout(1).masks(4000)
    for name, (width, rate) in PLACES.items():
        mask = masks[name]
        assert mask.shape == (1, 4000, width)
        assert mask.dtype == torch.float32
        assert set(mask.unique().tolist()) <= {0.0, float(np.float32(1 / (1 - rate)))}
        n = mask.numel()
        assert float((mask == 0).float().mean()) == pytest.approx(rate, abs=4 * np.sqrt(0.25 / n))
        # Columns and rows alike, and neighbours independent of each other.
        kept = (mask[0] > 0).double()
        if rate:
            assert float((kept[:, 1:] * kept[:, :-1]).mean()) == pytest.approx((1 - rate) ** 2, abs=0.01)
            assert float((kept[1:] * kept[:-1]).mean()) == pytest.approx((1 - rate) ** 2, abs=0.01)


def test_a_run_has_its_own_stream() -> None:
    together, alone, other = dropout(1, 2, 3), dropout(2), dropout(1)
    for _ in range(3):  # step after step
        masks = together.masks(7)
        for name, mask in alone.masks(7).items():
            assert torch.equal(masks[name][1:2], mask)
        for name, mask in other.masks(7).items():
            assert torch.equal(masks[name][:1], mask)
    assert not torch.equal(together.masks(7)["a"], together.masks(7)["a"])
