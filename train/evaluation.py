"""Every corpus after every stage: whole-split measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ser_memory.common.metrics import ccc, uar
from ser_memory.train.data import DIMENSIONS, Corpus
from ser_memory.train.model import Network, Parameters

METRICS = {"ccc": ccc, "uar": uar}


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    corpus: str
    split: str
    dimension: str  # activation or valence
    metric: str  # ccc or uar
    value: float
    n: int  # utterances


def evaluate(network: Network, parameters: Parameters, corpora: Sequence[Corpus]) -> list[list[Figure]]:
    """Of each run: every measure of both dimensions on every evaluated split of every corpus."""
    figures: list[list[Figure]] = [[] for _ in range(len(parameters.flat))]
    for corpus in corpora:
        for split, samples in corpus.evaluated.items():
            truth = samples.targets.cpu().numpy()
            for run, prediction in enumerate(network.predict(parameters, samples).cpu().numpy()):
                for (dimension, metric), value in measure(truth, prediction).items():
                    figures[run].append(Figure(corpus.name, split, dimension, metric, value, len(samples)))
    return figures


def measure(
    truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32]
) -> dict[tuple[str, str], float]:
    """(N, 2) labels and predictions -> (dimension, metric) -> value."""
    return {
        (dimension, name): metric(truth[:, column], prediction[:, column])
        for column, dimension in enumerate(DIMENSIONS)
        for name, metric in METRICS.items()
    }
