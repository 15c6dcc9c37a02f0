"""What is trained: a variant, with a seed, in a fold; and the bundles it may continue from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ser_memory.train.strategies import STRATEGIES

NO_SAMPLER = "none"  # of a strategy that keeps no memory
POOLED = "pooled"  # in place of a fold: the test predictions of all folds together


@dataclass(frozen=True)
class Variant:
    """One line of a table: a strategy and, if it keeps a memory, its sampler and size."""

    strategy: str
    sampler: str = NO_SAMPLER
    memory_size: int = 0  # per earlier corpus


@dataclass(frozen=True)
class Run:
    """One variant with one seed, in one fold.

    The first stage is the same for all variants that train by gradient steps, and belongs to none of them. The stages
    before the first corpus with folds are the same for all folds and belong to none of them.
    """

    variant: Variant | None
    seed: int
    fold: str = ""  # "1", "2", ..., or ""; POOLED: all of them together

    @property
    def strategy(self) -> str:
        """The strategy that trains; the first stage is plain training."""
        return self.variant.strategy if self.variant else "finetune"

    @property
    def shares_first_stage(self) -> bool:
        """Whether its first stage is that of all strategies which train by gradient steps."""
        return shares_first_stage(self.strategy)

    def follows(self, other: Run) -> bool:
        """Whether the stages of `other` come before these."""
        return (
            self != other
            and self.seed == other.seed
            and other.variant in ((None, self.variant) if self.shares_first_stage else (self.variant,))
            and other.fold in ("", self.fold)
        )


@dataclass(frozen=True)
class Origin:
    """The bundles that an experiment continues from: one per seed, after the same stages of the same variant."""

    seen: tuple[str, ...]  # corpora, in the order of the stages
    folders: tuple[tuple[int, Path], ...]  # by seed
    checksums: tuple[tuple[int, str], ...]  # by seed

    def folder(self, seed: int) -> Path:
        return dict(self.folders)[seed]

    def checksum(self, seed: int) -> str:
        return dict(self.checksums)[seed]


def shares_first_stage(strategy: str) -> bool:
    """Whether a strategy's first stage is that of all strategies which train by gradient steps."""
    return strategy not in STRATEGIES or STRATEGIES[strategy].by_gradient
