"""A bundle in memory: a trained model, what its strategy keeps, and the description of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.cache import NEUTRAL
from ser_memory.train.model import Architecture, Network
from ser_memory.train.results import Figure
from ser_memory.train.samples import Samples
from ser_memory.train.strategies import STRATEGIES, ClosedFormStrategy, Kept, Strategy

Floats = npt.NDArray[np.float32]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """A corpus that the model has learned from."""

    name: str
    scale_min: float  # ends of its rating scale
    scale_max: float
    n: int  # training utterances
    rated: tuple[str, ...]  # dimensions in which some of them are rated
    complete: bool  # whether all of them are rated in all dimensions
    radius: float  # 99 % of them are nearer to the mean, see `Bundle.distances`
    transcriber: str

    @property
    def has_texts(self) -> bool:
        """Whether the model learned from texts there, and not from one neutral text in place of all."""
        return not self.transcriber.startswith(NEUTRAL)


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle is and where it comes from; in config.json by these names."""

    encoders: dict[str, str]  # the attributes of the caches that tell which encoders made them
    precision: str
    sampling_rate: int  # Hz
    min_duration: float  # seconds
    max_duration: float  # seconds
    label_scale: str  # declared or observed: what -1 and 1 stand for
    layer: str | None  # of the acoustic encoder, as given to ser-train
    architecture: Architecture
    strategy: str
    sampler: str
    memory_size: int  # per corpus
    seed: int
    fold: str  # "" without folds
    stage: int  # from 1
    stage_name: str  # such as P+M
    training: dict[str, Any]  # options by their names
    later: dict[str, Any]
    options: dict[str, Any]  # of the strategy
    seen: tuple[Seen, ...]
    figures: tuple[Figure, ...]  # of this model on the corpora of its run
    language: str  # of the speech
    created_by: str
    memory: dict[str, Any] = field(
        default_factory=dict
    )  # what a memory keeps of its utterances, where not as usual

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Columns of predictions."""
        return self.architecture.dimensions

    @property
    def title(self) -> str:
        """For messages, such as `gem of seed 0 after P+M`."""
        return f"{self.strategy} of seed {self.seed} after {self.stage_name}"


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory, on the CPU."""

    info: BundleInfo
    parameters: Tensor  # (P,) float32; float64 for a closed form
    kept: tuple[
        Kept, ...
    ]  # of each seen corpus, for one run; a closed form has one, the sums over all of them
    means: Floats  # (S, D) of the acoustic rows of each seen corpus; of several layers their mean
    variances: Floats  # (S, D)
    text_means: Floats  # (S, E)
    estimates: tuple[Samples | None, ...]  # rows of each seen corpus that are measured, and never trained on
    folder: Path = field(default_factory=Path)
    checksum: str = ""  # of all content but the card

    @cached_property
    def neutral_text(self) -> Floats:
        """(E,) the text row that stands for "no text": the mean over all training texts."""
        weights = np.array([seen.n for seen in self.info.seen], np.float64)
        return np.average(self.text_means, axis=0, weights=weights).astype(np.float32)

    def predict(self, acoustic: Floats, text: Floats) -> Floats:
        """(N, K) float32 predictions, in about [-1, 1], a column for each of `info.dimensions`.

        Args:
            acoustic: (N, D), or (N, L, D) where the model weights L layers.
            text: (N, E); rows of `neutral_text` where nothing is known of what was said.
        """
        rows = torch.arange(len(acoustic))
        samples = Samples(
            torch.from_numpy(acoustic), torch.from_numpy(text), rows, torch.empty(len(rows), 0), rows
        )
        return self.predict_samples(samples).numpy()

    @torch.inference_mode()
    def predict_samples(self, samples: Samples) -> Tensor:
        """(N, K) float32 predictions for samples."""
        model = self._model
        if isinstance(model, Network):
            return model.predict(model.unpack(self.parameters[None]), samples)[0]
        return model.predict(self.parameters, samples)

    @cached_property
    def _model(self) -> Network | ClosedFormStrategy:
        return model_of(self.info)

    def distances(self, acoustic: Floats) -> npt.NDArray[np.float64]:
        """(N,) how far (N, D) or (N, L, D) acoustic rows are from all that was seen.

        The distance to a corpus is the root of the mean over columns of (x - mean)^2 / variance, divided by the corpus's
        radius; above 1, a row is farther than 99 % of the training rows. The nearest corpus counts.
        """
        radii = np.array([seen.radius for seen in self.info.seen])
        pairs = zip(self.means, self.variances, strict=True)
        apart = np.stack([distances_from(acoustic, mean, variance) for mean, variance in pairs])
        return np.asarray((apart / radii[:, None]).min(axis=0), np.float64)


def distances_from(acoustic: Floats, mean: Floats, variance: Floats) -> npt.NDArray[np.float64]:
    """(N,) standardised distances of (N, D) or (N, L, D) rows from one mean; columns that never vary do not count."""
    rows = acoustic if acoustic.ndim == 2 else acoustic.mean(axis=1)  # noqa: PLR2004
    varies = variance > 0
    apart = (rows[:, varies].astype(np.float64) - mean[varies]) ** 2 / variance[varies]
    return np.asarray(np.sqrt(apart.mean(axis=1)) if varies.any() else np.zeros(len(rows)))


def model_of(info: BundleInfo) -> Network | ClosedFormStrategy:
    """What turns the parameters and embeddings into predictions. Raises UsageError for options that are not allowed."""
    strategy = STRATEGIES[info.strategy]
    if issubclass(strategy, ClosedFormStrategy):
        return strategy(info.architecture, info.seed, *options_in(info, strategy))
    return Network(info.architecture)


def options_in(info: BundleInfo, strategy: type[Strategy]) -> list[Any]:
    """The options of a strategy as the bundle has them. Raises UsageError for values that are not allowed."""
    return [cls.take(info.options) for cls in strategy.options]
