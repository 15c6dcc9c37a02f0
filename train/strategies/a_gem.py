"""Averaged GEM (Chaudhry et al. 2019): no step may raise the loss on all memories taken together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_memory.train.strategies.gem import GEM

if TYPE_CHECKING:
    from ser_memory.train.samples import Batch


class AveragedGEM(GEM):
    """GEM with one constraint for all memories together."""

    def constraints(self, memories: list[Batch]) -> list[Batch]:
        return [memories[0].join(memories[1:])] if memories else []
