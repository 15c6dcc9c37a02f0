"""Joint training: all corpora so far together. The upper bound, and what privacy forbids."""

from __future__ import annotations

from train.data import Samples
from train.strategies.base import Strategy, StrategySettings


class Joint(Strategy):
    """Trains on the new corpus and the whole training splits of all earlier ones, shuffled together."""

    earlier = "corpora"

    def __init__(self, current: Samples, earlier: list[Samples], settings: StrategySettings) -> None:
        super().__init__(current, earlier, settings)
        self.samples = Samples.concatenate([current, *earlier])
