"""Who gets into memory: (bins, speakers, embeddings, n, generator) -> indices of the chosen.

bins (N, K) int64 of K dimensions such as activation and valence, speakers (N,) int64 codes with -1 for unknown,
embeddings (N, D) float32 or what gives them when indexed, n the number wanted. A sampler returns min(n, N)
different int64 indices, in rising order, and draws on `generator` alone: the same seed makes the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Embeddings(Protocol):
    """(N, D) float32 embeddings; an array is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Integers) -> npt.NDArray[np.float32]:
        """(M,) -> (M, D)."""
        ...


Sampler = Callable[[Integers, Integers, Embeddings, int, np.random.Generator], Integers]

_CANDIDATES = 10  # per sample wanted, that `coverage` and `herding` look at
_BLOCK = 1024  # rows of embeddings in memory at a time, where all are read


def random(
    bins: Integers, speakers: Integers, embeddings: Embeddings, n: int, generator: np.random.Generator
) -> Integers:
    """Uniformly, without replacement."""
    return np.sort(generator.permutation(len(bins))[:n])


def emotion(
    bins: Integers, speakers: Integers, embeddings: Embeddings, n: int, generator: np.random.Generator
) -> Integers:
    """Evenly over the cells of activation bin and valence bin, at random within them.

    A cell with too few gives all it has, and the others share what is missing.
    """
    return _evenly(_cells(bins), n, generator)


def speaker(
    bins: Integers, speakers: Integers, embeddings: Embeddings, n: int, generator: np.random.Generator
) -> Integers:
    """Evenly over the known speakers, at random among each one's utterances.

    Unknown is not one speaker but an unknown number of them: such utterances are used only if the known speakers
    cannot fill the memory.
    """
    known = np.flatnonzero(speakers >= 0)
    chosen = known[_evenly(speakers[known], n, generator)]
    unknown = generator.permutation(np.flatnonzero(speakers < 0))[: max(0, n - len(chosen))]
    return np.sort(np.concatenate([chosen, unknown]))


def speaker_emotion(
    bins: Integers, speakers: Integers, embeddings: Embeddings, n: int, generator: np.random.Generator
) -> Integers:
    """Evenly over cells, and as evenly over speakers as that allows.

    One by one: of the cells with something left the one with fewest chosen, and in it an utterance of the
    speaker with fewest chosen, by chance where several are equal. Unknown speakers come last in a cell.
    """
    if n >= len(bins):
        return np.arange(len(bins))
    order = generator.permutation(len(bins))  # decides by chance among equals
    groups: dict[int, dict[int, list[int]]] = {}  # cell -> speaker -> utterances
    for row, cell, who in zip(
        order.tolist(), _cells(bins)[order].tolist(), speakers[order].tolist(), strict=True
    ):
        groups.setdefault(cell, {}).setdefault(who, []).append(row)
    of_cell = dict.fromkeys(groups, 0)
    of_speaker = dict.fromkeys(speakers.tolist(), 0)
    chosen: list[int] = []
    while groups and len(chosen) < n:
        cell = min(groups, key=of_cell.__getitem__)
        who = min(groups[cell], key=lambda someone: (someone < 0, of_speaker[someone]))
        chosen.append(groups[cell][who].pop())
        of_cell[cell] += 1
        of_speaker[who] += 1
        if not groups[cell][who]:
            del groups[cell][who]
        if not groups[cell]:
            del groups[cell]
    return np.sort(np.array(chosen, dtype=np.int64))


def density(
    bins: Integers, speakers: Integers, embeddings: Embeddings, n: int, generator: np.random.Generator
) -> Integers:
    """In the corpus's own proportions: every cell within one of its share, every utterance alike likely.

    Systematic sampling: utterances in order of their cells, by chance within them, and every N/n-th taken
    from a random start.
    """
    if n >= len(bins):
        return np.arange(len(bins))
    order = np.lexsort((generator.permutation(len(bins)), _cells(bins)))
    places = np.floor((np.arange(n) + generator.random()) * (len(bins) / max(n, 1))).astype(np.int64)
    return np.sort(order[np.minimum(places, len(bins) - 1)])


def coverage(
    bins: Integers, speakers: Integers, embeddings: Embeddings, n: int, generator: np.random.Generator
) -> Integers:
    """Spread over the embedding space: from a random one on, always the farthest from all chosen so far.

    The greedy k-centre of Gonzalez (1985), at most twice as far from any candidate as the best choice could
    be; the candidates are ten times as many as wanted, at random, because otherwise only outliers would be chosen.
    """
    candidates = _candidates(len(bins), n, generator)
    if n >= len(candidates):
        return candidates
    points = np.ascontiguousarray(embeddings[candidates], dtype=np.float32)
    points -= points.mean(axis=0)  # distances from products lose fewer digits near the origin
    squares = np.einsum("nd,nd->n", points, points)
    chosen = np.empty(n, dtype=np.int64)
    distances = np.full(len(points), np.inf)
    farthest = int(generator.integers(len(points)))
    for place in range(n):
        chosen[place] = farthest
        to_this = squares + squares[farthest] - 2 * (points @ points[farthest])
        np.minimum(distances, to_this, out=distances)
        distances[farthest] = -np.inf  # never again, not even among equals
        farthest = int(distances.argmax())
    return np.sort(candidates[chosen])


def herding(
    bins: Integers, speakers: Integers, embeddings: Embeddings, n: int, generator: np.random.Generator
) -> Integers:
    """Together like the whole corpus: always the one that brings the mean of the chosen nearest to the mean of all.

    Herding (Welling 2009) as iCaRL uses it (Rebuffi et al. 2017), by Euclidean distance between means, and by chance
    among equals. The mean is that of all N embeddings; the candidates are ten times as many as wanted, at random.
    """
    candidates = _candidates(len(bins), n, generator)
    if n >= len(candidates):
        return candidates
    points = np.asarray(embeddings[candidates] - _mean(embeddings), dtype=np.float32)
    order = generator.permutation(len(points))  # decides by chance among equals
    points, candidates = points[order], candidates[order]
    # The mean of all is the origin now. With s the sum of those chosen so far, |s + x|^2 is to be smallest, and that
    # is |x|^2 + 2 x.s but for what all candidates have in common.
    squares = np.einsum("nd,nd->n", points, points)
    total = np.zeros(points.shape[1], dtype=np.float32)
    chosen = np.empty(n, dtype=np.int64)
    for place in range(n):
        chosen[place] = best = int((squares + 2 * (points @ total)).argmin())
        total += points[best]
        squares[best] = np.inf  # never again
    return np.sort(candidates[chosen])


SAMPLERS: dict[str, Sampler] = {
    "random": random,
    "emotion": emotion,
    "speaker": speaker,
    "speaker-emotion": speaker_emotion,
    "density": density,
    "coverage": coverage,
    "herding": herding,
}
BY_SPEAKER = ("speaker", "speaker-emotion")
BY_EMOTION = ("emotion", "speaker-emotion", "density")


def fair_shares(sizes: Sequence[int], budget: int) -> list[int]:
    """How many of each memory to keep so that they are `budget` together: as equal as the smaller ones allow."""
    shares, left = [0] * len(sizes), budget
    for done, place in enumerate(sorted(range(len(sizes)), key=lambda place: sizes[place])):
        shares[place] = min(sizes[place], left // (len(sizes) - done))
        left -= shares[place]
    return shares


def _candidates(size: int, n: int, generator: np.random.Generator) -> Integers:
    """(min(10 n, size),) rows at random, rising, so that a file is read in one direction."""
    return np.sort(generator.permutation(size)[: _CANDIDATES * n])


def _mean(embeddings: Embeddings) -> npt.NDArray[np.float64]:
    """(D,) of all rows, of which only a block is in memory at a time."""
    size = len(embeddings)
    blocks = (np.arange(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))
    return np.asarray(sum(embeddings[block].sum(axis=0, dtype=np.float64) for block in blocks) / size)


def _cells(bins: Integers) -> Integers:
    """(N,) a number for every combination of bins over the K dimensions."""
    cells = np.zeros(len(bins), dtype=np.int64)
    for column in bins.T:
        cells = cells * (1 + bins.max(initial=0)) + column
    return cells


def _evenly(groups: Integers, n: int, generator: np.random.Generator) -> Integers:
    """min(n, N) rows, as many of each group as of any other that has more; where n cannot be shared, by chance."""
    order = np.lexsort((generator.permutation(len(groups)), groups))
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    rank = np.empty(len(groups), dtype=np.int64)  # of each row within its group, in random order
    rank[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    # Everybody's first, then everybody's second, and so on: by chance among those of one round.
    rounds = np.lexsort((generator.permutation(len(groups)), rank))
    return np.asarray(np.sort(rounds[:n]))
