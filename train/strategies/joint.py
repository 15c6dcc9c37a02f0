"""Joint training: all corpora so far together. The upper bound, which privacy often forbids."""

from __future__ import annotations

from ser_memory.train.data import Pool
from ser_memory.train.strategies.base import Stage, Strategy, StrategySettings


class Joint(Strategy):
    """Trains on the new corpus and the whole training splits of all earlier ones, shuffled together."""

    earlier = "corpora"

    def __init__(self, stage: Stage, settings: StrategySettings) -> None:
        super().__init__(stage, settings)
        corpora = [kept.samples for kept in stage.kept if kept.samples is not None]
        self.pool = Pool(stage.current, corpora, stage.runs, owned=False)
