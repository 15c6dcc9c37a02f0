"""All options of ser-train together: the experiment that they describe, and those without effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ser_memory.common.claims import WorkerSettings
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.options import Options, flag, names_of, refuse_unknown
from ser_memory.train.memory.samplers import BY_SPEAKER
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import Origin
from ser_memory.train.settings import (
    GROUPS,
    BundleSettings,
    DataSettings,
    LaterStageSettings,
    MachineSettings,
    MemorySettings,
    StrategySettings,
    TrainingSettings,
)
from ser_memory.train.strategies import STRATEGIES, option_classes


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
