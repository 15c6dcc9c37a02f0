"""How long an experiment takes at most."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ser_memory.train.estimate import Line, duration
from ser_memory.train.experiment import Plan
from ser_memory.train.runs import Run, Variant

GEM, FINETUNE = Variant("gem", "random", 10), Variant("finetune")


def plan_of(*untrained: tuple[int, Run]) -> Plan:
    return Plan(tuple(run for _, run in untrained), untrained, {}, 0)


def line(number: int, strategy: str, runs: int, seconds: float, together: int = 1) -> Line:
    return Line(number, strategy, runs, together, 10, 0.1, seconds, 10 if strategy == "gem" else 0)


def test_a_single_chain_of_stages_cannot_be_shared() -> None:
    first, later = Run(None, 0), Run(GEM, 0)
    todo = plan_of((1, first), (2, later), (3, later))
    lines = [line(1, "finetune", 1, 100), line(2, "gem", 1, 20), line(3, "gem", 1, 30)]
    for jobs in (1, 2, 64):
        assert duration(lines, todo, jobs) == 150


def test_many_runs_share_the_cores_but_none_is_faster_than_its_chain() -> None:
    seeds = range(4)
    todo = plan_of(
        *((1, Run(None, seed)) for seed in seeds),
        *((2, Run(variant, seed)) for seed in seeds for variant in (GEM, FINETUNE)),
    )
    lines = [line(1, "finetune", 4, 100), line(2, "gem", 4, 50), line(2, "finetune", 4, 10)]
    assert duration(lines, todo, 1) == 4 * 160
    assert duration(lines, todo, 2) == pytest.approx(4 * 160 / 2)
    assert duration(lines, todo, 64) == 150


def test_what_is_trained_already_is_not_waited_for() -> None:
    todo = plan_of((3, Run(GEM, 0)))
    assert duration([line(3, "gem", 1, 30)], todo, 2) == 30


def test_a_stack_trains_all_its_runs_at_once() -> None:
    runs = [Run(None, seed) for seed in range(5)]
    lines = [line(1, "finetune", 5, 100, together=5)]
    assert duration(lines, plan_of(*((1, run) for run in runs)), 1) == 100


def test_a_first_stage_that_folds_share_is_waited_for_once() -> None:
    folds = [Run(GEM, 0, fold) for fold in ("1", "2", "3")]
    todo = plan_of((1, Run(None, 0)), *((2, run) for run in folds))
    lines = [line(1, "finetune", 1, 100), line(2, "gem", 3, 20)]
    assert duration(lines, todo, 64) == 120
    assert duration(lines, todo, 1) == 160


def test_folds_of_the_first_corpus_have_first_stages_of_their_own() -> None:
    runs = [Run(variant, 0, fold) for variant in (None, GEM) for fold in ("1", "2")]
    todo = plan_of(*((1 if run.variant is None else 2, run) for run in runs))
    assert duration([line(1, "finetune", 2, 100), line(2, "gem", 2, 20)], todo, 64) == 120


def test_memories_of_different_sizes_take_different_times() -> None:
    large = Variant("gem", "random", 1000)
    todo = plan_of((2, Run(GEM, 0)), (2, Run(large, 0)))
    lines = [line(2, "gem", 1, 20), replace(line(2, "gem", 1, 90), memory_size=1000)]
    assert duration(lines, todo, 64) == 90
    assert duration(lines, todo, 1) == 110
