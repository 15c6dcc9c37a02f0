"""Every corpus after every stage: whole-split measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ser_memory.common.conventions import in_split_order
from ser_memory.common.metrics import ccc, uar
from ser_memory.train.corpora import Corpus
from ser_memory.train.results import Figure
from ser_memory.train.runs import POOLED
from ser_memory.train.samples import Samples

METRICS = {"ccc": ccc, "uar": uar}


def evaluate(
    predict: Callable[[Samples], Tensor], runs: int, corpora: Sequence[Corpus], folds: Sequence[str] = ("",)
) -> list[list[Figure]]:
    """For each run, every measure of every dimension on every evaluated split of every corpus, in each of the folds.

    `predict` gives the (R, N, K) predictions of `runs` runs.
    """
    figures: list[list[Figure]] = [[] for _ in range(runs)]
    for corpus in corpora:
        # Without folds of its own, a corpus has the same figures in all folds of the others.
        parts = [(corpus.at(fold), [fold]) for fold in folds] if corpus.folds else [(corpus, folds)]
        for part, names in parts:
            for split, samples in part.evaluated.items():
                truth = samples.targets.cpu().numpy()
                for run, prediction in enumerate(predict(samples).cpu().numpy()):
                    for fold in names:
                        figures[run] += _figures(part, split, truth, prediction, fold)
    return figures


def evaluate_pooled(
    predictors: Sequence[Callable[[Samples], npt.NDArray[np.float32]]], corpora: Sequence[Corpus]
) -> list[Figure]:
    """Every measure over the test predictions of all folds together, for each corpus that has folds.

    `predictors` give the (N, K) predictions of one run in each fold. The run of a fold predicts what that fold tests.
    """
    figures: list[Figure] = []
    for corpus in (corpus for corpus in corpora if corpus.folds):
        for split in in_split_order(split for fold in corpus.folds for split in fold.tested):
            parts = [
                (fold.splits[split].targets.cpu().numpy(), predict(fold.splits[split]))
                for fold, predict in zip(corpus.folds, predictors, strict=True)
                if split in fold.splits
            ]
            truth, prediction = (np.concatenate(values) for values in zip(*parts, strict=True))
            figures += _figures(corpus, split, truth, prediction, POOLED)
    return figures


def _figures(
    corpus: Corpus, split: str, truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32], fold: str
) -> list[Figure]:
    """Every measure of (N, K) predictions of a split."""
    n = dict(zip(corpus.dimensions, np.isfinite(truth).sum(axis=0).tolist(), strict=True))
    return [
        Figure(corpus.name, split, dimension, metric, value, n[dimension], fold)
        for (dimension, metric), value in measure(truth, prediction, corpus.dimensions).items()
    ]


def measure(
    truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32], dimensions: Sequence[str]
) -> dict[tuple[str, str], float]:
    """(N, K) labels and predictions of K named dimensions -> (dimension, metric) -> value.

    Utterances whose label is NaN do not count in that dimension; a dimension without any label has no measures.

    Raises ValueError if the columns are not as many as the dimensions.
    """
    if not truth.shape[1] == prediction.shape[1] == len(dimensions):
        raise ValueError(
            f"{truth.shape[1]} columns of labels and {prediction.shape[1]} of predictions are not those of "
            f"{', '.join(dimensions)}."
        )
    rated = np.isfinite(truth)
    return {
        (dimension, name): metric(truth[rows, column], prediction[rows, column])
        for column, dimension in enumerate(dimensions)
        if (rows := rated[:, column]).any()
        for name, metric in METRICS.items()
    }
