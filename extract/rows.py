"""Rows that exist already, in a cache and in finished parts, found by what they were computed from.

An acoustic row is of a recording, by the digest of its content, and a text row of a transcript: names, labels and
splits do not count. The two halves are apart, so that a new transcript costs no acoustic row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ser_memory.common.cache import CacheInfo, FeatureCache
from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract import audio

# What determines a row besides the recording or the transcript; the names of the encoders do not.
ACOUSTIC_HALF = ("acoustic_revision", "acoustic_pooling", "acoustic_layers", "precision", "condition")
TEXT_HALF = ("text_revision", "text_pooling")
_HALVES = {"acoustic": ACOUSTIC_HALF, "text": TEXT_HALF}

_BLOCK_BYTES = 1 << 25  # copied at once
# Reasons that depend on the bounds, and on the encoder's shortest input.
_BY_DURATION = ("too short", "too long")

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Store:
    """A file with rows of the encoders in use."""

    recordings: Sequence[str]  # the digest of each acoustic row
    durations: Sequence[float]  # seconds as decoded, of each acoustic row
    transcripts: Sequence[str]  # of each text row
    refused: Mapping[str, str]  # recording -> reason, of those that have no row
    silent: Sequence[str]  # recordings without any sound
    shapes: Mapping[str, tuple[int, ...]]  # of a row of `acoustic` and of `text`
    read: Callable[[str, Indices], Array]  # rows of `acoustic` or `text`


class Known:
    """All rows of several stores; the first store that has a row counts."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = list(stores)
        self._places: dict[str, dict[str, tuple[int, int]]] = {"acoustic": {}, "text": {}}
        self._seconds: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self.silent: set[str] = set()
        for number, store in enumerate(self._stores):
            for column, keys in (("acoustic", store.recordings), ("text", store.transcripts)):
                places = self._places[column]
                for row, key in enumerate(keys):
                    places.setdefault(key, (number, row))
            for recording, seconds in zip(store.recordings, store.durations, strict=True):
                self._seconds.setdefault(recording, float(seconds))
            self._refused.update(store.refused)
            self.silent.update(store.silent)

    def has_heard(self, recording: str) -> bool:
        """Whether a recording was decoded before, and has a row or a reason against one; "" was never decoded."""
        return bool(recording) and (recording in self._seconds or recording in self._refused)

    def has_read(self, transcript: str) -> bool:
        """Whether a transcript has a text row."""
        return transcript in self._places["text"]

    def seconds(self, recording: str) -> float:
        """The duration of a recording that has a row, as decoded."""
        return self._seconds[recording]

    def reason_against(self, recording: str, min_duration: float, max_duration: float) -> str | None:
        """Why a recording that was decoded has no row within these durations in seconds, or None."""
        if recording not in self._seconds:
            return self._refused[recording]
        # A cache has float32, which is a whole number of samples up to 500 s.
        seconds = round(self._seconds[recording] * SAMPLING_RATE) / SAMPLING_RATE
        return audio.out_of_bounds(seconds, min_duration, max_duration)

    def shape(self, column: str) -> tuple[int, ...]:
        """The shape of a row of `acoustic` or `text`."""
        return next(store.shapes[column] for store in self._stores if column in store.shapes)

    def blocks(self, column: str, keys: Sequence[str]) -> Iterator[tuple[Indices, Array]]:
        """The rows of these recordings or transcripts: positions among the keys, and values, store by store.

        A block is of limited size and of one store, so that memory does not grow with the embeddings.
        """
        places = self._places[column]
        stores, rows = np.array([places[key] for key in keys], np.int64).T
        most = max(1, _BLOCK_BYTES // (4 * int(np.prod(self.shape(column)))))
        order = np.argsort(stores, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(stores[order])) + 1):
            store = self._stores[stores[group[0]]]
            for start in range(0, len(group), most):
                block = group[start : start + most]
                yield block, store.read(column, rows[block])


def rows_of(cache: FeatureCache, info: CacheInfo, recordings: Sequence[str] | None) -> Store:
    """The rows of a cache that encoders with the attributes `info` would compute again.

    `recordings` has the digest of each row's recording; None if that is not known.
    """
    found = cache.info

    same = {
        column: all(getattr(found, name) == getattr(info, name) for name in half)
        for column, half in _HALVES.items()
    }
    same["text"] &= found.has_texts
    heard = recordings is not None and same["acoustic"]
    bounds = (found.min_duration, found.max_duration) == (info.min_duration, info.max_duration)
    return Store(
        recordings=recordings if heard and recordings is not None else (),
        durations=cache.read("duration").tolist() if heard else (),
        transcripts=cache.read("transcript").tolist() if same["text"] else (),
        refused=still_refused(found.refused, heard and bounds),
        silent=found.silent,
        shapes={name: cache.shapes[name][1:] for name, is_same in same.items() if is_same},
        # The mapping ends with each block: its pages would count as memory of this process.
        read=lambda column, rows: np.asarray(cache.mapped(column)[rows]),
    )


def still_refused(refused: Mapping[str, str], same_bounds: bool) -> dict[str, str]:
    """The refusals that hold for other durations or another encoder too, or all for the same ones."""
    return {
        recording: reason
        for recording, reason in refused.items()
        if same_bounds or reason not in _BY_DURATION
    }
