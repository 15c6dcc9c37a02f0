"""Runs through bundles give the bits of one go also with noise, few bits, no speaker codes and memories that shrink."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.test_bundle import Told, of_iemocap
from tests.train.test_cli import rows

BUDGET = ("--memory-budget", 25)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("random", ("--memory-noise", 0.5)),
        ("speaker", (*BUDGET, "--memory-noise", 0.5, "--memory-bits", 8)),
        ("speaker", (*BUDGET, "--no-speaker-codes")),
        ("random", ("--memory-bits", 8, "--stop-on", "memory")),
    ],
)
def test_through_bundles_as_in_one_go(sampler: str, options: tuple[object, ...], tmp_path: Path) -> None:
    strategies = ["experience-replay", "der++"]
    told = Told(tmp_path, *options, sampler=sampler, strategies=strategies)
    for strategy in strategies:
        last = [row for row in rows(told.continued(strategy)) if row["stage_name"] == "P+M+I"]
        assert last == of_iemocap(tmp_path / "whole", strategy)
