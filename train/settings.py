"""The options of ser-train, each declared once, and the experiment that follows from them. Free of torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ser_memory.common.claims import WorkerSettings
from ser_memory.common.conventions import DIMENSIONS, RATED, cache_folder
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.options import Options, flag, names_of, option, refuse_unknown
from ser_memory.train.memory.samplers import BY_SPEAKER, SAMPLERS
from ser_memory.train.strategies import STRATEGIES, Strategy, option_classes

STUDIES = ("heads", "transcripts")  # see study.py
OWN_TRANSCRIPTS = "own"  # of <corpus>.h5
NO_SAMPLER = "none"  # of a strategy that keeps no memory
POOLED = "pooled"  # in place of a fold: the test predictions of all folds together
DEFAULT_SEEDS = 5
SMALLEST_TO_SPLIT = 10  # utterances of a memory, of which a fifth has a CCC
SMALLEST_SHARE = 10  # utterances of each memory, where several share a budget


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
    conditions: tuple[str, ...] = option(
        ("all",),
        separated=True,
        help="Also evaluate test recordings in other acoustic conditions, which ser-extract --condition makes: all that are "
        "in the folder of the caches, none, or names such as telephone,noise:10.",
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
        if len(self.conditions) > 1 and {"all", "none"} & set(self.conditions):
            raise UsageError(
                f"--conditions {','.join(self.conditions)}: give all, none, or names such as telephone,noise:10."
            )
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

    dimensions: tuple[str, ...] = option(
        DIMENSIONS,
        choices=RATED,
        separated=True,
        help=f"What one network predicts: some of {', '.join(RATED)}, separated by commas. A corpus without ratings of "
        "one of them trains the others.",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.dimensions)) < len(self.dimensions):
            raise UsageError(f"--dimensions {','.join(self.dimensions)} must name each dimension once.")
        # One order, so that the same dimensions are the same experiment.
        object.__setattr__(self, "dimensions", tuple(each for each in RATED if each in self.dimensions))


@dataclass(frozen=True)
class LaterStageSettings(Options):
    """How stages after the first are stopped and averaged; the first is the same for all."""

    title = "Stages after the first"

    stop_on: str = option(
        "current",
        choices=("current", "memory"),
        help="What decides which epoch is best: the validation CCC of the current corpus, or that and, as the other half, "
        "the mean CCC of a fifth of each memory, which is then not trained on.",
    )
    average: str = option(
        "none",
        choices=("none", "interpolate", "ema"),
        help="Average the parameters: interpolate takes those between the ones before and after a stage, with the share "
        "that is best by --stop-on memory; ema is an exponential average over the steps of the stage.",
    )
    average_share: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="Share of the new parameters in --average interpolate where there is no memory to choose it on.",
    )
    average_decay: float = option(
        0.99,
        minimum=0,
        maximum=1,
        below=True,
        help="Share of the old average at every step of --average ema.",
    )
    memory_budget: int | None = option(
        None,
        minimum=1,
        unset="no limit",
        help="Utterances in all memories of a run together: with every further corpus, earlier memories become smaller.",
    )

    def of(self, strategy: type[Strategy]) -> LaterStageSettings:
        """What matters of these for a strategy; all else as by default, so that equal stages are found equal."""
        if not strategy.by_gradient:
            return LaterStageSettings()
        remembers = strategy.earlier == "memory"
        plain = LaterStageSettings()
        return LaterStageSettings(
            self.stop_on if remembers else plain.stop_on,
            self.average,
            self.average_share if self.average == "interpolate" and not remembers else plain.average_share,
            self.average_decay if self.average == "ema" else plain.average_decay,
            self.memory_budget if remembers else None,
        )

    @property
    def described(self) -> dict[str, Any]:
        """By name, without an option that older versions did not have, where it is not used."""
        told = asdict(self)
        if self.memory_budget is None:
            del told["memory_budget"]
        return told

    @property
    def holds_out(self) -> bool:
        """Whether a part of each memory is looked at instead of trained on."""
        return self.stop_on == "memory" or self.average == "interpolate"

    @property
    def why_held_out(self) -> str:
        """The option for which it is."""
        return "--stop-on memory" if self.stop_on == "memory" else "--average interpolate"


@dataclass(frozen=True)
class MemorySettings(Options):
    """What a memory keeps of an utterance. What is trained on is what is kept."""

    title = "What a memory keeps of its utterances (ser-bundle audit measures what that reveals)"

    memory_noise: float = option(
        0.0,
        minimum=0,
        help="Gaussian noise on the kept embeddings, drawn once: its standard deviation, in units of each column's own in "
        "the training split.",
    )
    memory_bits: str = option(
        "32",
        choices=("8", "32"),
        help="Bits of each number of the kept embeddings; with 8, columns have a step of their own.",
    )
    no_speaker_codes: bool = option(
        False,
        help="Keep no speaker codes in a memory that is chosen by speaker; others keep none in a bundle. With "
        "--memory-budget, such a memory cannot be reduced by speaker.",
    )

    def of(self, variant: Variant) -> MemorySettings:
        """What matters of these for a variant; all else as by default."""
        if variant.sampler == NO_SAMPLER:
            return MemorySettings()
        return replace(self, no_speaker_codes=self.no_speaker_codes and variant.sampler in BY_SPEAKER)

    @property
    def described(self) -> dict[str, Any]:
        """By name what is not as by default, since older versions did not have these options."""
        plain = asdict(MemorySettings())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}


@dataclass(frozen=True)
class BundleSettings(Options):
    """Models that are taken away, or that training continues from."""

    title = "Bundles"

    from_: Path | None = option(
        None,
        folder=True,
        unset="train from nothing",
        help="Continue from this bundle, or from those of several seeds, with the --stages that are new. No earlier cache "
        "is needed. Options are those of the bundle, unless you give others.",
    )
    bundles: bool = option(
        False,
        help="Write a bundle after every stage, to <output>/bundles: the model with what its strategy keeps.",
    )
    estimate_size: int = option(
        0,
        minimum=0,
        help="Test utterances of each corpus that a bundle also holds, and that are never trained on. With them, "
        "--from estimates the figures of corpora that are no longer there.",
    )
    language: str = option("en", help="Language of the speech, for the model card of a bundle.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimate_size == 1:
            raise UsageError(
                "--estimate-size 1 tells nothing, the CCC of one utterance is 0: give 2 or more."
            )


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
    engine: str = option(
        "local",
        choices=("local", "ray"),
        help="Who trains: local is this machine; ray gives the runs to Ray, whose nodes see the same --cache and --trained.",
    )
    address: str | None = option(
        None,
        unset="a Ray on this machine alone",
        help="With --engine ray: the address of a cluster, such as auto or 10.0.0.1:6379.",
    )
    memory_share: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="Share of this machine's memory that embeddings may fill; larger caches are read from the disk in "
        "shuffled blocks.",
    )


GROUPS: tuple[type[Options], ...] = (
    DataSettings, StrategySettings, MemorySettings, TrainingSettings, LaterStageSettings, *option_classes(),
    BundleSettings, MachineSettings, WorkerSettings,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All options of ser-train."""

    data: DataSettings = field(default_factory=DataSettings)
    strategies: StrategySettings = field(default_factory=StrategySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    later: LaterStageSettings = field(default_factory=LaterStageSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    options: tuple[Options, ...] = field(default_factory=lambda: tuple(cls() for cls in option_classes()))
    bundles: BundleSettings = field(default_factory=BundleSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    origin: Origin | None = None  # what is in the bundles of --from

    @classmethod
    def take(
        cls, values: Mapping[str, Any], given: Iterable[str] | None = None, origin: Origin | None = None
    ) -> Self:
        """From options by their names, with underscores; those that are not named keep their defaults.

        `given` names those that were asked for, if `values` has others too, such as defaults or those of a preset.
        `origin` is what `values` name as the bundles to continue from, see `bundles.origin.settings_of`.

        Raises UsageError, which names the option, for names or values that are not allowed, and for an option that was
        asked for and that nothing in the experiment uses.
        """
        refuse_unknown(values, *GROUPS)
        made = cls(
            DataSettings.take(values),
            StrategySettings.take(values),
            TrainingSettings.take(values),
            LaterStageSettings.take(values),
            MemorySettings.take(values),
            tuple(options.take(values) for options in option_classes()),
            BundleSettings.take(values),
            MachineSettings.take(values),
            WorkerSettings.take(values),
            origin,
        )
        made.refuse_unused(values if given is None else given)
        if made.workers.worker and made.machine.output is None:
            raise UsageError("--worker needs --output: the folder for the results, which all workers share.")
        made.experiment.refuse_small_memories()
        return made

    @property
    def experiment(self) -> Experiment:
        """The experiment that the options describe."""
        earlier = self.origin.seen if self.origin else ()
        return Experiment(
            self.strategies.variants,
            (*earlier, *self.data.stages),
            self.strategies.chosen_seeds,
            self.training,
            self.options,
            self.later,
            memory=self.memory,
            origin=self.origin,
        )

    @property
    def unused(self) -> set[str]:
        """Names of the options that nothing in the experiment uses."""
        return {name for names, _ in self._unused() for name in names}

    def refuse_unused(self, asked_for: Iterable[str]) -> None:
        """Raise UsageError, which names them, if options were asked for that nothing in the experiment uses."""
        given = frozenset(asked_for)
        for names, why in self._unused():
            asked = [flag(name) for name in names if name in given]
            if asked:
                verb = "has" if len(asked) == 1 else "have"
                raise UsageError(
                    f"{listing(asked)} {verb} no effect: {why}. Leave {'it' if len(asked) == 1 else 'them'} out."
                )

    def _unused(self) -> Iterator[tuple[list[str], str]]:
        """Names of options that nothing uses, and why."""
        yield from self._unused_by_strategies()
        yield from self._unused_by_machines()

    def _unused_by_strategies(self) -> Iterator[tuple[list[str], str]]:
        named = [item.partition(":") for item in self.strategies.strategy]
        used = {name: STRATEGIES[name] for name, _, _ in named}
        trained = f"this run trains {listing(used)}"
        own = {name for cls in used.values() for name in names_of(*cls.options)}
        for cls in option_classes():
            owners = [name for name, strategy in STRATEGIES.items() if cls in strategy.options]
            yield (
                [name for name in names_of(cls) if name not in own],
                f"only {listing(owners)} {'has' if len(owners) == 1 else 'have'} it, and {trained}",
            )
        if not any(strategy.by_gradient for strategy in used.values()):
            names = [name for name in names_of(TrainingSettings, LaterStageSettings) if name != "dimensions"]
            yield names, f"{trained}, which takes no step of training"
        if len(self.experiment.stages) == 1 and not self.bundles.bundles:  # a bundle carries on what it keeps
            plain = set(used) <= {"finetune", "analytic"}
            gradient = [name for name in own if name not in names_of(*STRATEGIES["analytic"].options)]
            yield (
                [
                    "sampler",
                    "memory_size",
                    *names_of(LaterStageSettings, MemorySettings),
                    *gradient,
                    *([] if plain else ["strategy"]),
                ],
                "with one stage there is nothing before it to be remembered",
            )
        with_memory = [sampler for name, _, sampler in named if used[name].earlier == "memory"]
        if not with_memory:
            remembering = ["sampler", "memory_size", *names_of(MemorySettings)]
            yield remembering, f"{trained}, which keeps no memory"
            yield ["stop_on", "memory_budget"], f"{trained}, which keeps no memory"
        elif all(with_memory):
            yield ["sampler"], "every strategy with a memory names its own sampler"
        if with_memory and not any(each.sampler in BY_SPEAKER for each in self.strategies.variants):
            why = f"only a memory that is chosen by {listing(BY_SPEAKER)} keeps speaker codes in a bundle"
            yield ["no_speaker_codes"], why
        if self.later.average != "interpolate" or len(with_memory) == len(
            [n for n in named if used[n[0]].by_gradient]
        ):
            yield ["average_share"], "only --average interpolate without a memory has it"
        if self.later.average != "ema":
            yield ["average_decay"], "only --average ema has it"

    def _unused_by_machines(self) -> Iterator[tuple[list[str], str]]:
        if not self.bundles.bundles:
            yield ["estimate_size", "language"], "only --bundles writes a bundle"
        if self.machine.engine != "ray":
            yield ["address"], "only --engine ray has it"
        elif self.machine.address:
            yield ["jobs"], "a cluster knows how many cores it has"
        if self.workers.worker:
            yield ["jobs"], "a worker trains one run at a time, so start as many workers as should train"
            yield ["engine"], "a worker trains by itself"
        else:
            yield ["claim_timeout"], "only --worker has it"

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

    The first stage is the same for all variants that train by gradient steps, and belongs to none of them. The stages
    before the first corpus with folds are the same for all folds and belong to none of them.
    """

    variant: Variant | None
    seed: int
    fold: str = ""  # "1", "2", ..., or ""; POOLED: all of them together

    @property
    def strategy(self) -> str:
        """The strategy that trains; the first stage is plain training."""
        return self.variant.strategy if self.variant else "finetune"

    @property
    def shares_first_stage(self) -> bool:
        """Whether its first stage is that of all strategies which train by gradient steps."""
        return shares_first_stage(self.strategy)

    def follows(self, other: Run) -> bool:
        """Whether the stages of `other` come before these."""
        return (
            self != other
            and self.seed == other.seed
            and other.variant in ((None, self.variant) if self.shares_first_stage else (self.variant,))
            and other.fold in ("", self.fold)
        )


@dataclass(frozen=True)
class Origin:
    """The bundles that an experiment continues from: one per seed, after the same stages of the same variant."""

    seen: tuple[str, ...]  # corpora, in the order of the stages
    folders: tuple[tuple[int, Path], ...]  # by seed
    checksums: tuple[tuple[int, str], ...]  # by seed

    def folder(self, seed: int) -> Path:
        return dict(self.folders)[seed]

    def checksum(self, seed: int) -> str:
        return dict(self.checksums)[seed]


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


def shares_first_stage(strategy: str) -> bool:
    """Whether a strategy's first stage is that of all strategies which train by gradient steps."""
    return strategy not in STRATEGIES or STRATEGIES[strategy].by_gradient


def held_out_of(size: int) -> int:
    """How many utterances of a memory are looked at where a fifth of it is held out."""
    return round(size / 5)


def _known(kind: str, names: Sequence[str], registry: Mapping[str, object]) -> None:
    for name in names:
        if name not in registry:
            raise UsageError(f"There is no {kind} {name!r}: choose among {listing(registry)}.")
