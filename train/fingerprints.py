"""Fingerprints of finished stages: what was trained once is found again, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import torch

from ser_memory.train.corpora import Corpus
from ser_memory.train.model import Architecture
from ser_memory.train.settings import Experiment, Run

METHOD = 1  # raise it when the same run would give other results: then stages of older versions are not used


class Fingerprints:
    """The fingerprints of the stages of one experiment, on given corpora and a kind of device."""

    def __init__(
        self,
        experiment: Experiment,
        corpora: Sequence[Corpus],
        architecture: Architecture,
        device: torch.device,
    ) -> None:
        self._experiment = experiment
        self._digests = [corpus.digest for corpus in corpora]
        self._streamed = [corpus.splits["train"].streamed for corpus in corpora]
        self._common = {
            "method": METHOD,
            "torch": torch.__version__,
            "device": device.type,
            "architecture": asdict(architecture),
            "training": asdict(experiment.training),
        }
        # The same model has other figures on other corpora.
        self.evaluated = _digest({"names": [corpus.name for corpus in corpora], "digests": self._digests})

    def of(self, run: Run, number: int) -> str:
        """The fingerprint of stage `number` (from 1) of a run: of everything that determined it."""
        read = {"corpora": self._digests[:number], "streamed": self._streamed[:number]}
        facts = {**self._common, "seed": run.seed, **read}
        if number > 1 and run.variant is not None:
            options = self._experiment.options_of(run.strategy)
            facts |= {"variant": asdict(run.variant), "options": asdict(options)}
        return _digest(facts)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
