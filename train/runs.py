"""What a run is, and the fingerprints by which its finished stages are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ser_memory.train.data import Corpus
from ser_memory.train.loop import LoopSettings
from ser_memory.train.strategies import STRATEGIES, StrategySettings

NO_SAMPLER = "none"  # of a strategy that keeps no memory
METHOD = 1  # to be raised when the same run would give other results, lest old stages be taken for new


@dataclass(frozen=True)
class Variant:
    """One line of a table: a strategy and, where it keeps a memory, who gets in and how many."""

    strategy: str
    sampler: str = NO_SAMPLER
    memory_size: int = 0  # per earlier corpus


@dataclass(frozen=True)
class Run:
    """One variant with one seed; the first stage is common to all variants and belongs to none."""

    variant: Variant | None
    seed: int

    @property
    def strategy(self) -> str:
        """The first stage is plain training, whatever comes after."""
        return self.variant.strategy if self.variant else "finetune"


class Keys:
    """Fingerprints of finished stages."""

    def __init__(
        self, loop: LoopSettings, strategy: StrategySettings, corpora: Sequence[Corpus], device: torch.device
    ) -> None:
        self._strategy = strategy
        self._digests = [corpus.digest for corpus in corpora]
        self._streamed = [corpus.splits["train"].streamed for corpus in corpora]
        self._common = {
            "method": METHOD,
            "torch": torch.__version__,
            "device": device.type,
            "loop": asdict(loop),
        }
        # Of other corpora than those trained on, the same model has other figures.
        names = [corpus.name for corpus in corpora]
        self.evaluated = _digest({"names": names, "digests": self._digests})

    def of(self, run: Run, number: int) -> str:
        """Of stage `number`: all that made it what it is, and nothing else."""
        read = {"corpora": self._digests[:number], "streamed": self._streamed[:number]}
        facts = {**self._common, "seed": run.seed, **read}
        if number > 1 and run.variant is not None:
            strategy = STRATEGIES[run.variant.strategy]
            facts |= {"variant": asdict(run.variant), "options": self._strategy.of(strategy)}
        return _digest(facts)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
