"""The episodic memory: a few training samples of every earlier corpus, chosen when its stage ends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import torch

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.labels import to_bins
from ser_memory.train.corpora import Corpus
from ser_memory.train.memory.samplers import SAMPLERS, Embeddings
from ser_memory.train.results import Held
from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples


def choose(
    samples: Samples, sampler: str, size: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """(min(size, N),) rows of a corpus's training split that go into memory, rising."""
    speakers = samples.speakers.cpu().numpy()
    return SAMPLERS[sampler](_bins(samples), speakers, _Acoustic(samples), size, generator)


def contents(corpus: Corpus, chosen: npt.NDArray[np.int64]) -> list[Held]:
    """What a memory of these training samples holds, by cell and speaker."""
    samples = corpus.splits["train"]
    speakers = samples.speakers.cpu().numpy()[chosen]
    names = [UNKNOWN if code == UNKNOWN_SPEAKER else corpus.speakers[code] for code in speakers]
    cells = map(tuple, _bins(samples)[chosen].tolist())
    counts = Counter(zip(cells, names, strict=True))
    return [Held(corpus.name, bins, name, n) for (bins, name), n in sorted(counts.items())]


def _bins(samples: Samples) -> npt.NDArray[np.int64]:
    return to_bins(samples.labels.cpu().numpy())


class _Acoustic(Embeddings):
    """The acoustic embeddings of samples, read when asked for; of several layers their mean."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        rows = self._samples.rows[torch.from_numpy(index).to(self._samples.rows.device)]
        values = self._samples.acoustic.index_select(0, rows).cpu().numpy()
        return values if values.ndim == 2 else values.mean(axis=1)  # noqa: PLR2004
