"""Every corpus after every stage: whole-split measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.metrics import ccc, uar
from train.data import DIMENSIONS, Corpus, Samples
from train.model import EmotionModel

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


def evaluate(model: EmotionModel, corpora: Sequence[Corpus]) -> Iterator[Figure]:
    """Every measure of both dimensions on every evaluated split of every corpus."""
    for corpus in corpora:
        for split, samples in corpus.evaluated.items():
            for (dimension, metric), value in measure(model, samples).items():
                yield Figure(corpus.name, split, dimension, metric, value, len(samples))


def measure(model: EmotionModel, samples: Samples) -> dict[tuple[str, str], float]:
    """(dimension, metric) -> value on these samples."""
    prediction = model.predict(samples.acoustic, samples.text).cpu().numpy()
    truth = samples.targets.cpu().numpy()
    return {
        (dimension, name): metric(truth[:, column], prediction[:, column])
        for column, dimension in enumerate(DIMENSIONS)
        for name, metric in METRICS.items()
    }
