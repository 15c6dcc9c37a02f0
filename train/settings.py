"""The options of ser-train, each declared once, and the experiment that follows from them. Free of torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ser_memory.common.conventions import DIMENSIONS, cache_folder
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.options import Options, flag, names_of, option, refuse_unknown
from ser_memory.train.memory.samplers import SAMPLERS
from ser_memory.train.strategies import STRATEGIES, option_classes

STUDIES = ("heads", "transcripts")  # see study.py
OWN_TRANSCRIPTS = "own"  # of <corpus>.h5
NO_SAMPLER = "none"  # of a strategy that keeps no memory
POOLED = "pooled"  # in place of a fold: the test predictions of all folds together
JOINT = "joint"  # heads for all dimensions in one network
DEFAULT_SEEDS = 5


@dataclass(frozen=True)
class DataSettings(Options):
    """Which caches are trained on, and how they are read."""

    title = "Data"

    stages: tuple[str, ...] = option(
        ("msp-podcast", "msp-improv", "iemocap"),
        separated=True,
        help="Names of the caches to train on, one after the other, separated by commas.",
    )
    cache: Path | None = option(
        None, folder=True, unset="$SER_CACHE, else cache", help="Folder of the caches."
    )
    protocol: tuple[str, ...] = option(
        (),
        unset="that of the cache",
        help="CORPUS=NAME: a split protocol of the corpus's manifest, perhaps with folds; repeatable.",
    )
    transcripts: str | None = option(
        None,
        unset="those of <corpus>.h5",
        help="Use <corpus>.<transcripts>.h5, which ser-extract --text-only makes, for the corpora that have it.",
    )
    layer: str | None = option(
        None,
        help="For caches with several layers: the number of one, or weighted for a learned mixture of all.",
    )
    label_scale: str = option(
        "declared",
        choices=("declared", "observed"),
        help="What becomes -1 and 1: the ends of the rating scale, or the smallest and largest label in the corpus.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(self.stages):
            raise UsageError(f"--stages {','.join(self.stages)!r} has an empty name between its commas.")
        if len(set(self.stages)) != len(self.stages):
            raise UsageError(f"--stages {','.join(self.stages)} must name different caches, each once.")
        named = [item.partition("=") for item in self.protocol]
        for item, (corpus, _, name) in zip(self.protocol, named, strict=True):
            if not (corpus and name):
                raise UsageError(f"--protocol {item!r} must be CORPUS=NAME, such as iemocap=sessions.")
            if corpus not in self.stages:
                raise UsageError(
                    f"--protocol {item}: {corpus} is not among the --stages {', '.join(self.stages)}."
                )
            if [other for other, _, _ in named].count(corpus) > 1:
                raise UsageError(f"--protocol gives {corpus} twice: a corpus has one protocol.")

    @property
    def protocols(self) -> dict[str, str]:
        """The protocol that was asked for, by corpus."""
        return {corpus: name for corpus, _, name in (item.partition("=") for item in self.protocol)}

    @property
    def folder(self) -> Path:
        """The folder of the caches."""
        return cache_folder(self.cache)


@dataclass(frozen=True)
class StrategySettings(Options):
    """Which strategies are compared, with which memories and seeds."""

    title = "Strategies and memory"

    strategy: tuple[str, ...] = option(
        ("finetune", "experience-replay", "gem"),
        help=f"{', '.join(STRATEGIES)}; repeatable. gem:speaker names its own sampler.",
    )
    sampler: tuple[str, ...] = option(
        ("random",), help=f"How the memory is chosen: {', '.join(SAMPLERS)}; repeatable."
    )
    memory_size: tuple[int, ...] = option(
        (1000,), minimum=1, help="Training utterances kept from each earlier corpus; repeatable."
    )
    seeds: int | None = option(None, minimum=1, unset=str(DEFAULT_SEEDS), help="Train seeds 0 to N - 1.")
    seed: tuple[int, ...] = option((), minimum=0, help="Train this seed; repeatable, instead of --seeds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds is not None and self.seed:
            raise UsageError("Give --seeds N or --seed S, not both.")
        _known("sampler", self.sampler, SAMPLERS)
        for item in self.strategy:
            strategy, colon, sampler = item.partition(":")
            _known("strategy", [strategy], STRATEGIES)
            if colon:
                _known("sampler", [sampler], SAMPLERS)
                if STRATEGIES[strategy].earlier != "memory":
                    raise UsageError(
                        f"--strategy {item}: {strategy} keeps no memory, so leave :{sampler} out."
                    )

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """All seeds, in order."""
        return tuple(dict.fromkeys(self.seed)) or tuple(range(self.seeds or DEFAULT_SEEDS))

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Each strategy once per sampler and size, or once without a memory; `gem:random` names its own sampler."""
        made: dict[Variant, None] = {}
        for item in self.strategy:
            strategy, _, own = item.partition(":")
            if STRATEGIES[strategy].earlier != "memory":
                made[Variant(strategy)] = None
                continue
            memories = itertools.product([own] if own else self.sampler, self.memory_size)
            made |= dict.fromkeys(Variant(strategy, sampler, size) for sampler, size in memories)
        return tuple(made)

    @property
    def short_name(self) -> str:
        """The strategies, for the name of a folder."""
        return "-".join(dict.fromkeys(item.partition(":")[0] for item in self.strategy))


@dataclass(frozen=True)
class TrainingSettings(Options):
    """How a stage is trained. All defaults are our choice; the paper gives none."""

    title = "Training"

    heads: str = option(
        JOINT,
        choices=(JOINT, *DIMENSIONS),
        help="Dimensions that one network predicts: both together, or one alone, to compare with a run of both.",
    )
    loss: str = option(
        "ccc",
        choices=("ccc", "mse"),
        help="Summed over the dimensions: 1 - CCC of the batch, or the mean squared error.",
    )
    learning_rate: float = option(1e-4, minimum=0, above=True, help="Learning rate of Adam.")
    batch_size: int = option(128, minimum=2, help="Utterances per step.")
    epochs: int = option(50, minimum=1, help="At most this many per stage.")
    patience: int = option(10, minimum=1, help="Epochs without a better validation CCC before a stage stops.")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What is trained, evaluated and predicted: columns of targets and predictions."""
        return DIMENSIONS if self.heads == JOINT else (self.heads,)


@dataclass(frozen=True)
class MachineSettings(Options):
    """Where the work is done and where its files go; no result depends on these."""

    title = "Output and machine"

    output: Path | None = option(
        None, folder=True, unset="runs/<time>-<strategies>", help="Folder of the results."
    )
    trained: Path | None = option(
        None,
        folder=True,
        unset="<cache>/trained",
        help="Folder of finished stages; later runs use them and train only what is missing.",
    )
    predictions: str = option(
        "all",
        choices=("all", "test", "none"),
        help="Which predictions are kept in predictions.h5: of all evaluated splits, of test splits, or none.",
    )
    tracker: str | None = option(
        None,
        choices=("tensorboard",),
        unset="none",
        help="Also write the figures for a tracker of experiments: tensorboard, to <output>/tensorboard.",
    )
    device: str = option("auto", help="Where to train: auto, cpu, mps, cuda or cuda:1.")
    jobs: int | None = option(
        None, minimum=1, unset="one per core", help="Processes that train side by side on a CPU."
    )
    memory_share: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="Share of this machine's memory that embeddings may fill; larger caches are read from the disk in "
        "shuffled blocks.",
    )


GROUPS: tuple[type[Options], ...] = (
    DataSettings, StrategySettings, TrainingSettings, *option_classes(), MachineSettings
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All options of ser-train."""

    data: DataSettings = field(default_factory=DataSettings)
    strategies: StrategySettings = field(default_factory=StrategySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    options: tuple[Options, ...] = field(default_factory=lambda: tuple(cls() for cls in option_classes()))
    machine: MachineSettings = field(default_factory=MachineSettings)
    given: frozenset[str] = frozenset()  # the options that somebody asked for; the others have their defaults

    @classmethod
    def take(cls, values: Mapping[str, Any], given: Iterable[str] | None = None) -> Self:
        """From options by their names, with underscores; those that are not named keep their defaults.

        `given` names those that were asked for, if `values` has defaults too.

        Raises UsageError, which names the option, for names or values that are not allowed.
        """
        refuse_unknown(values, *GROUPS)
        made = cls(
            DataSettings.take(values),
            StrategySettings.take(values),
            TrainingSettings.take(values),
            tuple(options.take(values) for options in option_classes()),
            MachineSettings.take(values),
            frozenset(values if given is None else given),
        )
        made.experiment.refuse_single_samples()
        return made

    @property
    def experiment(self) -> Experiment:
        """The experiment that the options describe."""
        return Experiment(
            self.strategies.variants,
            self.data.stages,
            self.strategies.chosen_seeds,
            self.training,
            self.options,
        )

    @property
    def without_effect(self) -> list[str]:
        """A sentence for options that were asked for, but that nothing in the experiment uses."""
        if len(self.data.stages) == 1:
            plain = {item.partition(":")[0] for item in self.strategies.strategy} == {"finetune"}
            names = ["sampler", "memory_size", *names_of(*option_classes()), *([] if plain else ["strategy"])]
            return self._unused(names, "with one stage there is nothing before it to be remembered")
        strategies = [item.partition(":") for item in self.strategies.strategy]
        used = {name for name, _, _ in strategies}
        trained = f"this run trains {listing(dict.fromkeys(item[0] for item in strategies))}"
        with_memory = [
            own for name, _, own in strategies if name in STRATEGIES and STRATEGIES[name].earlier == "memory"
        ]
        found = []
        if not with_memory:
            found += self._unused(["sampler", "memory_size"], f"{trained}, which keeps no memory")
        elif all(with_memory):
            found += self._unused(["sampler"], "every strategy with a memory names its own sampler")
        for cls in option_classes():
            owners = [name for name, strategy in STRATEGIES.items() if strategy.options is cls]
            if not used & set(owners):
                found += self._unused(names_of(cls), f"only {listing(owners)} has it, and {trained}")
        return found

    def _unused(self, names: Iterable[str], why: str) -> list[str]:
        asked = [flag(name) for name in names if name in self.given]
        verb = "has" if len(asked) == 1 else "have"
        return [f"{listing(asked)} {verb} no effect: {why}."] if asked else []

    @property
    def trained(self) -> Path:
        """The folder of finished stages."""
        return self.machine.trained or self.data.folder / "trained"


@dataclass(frozen=True)
class Variant:
    """One line of a table: a strategy and, if it keeps a memory, its sampler and size."""

    strategy: str
    sampler: str = NO_SAMPLER
    memory_size: int = 0  # per earlier corpus


@dataclass(frozen=True)
class Run:
    """One variant with one seed, in one fold.

    The first stage is the same for all variants and belongs to none of them. The stages before the first corpus with
    folds are the same for all folds and belong to none of them.
    """

    variant: Variant | None
    seed: int
    fold: str = ""  # "1", "2", ..., or ""; POOLED: all of them together

    @property
    def strategy(self) -> str:
        """The strategy that trains; the first stage is plain training."""
        return self.variant.strategy if self.variant else "finetune"

    def follows(self, other: Run) -> bool:
        """Whether the stages of `other` come before these."""
        return (
            self != other
            and self.seed == other.seed
            and other.variant in (None, self.variant)
            and other.fold in ("", self.fold)
        )


@dataclass(frozen=True)
class Experiment:
    """Everything that determines the results, given the caches."""

    variants: tuple[Variant, ...]
    stages: tuple[str, ...]  # names of caches, in order
    seeds: tuple[int, ...]
    training: TrainingSettings = field(default_factory=TrainingSettings)
    options: tuple[
        Options, ...
    ] = ()  # of the strategies; those of a class that is not there have their defaults
    folds: tuple[int, ...] = ()  # of the corpus of each stage, 0 for one without; empty: none has any

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
        return Run(run.variant if number > 1 else None, run.seed, "" if shared else run.fold)

    @property
    def owners(self) -> dict[Run, list[int]]:
        """Who trains which stages (from 1), each after those that it follows."""
        order = itertools.product(self.seeds, self.fold_names, self.variants)
        runs = [Run(variant, seed, fold) for seed, fold, variant in order]
        stages = [
            (self.owner(run, number), number) for number in range(1, len(self.stages) + 1) for run in runs
        ]
        found: dict[Run, list[int]] = {}
        for run, number in dict.fromkeys(stages):
            found.setdefault(run, []).append(number)
        return found

    def evaluated_in(self, run: Run) -> tuple[str, ...]:
        """The folds in which a run is evaluated: its own, or all of them if they share it."""
        return (run.fold,) if run.fold else self.fold_names

    def options_of(self, strategy: str) -> Any:
        """The options that a strategy uses, an instance of its `options`."""
        wanted = STRATEGIES[strategy].options
        return next((made for made in self.options if type(made) is wanted), None) or wanted()

    def refuse_single_samples(self) -> None:
        """Raise UsageError where the CCC of one utterance would be learned from: there is nothing to learn."""
        for variant in self.variants if self.training.loss == "ccc" else ():
            if variant.memory_size == 1:
                raise UsageError(
                    "--memory-size 1 teaches nothing with --loss ccc, the CCC of one utterance is 0: keep 2 or more."
                )
            STRATEGIES[variant.strategy].refuse_single_samples(self.options_of(variant.strategy))


def _known(kind: str, names: Sequence[str], registry: Mapping[str, object]) -> None:
    for name in names:
        if name not in registry:
            raise UsageError(f"There is no {kind} {name!r}: choose among {listing(registry)}.")
