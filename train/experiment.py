"""Stage 2 on one screen: the stage sequence P -> P+M -> P+M+I under every strategy, for every seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ser_memory.common.errors import UsageError
from ser_memory.train.data import Corpus, Samples
from ser_memory.train.dropout import Dropout
from ser_memory.train.evaluation import Figure, evaluate
from ser_memory.train.loop import LoopSettings, PausedError, Training
from ser_memory.train.memory import Held, choose, contents
from ser_memory.train.model import Architecture, Network
from ser_memory.train.objective import OBJECTIVES
from ser_memory.train.runs import Keys, Run, Variant
from ser_memory.train.store import Record, Store
from ser_memory.train.strategies import STRATEGIES, Kept, Stage, StrategySettings

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Experiment:
    """Everything that determines the results, given the caches."""

    variants: tuple[Variant, ...]
    stages: tuple[str, ...]  # names of caches, in order
    seeds: tuple[int, ...]
    loop: LoopSettings = field(default_factory=LoopSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)


@dataclass(frozen=True)
class Failure:
    """A run that stopped, and where."""

    run: Run
    stage: int


class Trainer:
    """Takes stacks of runs through the stages, on one device of one process.

    Each stage is kept in the store as it ends, and what is there already is not trained again. A run's results
    do not depend on the runs it is stacked with.
    """

    def __init__(
        self, experiment: Experiment, corpora: Sequence[Corpus], store: Store, device: torch.device
    ) -> None:
        self._experiment = experiment
        self.corpora = corpora
        self._store = store
        self.device = device
        self._keys = Keys(experiment.loop, experiment.strategy, corpora, device)
        self.pause: Callable[[], bool] = lambda: False  # asked after each epoch of a run that trains alone
        self._network = network_for(corpora)

    @torch.inference_mode()
    def first_stage(self, seeds: Sequence[int], advance: Advance) -> list[Failure]:
        """Train the first stage of each seed, as one stack."""
        runs = [Run(None, seed) for seed in seeds]
        new = [run for run in runs if not self._store.record(self._keys.of(run, 1))]
        failures: list[Failure] = []
        if new:
            failures, _ = self._finish(new, 1, self.initial(new), [], [[] for _ in new], advance)
        self._evaluate([run for run in runs if run not in new], 1)
        return failures

    @torch.inference_mode()
    def later_stages(self, runs: Sequence[Run], advance: Advance) -> list[Failure]:
        """Take runs of one strategy, as one stack, from their first stage to the last."""
        kept: list[Kept] = []
        memories: list[list[Held]] = [[] for _ in runs]
        parameters = self._parameters(runs, 1)
        for number in range(2, len(self.corpora) + 1):
            what, held = self.keep(runs, number - 1, parameters)
            kept.append(what)
            memories = [before + new for before, new in zip(memories, held, strict=True)]
            if not all(self._store.record(self._keys.of(run, number)) for run in runs):
                failures, going = self._finish(runs, number, parameters, kept, memories, advance)
                if failures:  # those that go on do so as a stack of their own, from what is kept of them
                    return failures + (self.later_stages(going, advance) if going else [])
            parameters = self._parameters(runs, number)
            self._evaluate(runs, number)
        return []

    def _finish(
        self, runs: Sequence[Run], number: int, start: Tensor, kept: list[Kept],
        memories: Sequence[list[Held]], advance: Advance,
    ) -> tuple[list[Failure], list[Run]]:  # fmt: skip
        """Train one stage of a stack, evaluate and keep it; the runs that failed, and those that go on."""
        training = self.training(runs, number, start, kept)
        paused = self._store.paused(self._keys.of(runs[0], number)) if len(runs) == 1 else None
        if paused is not None:
            training.restore(paused)
        try:
            trained = training.run(self.corpora[number - 1].splits["validation"], advance, self.pause)
        except PausedError:
            self._store.pause(self._keys.of(runs[0], number), training.state())
            raise
        failures = [Failure(run, number) for run, one in zip(runs, trained, strict=True) if one.diverged]
        going = [place for place, one in enumerate(trained) if not one.diverged]
        figures = self._figures(torch.stack([one.parameters for one in trained])[going])
        for place, measured in zip(going, figures, strict=True):
            record = Record(trained[place].scores, memories[place], measured, self._keys.evaluated)
            self._store.save(self._keys.of(runs[place], number), trained[place].parameters, record)
        return failures, [runs[place] for place in going]

    def initial(self, runs: Sequence[Run]) -> Tensor:
        """(R, P) parameters before anything is learned."""
        rows = [self._network.initial(_generator(run.seed, 0, "initialisation")) for run in runs]
        return torch.stack(rows).to(self.device)

    def training(self, runs: Sequence[Run], number: int, start: Tensor, kept: list[Kept]) -> Training:
        """Stage `number` (from 1) of a stack of runs of one strategy, about to begin."""
        loop = self._experiment.loop
        stage = Stage(
            self._network,
            start,
            OBJECTIVES[loop.loss],
            self.corpora[number - 1].splits["train"],
            kept,
            loop.batch_size,
            Dropout(
                self._network.dropouts, [_stream(run.seed, number, "dropout") for run in runs], self.device
            ),
            order=[_generator(run.seed, number, "order") for run in runs],
            chance=[_generator(run.seed, number, "strategy") for run in runs],
        )
        strategy = STRATEGIES[runs[0].strategy](stage, self._experiment.strategy)
        return Training(stage, strategy, loop)

    def keep(self, runs: Sequence[Run], number: int, parameters: Tensor) -> tuple[Kept, list[list[Held]]]:
        """What a stack's strategy carries on from stage `number`, and what each run's memory of it holds."""
        strategy, corpus = STRATEGIES[runs[0].strategy], self.corpora[number - 1]
        train = corpus.splits["train"]
        allowed: Samples | None = train if strategy.earlier == "corpora" else None
        held: list[list[Held]] = [[] for _ in runs]
        if strategy.earlier == "memory":
            chosen = [
                choose(train, variant.sampler, variant.memory_size, _generator(run.seed, number, "memory"))
                for run in runs
                if (variant := run.variant)
            ]
            allowed = train.select(torch.from_numpy(np.concatenate(chosen)))
            held = [contents(corpus, rows) for rows in chosen]
        return strategy.keep(self._network, self._network.unpack(parameters), train, allowed), held

    def _parameters(self, runs: Sequence[Run], number: int) -> Tensor:
        return self._store.parameters([self._keys.of(run, number) for run in runs]).to(self.device)

    def _figures(self, parameters: Tensor) -> list[list[Figure]]:
        if not len(parameters):
            return []
        return evaluate(self._network, self._network.unpack(parameters), self.corpora)

    def _evaluate(self, runs: Sequence[Run], number: int) -> None:
        """Bring records up to date whose figures are of other corpora than those of this experiment."""
        for run in runs:
            key = self._keys.of(run, number)
            record = self._store.record(key)
            if record is not None and record.evaluated != self._keys.evaluated:
                parameters = self._parameters([run], number)
                record = replace(record, figures=self._figures(parameters)[0], evaluated=self._keys.evaluated)
                self._store.save(key, parameters[0], record)


def network_for(corpora: Sequence[Corpus]) -> Network:
    """As wide as the embeddings are."""
    train = corpora[0].splits["train"]
    *layers, width = train.acoustic.shape[1:]
    return Network(Architecture(width, train.text.shape[1], layers=sum(layers)))


def variants(strategies: Sequence[str], samplers: Sequence[str], memory_size: int) -> tuple[Variant, ...]:
    """Each strategy once per sampler, or once where it keeps no memory; `gem:random` names its own sampler."""
    made: dict[Variant, None] = {}
    for item in strategies:
        strategy, _, own = item.partition(":")
        with_memory = STRATEGIES[strategy].earlier == "memory"
        if own and not with_memory:
            raise UsageError(f"--strategy {item}: {strategy} keeps no memory, so leave :{own} out.")
        for sampler in [own] if own else samplers:
            made[Variant(strategy, sampler, memory_size) if with_memory else Variant(strategy)] = None
    return tuple(made)


def _stream(seed: int, stage: int, purpose: str) -> np.random.SeedSequence:
    """Randomness for one purpose of one seed, so that no random decision shifts another."""
    return np.random.SeedSequence([seed, stage, zlib.crc32(purpose.encode())])


def _generator(seed: int, stage: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_stream(seed, stage, purpose)))
