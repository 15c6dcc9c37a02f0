"""One run after the other, in this process, on one core or one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ser_memory.common.machine import one_core_each
from ser_memory.common.reporting import Advance
from ser_memory.train.loop import PausedError
from ser_memory.train.results import Outcome
from ser_memory.train.runs import Run
from ser_memory.train.trainer import Trainer


class Inline:
    """Trains all of one seed, and then the next."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._stopped = False
        trainer.pause = lambda: self._stopped

    def run(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        seeds = list(dict.fromkeys(task.seed for task in tasks))
        failed: list[Run] = []
        for task in sorted(tasks, key=lambda task: seeds.index(task.seed)):
            if any(task.follows(other) for other in failed):
                continue
            outcome = self._one(task, advance)
            if outcome is None:
                return
            failed += [task] if outcome.failed else []
            yield task, outcome

    def stop(self) -> None:
        self._stopped = True

    def _one(self, task: Run, advance: Advance) -> Outcome | None:
        """None if it was stopped."""
        if self._stopped:
            return None
        try:
            # Not around `run`: a generator would keep the setting while its caller works.
            with one_core_each():
                return self._trainer.carry_out([task], advance)[0]
        except PausedError:
            return None
