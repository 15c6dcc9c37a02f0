"""What one process trains with: the experiment, its corpora, and where finished stages are."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ser_memory.train.corpora import Corpus
from ser_memory.train.fingerprints import Fingerprints
from ser_memory.train.model import Network
from ser_memory.train.settings import Experiment, Run
from ser_memory.train.store import Store


@dataclass(frozen=True)
class Workbench:
    """Shared by all stacks of one process."""

    experiment: Experiment
    corpora: Sequence[Corpus]
    network: Network
    keys: Fingerprints
    store: Store
    device: torch.device

    def corpus(self, runs: Sequence[Run], number: int) -> Corpus:
        """The corpus of stage `number` (from 1), in the fold of a stack."""
        return self.corpora[number - 1].at(runs[0].fold)

    def keys_of(self, runs: Sequence[Run], number: int) -> list[str]:
        """The fingerprint of stage `number` of each run, whoever owns it."""
        return [self.keys.of(self.experiment.owner(run, number), number) for run in runs]


def stream(seed: int, stage: int, purpose: str) -> np.random.SeedSequence:
    """Randomness for one purpose of one seed, so that no random decision shifts another."""
    return np.random.SeedSequence([seed, stage, zlib.crc32(purpose.encode())])


def generator(seed: int, stage: int, purpose: str) -> np.random.Generator:
    """A generator of that stream."""
    return np.random.Generator(np.random.PCG64(stream(seed, stage, purpose)))
