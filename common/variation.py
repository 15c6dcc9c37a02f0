"""Splits on which CCC cannot differ from 0, because all of their labels are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ser_memory.common.cache import FeatureCache
from ser_memory.common.conventions import DIMENSIONS, in_split_order


def same_in_all(labels: npt.NDArray[np.floating], dimensions: Sequence[str] = DIMENSIONS) -> list[str]:
    """The dimensions, columns of the (N, K) labels, in which all labels are the same; NaN is no label."""
    rated = {name: column[np.isfinite(column)] for name, column in zip(dimensions, labels.T, strict=True)}
    return [name for name, column in rated.items() if len(column) and np.ptp(column) == 0]


def flat_splits(
    corpus: str, splits: Mapping[str, npt.NDArray[np.floating]], dimensions: Sequence[str] = DIMENSIONS
) -> list[str]:
    """A sentence for each split of a corpus whose CCC is 0 in some dimension for every prediction.

    `splits` maps a split to its (N, K) labels.
    """
    return [
        _sentence(corpus, split, len(splits[split]), flat, dimensions)
        for split in in_split_order(splits)
        if (flat := same_in_all(splits[split], dimensions))
    ]


def flat_splits_of(cache: FeatureCache) -> list[str]:
    """The same for a whole cache."""
    labels = np.stack([cache.read(name) for name in DIMENSIONS], axis=1)
    splits = cache.read("split")
    return flat_splits(cache.info.corpus, {name: labels[splits == name] for name in set(splits)})


def _sentence(corpus: str, split: str, n: int, flat: Sequence[str], dimensions: Sequence[str]) -> str:
    names = " and ".join(flat)
    others = " and ".join(name for name in dimensions if name not in flat)
    them = "them" if len(flat) > 1 else "it"
    effects = {
        "train": f", so a model learns nothing about {them}",
        "validation": f", so early stopping goes by {others} alone"
        if others
        else ", so the first epoch is kept",
    }
    if n == 1:
        fact = f"has only 1 utterance. CCC of {names}"
    else:
        fact = f"has the same {names} in all of its {n} utterances. CCC of {them}"
    return f"The {split} split of {corpus} {fact} is always 0 there{effects.get(split, '')}."
