"""Fingerprints of finished stages: what was trained once is found again, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import torch

from ser_memory.common.options import Options
from ser_memory.common.protocols import NEEDED
from ser_memory.train.corpora import Corpus
from ser_memory.train.model import Architecture
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import Run
from ser_memory.train.settings import LaterStageSettings
from ser_memory.train.strategies import STRATEGIES, ClosedFormStrategy

_NOTHING = object()
_UNNAMED: dict[str, object] = {  # what older versions did, and had no option for
    "replay_loss": "pooled",
    "analytic_ridge": 1.0,
}
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
        self._corpora = corpora
        training = asdict(experiment.training)
        del training["dimensions"]  # the architecture has the heads
        self._common = {
            "method": METHOD,
            "torch": torch.__version__,
            "device": device.type,
            "architecture": asdict(architecture),
        }
        self._training = {"training": training}

    def of(self, run: Run, number: int) -> str:
        """The fingerprint of stage `number` (from 1) of a run: of everything that determined it.

        Of the corpora that is what trains and validates; test labels may be corrected.
        """
        experiment = self._experiment
        read = [corpus.at(run.fold) for corpus in self._corpora[: number - experiment.begun]]
        facts = {**self._common, "corpora": [[corpus.digests[split] for split in NEEDED] for corpus in read]}
        if experiment.origin is not None:
            facts["origin"] = experiment.origin.checksum(run.seed)
        strategy, options = STRATEGIES[run.strategy], experiment.options_of(run.strategy)
        if issubclass(strategy, ClosedFormStrategy):
            seed = run.seed if strategy.depends_on_seed(*options) else None
            return _digest({**facts, "strategy": run.strategy, "options": _described(options), "seed": seed})
        facts |= {
            **self._training,
            "seed": run.seed,
            "streamed": [corpus.splits["train"].streamed for corpus in read],
        }
        if number > 1 and run.variant is not None:
            facts |= {"variant": asdict(run.variant), "options": _described(options)}
            facts["remembered"] = experiment.stages[: number - 1]  # names that the record of a memory has
            later = experiment.later_of(run.strategy)
            if later != LaterStageSettings():  # which had no name in older versions
                facts["later"] = later.described
            memory = experiment.memory_of(run.variant).described
            if memory:  # which had no name in older versions, too
                facts["memory"] = memory
        return _digest(facts)

    def evaluated(self, run: Run, corpora: Sequence[Corpus] | None = None) -> str:
        """The fingerprint of what a run is evaluated on: the same model has other figures on other utterances.

        These are the corpora of the experiment, or others.
        """
        chosen = self._corpora if corpora is None else corpora
        folds = self._experiment.evaluated_in(run)
        return _digest([[fold, *(_evaluated(corpus.at(fold)) for corpus in chosen)] for fold in folds])

    def pooled(self, runs: Sequence[Run], number: int) -> str:
        """The fingerprint of what runs of different folds come to together."""
        return _digest([self.of(run, number) for run in runs])


def _evaluated(corpus: Corpus) -> list[object]:
    return [corpus.name, {split: corpus.digests[split] for split in corpus.evaluated}]


def _described(options: Iterable[Options]) -> dict[str, object]:
    """Options by their names, without those at the value that older versions had no name for."""
    named = {name: value for each in options for name, value in asdict(each).items()}
    return {name: value for name, value in named.items() if _UNNAMED.get(name, _NOTHING) != value}


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
