"""All parts of an extraction -> one cache, in the reader's order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ser_memory.common.cache import CacheInfo, Pieces, write_cache
from ser_memory.common.errors import SerError
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.parts import Parts
from ser_memory.extract.screening import Screening, summary

_COLUMNS = (
    "id",
    "speaker",
    "gender",
    "split",
    "activation",
    "valence",
    "dominance",
    "session",
    "release_split",
)


def merge(
    target: Path,
    info: CacheInfo,
    utterances: Sequence[Utterance],
    screened: Screening,
    parts: Parts,
    without: Callable[[Collection[Path]], CacheInfo] | None = None,
) -> list[str]:
    """Write the cache `target`, one row for each utterance that has one in the parts.

    `utterances` are in the order of the places in the parts. What has no row is added to `screened.dropped`.
    `without` gives the attributes of a release without the recordings that vanished. Memory does not grow with the
    embeddings. Returns the ids of silent recordings. Raises SerError if no utterance has a row, or the disk is full.
    """
    vanished: set[Path] = set()
    silent: list[int] = []
    durations = np.full(len(utterances), np.nan, np.float32)
    widths: dict[str, tuple[int, ...]] = {}
    for rows in parts.read_all():
        durations[rows.places] = rows.durations
        silent += rows.silent
        for place, reason in rows.refused.items():
            utterance = utterances[place]
            screened.dropped[reason].append(utterance.id)
            if reason == "missing" and utterance.audio is not None:
                vanished.add(utterance.audio)
        if len(rows.places):
            widths = {"acoustic": rows.acoustic.shape[1:], "text": rows.text.shape[1:]}
    if vanished and without is not None:
        info = without(vanished)
    kept = np.flatnonzero(~np.isnan(durations))
    if not len(kept):
        raise SerError(f"No utterance can be used: {summary(screened)}.")
    row_of = np.full(len(utterances), -1, np.int64)
    row_of[kept] = np.arange(len(kept))
    written = [utterances[place] for place in kept.tolist()]

    def pieces(name: str) -> Pieces:
        blocks = ((row_of[rows.places], getattr(rows, name)) for rows in parts.read_all())
        return Pieces((len(kept), *widths[name]), blocks)

    write_cache(
        target,
        replace(
            info,
            dropped={reason: sorted(ids) for reason, ids in screened.dropped.items() if ids},
        ),
        {
            **{name: [getattr(utterance, name) for utterance in written] for name in _COLUMNS},
            "transcript": [utterance.transcript or "" for utterance in written],
            "duration": durations[kept],
            "acoustic": pieces("acoustic"),
            "text": pieces("text"),
        },
    )
    return [utterances[place].id for place in sorted(silent)]
