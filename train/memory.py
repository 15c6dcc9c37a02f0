"""The episodic memory: a few training samples of every earlier corpus, kept when its stage ends."""

from __future__ import annotations

import torch

from common.labels import to_bins
from train.data import Samples
from train.samplers import Sampler


class EpisodicMemory:
    """Holds `size` training samples per earlier corpus, and so outlives the corpora themselves."""

    def __init__(self, size: int, sampler: Sampler) -> None:
        self._size = size
        self._sampler = sampler
        self._held: dict[str, Samples] = {}

    def remember(self, corpus: str, samples: Samples, generator: torch.Generator) -> None:
        """Choose from a corpus's training samples; a memory larger than the corpus holds all of it."""
        bins = torch.from_numpy(to_bins(samples.targets.cpu().numpy()))
        chosen = self._sampler(bins, samples.speakers.cpu(), samples.acoustic.cpu(), self._size, generator)
        self._held[corpus] = samples.select(chosen.to(samples.targets.device))

    @property
    def held(self) -> dict[str, Samples]:
        """corpus -> its samples, in the order of the stages."""
        return dict(self._held)
