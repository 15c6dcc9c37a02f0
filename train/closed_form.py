"""A stack of runs whose model follows from sums, from stage to stage: nothing is trained step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from ser_memory.common.reporting import Advance
from ser_memory.train.kept import KeptBytes
from ser_memory.train.loop import PausedError, mean_ccc
from ser_memory.train.runs import Run
from ser_memory.train.samples import Samples
from ser_memory.train.store import Record
from ser_memory.train.strategies import STRATEGIES, ClosedFormStrategy, Kept
from ser_memory.train.strategies.analytic import joined
from ser_memory.train.workbench import Workbench

_TRIED = 1024  # rows from which the time of all is estimated
_SMALL = 512  # rows of a matrix that is decomposed in order to estimate the time of a larger one


class ClosedFormStack:
    """Runs of one strategy in one fold. They are solved one after the other; equal ones are solved once."""

    def __init__(self, bench: Workbench, runs: Sequence[Run]) -> None:
        self._bench = bench
        self._runs = runs
        # Of each run: the number of a stage, and the sums up to it.
        self._totals: dict[int, tuple[int, Kept]] = {}

    def train(self, number: int, advance: Advance, pause: Callable[[], bool]) -> list[Run]:
        """Solve stage `number` (from 1) and keep it, if it is missing. For `advance` it is one epoch.

        Raises PausedError if `pause` says so before a stage; with many features, one can take minutes.
        """
        bench = self._bench
        for place, key in enumerate(bench.keys_of(self._runs, number)):
            if bench.store.record(key) is not None:
                continue
            if pause():
                raise PausedError
            begun = time.perf_counter()
            model = self._model(place)
            parameters = model.solve(self._total(place, number))
            validation = bench.corpus(self._runs, number).splits["validation"]
            score = mean_ccc(validation, model.predict(parameters, validation))
            record = Record([score], [], time.perf_counter() - begun, score=score)
            bench.store.save(key, parameters, record)
            advance(1.0)
        return []

    def predict(self, parameters: Tensor, samples: Samples) -> Tensor:
        """(R, N, K) predictions with (R, P) parameters."""
        return torch.stack([self._model(run).predict(row, samples) for run, row in enumerate(parameters)])

    def expected_seconds(self, number: int) -> float:
        """About how long stage `number` takes, from a part of its rows and a small matrix: solving grows with F cubed."""
        model, train = self._model(0), self._bench.corpus(self._runs, number).splits["train"]
        part = train.select(torch.arange(min(_TRIED, len(train))))
        begun = time.perf_counter()
        model.keep(part)
        summed = (time.perf_counter() - begun) * len(train) / len(part)
        small = np.eye(_SMALL) + 1e-3 * np.add.outer(np.arange(_SMALL), np.arange(_SMALL))
        begun = time.perf_counter()
        np.linalg.eigh(small)
        return summed + (time.perf_counter() - begun) * (model.columns / _SMALL) ** 3

    def kept(self, number: int) -> list[Kept]:
        """What the first run carries on from all stages before `number`: the sums over all of them."""
        return [self._total(0, number - 1)]

    def kept_bytes(self, number: int, after: int) -> KeptBytes:
        """What a run keeps from stage `number` for later ones: sums of its own only where no stage before has such sums."""
        del after
        model, here = self._model(0), self._patterns(number)
        earlier = {names for stage in range(1, number) for names in self._patterns(stage)}
        return reduce(
            KeptBytes.plus, [model.kept_bytes(names) for names in here if names not in earlier], KeptBytes()
        )

    def _patterns(self, number: int) -> list[tuple[str, ...]]:
        """The sets of dimensions that sums of a stage are of; those of a bundle count for its first stage."""
        if number <= self._bench.experiment.begun:
            return list(self._bundled(0).sums or {}) if number == 1 else []
        return self._model(0).patterns(self._bench.corpus(self._runs, number).splits["train"])

    def _bundled(self, place: int) -> Kept:
        """The sums of the bundle that a run continues from."""
        return self._bench.bundle(self._runs[place]).kept[0]

    def _model(self, place: int) -> ClosedFormStrategy:
        bench, run = self._bench, self._runs[place]
        strategy = STRATEGIES[run.strategy]
        assert issubclass(strategy, ClosedFormStrategy)
        return strategy(bench.network.architecture, run.seed, *bench.experiment.options_of(run.strategy))

    def _total(self, place: int, number: int) -> Kept:
        """The sums over the corpora of all stages up to `number`."""
        begun = self._bench.experiment.begun
        if place not in self._totals:
            self._totals[place] = begun, self._bundled(place) if begun else Kept()
        model, (reached, total) = self._model(place), self._totals[place]
        for stage in range(reached + 1, number + 1):
            total = joined(total, model.keep(self._bench.corpus(self._runs, stage).splits["train"]))
        self._totals[place] = number, total
        return total
