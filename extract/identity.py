"""The identity of a cache: a description and a fingerprint of everything that determines its content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ser_memory.common import __version__
from ser_memory.common.cache import CacheInfo, FeatureCache
from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, listing
from ser_memory.common.reporting import notice
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.settings import Extraction

_BLOCK = 4096  # bytes
# Not in the fingerprint: names (revisions are), and what is a result of the extraction.
_ASIDE = {"acoustic_encoder", "text_encoder", "transcriber", "created_by", "fingerprint", "dropped"}


def describe(
    extraction: Extraction, turns: Sequence[Utterance], encoders: Mapping[str, str], limit: int | None
) -> CacheInfo:
    """The attributes of the cache to be made, nothing dropped yet.

    `turns` are all utterances of the release with their transcripts, `encoders` the attributes that the encoders
    determine, and `limit` the most utterances of a trial.
    """
    manifest, settings = extraction.manifest, extraction.settings
    info = CacheInfo(
        **encoders,
        corpus=manifest.name,
        release=manifest.release_of(len(turns)),
        scale_min=manifest.scale_min,
        scale_max=manifest.scale_max,
        transcriber=extraction.transcriber,
        min_duration=settings.min_duration,
        max_duration=settings.max_duration,
        sampling_rate=SAMPLING_RATE,
        created_by=f"ser-memory {__version__}",
        fingerprint="",
        limit=limit or 0,
        dropped={},
    )
    return replace(info, fingerprint=fingerprint(info, turns))


def fingerprint(info: CacheInfo, turns: Sequence[Utterance]) -> str:
    """SHA-256 of everything that determines a cache's content, as 64 hexadecimal digits.

    Names and folders do not count, revisions do: the same release and models in another folder give the same
    content. Of a recording, its size and three blocks count.
    """
    facts = {key: value for key, value in vars(info).items() if key not in _ASIDE}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for turn in turns:
        values = [value for name, value in vars(turn).items() if name != "audio"]
        digest.update(json.dumps(values).encode())
        if turn.audio is not None:
            digest.update(_digest_of_blocks(turn.audio))
    return digest.hexdigest()


def is_made(target: Path, info: CacheInfo) -> bool:
    """Whether the cache exists and has this content. Raises SerError if it has another."""
    if not target.exists():
        return False
    found = FeatureCache(target).info
    if found.fingerprint == info.fingerprint:
        notice(f"{target} already has this content; nothing to do (--overwrite extracts it again).")
        return True
    aside = {"dropped", "created_by", "fingerprint"}
    differing = [
        name for name, value in vars(info).items() if name not in aside and getattr(found, name) != value
    ]
    raise SerError(
        f"{target} exists and was made from other settings or files (it differs in "
        f"{listing(differing) if differing else 'the release'}): add --overwrite, or give another --cache."
    )


def _digest_of_blocks(path: Path) -> bytes:
    """SHA-256 of a recording's size and of blocks of its start, middle and end.

    Enough to notice that a corpus was processed in place, and much faster than reading 150,000 files whole.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        blocks = [str(size).encode()]
        for start in (0, size // 2, max(0, size - _BLOCK)):
            file.seek(start)
            blocks.append(file.read(_BLOCK))
    return hashlib.sha256(b"".join(blocks)).digest()
