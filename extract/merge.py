"""Rows that exist -> one cache, in the reader's order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ser_memory.common.cache import CacheInfo, Pieces, write_cache
from ser_memory.common.errors import SerError
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.rows import Known
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
    recordings: Sequence[str],
    screened: Screening,
    known: Known,
    without: Callable[[Collection[Path]], CacheInfo] | None = None,
) -> list[str]:
    """Write the cache `target`, one row for each utterance that has both its rows.

    `recordings` has the digest of each utterance's recording. What has no row is added to `screened.dropped`. `without`
    gives the attributes of a release without the recordings that vanished. Memory does not grow with the embeddings.
    Returns the ids of silent recordings. Raises SerError if no utterance has a row, or the disk is full.
    """
    vanished: set[Path] = set()
    refused: dict[str, str] = {}
    kept: list[tuple[Utterance, str]] = []
    for utterance, recording in zip(utterances, recordings, strict=True):
        reason: str | None = "missing"  # it was there before, and nobody could decode it
        if known.has_heard(recording):
            reason = known.reason_against(recording, info.min_duration, info.max_duration)
            if reason is not None:
                refused[recording] = reason
        elif utterance.audio is not None:
            vanished.add(utterance.audio)
        if reason is None:
            kept.append((utterance, recording))
        else:
            screened.dropped[reason].append(utterance.id)
    if vanished and without is not None:
        info = without(vanished)
    if not kept:
        raise SerError(f"No utterance can be used: {summary(screened)}.")
    keys = {
        "acoustic": [recording for _, recording in kept],
        "text": [utterance.transcript or "" for utterance, _ in kept],
    }
    dropped = {reason: sorted(ids) for reason, ids in screened.dropped.items() if ids}
    silent = sorted(known.silent.intersection(keys["acoustic"]))
    write_cache(
        target,
        replace(info, dropped=dropped, refused=refused, silent=silent),
        {
            **{name: [getattr(utterance, name) for utterance, _ in kept] for name in _COLUMNS},
            "transcript": keys["text"],
            "recording": keys["acoustic"],
            "duration": [known.seconds(recording) for recording in keys["acoustic"]],
            **{
                name: Pieces((len(kept), *known.shape(name)), known.blocks(name, some))
                for name, some in keys.items()
            },
        },
    )
    return [utterance.id for utterance, recording in kept if recording in known.silent]
