"""All strategies with gaps in the ratings, and with every way to weigh, stop and average."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ser_memory.train.predictions import Predictions
from ser_memory.train.strategies import STRATEGIES
from tests.train.test_cli import rows, run
from tests.train.test_dominance import ALL_THREE, some, trains_what_is_rated
from tests.train.test_folds import SESSIONS
from tests.train.test_predictions import recomputed
from tests.train.worlds import STAGES, write_caches

assert some  # the fixture
WAYS: dict[str, list[object]] = {
    "plain": [],
    "per corpus": ["--replay-loss", "per-corpus"],
    "mse, per corpus": ["--loss", "mse", "--replay-loss", "per-corpus"],
    "stop on memory": ["--stop-on", "memory"],
    "interpolate": ["--average", "interpolate", "--average-share", 0.3],
    "ema, stop on memory": ["--average", "ema", "--average-decay", 0.9, "--stop-on", "memory"],
}


@pytest.mark.parametrize("more", WAYS.values(), ids=WAYS)
def test_every_strategy_trains_what_is_rated(more: list[object], some: Path, tmp_path: Path) -> None:
    trains_what_is_rated(some, tmp_path / "r", list(STRATEGIES), *more)


def test_averages_in_folds_by_processes_and_seeds_of_their_own(tmp_path: Path) -> None:
    """Two processes with all seeds, or one with each seed by itself: the same rows. memory.csv lists whole memories."""
    write_caches(tmp_path, sessions=5, dominance={"msp-podcast": 1.0, "iemocap": 0.7})
    strategies = [word for name in ("gem", "der++", "lwf", "analytic") for word in ("--strategy", name)]
    ways = ["--stop-on", "memory", "--average", "interpolate", "--average-share", 0.4]
    command = ["--cache", tmp_path, *strategies, *ALL_THREE, *ways, *SESSIONS]
    assert run(*command, "--seeds", 2, "--jobs", 2, "--output", tmp_path / "all").exit_code == 0
    apart = []
    for seed in (1, 0):
        assert run(*command, "--seed", seed, "--output", tmp_path / str(seed)).exit_code == 0
        apart += rows(tmp_path / str(seed))
    together = rows(tmp_path / "all")
    assert len(together) == len(apart) == recomputed(tmp_path / "all")
    assert {tuple(row.values()) for row in together} == {tuple(row.values()) for row in apart}
    with (tmp_path / "all/memory.csv").open() as file:
        held: Counter[tuple[str, ...]] = Counter()
        for row in csv.DictReader(file):
            held[row["seed"], row["fold"], row["corpus"]] += int(row["n"])
    assert set(held.values()) == {20}
    found = Predictions(tmp_path / "all")
    assert all(
        np.isfinite(found.predicted("msp-podcast", "test", 3, place)).all()
        for place in range(len(found.runs))
    )
    assert found.stages == STAGES
