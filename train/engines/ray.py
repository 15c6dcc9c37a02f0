"""Runs as tasks of Ray, on this machine or on a cluster, whose nodes open the same caches and the same store.

Ray starts a task again whose process or node has died; its finished stages are in the store.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ser_memory.common import nodes
from ser_memory.common.cluster import alike, connected, refuse_no_ray
from ser_memory.common.errors import SerError, UsageError, system_errors
from ser_memory.common.machine import one_core_each
from ser_memory.common.reporting import Advance, spare
from ser_memory.train.corpora import Source, load_corpora
from ser_memory.train.engines.contract import WorkerKilledError, ready
from ser_memory.train.loop import PausedError
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Outcome
from ser_memory.train.runs import Run
from ser_memory.train.store import Store
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.trainer import Trainer


class OnRay:
    """Gives Ray every task that can begin."""

    def __init__(self, trainer: Trainer, source: Source, jobs: int, address: str | None) -> None:
        """`address`: of a cluster; None starts a Ray with `jobs` cores on this machine, for the time of a run.

        Raises SerError if Ray is not installed, and UsageError for a GPU.
        """
        refuse_no_ray()
        if source.device != "cpu":
            raise UsageError(f"--engine ray trains on CPUs, not on {source.device}: give --device cpu.")
        self._trainer, self._jobs, self._address = trainer, jobs, address
        store = trainer.store.folder.resolve()
        # Its presence asks all tasks, on whichever node, to pause.
        self._stop = store / f"{uuid.uuid4().hex}.stop"
        source = replace(source, folder=source.folder.resolve())
        self._arguments = trainer.experiment, source, store, self._stop
        self._stopped = False

    def run(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        if not tasks:
            return
        owners = self._trainer.experiment.owners
        untrained = {task: self._trainer.untrained(task, owners[task]) for task in tasks}
        waiting, running = list(tasks), dict[Any, Run]()
        with self._connected() as (ray, common):
            train = ray.remote(num_cpus=1)(nodes.carry_out).options(name="train")
            made = import_module("ray.cloudpickle").dumps(partial(_train, *self._arguments))
            while waiting or running:
                begun = [] if self._stopped else ready(waiting, [*waiting, *running.values()])
                waiting = [task for task in waiting if task not in begun]
                running |= {train.remote(common, made, task): task for task in begun}
                if not running:
                    return
                done, _ = ray.wait(list(running), timeout=1)
                for reference in done:
                    task, outcome = running.pop(reference), _result(ray, reference)
                    if outcome is None:
                        continue
                    if outcome.failed:
                        waiting = [each for each in waiting if not each.follows(task)]
                    self._count(outcome, untrained[task], advance, task)
                    yield task, outcome

    def stop(self) -> None:
        self._stopped = True
        self._stop.touch()

    def _count(self, outcome: Outcome, numbers: Sequence[int], advance: Advance, task: Run) -> None:
        """Report the epochs of a task at its end."""
        most = self._trainer.experiment.training.epochs if STRATEGIES[task.strategy].by_gradient else 1
        for number in numbers:
            done = min(len(outcome.stages[number].scores), most) if number in outcome.stages else 0
            advance(done)
            spare(advance, most - done)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Any, nodes.Common]]:
        """Ray, whose nodes can do the work, and what those that join must have in common with them."""
        store, source = self._trainer.store.folder, self._arguments[1]
        files = {"cache": [source.path(name) for name in source.names]}
        try:
            with (
                connected(self._address, self._jobs) as ray,
                alike(ray, self._address, {"--trained": store}, files) as common,
            ):
                yield ray, common
        finally:
            self._stop.unlink(missing_ok=True)


def _result(ray: Any, reference: Any) -> Outcome | None:
    """What `_train` gave. Raises SerError, or what else the task raised."""
    try:
        fault, outcome = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        reason = str(error).splitlines()[0]
        raise WorkerKilledError(f"Ray gave a task up after several tries: {reason}") from None
    if fault:
        raise SerError(fault)
    if isinstance(outcome, SerError):
        raise outcome
    result: Outcome | None = outcome
    return result


_TRAINERS: dict[Path, Trainer] = {}  # of this process of Ray, which gets one task after the other


def _train(
    experiment: Experiment, source: Source, store: Path, stop: Path, task: Run
) -> Outcome | SerError | None:
    """A task in a process of Ray: its outcome, None if it was paused, or an error that the user can solve."""
    try:
        with system_errors(), one_core_each():
            if stop not in _TRAINERS:
                _TRAINERS.clear()
                corpora = load_corpora(source)
                _TRAINERS[stop] = Trainer(experiment, corpora, Store(store), torch.device(source.device))
            trainer = _TRAINERS[stop]
            trainer.pause = stop.exists
            return None if stop.exists() else trainer.carry_out([task], lambda _: None)[0]
    except PausedError:
        return None
    except SerError as error:
        return error
