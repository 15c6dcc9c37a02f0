"""Values that both stages must agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SAMPLING_RATE = 16_000  # Hz, of every recording as the encoders and transcribers get it
UNKNOWN = "Unknown"  # a speaker or gender that the release does not tell; it is never one speaker
RATED = ("activation", "valence", "dominance")  # rated dimensions of a cache, in this order
DIMENSIONS = (
    "activation",
    "valence",
)  # of these, the ones that are trained: columns of targets and predictions

NO_SPLIT = "none"  # of an utterance that no fold uses

_SPLITS = {"train": 0, "validation": 1, NO_SPLIT: 3}  # all others have 2


def in_split_order(splits: Iterable[str]) -> list[str]:
    """The different splits, in the order train, validation, test, test2, ..., none."""
    return sorted(set(splits), key=lambda split: (_SPLITS.get(split, 2), split))


def cache_folder(given: Path | None) -> Path:
    """The folder of the caches: the one given, else $SER_CACHE, else ./cache."""
    return given or Path(os.environ.get("SER_CACHE") or "cache")
