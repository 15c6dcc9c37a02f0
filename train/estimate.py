"""How long an experiment takes, from a few steps of each kind on the corpora themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ser_memory.common.machine import one_core_each
from ser_memory.common.manifests import stage_name
from ser_memory.train.data import Corpus
from ser_memory.train.experiment import Experiment, Trainer
from ser_memory.train.runs import Run
from ser_memory.train.schedule import Plan
from ser_memory.train.store import Store

_STEPS = 5  # timed, after one that is not


@dataclass(frozen=True)
class Line:
    """The runs of one strategy in one stage."""

    stage: str
    strategy: str
    runs: int
    steps: int  # per epoch
    step: float  # seconds, of one run on a core, or of all together on a GPU
    seconds: float  # at most, if they were trained one after the other


def estimate(
    experiment: Experiment, corpora: Sequence[Corpus], store: Store, todo: Plan, device: torch.device
) -> list[Line]:
    """A line for every stage and strategy with something left to do."""
    trainer = Trainer(experiment, corpora, store, device)
    alike: dict[tuple[int, str], list[Run]] = {}
    for number, run in todo.untrained:
        alike.setdefault((number, run.strategy), []).append(run)
    with one_core_each(), torch.inference_mode():
        return [_line(trainer, experiment, runs, number) for (number, _), runs in alike.items()]


def _line(trainer: Trainer, experiment: Experiment, runs: Sequence[Run], number: int) -> Line:
    together = runs if trainer.device.type != "cpu" else runs[:1]
    start = trainer.initial(together)
    kept = [trainer.keep(together, earlier, start)[0] for earlier in range(1, number)]
    training = trainer.training(together, number, start, kept)
    batches = list(training.strategy.batches())
    validation = trainer.corpora[number - 1].splits["validation"]
    training.step(batches[0])
    step = _timed(lambda: [training.step(index) for index in batches[:_STEPS]]) / min(_STEPS, len(batches))
    epoch = len(batches) * step + _timed(lambda: training.validate(validation))
    shared = len(runs) / len(together)
    return Line(
        stage_name(experiment.stages[:number]),
        runs[0].strategy if number > 1 else "all",
        len(runs),
        len(batches),
        step,
        epoch * experiment.loop.epochs * shared,
    )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
