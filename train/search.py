"""ser-train --search: trials of one experiment with other options, which Optuna proposes from what came out before.

OUTPUT/trials.csv is the only record of a search: a trial is one row, written once it is over. Optuna gets these rows
anew before each proposal, with random numbers that follow from the number of the trial. So a search that was killed
continues as if it had not been, and a trial that was under way is proposed again. It needs no folder of its own: its
stages are in the store, from which OUTPUT/best, the run of the best trial, is written at the end.

No trial is pruned. What it comes to is known after its last stage, since its first stages do not show what it forgets
later; and a stage that does not improve ends by `patience` anyway.
"""

from __future__ import annotations

import math
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ser_memory.common.console import clock, say, table
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.files import write_whole
from ser_memory.common.interruption import on_signals
from ser_memory.common.locks import sole_access
from ser_memory.common.machine import cores
from ser_memory.common.reporting import notice
from ser_memory.train import tracking
from ser_memory.train.checks import refuse_impossible
from ser_memory.train.configuration import Settings
from ser_memory.train.corpora import Corpus, Source
from ser_memory.train.engines.contract import Engine
from ser_memory.train.experiment import TrainedRun, facts_of, jobs_of, load, train, work_on
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Outcomes, StageResult, stages_of
from ser_memory.train.search_folder import BEST, BEST_FILE, DIVERGED, SearchFolder, Trial, experiment_file
from ser_memory.train.search_space import ALL_SEEN, Choice, Range, Search
from ser_memory.train.settings import DEFAULT_SEEDS
from ser_memory.train.strategies import STRATEGIES

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_LOCK = ".lock"
_SEED = 0  # of all proposals
_WORST = -1.0  # the value that Optuna gets for a trial that diverged: the lowest CCC
_SHOWN = 5  # of the best trials


@dataclass(frozen=True)
class Searched:
    """What a search gives."""

    folder: Path  # holds trials.csv, search.json, best.toml and the folder best
    trials: list[Trial] = field(repr=False)
    best: Trial
    run: TrainedRun  # of the best trial
    is_oracle: bool  # the objective looked at corpora that a user would not have any more


def search(wanted: Search, command: str | None = None) -> Searched:
    """Carry out a search, or continue it; `command` is noted as what was typed.

    Raises SerError or UsageError; trials that are over, and finished stages of others, are kept in any case.
    """
    base = wanted.corners[0]
    _refuse_absent(base)
    output = base.machine.output or _new_folder(wanted, base)
    experiment, source, corpora = load(base)
    if base.machine.jobs is not None:  # as many as there are cores, with one notice for all trials
        wanted = replace(wanted, values={**wanted.values, "jobs": min(base.machine.jobs, cores())})
    for corner in wanted.corners[1:]:
        refuse_impossible(_in_folds(corner, experiment), corpora, jobs_of(corner))
    _tell_what_is_missed(wanted, experiment)
    output.mkdir(parents=True, exist_ok=True)
    busy = UsageError(f"Another search is writing to {output}: wait for it, or give another --output.")
    with sole_access(output / _LOCK, busy, "--output"):
        facts = {**facts_of(source, corpora), "command": command, "torch": torch.__version__}
        folder = SearchFolder(output, wanted, facts)
        trials = folder.begin()
        _carry_out(wanted, folder, trials, experiment, source, corpora)
        finished = [trial for trial in trials if trial.objective is not None]
        if not finished:
            raise SerError(
                f"All {len(trials)} trials diverged, since their predictions stopped being finite: search smaller values, "
                "first of all of learning-rate, with another --output."
            )
        best = max(finished, key=_objective)  # the first of equals
        run = _train_best(wanted, output, best)
        folder.complete(best)
    return Searched(output, trials, best, run, wanted.is_oracle)


def propose(space: Sequence[Range | Choice], earlier: Sequence[Trial]) -> dict[str, Any]:
    """What Optuna's TPE (Bergstra et al. 2011) proposes after these trials: always the same after the same.

    The first ten are random.
    """
    import optuna

    seed = np.random.SeedSequence([_SEED, len(earlier)]).generate_state(1)[0]
    distributions = {each.name: _distribution(each) for each in space}
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = optuna.samplers.TPESampler(seed=int(seed))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(
            optuna.trial.create_trial(
                params=trial.chosen,
                distributions=distributions,
                value=_WORST if trial.objective is None else trial.objective,
            )
            for trial in earlier
        )
        return dict(study.ask(distributions).params)
    finally:
        optuna.logging.set_verbosity(loud)


def objective_of(objective: str, experiment: Experiment, outcomes: Outcomes) -> float:
    """The objective of finished runs, in [-1, 1]: the mean over seeds, folds and stages.

    Args:
        objective: HELD_OUT, of each stage the score that its kept parameters have on validation, as the stage itself
            is stopped by; or ALL_SEEN, of each stage the mean validation CCC over its own and all earlier corpora.
        experiment: what was trained.
        outcomes: of all stages.
    """
    values = [
        _seen(result, experiment.stages[:number], run.fold) if objective == ALL_SEEN else result.kept_score
        for run in experiment.runs
        for number, _, result in stages_of(experiment, outcomes, run)
    ]
    return fmean(values)


def _seen(result: StageResult, corpora: Sequence[str], fold: str) -> float:
    """The mean over corpora of the validation CCC, which is the mean over the dimensions that a corpus rates."""
    values: dict[str, list[float]] = {}
    for figure in result.figures:
        if (figure.split, figure.metric, figure.fold) == (
            "validation",
            "ccc",
            fold,
        ) and figure.corpus in corpora:
            values.setdefault(figure.corpus, []).append(figure.value)
    return fmean(fmean(of_corpus) for of_corpus in values.values())


def _refuse_absent(settings: Settings) -> None:
    """Raise SerError if a package that is needed is not installed, before anything is trained."""
    tracking.refuse_absent(settings.machine.tracker)
    if find_spec("optuna") is None:
        raise SerError("--search needs the package optuna: pip install 'ser-memory[search]'")


def _new_folder(wanted: Search, settings: Settings) -> Path:
    kind = "oracle-search" if wanted.is_oracle else "search"
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{settings.strategies.short_name}-{kind}"


def _in_folds(settings: Settings, loaded: Experiment) -> Experiment:
    """The experiment of some settings, on the corpora that were loaded for another."""
    return replace(settings.experiment, folds=loaded.folds)


def _tell_what_is_missed(wanted: Search, experiment: Experiment) -> None:
    (strategy,) = {variant.strategy for variant in experiment.variants}
    if not wanted.is_oracle and STRATEGIES[strategy].earlier != "memory" and len(experiment.stages) > 1:
        notice(
            f"{strategy} keeps no memory, so that the objective is the validation CCC of the current corpus alone: such a "
            "search favours forgetting."
        )


def _carry_out(
    wanted: Search,
    folder: SearchFolder,
    trials: list[Trial],
    loaded: Experiment,
    source: Source,
    corpora: Sequence[Corpus],
) -> None:
    """Make the trials that are missing, and add each to `trials` and to the folder when it is over."""
    if trials:
        notice(f"{min(len(trials), wanted.trials)} of {wanted.trials} trials are finished already.")
    running: list[Engine] = []

    def stop() -> None:
        for engine in running:
            engine.stop()

    with on_signals(stop) as received:
        while len(trials) < wanted.trials:
            chosen, begun = propose(wanted.space, trials), time.monotonic()
            settings = wanted.settings(chosen)
            experiment = _in_folds(settings, loaded)
            work = work_on(settings, experiment, source, corpora)
            running[:] = [work.engine]
            if received:  # before there was this engine to be stopped
                raise work.interrupted(received[0], folder.path)
            label = f"trial {len(trials) + 1} of {wanted.trials}"
            outcomes, failures = work.carry_out(label, folder.path)
            if received:
                raise work.interrupted(received[0], folder.path)
            value = math.nan if failures else objective_of(wanted.objective, experiment, outcomes)
            objective = value if math.isfinite(value) else None
            trials.append(Trial(len(trials) + 1, chosen, objective, time.monotonic() - begun))
            folder.write(trials)
            notice(f"{label}: {_described(trials[-1], wanted)}")


def _train_best(wanted: Search, output: Path, best: Trial) -> TrainedRun:
    """Write best.toml and the folder of its run, all of whose stages are in the store."""
    settings, folder, file = wanted.settings(best.chosen), output / BEST, output / BEST_FILE
    heading = f"Trial {best.number}: {_described(best, wanted)}"
    content = experiment_file(settings, [each.name for each in wanted.space], heading)
    if folder.exists() and not (file.exists() and file.read_text(encoding="utf-8") == content):
        shutil.rmtree(folder)  # of a trial that was the best of fewer
    write_whole(file, content)
    command = shlex.join(["ser-train", "--experiment", str(file), "--output", str(folder)])
    label = "  # the best of an oracle search" if wanted.is_oracle else ""
    return train(replace(settings, machine=replace(settings.machine, output=folder)), command + label)


def print_search(found: Searched, settings: Settings) -> None:
    """The best trials, and how to go on from here. `settings` are those of all trials."""
    names = list(found.best.chosen)
    finished = [trial for trial in found.trials if trial.objective is not None]
    diverged = len(found.trials) - len(finished)
    title = f"The best of {len(found.trials)} trials{f', of which {diverged} diverged' if diverged else ''}"
    table(
        title + (" (oracle: the objective looks at corpora that are gone)" if found.is_oracle else ""),
        ["trial", _called(found.is_oracle), *(name.replace("_", "-") for name in names), "time"],
        [
            [str(trial.number), _short(trial.objective), *(_short(trial.chosen[name]) for name in names),
             clock(trial.seconds)]
            for trial in sorted(finished, key=_objective, reverse=True)[:_SHOWN]  # of equals the first comes first
        ],
    )  # fmt: skip
    seeds = settings.strategies.chosen_seeds
    more = [] if set(range(DEFAULT_SEEDS)) <= set(seeds) else ["--seeds", str(DEFAULT_SEEDS)]
    again = shlex.join(["ser-train", "--experiment", str(found.folder / BEST_FILE), *more])
    say(f"Train the best{' (oracle)' if found.is_oracle else ''} on all seeds with: {again}")
    say(f"Report it with: ser-report {shlex.quote(str(found.folder / BEST))}")


def _described(trial: Trial, wanted: Search) -> str:
    told = listing(f"{name.replace('_', '-')} {_short(value)}" for name, value in trial.chosen.items())
    value = DIVERGED if trial.objective is None else f"{_called(wanted.is_oracle)} {_short(trial.objective)}"
    return f"{value} with {told}"


def _called(is_oracle: bool) -> str:
    return "oracle objective" if is_oracle else "objective"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _objective(trial: Trial) -> float:
    assert trial.objective is not None  # it did not diverge
    return trial.objective


def _distribution(of: Range | Choice) -> BaseDistribution:
    from optuna import distributions

    if isinstance(of, Choice):
        return distributions.CategoricalDistribution(of.values)
    if isinstance(of.low, int):
        return distributions.IntDistribution(of.low, int(of.high), log=of.is_logarithmic)
    return distributions.FloatDistribution(of.low, of.high, log=of.is_logarithmic)
