"""Joint training: all corpora so far together. The upper bound, which privacy often forbids."""

from __future__ import annotations

from typing import Any

from ser_memory.train.strategies.base import Stage, Strategy


class Joint(Strategy):
    """Trains on the new corpus and the whole training splits of all earlier ones, shuffled together."""

    earlier = "corpora"

    def __init__(self, stage: Stage, options: Any) -> None:
        from ser_memory.train.samples import Pool

        super().__init__(stage, options)
        corpora = [kept.samples for kept in stage.kept if kept.samples is not None]
        self.pool = Pool(stage.current, corpora, stage.runs, owned=False)
