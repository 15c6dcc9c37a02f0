"""Averaged GEM (Chaudhry et al. 2019): no step may raise the loss on all memories taken together."""

from __future__ import annotations

from ser_memory.train.data import Batch
from ser_memory.train.strategies.base import together
from ser_memory.train.strategies.gem import GEM


class AveragedGEM(GEM):
    """GEM with one constraint for all memories together."""

    def constraints(self, memories: list[Batch]) -> list[Batch]:
        union = together(memories)
        return [] if union is None else [union]
