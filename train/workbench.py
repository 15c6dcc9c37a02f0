"""What one process trains with: the experiment, its corpora, and where finished stages are."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ser_memory.common.errors import SerError
from ser_memory.train.bundle import Bundle
from ser_memory.train.bundle_files import read_bundle
from ser_memory.train.corpora import Corpus
from ser_memory.train.fingerprints import Fingerprints
from ser_memory.train.model import Network
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import Run
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
        return self.corpora[number - 1 - self.experiment.begun].at(runs[0].fold)

    def bundle(self, run: Run) -> Bundle:
        """The bundle that a run continues from. Raises SerError if it is no longer the one that was checked."""
        origin = self.experiment.origin
        assert origin is not None
        return read_unchanged(origin.folder(run.seed), origin.checksum(run.seed))

    def keys_of(self, runs: Sequence[Run], number: int) -> list[str]:
        """The fingerprint of stage `number` of each run, whoever owns it."""
        return [self.keys.of(self.experiment.owner(run, number), number) for run in runs]


@lru_cache(maxsize=16)
def read_unchanged(folder: Path, checksum: str) -> Bundle:
    """The bundle of a folder, read once. Raises SerError if it has another checksum."""
    bundle = read_bundle(folder)
    if bundle.checksum != checksum:
        raise SerError(f"The bundle {folder} was replaced while it was used: run the same command again.")
    return bundle


def stream(seed: int, stage: int, purpose: str) -> np.random.SeedSequence:
    """Randomness for one purpose of one seed, so that no random decision shifts another."""
    return np.random.SeedSequence([seed, stage, zlib.crc32(purpose.encode())])


def generator(seed: int, stage: int, purpose: str) -> np.random.Generator:
    """A generator of that stream."""
    return np.random.Generator(np.random.PCG64(stream(seed, stage, purpose)))
