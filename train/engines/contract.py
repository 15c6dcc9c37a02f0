"""What an engine is: it takes runs that have something left to train, and returns what became of each. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ser_memory.common.errors import SerError
from ser_memory.common.reporting import Advance
from ser_memory.train.results import Outcome
from ser_memory.train.settings import Run


class WorkerKilledError(SerError):
    """A process that trained has gone."""


class Engine(Protocol):
    """Decides who trains what, when and where.

    A task is a run: without a variant, it is the first stage of a seed, in one fold or shared by all; with one, it is
    all later stages of that variant. These begin when the first stage that they follow is in the store. The result of
    a task does not depend on the engine.
    """

    def run(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        """Carry out the tasks and yield each with its outcome, in the order in which they end.

        `advance` gets the number of epochs done, and those that early stopping spares. The later stages that
        follow a first stage which failed are left out, and after `stop` everything that has not ended. Raises SerError if a
        task cannot be carried out.
        """

    def stop(self) -> None:
        """Pause everything that is running after its current epoch; a later run continues from there."""


def first_stages(tasks: Sequence[Run]) -> list[Run]:
    """The tasks that are first stages."""
    return [task for task in tasks if task.variant is None]


def later_stages(tasks: Sequence[Run], firsts: Iterable[Run]) -> list[Run]:
    """The tasks that follow one of the first stages."""
    return [task for task in tasks if any(task.follows(first) for first in firsts)]


def at_once(tasks: Sequence[Run]) -> list[Run]:
    """The tasks that can begin at once, first stages before others."""
    firsts = first_stages(tasks)
    later = later_stages(tasks, firsts)
    return [*firsts, *(task for task in tasks if task.variant is not None and task not in later)]
