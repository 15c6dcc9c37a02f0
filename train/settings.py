"""The options of ser-train, each declared once. Free of torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ser_memory.common.claims import WorkerSettings
from ser_memory.common.conventions import DIMENSIONS, RATED, cache_folder
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.options import Options, option
from ser_memory.train.memory.samplers import BY_SPEAKER, SAMPLERS
from ser_memory.train.runs import NO_SAMPLER, Variant
from ser_memory.train.strategies import STRATEGIES, Strategy, option_classes

STUDIES = ("heads", "transcripts")  # see study.py
OWN_TRANSCRIPTS = "own"  # of <corpus>.h5
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


def _known(kind: str, names: Sequence[str], registry: Mapping[str, object]) -> None:
    for name in names:
        if name not in registry:
            raise UsageError(f"There is no {kind} {name!r}: choose among {listing(registry)}.")
