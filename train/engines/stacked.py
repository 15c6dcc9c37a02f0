"""All runs of a strategy as one stack: for a GPU, which is idle between the small operations of a single run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ser_memory.common.errors import SerError
from ser_memory.common.reporting import Advance
from ser_memory.train.engines.contract import ready
from ser_memory.train.loop import PausedError
from ser_memory.train.results import Outcome
from ser_memory.train.runs import Run
from ser_memory.train.trainer import Trainer


class Stacked:
    """Trains the first stages of all seeds as one stack, then for each strategy all its runs; each fold by itself."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._stopped = False
        trainer.pause = lambda: self._stopped

    def run(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        waiting = list(tasks)
        failed: list[Run] = []
        while waiting:
            begun = ready(waiting, waiting)
            for stack in _stacks(begun):
                for task, outcome in self._stack(stack, advance):
                    failed += [task] if outcome.failed else []
                    yield task, outcome
            waiting = ready([task for task in waiting if task not in begun], failed)

    def stop(self) -> None:
        self._stopped = True

    def _stack(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        """All tasks at once or, if the GPU's memory is too small for that, in halves."""
        if not tasks or self._stopped:
            return
        try:
            outcomes = self._trainer.carry_out(tasks, advance)
        except PausedError:
            return
        except torch.cuda.OutOfMemoryError:
            if len(tasks) == 1:
                raise SerError(
                    "The GPU's memory is too small for one run: use --device cpu, a smaller --batch-size or --gem-batch."
                ) from None
        else:
            yield from zip(tasks, outcomes, strict=True)
            return
        torch.cuda.empty_cache()
        middle = len(tasks) // 2
        yield from self._stack(tasks[:middle], advance)
        yield from self._stack(tasks[middle:], advance)


def _stacks(tasks: Sequence[Run]) -> list[list[Run]]:
    """The tasks by what can train as one stack: first stages, or one strategy with memories of one size; in one fold."""
    stacks: dict[tuple[str, int, str], list[Run]] = {}
    for task in tasks:
        kind = (task.variant.strategy, task.variant.memory_size) if task.variant else ("", 0)
        stacks.setdefault((*kind, task.fold), []).append(task)
    return list(stacks.values())
