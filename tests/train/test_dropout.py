"""Masks: their rates, their scale, and a stream for each run."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ser_memory.train import dropout as module
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


def on_a_device(*seeds: int) -> Dropout:
    """As on a GPU, with the CPU as the device whose own generator draws."""
    made = dropout(*seeds)
    words = module._DeviceWords([np.random.SeedSequence(seed) for seed in seeds], torch.device("cpu"))
    made._words = words
    return made


@pytest.mark.parametrize("make", [dropout, on_a_device])
def test_it_goes_on_from_its_state(make: Callable[..., Dropout]) -> None:
    """Through JSON, as the store writes it, in a Dropout made anew."""
    before = make(1, 2)
    before.masks(7)
    text = json.dumps(before.state(), default=np.ndarray.tolist)
    expected = [before.masks(7) for _ in range(3)]
    after = make(1, 2)
    after.restore(json.loads(text))
    for masks in expected:
        for name, mask in after.masks(7).items():
            assert torch.equal(mask, masks[name])
    with pytest.raises(ValueError, match="zip"):
        make(1).restore(json.loads(text))


def test_a_devices_own_generator_drops_at_the_rate_too() -> None:
    for name, mask in on_a_device(1).masks(4000).items():
        _, rate = PLACES[name]
        assert set(mask.unique().tolist()) <= {0.0, float(np.float32(1 / (1 - rate)))}
        assert float((mask == 0).float().mean()) == pytest.approx(rate, abs=4 * np.sqrt(0.25 / mask.numel()))


def test_meta_has_shapes_and_nothing_else() -> None:
    made = Dropout(PLACES, [np.random.SeedSequence(1)], torch.device("meta"))
    masks = made.masks(7)
    assert {name: mask.shape for name, mask in masks.items()} == {
        name: (1, 7, width) for name, (width, _) in PLACES.items()
    }
    assert {mask.device.type for mask in masks.values()} == {"meta"}
    made.restore(made.state())
