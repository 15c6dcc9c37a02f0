"""Who gets into memory: (bins, speakers, embeddings, n, generator) -> indices of the chosen.

bins (N, 2) int64 of activation and valence, speakers (N,) int64 codes with -1 for unknown, embeddings
(N, D) float32, n the number wanted. A sampler returns min(n, N) different int64 indices, in rising order,
and draws on `generator` alone: the same seed makes the same choice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[Tensor, Tensor, Tensor, int, torch.Generator], Tensor]


def random(bins: Tensor, speakers: Tensor, embeddings: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Uniformly, without replacement."""
    del speakers, embeddings
    return torch.randperm(len(bins), generator=generator)[:n].sort().values


SAMPLERS: dict[str, Sampler] = {"random": random}
