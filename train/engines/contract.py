"""What an engine is: it takes runs that have something left to train, and returns what became of each. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ser_memory.common.errors import SerError
from ser_memory.common.reporting import Advance
from ser_memory.train.results import Outcome
from ser_memory.train.runs import Run


class WorkerKilledError(SerError):
    """A process that trained has gone."""


class Engine(Protocol):
    """Decides who trains what, when and where.

    A task is a run with the stages that it owns (`Experiment.owners`). It begins when the stages of the tasks that it
    follows are in the store. The result of a task does not depend on the engine.
    """

    def run(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        """Carry out the tasks and yield each with its outcome, in the order in which they end.

        `advance` gets the number of epochs done, and those that early stopping spares. Tasks that follow one which
        failed are left out, and after `stop` everything that has not ended. Raises SerError if a task cannot be
        carried out.
        """

    def stop(self) -> None:
        """Pause everything that is running after its current epoch; a later run continues from there."""


def ready(tasks: Sequence[Run], unfinished: Iterable[Run]) -> list[Run]:
    """The tasks that follow none of those that are unfinished."""
    return [task for task in tasks if not any(task.follows(other) for other in unfinished)]
