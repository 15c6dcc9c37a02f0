"""An experiment: what determines its results, and which runs and stages it consists of. Free of torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from ser_memory.common.errors import UsageError
from ser_memory.common.options import Options
from ser_memory.train.runs import POOLED, Origin, Run, Variant
from ser_memory.train.settings import LaterStageSettings, MemorySettings, TrainingSettings
from ser_memory.train.strategies import STRATEGIES

SMALLEST_TO_SPLIT = 10  # utterances of a memory, of which a fifth has a CCC
SMALLEST_SHARE = 10  # utterances of each memory, where several share a budget


@dataclass(frozen=True)
class Experiment:
    """Everything that determines the results, given the caches."""

    variants: tuple[Variant, ...]
    stages: tuple[str, ...]  # names of caches, in order; first those that the bundles have learned
    seeds: tuple[int, ...]
    training: TrainingSettings = field(default_factory=TrainingSettings)
    options: tuple[
        Options, ...
    ] = ()  # of the strategies; those of a class that is not there have their defaults
    later: LaterStageSettings = field(default_factory=LaterStageSettings)
    folds: tuple[int, ...] = ()  # of the corpus of each stage, 0 for one without; empty: none has any
    memory: MemorySettings = field(default_factory=MemorySettings)
    origin: Origin | None = None

    @property
    def begun(self) -> int:
        """The number of stages that are over before the first one here."""
        return len(self.origin.seen) if self.origin else 0

    @property
    def numbers(self) -> range:
        """The numbers of the stages to be trained here; from 1, unless it continues from bundles."""
        return range(self.begun + 1, len(self.stages) + 1)

    @property
    def measured(self) -> range:
        """The numbers of the stages after which models are measured: those trained here, and that of the bundles."""
        return range(max(self.begun, 1), len(self.stages) + 1)

    @property
    def has_folds(self) -> bool:
        """Whether any corpus has folds."""
        return any(self.folds)

    @property
    def fold_names(self) -> tuple[str, ...]:
        """ "1", "2", ...; or only "" if no corpus has folds."""
        return tuple(str(number + 1) for number in range(max(self.folds, default=0))) or ("",)

    @property
    def runs(self) -> list[Run]:
        """Every variant with every seed in every fold."""
        return [
            Run(variant, seed, fold)
            for variant in self.variants
            for seed in self.seeds
            for fold in self.fold_names
        ]

    def owner(self, run: Run, number: int) -> Run:
        """To whom stage `number` (from 1) of a run belongs: to all variants, all folds, or that run alone."""
        shared = run.fold != POOLED and not any(self.folds[:number])
        own = number > 1 or not run.shares_first_stage
        return Run(run.variant if own else None, run.seed, "" if shared else run.fold)

    @property
    def owners(self) -> dict[Run, list[int]]:
        """Who trains which stages (from 1), each after those that it follows."""
        order = itertools.product(self.seeds, self.fold_names, self.variants)
        runs = [Run(variant, seed, fold) for seed, fold, variant in order]
        stages = [(self.owner(run, number), number) for number in self.numbers for run in runs]
        found: dict[Run, list[int]] = {}
        for run, number in dict.fromkeys(stages):
            found.setdefault(run, []).append(number)
        return found

    def evaluated_in(self, run: Run) -> tuple[str, ...]:
        """The folds in which a run is evaluated: its own, or all of them if they share it."""
        return (run.fold,) if run.fold else self.fold_names

    def options_of(self, strategy: str) -> tuple[Any, ...]:
        """The options that a strategy uses: instances of its `options`, in their order."""
        made = {type(options): options for options in self.options}
        return tuple(made.get(wanted) or wanted() for wanted in STRATEGIES[strategy].options)

    def later_of(self, strategy: str) -> LaterStageSettings:
        """How the strategy's stages after the first are stopped and averaged."""
        return self.later.of(STRATEGIES[strategy])

    def memory_of(self, variant: Variant) -> MemorySettings:
        """What the memory of a variant keeps of its utterances."""
        return self.memory.of(variant)

    @property
    def holding_out(self) -> list[Variant]:
        """The variants with a memory of which a part is looked at instead of trained on."""
        return [each for each in self.variants if each.memory_size and self.later_of(each.strategy).holds_out]

    def refuse_small_memories(self) -> None:
        """Raise UsageError where the CCC of one utterance would be learned from: there is nothing to learn."""
        for variant in self.holding_out:
            if variant.memory_size < SMALLEST_TO_SPLIT:
                raise UsageError(
                    f"--memory-size {variant.memory_size} is too small for {self.later.why_held_out}, which looks at a "
                    f"fifth of each memory: keep {SMALLEST_TO_SPLIT} or more."
                )
        budget, earlier = self.later.memory_budget, len(self.stages) - 1
        if budget is not None and budget < SMALLEST_SHARE * earlier:
            raise UsageError(
                f"--memory-budget {budget} is too small for {earlier} earlier corpora: give {SMALLEST_SHARE * earlier} or "
                "more."
            )
        for variant in self.variants if self.training.loss == "ccc" else ():
            if variant.memory_size == 1:
                raise UsageError(
                    "--memory-size 1 teaches nothing with --loss ccc, the CCC of one utterance is 0: keep 2 or more."
                )
            STRATEGIES[variant.strategy].refuse_single_samples(*self.options_of(variant.strategy))


def held_out_of(size: int) -> int:
    """How many utterances of a memory are looked at where a fifth of it is held out."""
    return round(size / 5)
