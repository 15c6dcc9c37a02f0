"""The tasks of an experiment shared with other processes, on any hosts: each trains the one that it has claimed.

Claims say who trains what, and how a task ended; the results of others come from the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ser_memory.common.claims import Claims, claimed
from ser_memory.common.errors import SerError
from ser_memory.common.reporting import Advance, spare
from ser_memory.train.engines.inline import Inline
from ser_memory.train.results import Outcome
from ser_memory.train.runs import Run
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.trainer import Trainer

_LEFT_OUT = "left out"


class Shared:
    """Trains one task after the other that no other worker has, on one core or one device, until all have ended."""

    def __init__(self, trainer: Trainer, claims: Claims, patience: float) -> None:
        """`patience`: seconds within which the stages that another worker has finished must appear in the store."""
        self._trainer, self._claims, self._patience = trainer, claims, patience
        self._inline = Inline(trainer)
        self._stopped = False

    def run(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        own: set[Run] = set()
        shared = _Tasks(tasks, self._trainer, self._claims, self._patience, advance)
        for task in claimed(self._claims, tasks, name_of, shared.can_begin, lambda: self._stopped):
            if shared.is_left_out(task):
                self._claims.finish(name_of(task), _LEFT_OUT)
                continue
            for _, outcome in self._inline.run([task], advance):
                self._claims.finish(name_of(task), str(outcome.failed or ""))
                shared.ended[task] = outcome
                own.add(task)
                yield task, outcome
        while not self._stopped and (waiting := shared.waiting()):
            for task in waiting:
                shared.look_for(task)
            if shared.waiting():
                self._claims.wait()
        yield from ((task, outcome) for task, outcome in shared.ended.items() if task not in own)

    def stop(self) -> None:
        self._stopped = True
        self._inline.stop()


class _Tasks:
    """Tasks, and what is known here of how they ended."""

    def __init__(
        self,
        tasks: Sequence[Run],
        trainer: Trainer,
        claims: Claims,
        patience: float,
        advance: Advance,
    ) -> None:
        self.ended: dict[Run, Outcome] = {}
        self._trainer, self._claims, self._patience, self._advance = trainer, claims, patience, advance
        self._before = {task: [other for other in tasks if task.follows(other)] for task in tasks}
        owners = trainer.experiment.owners
        self._stages = {task: owners[task] for task in tasks}
        self._untrained = {task: trainer.untrained(task, owners[task]) for task in tasks}
        self._missed: dict[Run, float] = {}  # since when the result of a finished task has been looked for

    def can_begin(self, task: Run) -> bool:
        """Whether everything that a task follows has ended, and is there to continue from."""
        for other in self._before[task]:
            self.look_for(other)
        return self.is_left_out(task) or all(other in self.ended for other in self._before[task])

    def is_left_out(self, task: Run) -> bool:
        """Whether a task follows one that failed."""
        return any(other in self.ended and self.ended[other].failed for other in self._before[task])

    def waiting(self) -> list[Run]:
        """Tasks whose end is not known here."""
        return [task for task in self._stages if task not in self.ended and not self.is_left_out(task)]

    def look_for(self, task: Run) -> None:
        """Find out how a task ended if another worker has finished it.

        Raises SerError if its result is not in the store, and does not appear there: a shared folder may show a file
        late.
        """
        name = name_of(task)
        if task in self.ended or self.is_left_out(task) or not self._claims.is_done(name):
            return
        failed = int(self._claims.word(name) or 0)
        numbers = [number for number in self._stages[task] if not failed or number < failed]
        keys, evaluated = self._trainer.keys, self._trainer.keys.evaluated(task)
        store = self._trainer.store
        found = {number: store.result(keys.of(task, number), evaluated) for number in numbers}
        stages = {number: result for number, result in found.items() if result is not None}
        if len(stages) == len(numbers):
            self.ended[task] = Outcome(stages, failed or None)
            spare(self._advance, self._epochs(task))
        elif time.monotonic() - self._missed.setdefault(task, time.monotonic()) > self._patience:
            raise SerError(
                f"Another worker has trained {name}, and its stages are not in {store.folder}: give all workers the "
                f"same folder as --trained or, if they were removed there, remove {self._claims.folder} too."
            )

    def _epochs(self, task: Run) -> float:
        """How many at most were to be trained of a task."""
        most = self._trainer.experiment.training.epochs if STRATEGIES[task.strategy].by_gradient else 1
        return most * len(self._untrained[task])


def name_of(task: Run) -> str:
    """The name of a task, different for each of an experiment: `gem-random-1000-seed-0`, `shared-seed-0-fold-2`."""
    variant = task.variant
    kind = f"{variant.strategy}-{variant.sampler}-{variant.memory_size}" if variant else "shared"
    return f"{kind}-seed-{task.seed}{f'-fold-{task.fold}' if task.fold else ''}"
