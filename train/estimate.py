"""ser-train --dry-run: how long an experiment takes, from a few steps of each kind on the corpora themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ser_memory.common.console import clock, say, table
from ser_memory.common.machine import one_core_each
from ser_memory.common.manifests import stage_name
from ser_memory.train.closed_form import ClosedFormStack
from ser_memory.train.configuration import Settings
from ser_memory.train.experiment import Plan, jobs_of, load, plan
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import Run, shares_first_stage
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer

_STEPS = 5  # timed, after one that is not


@dataclass(frozen=True)
class Line:
    """The runs of one strategy in one stage."""

    number: int  # of the stage, from 1
    strategy: str
    runs: int
    together: int  # how many of them train as one stack
    steps: int  # per epoch; 0 for a closed form
    step: float  # seconds, of one stack
    seconds: float  # at most, of one stack for all epochs
    memory_size: int = 0

    @property
    def total(self) -> float:
        """Seconds at most if all stacks were trained one after the other."""
        return self.seconds * self.runs / self.together


def print_estimate(settings: Settings) -> None:
    """Print what is left to train and how long it takes at most."""
    experiment, source, corpora = load(settings)
    device = torch.device(source.device)
    store = Store(settings.trained)
    trainer = Trainer(experiment, corpora, store, device)
    todo = plan(experiment, trainer, store)
    if not todo.untrained:
        say("Everything is finished already: without --dry-run the tables are printed at once.")
        return
    jobs = jobs_of(settings) if device.type == "cpu" else 1
    sizes = {variant.memory_size for variant in experiment.variants if variant.memory_size}
    lines = estimate(experiment, trainer, todo)
    table(
        f"To train, on {_where(jobs, device)}",
        ["stage", "strategy", "runs", "steps an epoch", "ms a step", "at most"],
        [
            [
                stage_name(experiment.stages[: line.number]),
                _label(line, several=len(sizes) > 1),
                str(line.runs), *_steps(line), clock(line.total / min(jobs, line.runs)),
            ]
            for line in lines
        ],
        left=2,
    )  # fmt: skip
    total = clock(duration(lines, todo, jobs))
    if any(line.steps for line in lines):
        say(f"At most {total}, if every stage takes all of its {experiment.training.epochs} epochs.")
    else:
        say(f"About {total}: nothing is trained step by step.")


def estimate(experiment: Experiment, trainer: Trainer, todo: Plan) -> list[Line]:
    """A line for every stage, strategy and size of memory that has something to train."""
    alike: dict[tuple[int, str, int], list[Run]] = {}
    for number, run in todo.untrained:
        alike.setdefault(_kind(number, run), []).append(run)
    with one_core_each(), torch.inference_mode():
        return [_line(trainer, experiment, runs, number) for (number, *_), runs in alike.items()]


def duration(lines: Sequence[Line], todo: Plan, jobs: int) -> float:
    """Seconds that `jobs` processes need at most.

    They share all work, but the stages of one run follow each other and cannot be shared.
    """
    seconds = {(line.number, line.strategy, line.memory_size): line.seconds for line in lines}
    own: dict[Run, float] = {}
    for number, run in todo.untrained:
        own[run] = own.get(run, 0.0) + seconds[_kind(number, run)]
    longest = max(
        time + sum(before for other, before in own.items() if run.follows(other)) for run, time in own.items()
    )
    return max(longest, sum(line.total for line in lines) / jobs)


def _kind(number: int, run: Run) -> tuple[int, str, int]:
    """What runs have in common that take equally long in stage `number`."""
    return number, run.strategy, run.variant.memory_size if run.variant else 0


def _label(line: Line, several: bool) -> str:
    if line.number == 1 and shares_first_stage(line.strategy):
        return "all"
    return f"{line.strategy} ({line.memory_size})" if several and line.memory_size else line.strategy


def _steps(line: Line) -> tuple[str, str]:
    """Steps an epoch and milliseconds a step; a closed form has none."""
    return (str(line.steps), f"{1e3 * line.step:.1f}") if line.steps else ("-", "-")


def _where(jobs: int, device: torch.device) -> str:
    if device.type != "cpu":
        return str(device)
    return "1 core" if jobs == 1 else f"{jobs} cores"


def _line(trainer: Trainer, experiment: Experiment, runs: Sequence[Run], number: int) -> Line:
    stack = [run for run in runs if run.fold == runs[0].fold] if trainer.device.type != "cpu" else runs[:1]
    together = trainer.stack(stack)
    if isinstance(together, ClosedFormStack):
        return Line(number, runs[0].strategy, len(runs), 1, 0, 0.0, together.expected_seconds(number))
    start = together.start(experiment.begun + 1)
    training = together.training(number, start, together.kept(number, start))
    batches = list(training.strategy.batches())
    validation = trainer.corpus(stack, number).splits["validation"]
    training.step(batches[0])
    step = _timed(lambda: [training.step(index) for index in batches[:_STEPS]]) / min(_STEPS, len(batches))
    epoch = len(batches) * step + _timed(lambda: training.validate(validation))
    return Line(
        number,
        runs[0].strategy,
        len(runs),
        len(stack),
        len(batches),
        step,
        epoch * experiment.training.epochs,
        _kind(number, runs[0])[2],
    )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
