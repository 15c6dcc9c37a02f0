"""Every corpus after every stage: whole-split measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ser_memory.common.metrics import ccc, uar
from ser_memory.train.corpora import Corpus
from ser_memory.train.model import Network, Parameters
from ser_memory.train.results import Figure

METRICS = {"ccc": ccc, "uar": uar}


def evaluate(network: Network, parameters: Parameters, corpora: Sequence[Corpus]) -> list[list[Figure]]:
    """For each run, every measure of every dimension on every evaluated split of every corpus."""
    dimensions = network.architecture.dimensions
    figures: list[list[Figure]] = [[] for _ in range(len(parameters.flat))]
    for corpus in corpora:
        for split, samples in corpus.evaluated.items():
            truth = samples.targets.cpu().numpy()
            for run, prediction in enumerate(network.predict(parameters, samples).cpu().numpy()):
                for (dimension, metric), value in measure(truth, prediction, dimensions).items():
                    figures[run].append(Figure(corpus.name, split, dimension, metric, value, len(samples)))
    return figures


def measure(
    truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32], dimensions: Sequence[str]
) -> dict[tuple[str, str], float]:
    """(N, K) labels and predictions of K named dimensions -> (dimension, metric) -> value.

    Raises ValueError if the columns are not as many as the dimensions.
    """
    if not truth.shape[1] == prediction.shape[1] == len(dimensions):
        raise ValueError(
            f"{truth.shape[1]} columns of labels and {prediction.shape[1]} of predictions are not those of "
            f"{', '.join(dimensions)}."
        )
    return {
        (dimension, name): metric(truth[:, column], prediction[:, column])
        for column, dimension in enumerate(dimensions)
        for name, metric in METRICS.items()
    }
