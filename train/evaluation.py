"""Every corpus after every stage: whole-split measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import in_split_order
from ser_memory.common.metrics import ccc, uar
from ser_memory.train.corpora import Corpus
from ser_memory.train.model import Network, Parameters
from ser_memory.train.results import Figure
from ser_memory.train.settings import POOLED

METRICS = {"ccc": ccc, "uar": uar}


def evaluate(
    network: Network, parameters: Parameters, corpora: Sequence[Corpus], folds: Sequence[str] = ("",)
) -> list[list[Figure]]:
    """For each run, every measure of every dimension on every evaluated split of every corpus, in each of the folds."""
    figures: list[list[Figure]] = [[] for _ in range(len(parameters.flat))]
    for corpus in corpora:
        # Without folds of its own, a corpus has the same figures in all folds of the others.
        parts = [(corpus.at(fold), [fold]) for fold in folds] if corpus.folds else [(corpus, folds)]
        for part, names in parts:
            for split, samples in part.evaluated.items():
                truth = samples.targets.cpu().numpy()
                for run, prediction in enumerate(network.predict(parameters, samples).cpu().numpy()):
                    for fold in names:
                        figures[run] += _figures(part, split, truth, prediction, fold)
    return figures


def evaluate_pooled(
    network: Network, parameters: Sequence[Parameters], corpora: Sequence[Corpus]
) -> list[Figure]:
    """Every measure over the test predictions of all folds together, for each corpus that has folds.

    `parameters` are those of one run in each fold. What a fold tests is predicted by the run of that fold.
    """
    figures: list[Figure] = []
    for corpus in (corpus for corpus in corpora if corpus.folds):
        for split in in_split_order(split for fold in corpus.folds for split in fold.tested):
            parts = [
                (
                    fold.splits[split].targets.cpu().numpy(),
                    network.predict(own, fold.splits[split])[0].cpu().numpy(),
                )
                for fold, own in zip(corpus.folds, parameters, strict=True)
                if split in fold.splits
            ]
            truth, prediction = (np.concatenate(values) for values in zip(*parts, strict=True))
            figures += _figures(corpus, split, truth, prediction, POOLED)
    return figures


def _figures(
    corpus: Corpus, split: str, truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32], fold: str
) -> list[Figure]:
    """Every measure of (N, K) predictions of a split."""
    return [
        Figure(corpus.name, split, dimension, metric, value, len(truth), fold)
        for (dimension, metric), value in measure(truth, prediction, corpus.dimensions).items()
    ]


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
