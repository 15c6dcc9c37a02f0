"""Stage 2 on one screen: the stage sequence P -> P+M -> P+M+I under every strategy, for every seed."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from common.errors import SerError
from train.data import Corpus, Samples
from train.evaluation import Figure, evaluate
from train.loop import LoopSettings, train_stage
from train.memory import EpisodicMemory
from train.model import Architecture, EmotionModel
from train.samplers import SAMPLERS
from train.strategies import STRATEGIES, StrategySettings

NO_SAMPLER = "none"  # of a strategy that keeps no memory
LETTERS = {"msp-podcast": "P", "msp-improv": "M", "iemocap": "I"}  # the paper's names of the stages


@dataclass(frozen=True)
class Variant:
    """One line of a table: a strategy and, where it keeps a memory, who gets in and how many."""

    strategy: str
    sampler: str = NO_SAMPLER
    memory_size: int = 0  # per earlier corpus


@dataclass(frozen=True)
class Experiment:
    """Everything that determines the results, given the caches."""

    variants: tuple[Variant, ...]
    stages: tuple[str, ...]  # names of caches, in order
    seeds: tuple[int, ...]
    loop: LoopSettings = field(default_factory=LoopSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)


@dataclass(frozen=True)
class Result:
    """One row of results.csv."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    stage: int  # from 1
    stage_name: str  # P, P+M, ...
    corpus: str
    split: str
    dimension: str
    metric: str
    value: float
    n: int


def variants(strategies: Sequence[str], samplers: Sequence[str], memory_size: int) -> tuple[Variant, ...]:
    """Each strategy once per sampler, or once where it keeps no memory."""
    return tuple(
        variant
        for strategy in strategies
        for variant in (
            [Variant(strategy, sampler, memory_size) for sampler in samplers]
            if STRATEGIES[strategy].earlier == "memory"
            else [Variant(strategy)]
        )
    )


def run(
    experiment: Experiment,
    corpora: Sequence[Corpus],
    advance: Callable[[float], None] = lambda _: None,
    keep: Callable[[list[Result]], None] = lambda _: None,
) -> list[Result]:
    """Train every variant with every seed; rows ordered by variant, seed, stage, corpus and split.

    The first stage of a seed is the same for all variants, so it is trained once. `advance` is told of
    epochs done, and `keep` is given the rows so far after every seed. A seed's rows do not depend on the
    other seeds or variants.
    """
    figures: dict[tuple[Variant, int], list[list[Figure]]] = {}  # per stage
    for seed in experiment.seeds:
        way = _Seed(experiment, corpora, seed, advance)
        first = way.first_stage()
        first_figures = list(evaluate(first, corpora))
        for variant in experiment.variants:
            later = way.later_stages(variant, copy.deepcopy(first))
            figures[variant, seed] = [first_figures, *(list(evaluate(model, corpora)) for model in later)]
        keep(_rows(experiment, figures))
    return _rows(experiment, figures)


def _rows(experiment: Experiment, figures: Mapping[tuple[Variant, int], list[list[Figure]]]) -> list[Result]:
    return [
        Result(**vars(variant), seed=seed, stage=number, stage_name=name, **vars(figure))
        for variant in experiment.variants
        for seed in experiment.seeds
        if (variant, seed) in figures
        for number, name in enumerate(_stage_names(experiment.stages), start=1)
        for figure in figures[variant, seed][number - 1]
    ]


def epochs(experiment: Experiment) -> int:
    """The most epochs that `run` can take."""
    later = len(experiment.variants) * (len(experiment.stages) - 1)
    return len(experiment.seeds) * (1 + later) * experiment.loop.epochs


def _stage_names(stages: Sequence[str]) -> list[str]:
    return [stage_name(stages[:number]) for number in range(1, len(stages) + 1)]


def stage_name(stages: Sequence[str]) -> str:
    """`P+M` for msp-podcast and msp-improv; other corpora keep their names."""
    return "+".join(LETTERS.get(stage, stage) for stage in stages)


@dataclass(frozen=True)
class _Seed:
    """One seed's way through the stages, on random streams of its own."""

    experiment: Experiment
    corpora: Sequence[Corpus]
    seed: int
    advance: Callable[[float], None]

    def first_stage(self) -> EmotionModel:
        train = self.corpora[0].splits["train"]
        torch.manual_seed(self._stream(0, "initialisation"))
        *layers, width = train.acoustic.shape[1:]
        model = EmotionModel(Architecture(width, train.text.shape[1], layers=sum(layers)))
        model.to(train.targets.device)
        self._train(1, "finetune", [], model)
        return model

    def later_stages(self, variant: Variant, model: EmotionModel) -> Iterator[EmotionModel]:
        """Train `model` on through stages 2, 3, ...; it is yielded after each."""
        sees = STRATEGIES[variant.strategy].earlier
        memory = EpisodicMemory(variant.memory_size, SAMPLERS[variant.sampler]) if sees == "memory" else None
        for number in range(2, len(self.experiment.stages) + 1):
            past = self.corpora[: number - 1]
            earlier: list[Samples] = []
            if memory is not None:
                chance = torch.Generator().manual_seed(self._stream(number - 1, "memory"))
                memory.remember(past[-1].name, past[-1].splits["train"], chance)
                earlier = list(memory.held.values())
            elif sees == "corpora":
                earlier = [corpus.splits["train"] for corpus in past]
            self._train(number, variant.strategy, earlier, model)
            yield model

    def _train(self, number: int, strategy: str, earlier: list[Samples], model: EmotionModel) -> None:
        """Train stage `number` (from 1) in place."""
        splits = self.corpora[number - 1].splits
        torch.manual_seed(self._stream(number, "dropout"))
        order = torch.Generator().manual_seed(self._stream(number, "order"))
        policy = STRATEGIES[strategy](splits["train"], earlier, self.experiment.strategy)
        try:
            train_stage(model, policy, splits["validation"], self.experiment.loop, order, self.advance)
        except SerError as error:
            where = stage_name(self.experiment.stages[:number])
            raise SerError(f"{strategy}, seed {self.seed}, stage {where}: {error}") from error

    def _stream(self, stage: int, purpose: str) -> int:
        """A seed for one purpose, so that no random decision shifts another."""
        entropy = [self.seed, stage, zlib.crc32(purpose.encode())]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
