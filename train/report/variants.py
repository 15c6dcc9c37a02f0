"""Which variant a row of a run's tables belongs to, and which rows several variants have in common."""

from __future__ import annotations

from typing import Protocol

from ser_memory.train.runs import Variant, shares_first_stage

SHARED = Variant(
    "all"
)  # the strategies that train by gradient steps: their first stage, and what follows from it alone


class OfVariant(Protocol):
    """A row that belongs to a variant, such as one of results.csv."""

    @property
    def strategy(self) -> str: ...
    @property
    def sampler(self) -> str: ...
    @property
    def memory_size(self) -> int: ...


class OfStage(OfVariant, Protocol):
    """A row that belongs to a stage of a variant."""

    @property
    def stage(self) -> int: ...


def variant_of(row: OfVariant) -> Variant:
    """The variant that a row is listed under."""
    return Variant(row.strategy, row.sampler, row.memory_size)


def owner_of(row: OfStage) -> Variant:
    """The variant that a row is of: SHARED where the row is the same for all that train by gradient steps.

    That is their first stage. A strategy with a first stage of its own has its own rows there.
    """
    return owner_at(row.stage, variant_of(row))


def owner_at(stage: int, variant: Variant) -> Variant:
    """Whose model a variant has after a stage, from 1: its own, or SHARED."""
    return SHARED if stage == 1 and shares_first_stage(variant.strategy) else variant
