"""Engines: who trains what, where and when. A run's results are the same under all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_memory.train.engines.contract import Engine

if TYPE_CHECKING:
    from ser_memory.train.corpora import Source
    from ser_memory.train.plan import Experiment
    from ser_memory.train.store import Store
    from ser_memory.train.trainer import Trainer


def engine_for(experiment: Experiment, source: Source, store: Store, trainer: Trainer, jobs: int) -> Engine:
    """Stacks on a GPU, `jobs` processes on a CPU, or this process if there is one job."""
    if trainer.device.type != "cpu":
        from ser_memory.train.engines.stacked import Stacked

        return Stacked(trainer)
    if jobs == 1:
        from ser_memory.train.engines.inline import Inline

        return Inline(trainer)
    from ser_memory.train.engines.processes import Processes

    return Processes(experiment, source, store.folder, jobs)
