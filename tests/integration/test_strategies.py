"""Every strategy in folds, as a whole experiment: together, or apart and stopped again and again."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
import torch

from ser_memory.train.corpora import Corpus
from ser_memory.train.engines.inline import Inline
from ser_memory.train.experiment import plan, pooled
from ser_memory.train.plan import Experiment
from ser_memory.train.results import tabulate, write_results
from ser_memory.train.settings import StrategySettings
from ser_memory.train.store import Store
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.trainer import Trainer
from tests.contracts.test_strategies import QUICK, STAGES
from tests.train.worlds import BY_GRADIENT, corpora_in_folds


def in_folds(
    name: str, seeds: tuple[int, ...], made: list[Corpus], folder: Path, stop: bool = False
) -> list[str]:
    """The lines of the results.csv of an experiment with folds, perhaps stopped after every task and in every stage."""
    chosen = StrategySettings(strategy=(name,), memory_size=(10,))
    experiment = Experiment(
        chosen.variants, STAGES, seeds, QUICK, folds=tuple(len(each.folds) for each in made)
    )
    store = Store(folder)
    while True:
        trainer = Trainer(experiment, made, store, torch.device("cpu"))
        todo = plan(experiment, trainer, store)
        if not todo.tasks:
            break
        engine = Inline(trainer)
        if stop:
            trainer.pause = itertools.chain([False] * 4, itertools.repeat(True)).__next__
        assert not any(outcome.failed for _, outcome in engine.run(todo.tasks, lambda _: None))
    found = {**todo.finished, **pooled(experiment, trainer, todo.finished)}
    write_results(folder / "results.csv", tabulate(experiment, found))
    return (folder / "results.csv").read_text().splitlines()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_whole_experiment_in_folds(name: str, tmp_path: Path) -> None:
    """Seeds together, or apart and stopped again and again: the same bytes. The shared stage is trained once."""
    made = corpora_in_folds()
    whole = in_folds(name, (0, 1), made, tmp_path / "whole")
    seeds = 2 if name in BY_GRADIENT else 1
    assert len(list((tmp_path / "whole").glob("*.safetensors"))) == seeds * (1 + 3 * 2)
    apart = [in_folds(name, (seed,), made, tmp_path / f"seed-{seed}", stop=True) for seed in (1, 0)]
    assert sorted(line for lines in apart for line in lines[1:]) == sorted(whole[1:])
    folds = {(row[3], row[6], row[7], row[-1]) for row in csv.reader(whole[1:])}
    for seed, corpus, split in itertools.product("01", STAGES, ("validation", "test")):
        has_pooled = (seed, corpus, split, "pooled") in folds
        assert has_pooled == (split == "test" and corpus != "msp-podcast")
        assert {(seed, corpus, split, fold) for fold in "123"} < folds
