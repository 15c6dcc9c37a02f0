"""Two identities: of a recording, and of a cache.

A recording's is the digest of its content, by which its row is found again. A cache's is a fingerprint of everything
that determines its content: recordings, transcripts, labels, splits, settings and encoders.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ser_memory.common import __version__
from ser_memory.common.cache import CacheInfo, FeatureCache
from ser_memory.common.conventions import NO_SPLIT, SAMPLING_RATE
from ser_memory.common.errors import SerError, listing
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.settings import Extraction

_BLOCK = 4096  # bytes
_UNREADABLE = b"unreadable"  # in place of the digest of a recording that cannot be opened
_COMPARED = (
    "split",
    "speaker",
    "gender",
    "transcript",
    "activation",
    "valence",
    "dominance",
    "session",
    "release_split",
)
# Not in the fingerprint: names (revisions are), and what is a result of the extraction.
_RESULTS = {"created_by", "fingerprint", "dropped", "refused", "silent"}
_ASIDE = {"acoustic_encoder", "text_encoder", "transcriber", *_RESULTS}
# What caches of earlier versions do not have, in their attributes and of an utterance.
_LATER, _LATER_FACTS = {"protocol", "protocols", "compared", "condition"}, {"session", "release_split"}


class Glimpses:
    """What is known of the content of each recording, from one look at it before it is used.

    A file that is replaced afterwards would give a row of another content than the fingerprint says.
    """

    def __init__(self, turns: Iterable[Utterance]) -> None:
        self._seen = {turn.audio: _look(turn.audio) for turn in turns if turn.audio is not None}
        # Recordings that begin, go on and end in the same silence look the same: these are read whole.
        times = Counter(seen.digest for seen in self._seen.values())
        self._whole = {
            path: _whole(path) for path, seen in self._seen.items() if seen.state and times[seen.digest] > 1
        }

    def digest(self, path: Path) -> bytes:
        """For the fingerprint; of a recording that does not exist, none, as if the release did not have it."""
        return self._whole.get(path, self._seen[path].digest)

    def at_a_glance(self, path: Path) -> bytes:
        """The digest in the fingerprints of earlier versions, which looked at blocks of every recording."""
        return self._seen[path].digest

    def recording(self, path: Path | None) -> str:
        """The identity of a recording, 64 hexadecimal digits; "" if it could not be read."""
        return self.digest(path).hex() if path is not None and self._seen[path].state else ""

    def refuse_changed(self, paths: Iterable[Path]) -> None:
        """Raise SerError if one of these recordings is not what it was. One that vanished costs only its row."""
        changed = [path for path in paths if self._is_changed(path)]
        if changed:
            raise SerError(
                f"{len(changed)} recordings were changed while they were read ({listing(changed, most=3)}): run the "
                "same command again when nothing else writes to the release."
            )

    def _is_changed(self, path: Path) -> bool:
        seen = self._seen[path]
        try:
            if seen.state == _state(os.stat(path)):  # noqa: PTH116  as `_look` has it
                return False
        except OSError:
            return False
        return _look(path).digest != seen.digest


def describe(
    extraction: Extraction,
    turns: Sequence[Utterance],
    encoders: Mapping[str, Any],
    limit: int | None,
    glimpses: Glimpses,
    vanished: Collection[Path] = (),
    compared: Mapping[str, Any] = MappingProxyType({}),
    release: str | None = None,
) -> CacheInfo:
    """The attributes of the cache to be made, nothing dropped yet.

    `turns` are all utterances of the release with their transcripts, `encoders` the attributes that the encoders
    and the condition determine, `limit` the most utterances of a trial, `vanished` recordings that exist no more, and
    `compared` how the transcripts differ from those of another cache. `release` is the release's name if `turns` are
    only those of its test splits.
    """
    manifest, settings = extraction.manifest, extraction.settings
    info = CacheInfo(
        **encoders,
        corpus=manifest.name,
        release=release or manifest.release_of(len(turns)),
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
        protocol=manifest.protocol.name,
        protocols=manifest.protocols,
        compared=dict(compared),
    )
    return replace(info, fingerprint=_fingerprint(info, turns, glimpses, vanished))


def earlier_fingerprint(info: CacheInfo, turns: Sequence[Utterance], glimpses: Glimpses) -> str:
    """The fingerprint that an earlier version gave a cache with the settings and encoders of `info`.

    If it is that of a cache, the release is what it was then: each utterance has the same recording and transcript.
    """
    facts = {key: value for key, value in vars(info).items() if key not in _ASIDE | _LATER}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for turn in turns:
        told = vars(turn) | {"split": "" if turn.split == NO_SPLIT else turn.split}
        values = [value for name, value in told.items() if name not in {"audio", "listed", *_LATER_FACTS}]
        digest.update(json.dumps(values).encode())
        if turn.audio is not None:
            digest.update(glimpses.at_a_glance(turn.audio))
    return digest.hexdigest()


def _fingerprint(
    info: CacheInfo, turns: Sequence[Utterance], glimpses: Glimpses, vanished: Collection[Path]
) -> str:
    """SHA-256 of everything that determines a cache's content, as 64 hexadecimal digits.

    Names and folders do not count, revisions do: the same release and models in another folder give the same
    content. Of a recording, its size and three blocks count.
    """
    # Without a condition, the fingerprint is that of caches which know none.
    aside = _ASIDE if info.condition else _ASIDE | {"condition"}
    if not info.has_texts:
        aside -= {"transcriber"}  # which has the digest of the row that stands for all texts
    facts = {key: value for key, value in vars(info).items() if key not in aside}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for turn in turns:
        values = [value for name, value in vars(turn).items() if name not in ("audio", "listed")]
        digest.update(json.dumps(values).encode())
        if turn.audio is not None and turn.audio not in vanished:
            digest.update(glimpses.digest(turn.audio))
    return digest.hexdigest()


def differences(cache: FeatureCache, info: CacheInfo, turns: Sequence[Utterance]) -> list[str]:
    """In what a cache differs from the one to be made, in words, when the fingerprints do."""
    aside = _RESULTS if cache.has("recording") else _RESULTS | _LATER
    differing = [
        name for name, value in vars(info).items() if name not in aside and getattr(cache.info, name) != value
    ]
    # With other settings, other utterances may have a row of the same release.
    others = [] if differing else _differing_utterances(cache, turns)
    return [*differing, *_differing_columns(cache, turns), *others] or ["the release's recordings"]


def _differing_columns(cache: FeatureCache, turns: Sequence[Utterance]) -> list[str]:
    """`the split of 12 utterances`, for each column in which the cache and the release differ."""
    now = {turn.id: turn for turn in turns}
    ids = [str(name) for name in cache.read("id")]
    differing = []
    for column in filter(cache.has, _COMPARED):
        values = cache.read(column)
        count = sum(
            _as_stored(getattr(now[name], column)) != _as_stored(value)
            for name, value in zip(ids, values, strict=True)
            if name in now
        )
        if count:
            differing.append(f"the {column} of {count} utterance{'' if count == 1 else 's'}")
    return differing


def _as_stored(value: object) -> str:
    """A value as text, in which NaN equals NaN, and a number is as exact as the cache."""
    return str(np.float32(value)) if isinstance(value, float | np.floating) else str(value or "")


def _differing_utterances(cache: FeatureCache, turns: Sequence[Utterance]) -> list[str]:
    known = {str(name) for name in cache.read("id")}.union(*cache.info.dropped.values())
    now = {turn.id for turn in turns}
    added = [turn.id for turn in turns if turn.listed and turn.id not in known]
    gone = sorted(known - now)
    return [
        f"{len(names)} utterances that the {owner} does not have ({listing(names, most=3)})"
        for names, owner in ((added, "cache"), (gone, "release"))
        if names
    ]


@dataclass(frozen=True)
class _Glimpse:
    digest: bytes
    state: tuple[int, ...]  # (), if the recording cannot be read


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _look(path: Path) -> _Glimpse:
    """SHA-256 of a recording's size and of blocks of its start, middle and end.

    Enough to notice that a corpus was processed in place, and much faster than reading 150,000 files whole.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  of a link's target; a dangling link raises
        if not stat.S_ISREG(status.st_mode):
            return _Glimpse(_UNREADABLE, ())
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            size = file.seek(0, os.SEEK_END)
            blocks = [str(size).encode()]
            for start in (0, size // 2, max(0, size - _BLOCK)):
                file.seek(start)
                blocks.append(file.read(_BLOCK))
    except (FileNotFoundError, NotADirectoryError):
        return _Glimpse(b"", ())
    except OSError:
        return _Glimpse(_UNREADABLE, ())
    return _Glimpse(hashlib.sha256(b"".join(blocks)).digest(), _state(status))


def _whole(path: Path) -> bytes:
    """SHA-256 of all of a recording; b"" if it cannot be read any more, so that it has no row."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
