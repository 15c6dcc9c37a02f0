"""One process's part of an experiment: stacks of runs taken through the stages."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.reporting import Advance
from ser_memory.train.corpora import Corpus
from ser_memory.train.dropout import Dropout
from ser_memory.train.evaluation import evaluate, evaluate_pooled
from ser_memory.train.fingerprints import Fingerprints
from ser_memory.train.kept import KeptBytes
from ser_memory.train.loop import PausedError, Training
from ser_memory.train.memory.contents import choose, contents
from ser_memory.train.model import HEADS, Architecture, Network
from ser_memory.train.objective import OBJECTIVES
from ser_memory.train.results import Held, Outcome, StageResult
from ser_memory.train.samples import Samples
from ser_memory.train.settings import Experiment, Run, Variant
from ser_memory.train.store import Record, Store
from ser_memory.train.strategies import STRATEGIES, Kept, Stage


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
        self._store = store

    @torch.inference_mode()
    def carry_out(self, runs: Sequence[Run], advance: Advance) -> list[Outcome]:
        """Train what is missing of a stack of runs, and evaluate all of it.

        The stack is of first stages, or of runs of one strategy whose earlier stages are in the store; all are in one
        fold, or shared by all folds. `advance` gets the epochs that are done. Returns an outcome per run, in order.
        Raises PausedError if `pause` said so; what was trained until then is kept in the store.
        """
        numbers = self.experiment.owners[runs[0]]
        if runs[0].variant is None:
            return self._stages(runs, numbers, torch.empty(0), advance)
        keys = [self.keys.of(self.experiment.owner(run, 1), 1) for run in runs]
        return self._stages(runs, numbers, self._store.parameters(keys).to(self.device), advance)

    def _stages(
        self, runs: Sequence[Run], own: Sequence[int], parameters: Tensor, advance: Advance
    ) -> list[Outcome]:
        """Take a stack through its own stages, from (R, P) parameters of the first stage where that is none of them."""
        outcomes = [Outcome() for _ in runs]
        kept: list[Kept] = []
        memories: list[list[Held]] = [[] for _ in runs]
        for number in range(min(own[0], 2), own[-1] + 1):
            if number > 1:
                what, held = self.keep(runs, number - 1, parameters)
                kept.append(what)
                memories = [before + new for before, new in zip(memories, held, strict=True)]
            diverged = self._train(runs, number, parameters, kept, memories, advance)
            if diverged:
                # The others continue as a stack of their own, from what is kept of them.
                others = [run for run in runs if run not in diverged]
                again = iter(self.carry_out(others, advance) if others else ())
                return [
                    Outcome(outcome.stages, failed=number) if run in diverged else next(again)
                    for run, outcome in zip(runs, outcomes, strict=True)
                ]
            parameters = self._store.parameters([self.keys.of(run, number) for run in runs]).to(self.device)
            if number in own:
                for outcome, result in zip(outcomes, self._results(runs, number, parameters), strict=True):
                    outcome.stages[number] = result
        return outcomes

    def _train(
        self, runs: Sequence[Run], number: int, start: Tensor, kept: list[Kept],
        memories: Sequence[list[Held]], advance: Advance,
    ) -> list[Run]:  # fmt: skip
        """Train one stage of a stack and keep it, if any of it is missing; returns the runs that diverged."""
        keys = [self.keys.of(run, number) for run in runs]
        missing = [place for place, key in enumerate(keys) if self._store.record(key) is None]
        if not missing:
            return []
        # What came before lies in tensors of the whole stack, so that only a first stage can be trained in part.
        places = missing if number == 1 else range(len(runs))
        stack = [runs[place] for place in places]
        training = self.training(stack, number, self.initial(stack) if number == 1 else start, kept)
        paused = [self._store.paused(keys[place]) for place in places]
        states = [state for state in paused if state is not None]
        if len(states) == len(paused) and len({float(state.tensors["step"]) for state in states}) == 1:
            training.restore(states)
        try:
            trained = training.run(self.corpus(runs, number).splits["validation"], advance, self.pause)
        except PausedError:
            for place, state in zip(places, training.states(), strict=True):
                self._store.pause(keys[place], state)
            raise
        for place, one in zip(places, trained, strict=True):
            if not one.diverged:
                record = Record(one.scores, memories[place], one.seconds, one.bent)
                self._store.save(keys[place], one.parameters, record)
        return [runs[place] for place, one in zip(places, trained, strict=True) if one.diverged]

    def _results(self, runs: Sequence[Run], number: int, parameters: Tensor) -> list[StageResult]:
        """The results of a finished stage of a stack; measured here if they do not exist for these corpora."""
        keys, evaluated = [self.keys.of(run, number) for run in runs], self.keys.evaluated(runs[0])
        found = [self._store.result(key, evaluated) for key in keys]
        there = [result for result in found if result is not None]
        if len(there) == len(found):
            return there
        folds = self.experiment.evaluated_in(runs[0])
        measured = evaluate(self.network, self.network.unpack(parameters), self.corpora, folds)
        results = []
        for key, figures in zip(keys, measured, strict=True):
            self._store.save_figures(key, evaluated, figures)
            record = self._store.record(key)
            if record is None:
                raise self._store.removed(key)
            results.append(record.result(figures))
        return results

    def pooled(self, runs: Sequence[Run], number: int) -> StageResult:
        """The figures of one run over all its folds together: `runs` are its finished ones, in the order of the folds."""
        key, evaluated = self.keys.pooled(runs, number), self.keys.evaluated(Run(None, runs[0].seed))
        figures = self._store.figures(key, evaluated)
        if figures is None:
            parameters = [self._store.parameters([self.keys.of(run, number)]).to(self.device) for run in runs]
            figures = evaluate_pooled(self.network, [*map(self.network.unpack, parameters)], self.corpora)
            self._store.save_figures(key, evaluated, figures)
        return StageResult([], [], figures)

    def predictor(self, run: Run, number: int) -> Callable[[Samples], npt.NDArray[np.float32]]:
        """A function that predicts (N, K) with the parameters of a finished stage; threads can share it."""
        flat = self._store.parameters([self.keys.of(run, number)]).to(self.device)
        parameters = self.network.unpack(flat)

        def predict(samples: Samples) -> npt.NDArray[np.float32]:
            with torch.inference_mode():  # which holds for one thread
                return self.network.predict(parameters, samples)[0].cpu().numpy()

        return predict

    def kept_bytes(self, run: Run, number: int) -> KeptBytes:
        """What a run keeps from stage `number` (from 1) for later ones.

        The strategy itself keeps it, of samples and parameters of the right shapes, but learns from one utterance only.
        """
        strategy, train = STRATEGIES[run.strategy], self.corpus([run], number).splits["train"]
        allowed = train if strategy.earlier == "corpora" else None
        if strategy.earlier == "memory" and run.variant is not None:
            allowed = train.select(torch.arange(min(run.variant.memory_size, len(train))))
        nothing = self.network.unpack(torch.zeros(1, self.network.size, device=self.device))
        with torch.inference_mode():
            return strategy.keep(self.network, nothing, train.select(torch.arange(1)), allowed).size

    def corpus(self, runs: Sequence[Run], number: int) -> Corpus:
        """The corpus of stage `number` (from 1), in the fold of a stack."""
        return self.corpora[number - 1].at(runs[0].fold)

    def initial(self, runs: Sequence[Run]) -> Tensor:
        """(R, P) parameters before anything is learned."""
        rows = [self.network.initial(_generator(run.seed, 0, "initialisation")) for run in runs]
        return torch.stack(rows).to(self.device)

    def training(self, runs: Sequence[Run], number: int, start: Tensor, kept: list[Kept]) -> Training:
        """Stage `number` (from 1) of a stack of runs of one strategy, about to begin."""
        settings = self.experiment.training
        stage = Stage(
            self.network,
            start,
            OBJECTIVES[settings.loss],
            self.corpus(runs, number).splits["train"],
            kept,
            settings.batch_size,
            Dropout(
                self.network.dropouts, [_stream(run.seed, number, "dropout") for run in runs], self.device
            ),
            order=[_generator(run.seed, number, "order") for run in runs],
            chance=[_generator(run.seed, number, "strategy") for run in runs],
        )
        name = runs[0].strategy
        strategy = STRATEGIES[name](stage, self.experiment.options_of(name))
        return Training(stage, strategy, settings)

    def keep(self, runs: Sequence[Run], number: int, parameters: Tensor) -> tuple[Kept, list[list[Held]]]:
        """What a stack's strategy carries on from stage `number`, and what each run's memory of it holds."""
        strategy, corpus = STRATEGIES[runs[0].strategy], self.corpus(runs, number)
        train = corpus.splits["train"]
        allowed: Samples | None = train if strategy.earlier == "corpora" else None
        held: list[list[Held]] = [[] for _ in runs]
        if strategy.earlier == "memory":
            chosen = [
                remembered(train, variant, run.seed, number) for run in runs if (variant := run.variant)
            ]
            allowed = train.select(torch.from_numpy(np.concatenate(chosen)))
            held = [contents(corpus, rows) for rows in chosen]
        return strategy.keep(self.network, self.network.unpack(parameters), train, allowed), held


def network_for(corpora: Sequence[Corpus]) -> Network:
    """A network for the embeddings of these caches."""
    train = corpora[0].splits["train"]
    *layers, width = train.acoustic.shape[1:]
    heads = tuple(head for head in HEADS if head.dimension in corpora[0].dimensions)
    return Network(Architecture(width, train.text.shape[1], layers=sum(layers), heads=heads))


def remembered(train: Samples, variant: Variant, seed: int, number: int) -> npt.NDArray[np.int64]:
    """Rows of the training split of stage `number` (from 1) that go into a run's memory."""
    return choose(train, variant.sampler, variant.memory_size, _generator(seed, number, "memory"))


def _stream(seed: int, stage: int, purpose: str) -> np.random.SeedSequence:
    """Randomness for one purpose of one seed, so that no random decision shifts another."""
    return np.random.SeedSequence([seed, stage, zlib.crc32(purpose.encode())])


def _generator(seed: int, stage: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_stream(seed, stage, purpose)))
