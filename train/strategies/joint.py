"""Joint training: all corpora so far together. The upper bound, which privacy often forbids."""

from __future__ import annotations

from ser_memory.train.strategies.mixture import Mixture


class Joint(Mixture):
    """Trains on the new corpus and the whole training splits of all earlier ones."""

    earlier = "corpora"
