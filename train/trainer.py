"""One process's part of an experiment: stacks of runs taken through the stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.reporting import Advance
from ser_memory.train.bundle import Bundle
from ser_memory.train.closed_form import ClosedFormStack
from ser_memory.train.corpora import Corpus
from ser_memory.train.evaluation import evaluate, evaluate_pooled
from ser_memory.train.fingerprints import Fingerprints
from ser_memory.train.gradient import GradientStack
from ser_memory.train.kept import KeptBytes
from ser_memory.train.model import HEADS, Architecture, Network
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Outcome, StageResult
from ser_memory.train.runs import Run
from ser_memory.train.samples import Samples
from ser_memory.train.store import Store
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.workbench import Workbench

Stack = GradientStack | ClosedFormStack


class Trainer:
    """Takes stacks of runs through the stages, on one device of one process.

    Each stage is kept in the store as it ends, and what is there already is not trained again. A run's results
    do not depend on the runs that it is stacked with.
    """

    def __init__(
        self, experiment: Experiment, corpora: Sequence[Corpus], store: Store, device: torch.device
    ) -> None:
        self.corpora = corpora
        self.device = device
        self.network = network_for(corpora)
        self.keys = Fingerprints(experiment, corpora, self.network.architecture, device)
        self.pause: Callable[[], bool] = lambda: False  # asked after each epoch
        self.experiment = experiment
        self.store = store
        self._bench = Workbench(experiment, corpora, self.network, self.keys, store, device)

    def corpus(self, runs: Sequence[Run], number: int) -> Corpus:
        """The corpus of stage `number` (from 1), in the fold of runs."""
        return self._bench.corpus(runs, number)

    def bundle(self, run: Run) -> Bundle:
        """The bundle that a run continues from."""
        return self._bench.bundle(run)

    def parameters(self, run: Run, number: int) -> Tensor:
        """(P,) parameters after a finished stage, or of the bundle that a run continues from."""
        if number == self.experiment.begun:
            return self.bundle(run).parameters
        return self.store.parameters(self._bench.keys_of([run], number))[0]

    def untrained(self, run: Run, numbers: Sequence[int]) -> list[int]:
        """Those of some stages of a run that are not in the store."""
        return [number for number in numbers if self.store.record(self.keys.of(run, number)) is None]

    def stack(self, runs: Sequence[Run]) -> Stack:
        """Runs of one strategy in one fold, or first stages, to be trained together."""
        kind = GradientStack if STRATEGIES[runs[0].strategy].by_gradient else ClosedFormStack
        return kind(self._bench, runs)

    @torch.inference_mode()
    def carry_out(self, runs: Sequence[Run], advance: Advance) -> list[Outcome]:
        """Train what is missing of a stack of runs, and evaluate all of it.

        The stages that they follow are in the store. `advance` gets the epochs that are done. Returns an outcome per
        run, in order. Raises PausedError if `pause` said so; what was trained until then is kept in the store.
        """
        stack = self.stack(runs)
        outcomes = [Outcome() for _ in runs]
        for number in self.experiment.owners[runs[0]]:
            diverged = stack.train(number, advance, self.pause)
            if diverged:
                # The others continue as a stack of their own, from what is kept of them.
                others = [run for run in runs if run not in diverged]
                again = iter(self.carry_out(others, advance) if others else ())
                return [
                    Outcome(outcome.stages, failed=number) if run in diverged else next(again)
                    for run, outcome in zip(runs, outcomes, strict=True)
                ]
            for outcome, result in zip(outcomes, self._results(stack, runs, number), strict=True):
                outcome.stages[number] = result
        return outcomes

    def _results(self, stack: Stack, runs: Sequence[Run], number: int) -> list[StageResult]:
        """The results of a finished stage of a stack; measured here if they do not exist for these corpora."""
        keys, evaluated = [self.keys.of(run, number) for run in runs], self.keys.evaluated(runs[0])
        found = [self.store.result(key, evaluated) for key in keys]
        there = [result for result in found if result is not None]
        if len(there) == len(found):
            return there
        parameters, folds = self.store.parameters(keys), self.experiment.evaluated_in(runs[0])
        measured = evaluate(
            lambda samples: stack.predict(parameters, samples), len(runs), self.corpora, folds
        )
        results = []
        for key, figures in zip(keys, measured, strict=True):
            self.store.save_figures(key, evaluated, figures)
            record = self.store.record(key)
            if record is None:
                raise self.store.removed(key)
            results.append(record.result(figures))
        return results

    def as_it_came(self, run: Run) -> StageResult:
        """The figures of the bundle that a run continues from, on the new corpora."""
        return self.measured_on(self.corpora, run, self.experiment.begun)

    @torch.inference_mode()
    def measured_on(self, corpora: Sequence[Corpus], run: Run, number: int) -> StageResult:
        """The figures of a finished stage on these corpora, which have the folds of the experiment's."""
        key, evaluated = self.keys.of(run, number), self.keys.evaluated(run, corpora)
        figures = self.store.figures(key, evaluated)
        if figures is None:
            parameters, stack = self.parameters(run, number)[None], self.stack([run])
            (figures,) = evaluate(
                lambda samples: stack.predict(parameters, samples),
                1,
                corpora,
                self.experiment.evaluated_in(run),
            )
            self.store.save_figures(key, evaluated, figures)
        return StageResult([], [], figures)

    def pooled(
        self, runs: Sequence[Run], number: int, corpora: Sequence[Corpus] | None = None
    ) -> StageResult:
        """The figures of one run over all its folds together: `runs` are its finished ones, in the order of the folds.

        They are on the corpora of the experiment, or on others.
        """
        key, evaluated = self.keys.pooled(runs, number), self.keys.evaluated(Run(None, runs[0].seed), corpora)
        figures = self.store.figures(key, evaluated)
        if figures is None:
            chosen = self.corpora if corpora is None else corpora
            figures = evaluate_pooled([self.predictor(run, number) for run in runs], chosen)
            self.store.save_figures(key, evaluated, figures)
        return StageResult([], [], figures)

    def predictor(self, run: Run, number: int) -> Callable[[Samples], npt.NDArray[np.float32]]:
        """A function that predicts (N, K) with the parameters of a finished stage; threads can share it."""
        parameters, stack = self.parameters(run, number)[None], self.stack([run])

        def predict(samples: Samples) -> npt.NDArray[np.float32]:
            with torch.inference_mode():  # which holds for one thread
                return stack.predict(parameters, samples)[0].cpu().numpy()

        return predict

    def kept_bytes(self, run: Run, number: int, after: int) -> KeptBytes:
        """What a run keeps from stage `number` (from 1) when stage `after` is over."""
        return self.stack([run]).kept_bytes(number, after)


def network_for(corpora: Sequence[Corpus]) -> Network:
    """A network for the embeddings of these caches."""
    train = corpora[0].splits["train"]
    *layers, width = train.acoustic.shape[1:]
    heads = tuple(head for head in HEADS if head.dimension in corpora[0].dimensions)
    return Network(Architecture(width, train.text.shape[1], layers=sum(layers), heads=heads))
