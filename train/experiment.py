"""Stage 2 on one screen: caches -> the stages P, P+M, P+M+I under every strategy and seed -> a folder of results."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import torch

from ser_memory.common.cache import FeatureCache
from ser_memory.common.claims import Claims
from ser_memory.common.errors import SerError, listing
from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.common.machine import cores, one_core_each, resolve_device
from ser_memory.common.manifests import stage_name
from ser_memory.common.reporting import notice, progress
from ser_memory.train.bundles.estimates import write_estimates
from ser_memory.train.bundles.origin import refuse_other_embeddings
from ser_memory.train.bundles.writing import write_bundles
from ser_memory.train.checks import after_training, before_training, refuse_impossible, unchanged
from ser_memory.train.conditions import Conditions, digests_of, load_conditions
from ser_memory.train.configuration import Settings
from ser_memory.train.corpora import Corpus, Source, load_corpora, source_of
from ser_memory.train.engines import engine_for
from ser_memory.train.engines.contract import Engine, WorkerKilledError
from ser_memory.train.engines.ray import OnRay
from ser_memory.train.engines.shared import Shared
from ser_memory.train.plan import Experiment
from ser_memory.train.prediction_writer import write_predictions
from ser_memory.train.predictions import PREDICTIONS
from ser_memory.train.results import (
    CONDITIONS,
    COSTS,
    ESTIMATES,
    Outcomes,
    Result,
    StageResult,
    tabulate,
    write_conditions,
    write_costs,
)
from ser_memory.train.run_folder import RunFolder
from ser_memory.train.runs import POOLED, Run
from ser_memory.train.settings import OWN_TRANSCRIPTS
from ser_memory.train.sharing import claims_of, held
from ser_memory.train.store import Store
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.tracking import refuse_absent, track
from ser_memory.train.trainer import Trainer
from ser_memory.train.workbench import read_unchanged

_RUNS = Path("runs")  # new folders are made here, unless --output names one


@dataclass(frozen=True)
class Failure:
    """A run whose predictions stopped being finite, and the stage (from 1) in which they did."""

    run: Run
    stage: int


@dataclass(frozen=True)
class TrainedRun:
    """What `ser-train` gives."""

    folder: Path  # holds results.csv, config.json and the other files of a run
    results: list[Result] = field(repr=False)
    failures: list[Failure]

    def refuse_failures(self, experiment: Experiment) -> None:
        """Raise SerError, which names them, if there are runs that failed."""
        if self.failures:
            raise SerError(_described(self.failures, experiment))


@dataclass(frozen=True)
class Plan:
    """What is left to do of an experiment, and what is finished."""

    tasks: tuple[Run, ...]  # for an engine: what has stages to train, or to evaluate on these corpora
    untrained: tuple[tuple[int, Run], ...]  # every stage (from 1) that has to be trained
    finished: dict[tuple[Run, int], StageResult]
    trained: int  # stages that need no training


def train(settings: Settings, command: str | None = None) -> TrainedRun:
    """Train an experiment, or continue it; `command` is noted as what was typed.

    Raises SerError or UsageError; finished stages are kept in any case.
    """
    refuse_absent(settings.machine.tracker)
    experiment, source, corpora = load(settings)
    conditions = load_conditions(settings.data.conditions, source, corpora)
    claims = claims_of(settings)
    work = work_on(settings, experiment, source, corpora, claims)
    todo, trainer = work.todo, work.trainer
    facts = {**facts_of(source, corpora), **_places(settings), "command": command}
    folder = _run_folder(
        settings, experiment, facts | ({"conditions": digests_of(conditions)} if conditions else {})
    )
    with (
        on_signals(work.engine.stop) as received,
        held(folder, settings, claims, lambda: bool(received)) as once,
    ):
        for _ in once("begin"):
            folder.begin()
        if todo.trained:
            notice(f"{todo.trained} of {todo.trained + len(todo.untrained)} stages are finished already.")
        before = as_they_came(experiment, trainer)

        def write(made: Outcomes) -> None:
            if claims is None:  # a worker does not know all that is there so far
                folder.write({**before, **made})

        outcomes, failures = work.carry_out("training", folder.path, write)
        outcomes |= before
        for _ in once("results"):
            outcomes |= pooled(experiment, trainer, outcomes)
            folder.write(outcomes)
            measured = in_conditions(experiment, trainer, outcomes, conditions)
            write_conditions(folder.path / CONDITIONS, experiment, measured)
            _write_the_rest(settings, folder.path, trainer, source, outcomes)
            if not received:
                folder.complete()
        if received:
            raise work.interrupted(received[0], folder.path)
        outcomes |= pooled(experiment, trainer, outcomes)  # for a worker that did not write them
    results = tabulate(experiment, outcomes)
    for line in (*after_training(results, corpora), *unchanged(experiment, outcomes)):
        notice(line)
    return TrainedRun(folder.path, results, failures)


@dataclass(frozen=True)
class Work:
    """An experiment about to be trained: what is left of it, and what does it."""

    trainer: Trainer
    store: Store
    todo: Plan
    engine: Engine

    def carry_out(
        self,
        label: str,
        output: Path,
        write: Callable[[Outcomes], None] = lambda _: None,
    ) -> tuple[dict[tuple[Run, int], StageResult], list[Failure]]:
        """Train what is left, unless the engine is stopped; returns what is finished then, and what failed.

        Args:
            label: of the progress.
            output: the folder of the command, for messages.
            write: receives all that is finished, after each task of the engine.

        Raises SerError.
        """
        outcomes, failures = dict(self.todo.finished), list[Failure]()
        if self.todo.untrained:
            self.store.prepare(4 * self.trainer.network.size * len(self.todo.untrained))
        most = self.trainer.experiment.training.epochs  # a closed form takes one
        epochs = sum(most if STRATEGIES[run.strategy].by_gradient else 1 for _, run in self.todo.untrained)
        try:
            with progress(label, epochs, "epochs") as advance:
                for run, outcome in self.engine.run(self.todo.tasks, advance):
                    outcomes |= {(run, number): result for number, result in outcome.stages.items()}
                    failures += [Failure(run, outcome.failed)] if outcome.failed else []
                    write(outcomes)
        except WorkerKilledError as error:
            kept = self._kept
            again = f"run the same command with --output {output} and fewer --jobs"
            raise SerError(f"{error} {kept[0].upper()}{kept[1:]}: {again}.") from None
        return outcomes, failures

    def interrupted(self, number: int, output: Path) -> InterruptedRunError:
        """The error for a command with this output folder that the signal `number` has stopped."""
        return InterruptedRunError(
            f"Stopped by {signal.Signals(number).name}: {self._kept}. To continue, run the same command with --output "
            f"{output}.",
            number,
        )

    @property
    def _kept(self) -> str:
        """What is left of the work when it ends early."""
        todo, keys = self.todo, self.trainer.keys
        if todo.trained or any(self.store.has_begun(keys.of(run, number)) for number, run in todo.untrained):
            return f"what was trained is kept in {self.store.folder}"
        return "no epoch was finished, so nothing is kept"


def work_on(
    settings: Settings,
    experiment: Experiment,
    source: Source,
    corpora: Sequence[Corpus],
    claims: Claims | None = None,
) -> Work:
    """The work on an experiment with corpora that are loaded; with claims, it is shared with other workers."""
    device, store = torch.device(source.device), Store(settings.trained)
    trainer = Trainer(experiment, corpora, store, device)
    engine: Engine
    if claims is not None:
        engine = Shared(trainer, claims, settings.workers.claim_timeout)
    elif settings.machine.engine == "ray":
        engine = OnRay(trainer, source, jobs_of(settings), settings.machine.address)
    else:
        engine = engine_for(experiment, source, store, trainer, jobs_of(settings))
    return Work(trainer, store, plan(experiment, trainer, store), engine)


def _places(settings: Settings) -> dict[str, object]:
    """Where things are; no figure depends on it."""
    origin = settings.bundles.from_
    return {"trained": str(settings.trained), "from": None if origin is None else str(origin)}


def _write_the_rest(
    settings: Settings, folder: Path, trainer: Trainer, source: Source, outcomes: Outcomes
) -> None:
    """Write costs, predictions, what a tracker takes, and the estimates and bundles that were asked for."""
    write_costs(folder / COSTS, trainer.experiment, outcomes, trainer.kept_bytes)
    which = settings.machine.predictions
    write_predictions(folder / PREDICTIONS, which, trainer, source, outcomes)
    track(settings.machine.tracker, folder, trainer.experiment, outcomes)
    if trainer.experiment.origin is not None:
        write_estimates(folder / ESTIMATES, trainer, outcomes)
    if settings.bundles.bundles:
        write_bundles(folder, settings.bundles, trainer, source, outcomes)


def load(settings: Settings) -> tuple[Experiment, Source, list[Corpus]]:
    """The experiment of the settings, its corpora, and the source from which other processes can load the same."""
    device = resolve_device(settings.machine.device)
    source = source_of(
        settings.data, str(device), settings.machine.memory_share, settings.training.dimensions
    )
    corpora = load_corpora(source)
    experiment = settings.experiment
    experiment = replace(
        experiment, folds=(*[0] * experiment.begun, *(len(corpus.folds) for corpus in corpora))
    )
    if experiment.origin is not None:
        first = experiment.seeds[0]
        bundle = read_unchanged(experiment.origin.folder(first), experiment.origin.checksum(first))
        refuse_other_embeddings(source, corpora, bundle)
    jobs, asked = jobs_of(settings), settings.machine.jobs or 0
    if asked > cores():
        notice(f"--jobs {asked} is more than the {cores()} cores of this machine: {jobs} are used.")
    refuse_impossible(experiment, corpora, jobs)
    for line in before_training(experiment, corpora, settings.bundles.bundles):
        notice(line)
    digests = tuple(tuple(fold.digests for fold in corpus.each_fold) for corpus in corpora)
    return experiment, replace(source, digests=digests), corpora


def plan(experiment: Experiment, trainer: Trainer, store: Store) -> Plan:
    """Compare an experiment with what is finished."""
    keys = trainer.keys
    stages = [(run, number) for run, numbers in experiment.owners.items() for number in numbers]
    results = {stage: store.result(keys.of(*stage), keys.evaluated(stage[0])) for stage in stages}
    lacking = {run for (run, _), result in results.items() if result is None}
    different = {
        keys.of(run, number): (number, run) for run, number in reversed(stages)
    }  # folds may share stages
    untrained = [stage for key, stage in reversed(different.items()) if store.record(key) is None]
    return Plan(
        tuple(run for run in experiment.owners if run in lacking),
        tuple(untrained),
        {stage: result for stage, result in results.items() if result is not None},
        len(different) - len(untrained),
    )


def as_they_came(experiment: Experiment, trainer: Trainer) -> dict[tuple[Run, int], StageResult]:
    """What the models of the bundles come to on the new corpora, before they are adapted."""
    if not experiment.begun:
        return {}
    owners = dict.fromkeys(experiment.owner(run, experiment.begun) for run in experiment.runs)
    with one_core_each(), torch.inference_mode():
        return {(run, experiment.begun): trainer.as_it_came(run) for run in owners}


def pooled(
    experiment: Experiment, trainer: Trainer, outcomes: Outcomes, corpora: Sequence[Corpus] | None = None
) -> dict[tuple[Run, int], StageResult]:
    """The figures over all folds together, for every stage that is there in all of them.

    They are on the corpora of the experiment, or on others.
    """
    if not experiment.has_folds:
        return {}
    found: dict[tuple[Run, int], StageResult] = {}
    with one_core_each(), torch.inference_mode():
        whole = [Run(variant, seed, POOLED) for variant in experiment.variants for seed in experiment.seeds]
        stages = itertools.product(whole, experiment.numbers)
        for owner, number in dict.fromkeys((experiment.owner(run, number), number) for run, number in stages):
            runs = [replace(owner, fold=fold) for fold in experiment.fold_names]
            if all((experiment.owner(run, number), number) in outcomes for run in runs):
                found[owner, number] = trainer.pooled(runs, number, corpora)
    return found


def in_conditions(
    experiment: Experiment, trainer: Trainer, outcomes: Outcomes, conditions: Conditions
) -> dict[str, Outcomes]:
    """By condition, the figures of all stages that are there, measured here unless they are kept."""
    if not conditions:
        return {}
    stages = [(run, number) for run, number in outcomes if run.fold != POOLED]
    found: dict[str, Outcomes] = {}
    with one_core_each(), progress("conditions", len(conditions) * len(stages), "stages") as advance:
        for condition, corpora in conditions.items():
            measured = {}
            for run, number in stages:
                measured[run, number] = trainer.measured_on(corpora, run, number)
                advance(1)
            found[condition] = measured | pooled(experiment, trainer, measured, corpora)
    return found


def jobs_of(settings: Settings) -> int:
    """Runs that this process trains side by side: as asked for, but never more than there are cores."""
    wanted = 1 if settings.workers.worker else settings.machine.jobs
    return min(wanted or cores(), cores())


def _run_folder(settings: Settings, experiment: Experiment, facts: Mapping[str, object]) -> RunFolder:
    """The folder that was asked for, or that of an interrupted run of the same experiment, or a new one."""
    named = settings.machine.output
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{settings.strategies.short_name}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    new = next(_RUNS / each for each in names if not (_RUNS / each).exists())  # two may begin in one second
    folder = RunFolder(named or new, experiment, facts, torch.__version__)
    earlier = None if named else folder.interrupted(_RUNS)
    if earlier is None:
        return folder
    notice(
        f"Continuing in {earlier}, since a run of this experiment was interrupted there. Give --output for another folder."
    )
    return RunFolder(earlier, experiment, facts, torch.__version__)


def facts_of(source: Source, corpora: Sequence[Corpus]) -> dict[str, object]:
    """What determines the results besides the experiment."""
    infos = {name: FeatureCache(source.path(name)).info for name in source.names}
    without = [name for name, info in infos.items() if not info.has_texts]
    return {
        "label_scale": source.label_scale,
        "layer": source.layer,
        "streamed": source.streamed,
        "device": source.device,
        "digests": {corpus.name: corpus.digest for corpus in corpora},
        "cache": str(source.folder),
        "transcripts": source.transcripts or OWN_TRANSCRIPTS,
        "word_errors": {name: info.compared for name, info in infos.items()},
        **({"without_texts": without} if without else {}),
        "protocols": dict(zip(source.names, (each.name for each in source.divisions), strict=True)),
    }


def _described(failures: Sequence[Failure], experiment: Experiment) -> str:
    """One sentence on the runs that diverged."""
    ordered = sorted(failures, key=lambda failure: (failure.stage, failure.run.seed, failure.run.strategy))
    places = [
        f"{failure.run.strategy if failure.run.variant else 'all strategies'} with seed {failure.run.seed} "
        f"{f'in fold {failure.run.fold} ' if failure.run.fold else ''}"
        f"at stage {stage_name(experiment.stages[: failure.stage])}"
        for failure in ordered
    ]
    return (
        f"The predictions stopped being finite for {listing(places)}: lower --learning-rate. "
        "All other runs were finished."
    )
